// Folders of decoded weights and adapters, through the reader and back to the same logits.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "export/gguf_export.h"
#include "export/target.h"
#include "formats/checkpoint_writer.h"
#include "formats/gguf.h"
#include "formats/lora.h"
#include "model/lora.h"
#include "model/model_test_util.h"

namespace planish {
namespace {

using test::MaxDifference;
using test::OnePass;
using test::TemporaryFolder;
using test::TestContext;
using test::TinyModel;
using testing::HasSubstr;

const std::vector<int32_t> kIds = {1, 7, 10, 3, 4, 9};

class FolderExportTest : public testing::Test {
 protected:
  std::string Path(const std::string& name) const { return JoinPath(folder_.path(), name); }
  Model Load(const std::string& path) {
    auto model = LoadModel(path);
    EXPECT_TRUE(model.ok()) << (model.ok() ? "" : model.error().message);
    return std::move(model).value();
  }
  Model Tiny(const std::string& name, const std::string& family = "llama") {
    TinyModel tiny(family);
    tiny.MakeTensors();
    std::filesystem::create_directories(Path(name));
    tiny.Write(Path(name));
    return Load(Path(name));
  }
  Result<Converted> Convert(const Model& model, const std::string& to, const std::string& output,
                            ConvertOptions options = {}) {
    PLANISH_TRY(const ConvertTarget* target, ParseConvertTarget(to, options));
    return target->write(context_.context, model, options, Path(output));
  }
  Mat<float> Logits(const Model& model) { return OnePass(context_.context, model, kIds); }
  // Every matrix of the layers gets a path; ranks differ.
  void AddPaths(Model& model) {
    uint64_t stream = 0;
    for (size_t i = 0; i < model.linears.size(); ++i) {
      if (!model.program.linears[i].in_layer) continue;
      Matrix& w = model.linears[i].w;
      const int64_t rank = 1 + static_cast<int64_t>(i % 3);
      Mat<float> b(w.rows, rank), a(rank, w.cols);
      for (Mat<float>* m : {&b, &a}) {
        const Random random(5, stream++);
        for (int64_t k = 0; k < m->rows() * m->cols(); ++k) {
          m->data()[k] = static_cast<float>(random.Uniform(static_cast<uint64_t>(k)) - 0.5);
        }
      }
      ProductPart path;
      path.factors.push_back(DenseMatrix(b, DType::kF32));
      path.factors.push_back(DenseMatrix(a, DType::kF32));
      SumPart sum;
      const int64_t rows = w.rows, cols = w.cols;
      sum.terms.push_back(std::move(w));
      sum.terms.push_back({rows, cols, std::move(path)});
      w = {rows, cols, std::move(sum)};
    }
  }
  TestContext context_;
  TemporaryFolder folder_;
};

TEST_F(FolderExportTest, DecodedFoldersHoldTheSameModel) {
  const Model model = Tiny("tiny");
  const auto done = Convert(model, "hf-f32", "f32", {.shard_bytes = 1000});
  ASSERT_TRUE(done.ok()) << done.error().message;
  EXPECT_TRUE(FileExists(Path("f32/model.safetensors.index.json")));
  const Model f32 = Load(Path("f32"));
  EXPECT_EQ(MaxDifference(Logits(model), 0, Logits(f32)), 0);
  EXPECT_EQ(f32.config["torch_dtype"], "float32");
  // In BF16 every element is the nearest of eight bits.
  ASSERT_TRUE(Convert(model, "hf-bf16", "bf16").ok());
  const Model bf16 = Load(Path("bf16"));
  EXPECT_EQ(bf16.config["torch_dtype"], "bfloat16");
  for (const TensorInfo* info : bf16.checkpoint.tensors()) {
    EXPECT_EQ(info->type, DType::kBF16);
    const auto before = model.checkpoint.Get(info->name), after = bf16.checkpoint.Get(info->name);
    ASSERT_TRUE(before.ok() && after.ok() && before->shape == after->shape) << info->name;
    for (int64_t i = 0; i < before->NumElements(); ++i) {
      const float x = LoadElement(before->data, before->type, i);
      EXPECT_LE(std::abs(LoadElement(after->data, after->type, i) - x), std::abs(x) / 256);
    }
  }
  EXPECT_THAT(Convert(model, "hf-bf16", "bf16").error().message, HasSubstr("already exists"));
}

TEST_F(FolderExportTest, BlocksOfGgufAreDecoded) {
  const Model model = Tiny("tiny");
  ASSERT_TRUE(WriteFileAtomically(Path("tiny/tokenizer.json"),
                                  *ReadTextFile(PLANISH_SOURCE_DIR "/models/demo/tokenizer.json"))
                  .ok());
  const Model demo = Load(PLANISH_SOURCE_DIR "/models/demo");
  ASSERT_TRUE(ExportGguf(context_.context, demo, {.type = GgufType::kQ8_0}, Path("q8.gguf")).ok());
  const Model q8 = Load(Path("q8.gguf"));
  ASSERT_TRUE(Convert(q8, "hf-f32", "decoded").ok());
  const Model decoded = Load(Path("decoded"));
  EXPECT_FALSE(decoded.config.contains("quantization_config"));
  EXPECT_EQ(decoded.config["architectures"], Json::array({"LlamaForCausalLM"}));
  EXPECT_TRUE(FileExists(Path("decoded/tokenizer.json")));
  EXPECT_EQ(MaxDifference(Logits(q8), 0, Logits(decoded)), 0);
}

TEST_F(FolderExportTest, TransposedMatricesGoBackAsTheyWere) {
  Model model = Load(PLANISH_SHARED_DIR "/models/gpt2");
  AddPaths(model);
  ASSERT_TRUE(Convert(model, "hf-f32", "merged").ok());
  const Model merged = Load(Path("merged"));
  EXPECT_LT(MaxDifference(Logits(model), 0, Logits(merged)), 1e-4);
}

TEST_F(FolderExportTest, PathsLeaveAsAdaptersAndComeBack) {
  for (const char* family : {"llama", "qwen3"}) {
    const std::string name = family;
    const Model base = Tiny(name, family);
    Model model = Tiny(name, family);
    AddPaths(model);
    const auto expected = Logits(model);
    EXPECT_GT(MaxDifference(expected, 0, Logits(base)), 0.1);  // the paths do something
    const auto merged = Convert(model, "hf-f32", name + "-merged");
    ASSERT_TRUE(merged.ok()) << merged.error().message;
    EXPECT_THAT(merged->notes[0], HasSubstr("low-rank paths of 14 layers were added"));
    EXPECT_LT(MaxDifference(expected, 0, Logits(Load(Path(name + "-merged")))), 1e-4);
    ASSERT_TRUE(Convert(model, "hf-f32", name + "-base", {.paths = Paths::kDrop}).ok());
    EXPECT_EQ(MaxDifference(Logits(base), 0, Logits(Load(Path(name + "-base")))), 0);
    for (const char* form : {"lora:peft", "lora:gguf"}) {
      const std::string adapter = name + form;
      const auto done = Convert(model, form, adapter);
      ASSERT_TRUE(done.ok()) << done.error().message;
      EXPECT_EQ(done->tensors, 28);
      Model again = Load(Path(name + "-base"));
      const auto attached = AttachLora(context_.context, again, Path(adapter));
      ASSERT_TRUE(attached.ok()) << attached.error().message;
      EXPECT_EQ(attached->linears, 14);
      EXPECT_EQ(attached->rank, 3);
      EXPECT_LT(MaxDifference(expected, 0, Logits(again)), 1e-5) << adapter;
    }
    const auto gguf = GgufFile::Open(Path(name + "lora:gguf"));
    ASSERT_TRUE(gguf.ok());
    EXPECT_EQ((*gguf)->Find("blk.0.attn_q.weight.lora_a")->cols(), 8);
    const auto config = ParseJson(*ReadTextFile(Path(name + "lora:peft/adapter_config.json")));
    EXPECT_EQ((*config)["r"], 3);
    EXPECT_EQ((*config)["target_modules"],
              Json({"down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"}));
  }
}

// Outliers beside codes are no paths: they stay with the base.
TEST_F(FolderExportTest, SparsePartsStayWithTheBase) {
  Model model = Tiny("tiny");
  Matrix& w = model.linears[3].w;
  const SparseEntry outlier{1, 2, 3.0f};
  SumPart sum;
  const int64_t rows = w.rows, cols = w.cols;
  sum.terms = {w, SparseMatrix(rows, cols, {&outlier, 1})};
  w = {rows, cols, sum};
  const auto base = Logits(model);
  EXPECT_THAT(Convert(model, "lora", "none").error().message, HasSubstr("no layer has a low-rank path"));
  ProductPart path;
  Mat<float> b(rows, 1), a(1, cols);
  b.Fill(0.5f);
  a.Fill(0.25f);
  path.factors = {DenseMatrix(b, DType::kF32), DenseMatrix(a, DType::kF32)};
  std::get<SumPart>(w.body).terms.push_back({rows, cols, path});
  const auto done = Convert(model, "hf-f32", "base", {.paths = Paths::kDrop});
  ASSERT_TRUE(done.ok()) << done.error().message;
  EXPECT_THAT(done->notes[0], HasSubstr("paths of 1 layers were left out"));
  EXPECT_LT(MaxDifference(base, 0, Logits(Load(Path("base")))), 1e-5);
  const auto adapter = Convert(model, "lora", "adapter");
  ASSERT_TRUE(adapter.ok()) << adapter.error().message;
  EXPECT_EQ(adapter->tensors, 2);
}

// B of GGUF has the rows of q and k in the order of that file's weights.
TEST_F(FolderExportTest, RowsOfGgufAdaptersArePermuted) {
  Model model = Tiny("tiny");
  AddPaths(model);
  ASSERT_TRUE(Convert(model, "lora:gguf", "a.gguf").ok());
  ASSERT_TRUE(Convert(model, "lora", "a").ok());
  const auto gguf = OpenLora(Path("a.gguf")), peft = OpenLora(Path("a"));
  ASSERT_TRUE(gguf.ok() && peft.ok());
  const auto find = [](const LoraAdapter& adapter, const std::string& target) {
    for (const auto& pair : adapter.pairs) {
      if (pair.target == target) return pair;
    }
    return LoraPair();
  };
  const LoraPair q = find(*gguf, "blk.1.attn_q.weight");
  const LoraPair p = find(*peft, "model.layers.1.self_attn.q_proj");
  // A head of 4 rows: 0 2 1 3 of the original's, as pairs (i, i + 2) become neighbors.
  for (const auto& [row, from] : {std::pair{0, 0}, {1, 2}, {2, 1}, {3, 3}, {4, 4}, {5, 6}}) {
    EXPECT_EQ(std::memcmp(q.b.bytes.data() + row * q.b.cols * 4, p.b.bytes.data() + from * p.b.cols * 4,
                          static_cast<size_t>(q.b.cols) * 4),
              0)
        << row;
  }
}

// A layer's experts have their factors in one tensor of GGUF: of one rank, zeros where an expert has no path.
TEST_F(FolderExportTest, PathsOfExperts) {
  const std::string folder = PLANISH_SHARED_DIR "/models/moe";
  if (!std::filesystem::exists(folder)) GTEST_SKIP() << "no shared models here";
  const Model base = Load(folder);
  Model model = Load(folder);
  AddPaths(model);
  size_t without = 0;
  while (model.program.linears[without].expert != 1) ++without;
  model.linears[without].w = base.linears[without].w;
  ASSERT_TRUE(Convert(model, "lora:gguf", "experts.gguf").ok());
  const auto file = GgufFile::Open(Path("experts.gguf"));
  ASSERT_TRUE(file.ok()) << file.error().message;
  const GgufTensor* b = (*file)->Find("blk.0.ffn_down_exps.weight.lora_b");
  ASSERT_NE(b, nullptr);
  const Linear& down = model.linears[without];
  EXPECT_THAT(b->dims, testing::ElementsAre(3, testing::Gt(0), 8)) << down.name;
  Model again = Load(folder);
  const auto attached = AttachLora(context_.context, again, Path("experts.gguf"));
  ASSERT_TRUE(attached.ok()) << attached.error().message;
  for (size_t i = 0; i < model.linears.size(); ++i) {
    const Mat<float> x = Reconstruct(model.linears[i].w), y = Reconstruct(again.linears[i].w);
    double worst = 0;
    for (int64_t k = 0; k < x.rows() * x.cols(); ++k) {
      worst = std::max(worst, std::fabs(double{x.data()[k]} - y.data()[k]));
    }
    EXPECT_LT(worst, 1e-6) << model.linears[i].name;
  }
}

TEST_F(FolderExportTest, WhatAnAdapterCannotBeIsSaid) {
  Model model = Tiny("tiny");
  EXPECT_THAT(Convert(model, "lora", "none").error().message, HasSubstr("no layer has a low-rank path"));
  AddPaths(model);
  ASSERT_TRUE(Convert(model, "lora", "a").ok());
  Model other = Load(PLANISH_SHARED_DIR "/models/gpt2");
  EXPECT_THAT(AttachLora(context_.context, other, Path("a")).error().message, HasSubstr("is no linear of"));
  Model wide = Tiny("wide");
  wide.linears[2].w = DenseMatrix(Mat<float>(wide.linears[2].w.rows, 4), DType::kF32);
  EXPECT_THAT(AttachLora(context_.context, wide, Path("a")).error().message, HasSubstr("the factors make"));
}

// An adapter of an embedding: rows of the table move by (B A)^T.
TEST_F(FolderExportTest, AdaptersOfEmbeddings) {
  Model model = Tiny("tiny");
  const std::vector<float> a(2 * 11, 0.5f), b(8 * 2, 0.25f);
  std::filesystem::create_directories(Path("e"));
  const std::vector<TensorSource> sources = {
      {{"base_model.model.model.embed_tokens.lora_embedding_A", DType::kF32, {2, 11}},
       nullptr,
       std::as_bytes(std::span(a))},
      {{"base_model.model.model.embed_tokens.lora_embedding_B", DType::kF32, {8, 2}},
       nullptr,
       std::as_bytes(std::span(b))}};
  ASSERT_TRUE(WriteTensors(context_.context, sources, Path("e")).ok());
  std::filesystem::rename(Path("e/model.safetensors"), Path("e/adapter_model.safetensors"));
  ASSERT_TRUE(
      WriteFileAtomically(Path("e/adapter_config.json"),
                          R"({"peft_type":"LORA","r":2,"lora_alpha":4,"target_modules":["embed_tokens"]})")
          .ok());
  const Mat<float> before = Reconstruct(model.linears[0].w);
  const auto attached = AttachLora(context_.context, model, Path("e"));
  ASSERT_TRUE(attached.ok()) << attached.error().message;
  const Mat<float> after = Reconstruct(model.linears[0].w);
  for (int64_t i = 0; i < 11; ++i) {
    for (int64_t j = 0; j < 8; ++j) EXPECT_FLOAT_EQ(after(i, j), before(i, j) + 0.5f);  // 2 (2 * 0.5 * 0.25)
  }
  EXPECT_THAT(Convert(model, "lora", "out").error().message,
              HasSubstr("the path of an embedding (1 layer: model.embed_tokens)"));
}

}  // namespace
}  // namespace planish

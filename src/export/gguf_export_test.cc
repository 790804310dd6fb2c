#include "export/gguf_export.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "base/file.h"
#include "base/json.h"
#include "export/target.h"
#include "formats/chat_template.h"
#include "formats/gguf.h"
#include "formats/tokenizer.h"
#include "grids/gguf_fit.h"
#include "model/family_models.h"
#include "model/model_test_util.h"
#include "model/tiny_rows_test_util.h"

namespace planish {
namespace {

using test::OnePass;
using test::TestContext;
using testing::Contains;
using testing::HasSubstr;
using testing::Not;

// A folder of its own, gone with the test.
class GgufExportTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::temp_directory_path() / ("planish-gguf-" + std::to_string(getpid()));
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  std::string Path(const std::string& name) const { return (folder_ / name).string(); }
  Model Load(const std::string& path) {
    auto model = LoadModel(path);
    EXPECT_TRUE(model.ok()) << (model.ok() ? "" : model.error().message);
    return std::move(model).value();
  }
  // The model as a GGUF file of the type, read back.
  Model Through(const Model& model, GgufType type, const std::string& name) {
    const auto exported = ExportGguf(context_.context, model, {.type = type}, Path(name));
    EXPECT_TRUE(exported.ok()) << (exported.ok() ? "" : exported.error().message);
    return Load(Path(name));
  }
  double Difference(const Model& a, const Model& b,
                    const std::vector<int32_t>& ids = {1, 17, 200, 3, 42, 7, 99, 250, 11, 5}) {
    const Mat<float> x = OnePass(context_.context, a, ids), y = OnePass(context_.context, b, ids);
    double worst = 0;
    for (int64_t i = 0; i < x.rows() * x.cols(); ++i) {
      worst = std::max(worst, std::fabs(double{x.data()[i]} - y.data()[i]));
    }
    return worst;
  }

  // Mean KL divergence of b's next tokens from a's.
  double Divergence(const Model& a, const Model& b, const std::vector<int32_t>& ids) {
    const Mat<float> x = OnePass(context_.context, a, ids), y = OnePass(context_.context, b, ids);
    const auto log_sum = [](const Mat<float>& m, int64_t i) {
      double sum = 0;
      for (int64_t j = 0; j < m.cols(); ++j) sum += std::exp(double{m(i, j)});
      return std::log(sum);
    };
    double total = 0;
    for (int64_t i = 0; i < x.rows(); ++i) {
      const double zx = log_sum(x, i), zy = log_sum(y, i);
      for (int64_t j = 0; j < x.cols(); ++j) {
        total += std::exp(x(i, j) - zx) * ((x(i, j) - zx) - (y(i, j) - zy));
      }
    }
    return total / static_cast<double>(x.rows());
  }
  void ExpectRoundTrips(const std::string& path);

  TestContext context_;
  std::filesystem::path folder_;
};

const std::string kDemo = PLANISH_SOURCE_DIR "/models/demo";

// Weights of bf16 come back as they were; F16 loses what lies below its smallest numbers, Q8_0 eight bits'
// worth.
void GgufExportTest::ExpectRoundTrips(const std::string& path) {
  const Model model = Load(path);
  EXPECT_EQ(Difference(model, Through(model, GgufType::kBF16, "bf16.gguf")), 0);
  EXPECT_EQ(Difference(model, Through(model, GgufType::kF32, "f32.gguf")), 0);
  EXPECT_LT(Difference(model, Through(model, GgufType::kF16, "f16.gguf")), 1e-4);
  const auto tokenizer = Tokenizer::Load(path);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.error().message;
  auto ids = *(*tokenizer)->Encode(*ReadTextFile(PLANISH_SOURCE_DIR "/models/text/sample.txt"), true);
  ids.resize(std::min<size_t>(ids.size(), 256));
  const Model q8 = Through(model, GgufType::kQ8_0, "q8.gguf");
  const double kl = Divergence(model, q8, ids);
  EXPECT_LT(kl, 1e-3);
  EXPECT_GT(kl, 0);
  EXPECT_LT(kl, Divergence(model, Through(model, GgufType::kQ4_K, "q4.gguf"), ids));
}

TEST_F(GgufExportTest, RoundTripsOfTheDemo) { ExpectRoundTrips(kDemo); }

TEST_F(GgufExportTest, SlowRoundTripsOfRef) {
  const std::string path = test::ModelFolder("ref");
  if (!std::filesystem::exists(path)) GTEST_SKIP() << "no shared models here";
  ExpectRoundTrips(path);
}

// A folder whose tensors lie in a GGUF file: its configuration, tokenizer and settings beside them.
TEST_F(GgufExportTest, AFileInsideAFolder) {
  const Model demo = Load(kDemo);
  std::filesystem::create_directories(folder_ / "model");
  ASSERT_TRUE(ExportGguf(context_.context, demo, {.type = GgufType::kQ8_0}, Path("model/any.gguf")).ok());
  std::filesystem::copy(kDemo + "/config.json", Path("model/config.json"));
  const Model alone = Load(Path("model/any.gguf")), inside = Load(Path("model"));
  EXPECT_EQ(Difference(alone, inside), 0);
  EXPECT_EQ(inside.config["architectures"], demo.config["architectures"]);
  // The tokenizer is the file's, until the folder has one of its own.
  const auto own = Tokenizer::Load(kDemo), found = Tokenizer::Load(Path("model"));
  ASSERT_TRUE(found.ok()) << found.error().message;
  EXPECT_EQ(*(*own)->Encode("Once upon a time", true), *(*found)->Encode("Once upon a time", true));
  ConvertOptions options;
  const auto target = ParseConvertTarget("hf-bf16", options);
  ASSERT_TRUE((*target)->write(context_.context, inside, options, Path("folder")).ok());
  EXPECT_TRUE(FileExists(Path("folder/tokenizer.json")));
  EXPECT_EQ(Difference(Through(inside, GgufType::kQ8_0, "again.gguf"), inside), 0);
  // Both must describe one model, and there is one file to take.
  Json config = test::ReadJson(Path("model/config.json"));
  config["rms_norm_eps"] = 1e-6;
  ASSERT_TRUE(WriteFileAtomically(Path("model/config.json"), DumpJson(config)).ok());
  EXPECT_THAT(LoadModel(Path("model")).error().message,
              HasSubstr("config.json: field 'rms_norm_eps' is 1e-06, the GGUF file beside it says"));
  std::filesystem::copy(Path("model/any.gguf"), Path("model/other.gguf"));
  EXPECT_THAT(LoadModel(Path("model")).error().message,
              HasSubstr("several GGUF files (any.gguf, other.gguf); name the one that is meant"));
}

// A model without a tokenizer knows ids only, and its file says so; special ids travel all the same.
TEST_F(GgufExportTest, WithoutATokenizer) {
  std::filesystem::create_directories(folder_ / "bare");
  std::filesystem::create_symlink(kDemo + "/model.safetensors", folder_ / "bare/model.safetensors");
  Json config = test::ReadJson(kDemo + "/config.json");
  config.update({{"bos_token_id", 5}, {"eos_token_id", 6}, {"pad_token_id", 7}});
  ASSERT_TRUE(WriteFileAtomically(Path("bare/config.json"), DumpJson(config)).ok());
  const Model bare = Load(Path("bare"));
  const auto exported = ExportGguf(context_.context, bare, {.type = GgufType::kBF16}, Path("bare.gguf"));
  ASSERT_TRUE(exported.ok()) << exported.error().message;
  EXPECT_THAT(exported->notes, testing::Contains(HasSubstr("bare has no tokenizer; the file says so")));
  const auto file = GgufFile::Open(Path("bare.gguf"));
  ASSERT_TRUE(file.ok());
  EXPECT_EQ(*(*file)->String("tokenizer.ggml.model"), "no_vocab");
  EXPECT_EQ(*(*file)->Int("llama.vocab_size"), 8192);
  EXPECT_EQ(*(*file)->Int("tokenizer.ggml.padding_token_id"), 7);
  const Model back = Load(Path("bare.gguf"));
  EXPECT_EQ(Difference(bare, back), 0);
  for (const char* id : {"bos_token_id", "eos_token_id", "pad_token_id"}) {
    EXPECT_EQ(back.config[id], config[id]) << id;
  }
  EXPECT_THAT(Tokenizer::Load(Path("bare.gguf")).error().message, HasSubstr("the file has no tokenizer"));
  EXPECT_EQ(Difference(bare, Through(back, GgufType::kBF16, "twice.gguf")), 0);
  // With a tokenizer the id of padding travels too.
  Through(Load(kDemo), GgufType::kBF16, "demo.gguf");
  EXPECT_EQ(*(*GgufFile::Open(Path("demo.gguf")))->Int("tokenizer.ggml.padding_token_id"), 0);
}

// Parts of at most 1 MB, and the embedding, which is larger, alone: the model and its tokenizer are the same.
TEST_F(GgufExportTest, SplitFiles) {
  const Model demo = Load(kDemo);
  const auto exported = ExportGguf(context_.context, demo,
                                   {.type = GgufType::kQ8_0, .split_bytes = 1'000'000}, Path("parts.gguf"));
  ASSERT_TRUE(exported.ok()) << exported.error().message;
  ASSERT_GT(exported->paths.size(), 4u);
  EXPECT_FALSE(FileExists(Path("parts.gguf")));
  int larger = 0;
  for (const std::string& path : exported->paths) {
    larger += std::filesystem::file_size(path) > 1'500'000 ? 1 : 0;  // metadata with the tokenizer: 0.4 MB
  }
  EXPECT_EQ(larger, 1);
  const Model parts = Load(exported->paths.front());
  EXPECT_EQ(Difference(Through(demo, GgufType::kQ8_0, "whole.gguf"), parts), 0);
  const auto own = Tokenizer::Load(kDemo), travelled = Tokenizer::Load(exported->paths.front());
  ASSERT_TRUE(travelled.ok()) << travelled.error().message;
  EXPECT_EQ(*(*own)->Encode("Once upon a time", true), *(*travelled)->Encode("Once upon a time", true));
}

TEST_F(GgufExportTest, TheTokenizerTravels) {
  const Model demo = Load(kDemo);
  Through(demo, GgufType::kQ8_0, "q8.gguf");
  const auto own = Tokenizer::Load(kDemo), travelled = Tokenizer::Load(Path("q8.gguf"));
  ASSERT_TRUE(own.ok());
  ASSERT_TRUE(travelled.ok()) << travelled.error().message;
  for (const char* text : {"Once upon a time", "  two  spaces\n\nlines", "caf\xc3\xa9 12345"}) {
    EXPECT_EQ(*(*own)->Encode(text, true), *(*travelled)->Encode(text, true)) << text;
  }
}

// Templates go into a GGUF file, from there into another and into a folder.
TEST_F(GgufExportTest, ChatTemplatesTravel) {
  std::filesystem::copy(kDemo, folder_ / "model");
  const std::string text =
      "{% for m in messages %}{{ bos_token }}{{ m.content }}{{ eos_token }}{% endfor %}\n";
  ASSERT_TRUE(WriteFileAtomically(Path("model/chat_template.jinja"), text).ok());
  ASSERT_TRUE(MakeDirectories(Path("model/additional_chat_templates")).ok());
  ASSERT_TRUE(WriteFileAtomically(Path("model/additional_chat_templates/tool-use.jinja"), "tools").ok());
  const Model once = Through(Load(Path("model")), GgufType::kQ8_0, "once.gguf");
  const auto file = GgufFile::Open(Path("once.gguf"));
  ASSERT_TRUE(file.ok());
  EXPECT_EQ(*(*file)->String("tokenizer.chat_template"), text);
  EXPECT_EQ(*(*file)->String("tokenizer.chat_template.tool_use"), "tools");
  EXPECT_EQ(*(*file)->Strings("tokenizer.chat_templates"), std::vector<std::string>{"tool_use"});
  Through(once, GgufType::kQ8_0, "twice.gguf");
  ConvertOptions options;
  const auto target = ParseConvertTarget("hf-bf16", options);
  ASSERT_TRUE(target.ok());
  const auto folder = (*target)->write(context_.context, once, options, Path("folder"));
  ASSERT_TRUE(folder.ok()) << folder.error().message;
  EXPECT_EQ(*ReadTextFile(Path("folder/chat_template.jinja")), text);
  const OrderedJson messages = {{{"role", "user"}, {"content", "hi"}}};
  const auto first = ChatTemplate::Load(Path("once.gguf"));
  ASSERT_TRUE(first.ok()) << first.error().message;
  const std::string rendered = *first->Render(messages, {});
  EXPECT_THAT(rendered, HasSubstr("hi"));
  for (const char* name : {"twice.gguf", "folder"}) {
    const auto chat = ChatTemplate::Load(Path(name));
    ASSERT_TRUE(chat.ok()) << chat.error().message;
    EXPECT_EQ(chat->special_tokens(), first->special_tokens()) << name;
    EXPECT_EQ(*chat->Render(messages, {}), rendered) << name;
    const auto tools = ChatTemplate::Load(Path(name), "tool_use");
    ASSERT_TRUE(tools.ok()) << tools.error().message;
    EXPECT_EQ(*tools->Render(messages, {}), "tools");
  }
}

// Blocks that are already of the type are copied: a second export gives the same model.
TEST_F(GgufExportTest, ASecondExportLosesNothing) {
  const Model demo = Load(kDemo);
  const Model once = Through(demo, GgufType::kQ4_0, "once.gguf");
  EXPECT_EQ(Difference(once, Through(once, GgufType::kQ4_0, "twice.gguf")), 0);
}

// A family's own names, order of rows, experts, norms and keys: what is read back computes the same.
class GgufFamilies : public GgufExportTest, public testing::WithParamInterface<test::FamilyModel> {
 protected:
  // The model with the changes, beside a tokenizer of single bytes.
  Model Prepared(const test::FamilyModel& c) {
    const std::filesystem::path from = test::ModelFolder(c.folder), to = folder_ / "model";
    std::filesystem::create_directories(to);
    for (const auto& entry : std::filesystem::directory_iterator(from)) {
      const auto name = entry.path().filename();
      if (name.string().find("safetensors") != std::string::npos) {
        std::filesystem::create_symlink(entry.path(), to / name);
      }
    }
    Json config = test::ReadJson((from / "config.json").string());
    config.update(c.gguf);
    EXPECT_TRUE(WriteFileAtomically((to / "config.json").string(), DumpJson(config)).ok());
    AddTokenizer(to);
    return Load(to.string());
  }
  // Of single bytes.
  static void AddTokenizer(const std::filesystem::path& to) {
    Json tokenizer = test::ReadJson(kDemo + "/tokenizer.json");
    Json vocab = Json::object();
    for (const auto& [token, id] : tokenizer["model"]["vocab"].items()) {
      if (id < 250) vocab[token] = id;
    }
    tokenizer["model"]["vocab"] = vocab;
    tokenizer["model"]["merges"] = Json::array();
    tokenizer["added_tokens"] = Json::array();
    tokenizer["post_processor"] = nullptr;
    EXPECT_TRUE(WriteFileAtomically((to / "tokenizer.json").string(), DumpJson(tokenizer)).ok());
  }
  // Longer than the lengths from which the tiny models' rotations are others.
  static std::vector<int32_t> Ids() {
    std::vector<int32_t> ids;
    for (int32_t i = 0; i < 72; ++i) ids.push_back((1 + 37 * i) % 250);
    return ids;
  }
  double Largest(const Model& model) { return test::MaxAbs(OnePass(context_.context, model, Ids())); }
};

TEST_P(GgufFamilies, ReadBackComputesTheSame) {
  if (!std::filesystem::exists(test::ModelFolder(GetParam().folder))) GTEST_SKIP() << "no shared models here";
  const Model model = Prepared(GetParam());
  const Model back = Through(model, GgufType::kF32, "f32.gguf");
  EXPECT_EQ(back.linears.size(), model.linears.size());
  EXPECT_EQ(back.vectors.size(), model.vectors.size());
  EXPECT_LE(Difference(model, back, Ids()), 2e-6 * Largest(model));
  // Written again from the file, it is the same file.
  const Model twice = Through(back, GgufType::kF32, "twice.gguf");
  EXPECT_EQ(Difference(back, twice), 0);
}

// Gemma 3 from 4 B on: global layers stretched, and another base in the sliding ones.
Json ScaledGlobal() {
  return {{"full_attention", {{"rope_theta", 1e6}, {"rope_type", "linear"}, {"factor", 8.0}}},
          {"sliding_attention", {{"rope_theta", 5000.0}, {"rope_type", "default"}}}};
}

INSTANTIATE_TEST_SUITE_P(All, GgufFamilies,
                         testing::ValuesIn(test::FamilyModels([](const test::FamilyModel& model) {
                           return !model.gguf.is_null();
                         })),
                         [](const auto& tested) { return test::NameOf(tested.param); });
INSTANTIATE_TEST_SUITE_P(TwoRotations, GgufFamilies,
                         testing::Values(test::FamilyModel{"gemma3", {{"rope_parameters", ScaledGlobal()}}}));

// StableLM 2 12B: a norm for every head, whose tensors lie together in one, and no norm before the MLP.
TEST_F(GgufFamilies, NormsOfHeadsLieTogether) {
  test::TinyModel tiny("stablelm");
  tiny.config.update({{"vocab_size", 256},
                      {"hidden_size", 16},
                      {"num_attention_heads", 4},
                      {"num_key_value_heads", 2},
                      {"head_dim", 4},
                      {"rms_norm_eps", nullptr},
                      {"partial_rotary_factor", 0.5},
                      {"qk_layernorm", true},
                      {"use_parallel_residual", true}});
  tiny.MakeTensors();
  test::SplitRows(tiny);
  tiny.Write(folder_.string());
  AddTokenizer(folder_);
  const Model model = Load(folder_.string()), back = Through(model, GgufType::kF32, "norms.gguf");
  const auto file = GgufFile::Open(Path("norms.gguf"));
  ASSERT_TRUE(file.ok());
  const GgufTensor* norms = (*file)->Find("blk.1.attn_k_norm.weight");
  ASSERT_NE(norms, nullptr);
  EXPECT_THAT(norms->dims, testing::ElementsAre(4, 2));
  EXPECT_TRUE(back.checkpoint.Has("model.layers.1.self_attn.k_layernorm.norms.1.weight"));
  EXPECT_LE(Difference(model, back), 2e-6 * test::MaxAbs(OnePass(context_.context, model, Ids())));
}

// Files from before keys and values were two tensors: one, and lengths of the heads under the plain keys.
TEST_F(GgufFamilies, OlderFilesOfLatentAttentionAreRead) {
  if (!std::filesystem::exists(test::ModelFolder("tiny/deepseek_v2")))
    GTEST_SKIP() << "no shared models here";
  const Model model = Prepared({"tiny/deepseek_v2"});
  const Model newer = Through(model, GgufType::kF32, "newer.gguf");
  const auto file = GgufFile::Open(Path("newer.gguf"));
  ASSERT_TRUE(file.ok());
  GgufMetadata metadata;
  const std::string a = "deepseek2.attention.";
  for (const auto& [key, value] : (*file)->metadata()) {
    if (key == a + "key_length" || key == a + "value_length" || key == a + "head_count_kv" ||
        key.ends_with("_mla")) {
      continue;
    }
    metadata.Copy(key, value);
  }
  metadata.Int(a + "head_count_kv", 4);
  metadata.Int(a + "key_length", 24);
  metadata.Int(a + "value_length", 12);
  std::vector<GgufTensorSpec> specs;
  std::vector<std::span<const std::byte>> data;
  for (const GgufTensor& tensor : (*file)->tensors()) {
    if (tensor.name.ends_with("attn_v_b.weight")) continue;
    specs.push_back({tensor.name, tensor.type, tensor.dims});
    data.push_back(tensor.bytes);
    if (!tensor.name.ends_with("attn_k_b.weight")) continue;
    const std::string layer = tensor.name.substr(4, tensor.name.find('.', 4) - 4);
    specs.back() = {"blk." + layer + ".attn_kv_b.weight", GgufType::kF32, {24, 4 * (16 + 12)}};
    data.back() = model.checkpoint.Get("model.layers." + layer + ".self_attn.kv_b_proj.weight")->bytes();
  }
  auto writer = GgufWriter::Create(Path("older.gguf"), metadata, specs);
  ASSERT_TRUE(writer.ok());
  for (const auto& bytes : data) ASSERT_TRUE(writer->Append(bytes).ok());
  ASSERT_TRUE(writer->Commit().ok());
  EXPECT_EQ(Difference(newer, Load(Path("older.gguf")), Ids()), 0);
}

TEST_F(GgufFamilies, WhatOthersComputeAnotherWayIsSaid) {
  const auto notes = [&](const char* folder, const Json& changes) {
    std::filesystem::remove_all(folder_ / "model");
    const auto exported = ExportGguf(context_.context, Prepared({folder, changes}), {.type = GgufType::kF32},
                                     Path("notes.gguf"));
    EXPECT_TRUE(exported.ok()) << folder;
    return exported.ok() ? exported->notes : std::vector<std::string>();
  };
  if (!std::filesystem::exists(test::ModelFolder("tiny/deepseek_v2")))
    GTEST_SKIP() << "no shared models here";
  EXPECT_THAT(notes("tiny/deepseek_v2", Json::object()), Contains(HasSubstr("the sum of its two best")));
  for (const char* folder : {"mistral", "tiny/mixtral", "tiny/starcoder2", "tiny/phi3"}) {
    EXPECT_THAT(notes(folder, {{"sliding_window", 24}}),
                Contains(HasSubstr("windows: layers of this model attend to 24 tokens, in llama.cpp's")));
    EXPECT_THAT(notes(folder, {{"sliding_window", nullptr}}), Not(Contains(HasSubstr("windows:"))));
  }
  EXPECT_THAT(notes("tiny/gemma2", {{"query_pre_attn_scalar", 16}}), Not(Contains(HasSubstr("windows:"))));
}

TEST_F(GgufFamilies, WhatAnArchitectureCannotHoldIsRefused) {
  const std::tuple<const char*, Json, const char*> cases[] = {
      {"tiny/gemma2", Json::object(), "architecture 'gemma2' cannot hold scores scaled by"},
      {"tiny/smollm3", Json::object(), "cannot hold layer 1 without rotation"},
      {"tiny/qwen3_moe", {{"norm_topk_prob", false}}, "experts' weights not divided by their sum"},
      {"tiny/qwen2_moe", {{"hidden_act", "gelu"}}, "hidden_act = \"gelu\""},
      {"opt", Json::object(), "family 'opt' cannot be written as GGUF"},
      {"tiny/llama_dynamic", Json::object(), "architecture 'llama' cannot hold rope_type 'dynamic'"},
      {"tiny/deepseek_v2_lite", Json::object(), "cannot hold yarn whose mscale and mscale_all_dim are not"},
      {"tiny/deepseek_v2",
       {{"rms_norm_eps", 1e-5}},
       "cannot hold rms_norm_eps 1e-05 beside the latents' 1e-6"},
      {"tiny/mamba2", {{"time_step_limit", {0.0, 1.0}}}, "cannot hold time_step_limit = [0.0,1.0]"},
  };
  for (const auto& [folder, changes, message] : cases) {
    if (!std::filesystem::exists(test::ModelFolder(folder))) continue;
    std::filesystem::remove_all(folder_ / "model");
    const Model model = Prepared({folder, changes});
    const auto exported = ExportGguf(context_.context, model, {.type = GgufType::kF32}, Path("no.gguf"));
    ASSERT_FALSE(exported.ok()) << folder;
    EXPECT_EQ(exported.error().code, Code::kRefused) << message;
    EXPECT_THAT(exported.error().message, HasSubstr(message));
  }
}

// Importance decides what is rounded well: the error it weighs is smaller with it than without.
TEST_F(GgufExportTest, ImportanceLowersTheErrorItWeighs) {
  const Model demo = Load(kDemo);
  size_t index = 0;
  while (!demo.program.linears[index].in_layer) ++index;
  const LinearSlot& slot = demo.program.linears[index];
  std::vector<float> importance(static_cast<size_t>(slot.in));
  for (size_t i = 0; i < importance.size(); ++i) importance[i] = i % 7 == 0 ? 50.0f : 0.1f;
  const auto error = [&](const GgufExport& options, const std::string& name) {
    const auto exported = ExportGguf(context_.context, demo, options, Path(name));
    EXPECT_TRUE(exported.ok()) << (exported.ok() ? "" : exported.error().message);
    const Mat<float> before = Reconstruct(demo.linears[index].w),
                     after = Reconstruct(Load(Path(name)).linears[index].w);
    double sum = 0;
    for (int64_t i = 0; i < before.rows(); ++i) {
      for (int64_t j = 0; j < before.cols(); ++j) {
        const double e = double{before(i, j)} - after(i, j);
        sum += importance[static_cast<size_t>(j)] * e * e;
      }
    }
    return sum;
  };
  const double plain = error({.type = GgufType::kQ4_0}, "plain.gguf");
  const double weighed =
      error({.type = GgufType::kQ4_0,
             .importance = {{slot.weight, importance}},
             .importance_source = {.file = "im.gguf", .texts = "a, b", .entries = 1, .chunks = 5}},
            "weighed.gguf");
  EXPECT_LT(weighed, 0.7 * plain);
  const auto file = GgufFile::Open(Path("weighed.gguf"));
  ASSERT_TRUE(file.ok()) << file.error().message;
  EXPECT_EQ(*(*file)->String("quantize.imatrix.file"), "im.gguf");
  EXPECT_EQ(*(*file)->String("quantize.imatrix.dataset"), "a, b");
  EXPECT_EQ(*(*file)->Int("quantize.imatrix.entries_count"), 1);
  EXPECT_EQ(*(*file)->Int("quantize.imatrix.chunks_count"), 5);
  EXPECT_FALSE((*GgufFile::Open(Path("plain.gguf")))->Has("quantize.imatrix.file"));
  // Values rounded one by one have nothing to weigh, and a wrong width is told.
  const auto message = [&](const GgufExport& options) {
    const auto exported = ExportGguf(context_.context, demo, options, Path("no.gguf"));
    return exported.ok() ? std::string("no error") : exported.error().message;
  };
  for (const GgufType type : {GgufType::kBF16, GgufType::kQ8_0}) {
    EXPECT_THAT(message({.type = type, .importance = {{slot.weight, importance}}}),
                HasSubstr(fmt::format("type {} rounds its values one by one and weighs no errors; leave out "
                                      "--statistics and --imatrix",
                                      InfoOf(type).name)));
  }
  EXPECT_THAT(message({.type = GgufType::kQ4_0, .importance = {{slot.weight, {1.0f}}}}),
              HasSubstr("its importance 1 values"));
}

// What rounding with feedback made lies in the file bit for bit.
TEST_F(GgufExportTest, BlocksOfAnArtifactAreCarriedOver) {
  Model demo = Load(kDemo);
  for (size_t i = 0; i < demo.linears.size(); ++i) {
    if (!demo.program.linears[i].in_layer) continue;
    const GgufType type = FitGgufType(GgufType::kQ4_K, demo.program.linears[i].in);
    Matrix& w = demo.linears[i].w;
    Buffer blocks(static_cast<size_t>(w.rows * GgufRowBytes(type, w.cols)));
    // Bytes that no encoder would make, but finite: scales of 1 and steps of all kinds.
    for (size_t k = 0; k < blocks.size(); ++k) blocks.data()[k] = static_cast<std::byte>(37 * k % 61);
    w = BlockMatrix(type, w.rows, w.cols, std::move(blocks));
  }
  const Model back = Through(demo, GgufType::kQ4_K, "blocks.gguf");
  for (size_t i = 0; i < demo.linears.size(); ++i) {
    const auto* before = std::get_if<Blocks>(&demo.linears[i].w.body);
    if (before == nullptr) continue;
    const auto* after = std::get_if<Blocks>(&back.linears[i].w.body);
    ASSERT_NE(after, nullptr) << demo.linears[i].name;
    EXPECT_TRUE(std::ranges::equal(before->data.bytes, after->data.bytes)) << demo.linears[i].name;
  }
}

// Integers whose steps a type of one scale a block has: the same values, in the order of rows that llama asks
// for; other codes are rounded once more, and that is said.
TEST_F(GgufExportTest, IntegersAreCarriedOverWhereBlocksHoldThem) {
  const Model plain = Load(kDemo);
  struct Case {
    GridSpec grid;
    GgufType smallest;  // that holds them
  };
  for (const auto& [grid, smallest] : {Case{{.bits = 4, .group = 32, .symmetric = true}, GgufType::kQ4_0},
                                       Case{{.bits = 3, .group = 64, .symmetric = false}, GgufType::kQ4_0},
                                       Case{{.bits = 4, .group = 64, .symmetric = false}, GgufType::kQ5_0},
                                       Case{{.bits = 5, .group = 0, .symmetric = true}, GgufType::kQ5_0},
                                       Case{{.bits = 8, .group = 32, .symmetric = true}, GgufType::kQ8_0},
                                       Case{{.bits = 8, .group = 32, .symmetric = false}, GgufType::kF32},
                                       Case{{.bits = 4, .group = 16, .symmetric = true}, GgufType::kF32}}) {
    Model model = plain;
    for (size_t i = 0; i < model.linears.size(); ++i) {
      if (!model.program.linears[i].in_layer) continue;
      const Mat<float> values = Reconstruct(plain.linears[i].w);
      GridMatrix m = FitGrid(context_.context, values, {}, grid, ClipSearch::kMinMax);
      EncodeAll(context_.context, values, m);
      model.linears[i].w = PackCodes(m);
    }
    bool holds = false;
    for (const GgufType type : {GgufType::kQ4_0, GgufType::kQ5_0, GgufType::kQ8_0}) {
      holds = holds || type == smallest;
      const auto exported = ExportGguf(context_.context, model, {.type = type}, Path("codes.gguf"));
      ASSERT_TRUE(exported.ok()) << exported.error().message;
      const bool noted =
          std::ranges::any_of(exported->notes, [](const auto& n) { return n.find("once more") != n.npos; });
      EXPECT_EQ(noted, !holds) << GridText(grid) << " as " << InfoOf(type).name;
      const Model back = Load(Path("codes.gguf"));
      for (size_t i = 0; i < model.linears.size(); ++i) {
        if (!model.program.linears[i].in_layer) continue;
        const Mat<float> a = Reconstruct(model.linears[i].w), b = Reconstruct(back.linears[i].w);
        EXPECT_EQ(std::equal(a.data(), a.data() + a.rows() * a.cols(), b.data()), holds)
            << GridText(grid) << " as " << InfoOf(type).name << ": " << model.linears[i].name;
      }
    }
  }
}

// The grid mxfp4 is GGUF's MXFP4: the same values, in llama's order of rows; plain models are rounded to what
// the grid itself rounds them to. Rows of 704 are 22 blocks.
TEST_F(GgufExportTest, Mxfp4) {
  const Model plain = Load(kDemo);
  Model model = plain;
  for (size_t i = 0; i < model.linears.size(); ++i) {
    if (!model.program.linears[i].in_layer) continue;
    const Mat<float> values = Reconstruct(plain.linears[i].w);
    GridMatrix m = FitGrid(context_.context, values, {}, *FindGrid("mxfp4"), ClipSearch::kWeighted);
    EncodeAll(context_.context, values, m);
    model.linears[i].w = PackCodes(m);
  }
  for (const Model* from : std::initializer_list<const Model*>{&model, &plain}) {
    const auto exported = ExportGguf(context_.context, *from, {.type = GgufType::kMXFP4}, Path("mx.gguf"));
    ASSERT_TRUE(exported.ok()) << exported.error().message;
    EXPECT_TRUE(
        std::ranges::none_of(exported->notes, [](const auto& n) { return n.find("once more") != n.npos; }));
    const Model back = Load(Path("mx.gguf"));
    for (size_t i = 0; i < model.linears.size(); ++i) {
      if (!model.program.linears[i].in_layer) continue;
      const Mat<float> a = Reconstruct(model.linears[i].w), b = Reconstruct(back.linears[i].w);
      EXPECT_TRUE(std::equal(a.data(), a.data() + a.rows() * a.cols(), b.data())) << model.linears[i].name;
      EXPECT_EQ(Describe(back.linears[i].w), "MXFP4");
    }
  }
  const auto other = ExportGguf(context_.context, model, {.type = GgufType::kQ4_0}, Path("other.gguf"));
  ASSERT_TRUE(other.ok());
  EXPECT_THAT(other->notes, testing::Contains(HasSubstr("blocks of MXFP4 hold them as they are")));
}

TEST_F(GgufExportTest, WhatDoesNotFitIsRefused) {
  const auto message = [&](const Model& model) {
    const auto exported = ExportGguf(context_.context, model, {}, Path("no.gguf"));
    return exported.ok() ? std::string("no error") : exported.error().message;
  };
  Model demo = Load(kDemo);
  // A low-rank path beside a weight.
  Linear& linear = demo.linears[3];
  const int64_t rows = linear.w.rows, cols = linear.w.cols;
  Mat<float> u(rows, 2), v(2, cols);
  u.Fill(0.01f);
  v.Fill(0.01f);
  ProductPart path;
  path.factors = {DenseMatrix(u, DType::kF16), DenseMatrix(v, DType::kF16)};
  SumPart sum;
  sum.terms = {linear.w, Matrix{rows, cols, std::move(path)}};
  linear.w = {rows, cols, std::move(sum)};
  EXPECT_THAT(message(demo), HasSubstr("(1 layer: model.layers.0.self_attn.v_proj); --drop paths"));
  EXPECT_FALSE(std::filesystem::exists(Path("no.gguf")));
  const auto merged =
      ExportGguf(context_.context, demo, {.type = GgufType::kF32, .paths = Paths::kMerge}, Path("m.gguf"));
  ASSERT_TRUE(merged.ok()) << merged.error().message;
  EXPECT_LT(Difference(demo, Load(Path("m.gguf"))), 1e-3);
  const auto dropped =
      ExportGguf(context_.context, demo, {.type = GgufType::kBF16, .paths = Paths::kDrop}, Path("d.gguf"));
  ASSERT_TRUE(dropped.ok()) << dropped.error().message;
  EXPECT_EQ(Difference(Load(kDemo), Load(Path("d.gguf"))), 0);
}

TEST(FitGgufType, FallsBackAsLlamaCpp) {
  EXPECT_EQ(FitGgufType(GgufType::kQ4_K, 512), GgufType::kQ4_K);
  EXPECT_EQ(FitGgufType(GgufType::kQ4_K, 704), GgufType::kQ5_0);
  EXPECT_EQ(FitGgufType(GgufType::kQ2_K, 704), GgufType::kIQ4_NL);
  EXPECT_EQ(FitGgufType(GgufType::kQ3_K, 704), GgufType::kIQ4_NL);
  EXPECT_EQ(FitGgufType(GgufType::kQ5_K, 704), GgufType::kQ5_1);
  EXPECT_EQ(FitGgufType(GgufType::kQ6_K, 704), GgufType::kQ8_0);
  EXPECT_EQ(FitGgufType(GgufType::kQ8_0, 33), GgufType::kF16);
}

}  // namespace
}  // namespace planish

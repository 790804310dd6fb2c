// GGUF files as models: what is wrong with one, and the message it must give. Round trips of whole models are
// in export/gguf_export_test.cc.
#include "model/gguf_model.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

#include "model/family.h"
#include "model/gguf_family.h"
#include "model/model_test_util.h"

namespace planish {
namespace {

using testing::HasSubstr;

// A file of one layer's worth of keys and a few tensors, which each case spoils.
struct Parts {
  std::string arch = "qwen3moe";
  std::map<std::string, int64_t> ints = {{"context_length", 32},       {"embedding_length", 32},
                                         {"block_count", 1},           {"feed_forward_length", 32},
                                         {"attention.head_count", 2},  {"attention.head_count_kv", 1},
                                         {"attention.key_length", 16}, {"expert_count", 4},
                                         {"expert_used_count", 2},     {"expert_feed_forward_length", 32}};
  std::map<std::string, float> floats = {{"attention.layer_norm_rms_epsilon", 1e-6f}};
  std::map<std::string, std::string> strings;
  std::vector<std::string> tokens = {};  // of the tokenizer
  std::vector<GgufTensorSpec> tensors = {{"token_embd.weight", GgufType::kF32, {32, 8}},
                                         {"output_norm.weight", GgufType::kF32, {32}},
                                         {"blk.0.ffn_up_exps.weight", GgufType::kQ8_0, {32, 32, 4}}};
};

std::string Message(const Parts& parts) {
  const test::TemporaryFolder folder;
  const std::string path = folder.path() + "/model.gguf";
  GgufMetadata metadata;
  metadata.String("general.architecture", parts.arch);
  for (const auto& [key, value] : parts.ints) metadata.Int(parts.arch + "." + key, value);
  for (const auto& [key, value] : parts.floats) metadata.Float(parts.arch + "." + key, value);
  for (const auto& [key, value] : parts.strings) metadata.String(parts.arch + "." + key, value);
  if (!parts.tokens.empty()) metadata.Strings("tokenizer.ggml.tokens", parts.tokens);
  auto writer = GgufWriter::Create(path, metadata, parts.tensors);
  EXPECT_TRUE(writer.ok()) << writer.error().message;
  for (const auto& tensor : parts.tensors) {
    int64_t rows = 1;
    for (size_t i = 1; i < tensor.dims.size(); ++i) rows *= tensor.dims[i];
    const std::vector<std::byte> zeros(static_cast<size_t>(rows * GgufRowBytes(tensor.type, tensor.dims[0])));
    EXPECT_TRUE(writer->Append(zeros).ok());
  }
  EXPECT_TRUE(writer->Commit().ok());
  const auto model = OpenGgufModel(path);
  return model.ok() ? "(opens)" : model.error().message;
}

TEST(GgufModel, NamesWhatIsWrong) {
  const std::pair<std::function<void(Parts&)>, const char*> cases[] = {
      {[](Parts&) {}, "(opens)"},
      {[](Parts& p) { p.arch = "abc"; },
       "general.architecture 'abc': expected one of command-r, deepseek2, "},
      {[](Parts& p) { p.floats.clear(); }, "key 'qwen3moe.attention.layer_norm_rms_epsilon' is missing"},
      {[](Parts& p) { p.ints["attention.head_count"] = 0; },
       "attention.head_count': expected 1 to 2^24, found 0"},
      {[](Parts& p) { p.ints.erase("expert_count"); }, "expert_count"},
      {[](Parts& p) {
         p.ints["vocab_size"] = 8;
         p.tokens.assign(8, "t");
       },
       "(opens)"},
      {[](Parts& p) { p.ints["vocab_size"] = 9; },
       "qwen3moe.vocab_size: expected 8, the rows of token_embd.weight, found 9"},
      {[](Parts& p) { p.tokens.assign(7, "t"); },
       "tokenizer.ggml.tokens: expected 8, one for every row of token_embd.weight, found 7"},
      {[](Parts& p) { p.ints["expert_count"] = 5; }, "expected 5 matrices, found dimensions [4, 32, 32]"},
      {[](Parts& p) {
         p.tensors[2].dims = {32, 128};
       },
       "expected 4 matrices, found dimensions [128, 32]"},
      {[](Parts& p) { p.tensors[0].name = "token_embd.bias"; }, "tensor 'token_embd.weight' is missing"},
      {[](Parts& p) { p.tensors[2].name = "blk.0.ffn_down.weight"; }, "has no place in this architecture"},
      {[](Parts& p) { p.tensors[2].type = GgufType::kI8; }, "values of type I8 cannot be read"},
      {[](Parts& p) { p.tensors[2].name = "blk.1.ffn_gate_exps.weight"; },
       "tensor 'blk.1.ffn_gate_exps.weight': the file's block_count is 1, so that layers end at blk.0"},
      {[](Parts& p) {
         p.tensors[1].dims = {32, 1, 1, 2};
       },
       "expected a matrix, found dimensions [2, 1, 1, 32]"},
      {[](Parts& p) {
         p.arch = "gemma2";
         p.ints.erase("expert_count");
         p.tensors = {{"token_embd.weight", GgufType::kF32, {32, 8}},
                      {"output_norm.weight", GgufType::kF16, {32}}};
       },
       "tensor 'output_norm.weight': type F16, expected F32"},
      {[](Parts& p) { p.arch = "qwen3"; }, "qwen3.expert_count 4: expected none in this family"},
      {[](Parts& p) {
         p.arch = "olmo2";
         p.ints.erase("expert_count");
         p.ints["attention.key_length"] = 8;
       },
       "olmo2.attention.key_length: expected 16, found 8"},
      {[](Parts& p) {
         p.arch = "olmo2";
         p.ints.erase("expert_count");
         p.ints["rope.dimension_count"] = 8;
       },
       "olmo2.rope.dimension_count: expected 16, found 8"},
      {[](Parts& p) {
         p.arch = "gptneox";
         p.ints["attention.head_count_kv"] = 2;
         p.ints.erase("expert_count");
         p.floats = {{"attention.layer_norm_epsilon", 1e-5f}};
         p.ints["rope.dimension_count"] = 17;
       },
       "gptneox.rope.dimension_count: expected 1 to 16, found 17"},
      {[](Parts& p) {
         p.arch = "llama";
         p.ints.erase("expert_count");
         p.tensors = {{"token_embd.weight", GgufType::kF32, {32, 8}},
                      {"blk.0.attn_q.weight", GgufType::kQ8_0, {32, 30}}};
       },
       "tensor 'blk.0.attn_q.weight': 30 rows for 2 heads"},
  };
  for (const auto& [spoil, message] : cases) {
    Parts parts;
    spoil(parts);
    const std::string found = Message(parts);
    EXPECT_THAT(found, HasSubstr(message));
    // The file is named once, in front.
    const bool named = found.find("model.gguf: ") != std::string::npos;
    EXPECT_TRUE(!named || found.find("model.gguf") == found.rfind("model.gguf")) << found;
  }
}

// A file of a model with latent attention: 2 heads of 8 + 8 and 4, from a latent of 16.
Parts Latent() {
  Parts p;
  p.arch = "deepseek2";
  p.ints = {{"context_length", 32},
            {"embedding_length", 32},
            {"block_count", 1},
            {"feed_forward_length", 32},
            {"attention.head_count", 2},
            {"attention.head_count_kv", 1},
            {"attention.key_length", 24},
            {"attention.value_length", 16},
            {"attention.key_length_mla", 16},
            {"attention.value_length_mla", 4},
            {"attention.kv_lora_rank", 16},
            {"rope.dimension_count", 8},
            {"expert_count", 4},
            {"expert_used_count", 2},
            {"expert_feed_forward_length", 32}};
  p.tensors = {{"token_embd.weight", GgufType::kF32, {32, 8}},
               {"blk.0.attn_k_b.weight", GgufType::kF32, {8, 16, 2}},
               {"blk.0.attn_v_b.weight", GgufType::kF16, {16, 4, 2}}};
  return p;
}

TEST(GgufModel, NamesWhatIsWrongInLatentAttention) {
  const std::pair<std::function<void(Parts&)>, const char*> cases[] = {
      {[](Parts&) {}, "(opens)"},
      {[](Parts& p) { p.ints["rope.dimension_count"] = 16; }, "expected less than the 16 of a head's key"},
      {[](Parts& p) { p.ints.erase("attention.kv_lora_rank"); }, "attention.kv_lora_rank"},
      {[](Parts& p) { p.ints["attention.value_length_mla"] = 0; }, "expected 1 to 2^24, found 0"},
      {[](Parts& p) { p.tensors.pop_back(); },
       "tensor 'blk.0.attn_v_b.weight' is missing beside 'blk.0.attn_k_b.weight'"},
      {[](Parts& p) {
         p.tensors[1].dims = {16, 8, 2};
       },
       "tensor 'blk.0.attn_k_b.weight': expected 32 rows of 8, found 16 of 16"},
      {[](Parts& p) {
         p.tensors[2].dims = {16, 8};
         p.tensors[2].type = GgufType::kI8;
       },
       "tensor 'blk.0.attn_v_b.weight': values of type I8 cannot be read"},
      {[](Parts& p) { p.ints["expert_gating_func"] = 3; }, "expert_gating_func: expected 1 or 2, found 3"},
      {[](Parts& p) { p.strings["rope.scaling.type"] = "yarn"; },
       "key 'deepseek2.rope.scaling.yarn_log_multiplier' is missing"},
      {[](Parts& p) {
         p.strings["rope.scaling.type"] = "yarn";
         p.floats["rope.scaling.yarn_log_multiplier"] = 0.0707f;
         p.floats["rope.scaling.attn_factor"] = 2;
       },
       "attn_factor: expected 1, found 2"},
  };
  for (const auto& [spoil, message] : cases) {
    Parts parts = Latent();
    spoil(parts);
    EXPECT_THAT(Message(parts), HasSubstr(message));
  }
}

TEST(GgufModel, NamesWhatIsWrongInRotationsAndScans) {
  const auto scan = [](Parts& p) {
    p.arch = "mamba2";
    p.ints = {{"embedding_length", 32}, {"block_count", 1},        {"ssm.conv_kernel", 4},
              {"ssm.inner_size", 64},   {"ssm.time_step_rank", 4}, {"ssm.state_size", 16},
              {"ssm.group_count", 2}};
    p.tensors = {{"token_embd.weight", GgufType::kF32, {32, 8}}};
  };
  const std::pair<std::function<void(Parts&)>, const char*> cases[] = {
      {[](Parts& p) { p.strings["rope.scaling.type"] = "ntk"; },
       "rope.scaling.type 'ntk': expected none, linear, yarn or longrope"},
      {[](Parts& p) { p.strings["rope.scaling.type"] = "longrope"; },
       "tensor 'rope_factors_long.weight' is missing"},
      {[](Parts& p) {
         p.strings["rope.scaling.type"] = "yarn";
         p.floats["rope.scaling.yarn_ext_factor"] = 0.5;
       },
       "yarn_ext_factor: expected 1, found 0.5"},
      {[](Parts& p) {
         p.tensors.push_back({"rope_freqs.weight", GgufType::kF32, {8}});
       },
       "tensor 'rope_freqs.weight': factor 0 is 0"},
      {[](Parts& p) {
         p.tensors.push_back({"rope_freqs.weight", GgufType::kF16, {8}});
       },
       "tensor 'rope_freqs.weight': type F16, expected F32"},
      {scan, "(opens)"},
      {[&](Parts& p) {
         scan(p);
         p.ints["ssm.inner_size"] = 65;
       },
       "expected a multiple of the width 32 and of 4 heads, found 65"},
      {[&](Parts& p) {
         scan(p);
         p.ints.erase("ssm.time_step_rank");
       },
       "ssm.time_step_rank"},
      {[&](Parts& p) {
         scan(p);
         p.tensors.push_back({"blk.0.ssm_a", GgufType::kF32, {1, 4}});
       },
       "tensor 'blk.0.ssm_a': element 0: found 0, expected a number below 0"},
      {[&](Parts& p) {
         scan(p);
         p.tensors.push_back({"blk.0.ssm_conv1d.weight", GgufType::kQ8_0, {32, 4}});
       },
       "tensor 'blk.0.ssm_conv1d.weight': type Q8_0, expected F32"},
      {[&](Parts& p) {
         scan(p);
         p.tensors.push_back({"blk.0.attn_q.weight", GgufType::kF32, {32, 4}});
       },
       "tensor 'blk.0.attn_q.weight' has no place in this architecture"},
  };
  for (const auto& [spoil, message] : cases) {
    Parts parts;
    spoil(parts);
    EXPECT_THAT(Message(parts), HasSubstr(message));
  }
}

TEST(GgufModel, RowsOfNorms) {
  Parts parts;
  parts.arch = "stablelm";
  parts.ints = {{"context_length", 32},      {"embedding_length", 32},    {"block_count", 1},
                {"feed_forward_length", 32}, {"attention.head_count", 2}, {"rope.dimension_count", 4}};
  parts.floats = {{"attention.layer_norm_epsilon", 1e-5f}};
  parts.tensors = {{"token_embd.weight", GgufType::kF32, {32, 8}},
                   {"blk.0.attn_q_norm.weight", GgufType::kF32, {16}}};
  EXPECT_THAT(Message(parts), HasSubstr("tensor 'blk.0.attn_q_norm.weight': expected at most 65536 rows of "
                                        "F32, found F32 [16]"));
  parts.tensors.back().dims = {16, 2};
  EXPECT_EQ(Message(parts), "(opens)");
}

// Whatever the order in which families were linked.
TEST(GgufModel, RowsOfAnArchitectureHaveRanksOfTheirOwn) {
  size_t count = 0;
  for (const Family* family : AllFamilies()) count += family->gguf.size();
  const auto rows = AllGgufFamilies();
  ASSERT_EQ(rows.size(), count);
  for (size_t i = 1; i < rows.size(); ++i) {
    const std::string_view before = rows[i - 1]->arch, arch = rows[i]->arch;
    EXPECT_TRUE(before < arch || (before == arch && rows[i - 1]->rank > rows[i]->rank))
        << arch << ", ranks " << rows[i - 1]->rank << " and " << rows[i]->rank;
    EXPECT_NE(FindFamily(rows[i]->model_type), nullptr) << rows[i]->model_type;
  }
}

TEST(GgufModel, NamesAndRowsOfTensors) {
  const auto row = [](const char* family) -> const GgufFamily& { return FindFamily(family)->gguf.front(); };
  const Program none;
  const auto place = GgufPlaceOf(row("qwen3_moe"), none, "model.layers.3.mlp.experts.12.up_proj.weight");
  ASSERT_TRUE(place.has_value());
  EXPECT_EQ(place->name, "blk.3.ffn_up_exps.weight");
  EXPECT_EQ(place->expert, 12);
  EXPECT_EQ(HfNameOf(row("qwen3_moe"), "blk.3.ffn_up_exps.weight"),
            "model.layers.3.mlp.experts.*.up_proj.weight");
  for (const char* name : {"model.layers.3.mlp.experts..up_proj.weight", "model.layers.x.mlp.gate.weight",
                           "model.layers.3.mlp.experts.1a.up_proj.weight", "model.norm", "lm_head.scale"}) {
    EXPECT_FALSE(GgufPlaceOf(row("qwen3_moe"), none, name).has_value()) << name;
  }
  // Two heads of four rows: halves interleaved.
  const GgufRowOrder pairs = RowOrderOf(row("llama"), "blk.0.attn_q.weight", 2, 1);
  std::vector<int64_t> sources;
  for (int64_t i = 0; i < 8; ++i) sources.push_back(pairs.Source(i, 8));
  EXPECT_THAT(sources, testing::ElementsAre(0, 2, 1, 3, 4, 6, 5, 7));
  // Four heads of q and two of k and v, a row each: q q k v of the one group, then of the other.
  const GgufRowOrder groups = RowOrderOf(row("falcon"), "blk.0.attn_qkv.weight", 4, 2);
  sources.clear();
  for (int64_t i = 0; i < 8; ++i) sources.push_back(groups.Source(i, 8));
  EXPECT_THAT(sources, testing::ElementsAre(0, 1, 4, 5, 2, 6, 3, 7));
}

}  // namespace
}  // namespace planish

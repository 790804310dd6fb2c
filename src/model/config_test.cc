// Fields of config.json: those of published models are understood, what a family does not implement is
// refused by name, and an unknown family is told from the nearest by its fields too.
#include "model/config.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "model/family.h"
#include "model/load.h"
#include "model/model_test_util.h"

namespace planish {
namespace {

using test::ModelFolder;
using test::ReadJson;
using test::TemporaryFolder;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

std::string Published() { return PLANISH_SOURCE_DIR "/tests/published_configs.json"; }

// A published config of each model_type.
std::map<std::string, Json> OneOfEach() {
  std::map<std::string, Json> configs;
  for (const Json& row : ReadJson(Published())) {
    configs.emplace(row["config"]["model_type"].get<std::string>(), row["config"]);
  }
  return configs;
}

std::vector<std::string> Unread(const Config& config) {
  std::vector<std::string> paths;
  for (const auto& field : config.Unread()) paths.push_back(field.path);
  return paths;
}

TEST(ConfigFields, WhatWasNotAskedForIsLeft) {
  const Json json = {{"a", 1},
                     {"b", 2},
                     {"off", false},
                     {"none", nullptr},
                     {"list", {1}},
                     {"dropout", 0.5},
                     {"is_causal", true},
                     {"empty", Json::array()},
                     {"in", {{"x", 1}, {"y", 2}, {"deep", {{"z", 3}}}}}};
  const Config config(json);
  EXPECT_EQ(*config.Int("a", 0), 1);
  EXPECT_THAT(Unread(config), ElementsAre("b", "in", "list"));
  const auto inside = config.Object("in");
  ASSERT_TRUE(inside.ok());
  EXPECT_EQ(*inside->Int("x", 0), 1);
  EXPECT_THAT(Unread(config), ElementsAre("b", "in.deep", "in.y", "list"));
  EXPECT_NE(inside->Find("deep"), nullptr);  // taken whole
  config.LeaveAside({"b", "list"});
  EXPECT_THAT(Unread(config), ElementsAre("in.y"));
}

TEST(ConfigFields, NamesOfTheirOwn) {
  const Json own = {{"n_embd", 4}}, usual = {{"hidden_size", 5}}, both = {{"n_embd", 4}, {"hidden_size", 5}};
  const auto read = [](const Config& config) {
    return *config.Renamed({{"hidden_size", "n_embd"}}).Int("hidden_size", 6);
  };
  EXPECT_EQ(read(Config(own)), 4);
  EXPECT_EQ(read(Config(usual)), 5);
  const Config config(both);
  EXPECT_EQ(read(config), 4);
  EXPECT_THAT(Unread(config), ElementsAre("hidden_size"));
}

TEST(ConfigFields, ObjectsOfAnotherType) {
  const Json json = {{"rope_scaling", "yarn"}};
  const auto inside = Config(json).Object("rope_scaling");
  ASSERT_FALSE(inside.ok());
  EXPECT_EQ(inside.error().message, "field 'rope_scaling': expected an object, found \"yarn\"");
}

TEST(PublishedConfigs, AreUnderstood) {
  for (const Json& row : ReadJson(Published())) {
    const Json& config = row["config"];
    const auto program = BuildProgram(config);
    EXPECT_TRUE(program.ok()) << row["name"] << ": " << program.error().message;
  }
}

struct Refused {
  const char* type;
  Json fields;
  const char* message;
};

const std::vector<Refused>& RefusedFields() {
  static const std::vector<Refused> kCases = {
      {"cohere", {{"sliding_window", 4096}}, "field 'sliding_window': 4096: not implemented for cohere"},
      {"deepseek_v2",
       {{"rope_interleave", false}},
       "rope_interleave: false is not implemented for deepseek_v2; expected true"},
      {"deepseek_v2", {{"n_shared_experts_gate", true}}, "'n_shared_experts_gate': true"},
      {"deepseek_v2", {{"head_dim", 192}}, "head_dim: 192 is not implemented for deepseek_v2; expected 64"},
      {"deepseek_v2",
       {{"num_key_value_heads", 1}},
       "num_key_value_heads: 1 is not implemented for deepseek_v2"},
      {"deepseek_v2", {{"num_experts_per_tok", nullptr}}, "field 'num_experts_per_tok' is missing"},
      {"falcon", {{"num_key_value_heads", 8}}, "num_key_value_heads: 8 is not implemented for falcon"},
      // Several at once.
      {"falcon",
       {{"alibi", true}, {"num_key_value_heads", 8}},
       "num_key_value_heads: 8 is not implemented for falcon; expected 32; alibi: true is not"},
      {"falcon",
       {{"apply_residual_connection_post_layernorm", true}},
       "'apply_residual_connection_post_layernorm': true"},
      {"gemma2", {{"hidden_act", "silu"}}, "hidden_act: \"silu\" is not implemented for gemma2"},
      {"gemma2", {{"sliding_window", nullptr}}, "field 'sliding_window': null, but layer 0 slides"},
      {"gemma2", {{"sliding_window_size", 2048}}, "sliding_window_size: 2048 is not implemented for gemma2"},
      {"gemma3", {{"audio_config", {{"x", 1}}}}, "field 'audio_config': {\"x\":1}: not implemented"},
      {"gemma3",
       {{"text_config", {{"hidden_size", 2560}, {"num_hidden_layers", 2}, {"altup_num_inputs", 4}}}},
       "field 'text_config.altup_num_inputs': 4: not implemented for gemma3_text"},
      {"gemma3_text", {{"use_bidirectional_attention", true}}, "use_bidirectional_attention: true"},
      {"gemma3_text", {{"is_causal", false}}, "field 'is_causal': false: not implemented"},
      {"gpt2", {{"n_ctx", 512}}, "n_ctx: 512 is not implemented for gpt2; expected 1024"},
      {"gpt2", {{"rotary_dim", 64}}, "field 'rotary_dim': 64"},
      {"gpt_neox", {{"num_key_value_heads", 4}}, "num_key_value_heads: 4 is not implemented for gpt_neox"},
      {"granite",
       {{"sliding_window", 128}, {"position_embedding_type", "nope"}},
       "fields 'position_embedding_type': \"nope\", 'sliding_window': 128: not implemented for granite"},
      {"llama",
       {{"attn_logit_softcapping", 30.0}},
       "field 'attn_logit_softcapping': 30.0: not implemented for llama; where that changes nothing of what "
       "the "
       "model computes, --ignore-config-fields attn_logit_softcapping reads the config without"},
      {"llama", {{"sliding_window", 4096}, {"qk_norm", true}}, "'qk_norm': true, 'sliding_window': 4096"},
      {"llama", {{"activation", "relu"}}, "activation: \"relu\" is not implemented for llama"},
      {"llama",
       {{"rope_scaling", {{"rope_type", "linear"}, {"factor", 2.0}, {"mscale", 0.7}}}},
       "field 'rope_scaling.mscale': 0.7: not implemented"},
      {"llama",
       {{"rope_parameters",
         {{"full_attention", {{"rope_theta", 1e6}}}, {"sliding_attention", {{"rope_theta", 1e6}}}}}},
       "field 'rope_parameters.sliding_attention': {\"rope_theta\":1000000.0}"},
      {"llama", {{"is_causal", false}}, "field 'is_causal': false"},
      {"llama", {{"scale_attn_weights", false}}, "field 'scale_attn_weights': false"},
      {"llama", {{"elementwise_affine", false}}, "field 'elementwise_affine': false"},
      {"llama", {{"is_gated_act", false}}, "is_gated_act: false is not implemented for llama"},
      {"llama", {{"rope_interleave", true}}, "rope_interleave: true is not implemented for llama"},
      {"mamba2", {{"intermediate_size", 4096}}, "intermediate_size: 4096 is not implemented for mamba2"},
      {"mamba2", {{"attn_layer_idx", {1, 2}}}, "field 'attn_layer_idx': [1,2]"},
      {"mistral", {{"attention_bias", true}}, "field 'attention_bias': true: not implemented for mistral"},
      {"mistral", {{"mlp_bias", true}}, "field 'mlp_bias': true"},
      {"mixtral", {{"shared_expert_intermediate_size", 512}}, "'shared_expert_intermediate_size': 512"},
      {"mixtral", {{"norm_topk_prob", false}}, "norm_topk_prob: false is not implemented for mixtral"},
      {"mixtral", {{"attention_bias", true}}, "field 'attention_bias': true"},
      {"olmo2", {{"clip_qkv", 8.0}}, "field 'clip_qkv': 8.0: not implemented for olmo2"},
      {"olmo2", {{"sliding_window", 4096}}, "field 'sliding_window': 4096"},
      {"opt", {{"is_gated_act", true}}, "is_gated_act: true is not implemented for opt; expected false"},
      {"opt", {{"learned_embeddings", false}}, "learned_embeddings: false is not implemented for opt"},
      {"opt", {{"num_key_value_heads", 3}}, "num_key_value_heads: 3 is not implemented for opt"},
      {"phi3", {{"attention_bias", true}}, "field 'attention_bias': true"},
      {"phi3", {{"full_attn_mod", 2}}, "full_attn_mod: 2 is not implemented for phi3"},
      {"phi3", {{"lm_head_bias", true}}, "field 'lm_head_bias': true"},
      {"qwen2", {{"attention_bias", true}}, "field 'attention_bias': true"},
      {"qwen2", {{"use_mrope", true}}, "field 'use_mrope': true"},
      {"qwen2",
       {{"num_hidden_layers", 1}, {"layer_types", {"sliding_attention"}}},
       "layer_types[0] is sliding_attention, but use_sliding_window and sliding_window give no"},
      {"qwen2",
       {{"dual_chunk_attention_config", {{"chunk_size", 8}, {"local_size", 8}}}},
       "dual_chunk_attention_config: expected a local_size below chunk_size 8, found 8"},
      {"qwen2_moe", {{"scoring_func", "sigmoid"}}, "field 'scoring_func': \"sigmoid\""},
      {"qwen3",
       {{"use_qk_norm", false}, {"qk_norm", false}},
       "use_qk_norm: false is not implemented for qwen3; expected true; qk_norm: false is"},
      {"qwen3", {{"mlp_bias", true}}, "field 'mlp_bias': true"},
      {"qwen3_moe", {{"shared_expert_intermediate_size", 512}}, "shared_expert_intermediate_size: 512"},
      {"qwen3_moe", {{"routed_scaling_factor", 2.5}}, "field 'routed_scaling_factor': 2.5"},
      {"smollm3", {{"qk_norm", true}}, "field 'qk_norm': true"},
      {"stablelm", {{"mlp_bias", true}}, "field 'mlp_bias': true"},
      {"starcoder2", {{"mlp_type", "glu"}}, "mlp_type: \"glu\" is not implemented for starcoder2"},
      {"starcoder2", {{"norm_type", "rms"}}, "norm_type: \"rms\" is not implemented"}};
  return kCases;
}

TEST(RefusedFields, ByNameAndValue) {
  const auto published = OneOfEach();
  for (const Refused& c : RefusedFields()) {
    ASSERT_TRUE(published.contains(c.type)) << c.type;
    Json config = published.at(c.type);
    config.update(c.fields);
    const auto program = BuildProgram(config);
    ASSERT_FALSE(program.ok()) << c.type << " " << c.fields;
    EXPECT_EQ(program.error().code, Code::kInput);
    EXPECT_THAT(program.error().message, HasSubstr(c.message)) << c.type;
  }
}

TEST(RefusedFields, AreNamedWithTheFileAndCanBeIgnored) {
  const TemporaryFolder folder;
  Json config = ReadJson(ModelFolder("demo") + "/config.json");
  config["clip_qkv"] = 8;
  config["rope_parameters"]["mscale"] = 0.5;
  ASSERT_TRUE(WriteFileAtomically(JoinPath(folder.path(), "config.json"), DumpJson(config)).ok());
  const auto weights = ReadTextFile(ModelFolder("demo") + "/model.safetensors");
  ASSERT_TRUE(weights.ok());
  ASSERT_TRUE(WriteFileAtomically(JoinPath(folder.path(), "model.safetensors"), *weights).ok());
  const auto refused = LoadModel(folder.path());
  ASSERT_FALSE(refused.ok());
  EXPECT_THAT(refused.error().message,
              HasSubstr("config.json: fields 'clip_qkv': 8, 'rope_parameters.mscale'"));
  EXPECT_THAT(refused.error().message, HasSubstr("--ignore-config-fields clip_qkv,rope_parameters.mscale "));
  const auto model = LoadModel(folder.path(), LoadOptions{{"clip_qkv", "rope_parameters.mscale"}});
  ASSERT_TRUE(model.ok()) << model.error().message;
  EXPECT_FALSE(model->config.contains("clip_qkv"));
}

TEST(IgnoreFields, LeavesTheRest) {
  Json config = {{"a", 1}, {"x.y", 2}, {"in", {{"b", 3}, {"p.q", 4}, {"c", 5}}}, {"d", 6}};
  IgnoreFields({"a", "x.y", "in.b", "in.p.q", "absent", "in.absent", "d.e", "in.c.f", ""}, config);
  EXPECT_EQ(config, Json({{"in", {{"c", 5}}}, {"d", 6}}));
}

TEST(UnknownFamilies, AreToldFromTheNearest) {
  struct Case {
    Json config;
    const char* nearest;
    const char* lacks;  // null: nothing
  };
  const auto published = OneOfEach();
  const auto changed = [&](const char* type, const Json& changes) {
    Json config = published.at(type);
    config.update(changes);
    return config;
  };
  for (const Case& c : std::vector<Case>{
           // By its fields, where the name says nothing.
           {changed("deepseek_v2", {{"model_type", "kite"}, {"architectures", {"KiteForCausalLM"}}}),
            "deepseek_v2", nullptr},
           {changed("mamba2", {{"model_type", "serpent"}, {"architectures", {"Serpent"}}}), "mamba2",
            nullptr},
           {changed("gpt2", {{"model_type", "wave"}, {"architectures", nullptr}, {"wave_bands", 3}}), "gpt2",
            "wave_bands"},
           // By the class, where the type is another.
           {changed("llama", {{"model_type", "own"}, {"my_field", 1}}), "llama", "my_field"},
           // By the name, where fields do not tell.
           {changed("qwen2", {{"model_type", "qwen2_5"}, {"architectures", {"Qwen2_5ForCausalLM"}}}), "qwen2",
            nullptr},
           {changed("olmo2", {{"model_type", "olmo3"},
                              {"architectures", {"Olmo3ForCausalLM"}},
                              {"sliding_window", 4096},
                              {"layer_types", {"sliding_attention"}}}),
            "olmo2", "layer_types, sliding_window"}}) {
    const auto program = BuildProgram(c.config);
    ASSERT_FALSE(program.ok());
    const std::string& message = program.error().message;
    EXPECT_THAT(message, HasSubstr(fmt::format("the nearest is '{}' (", c.nearest)));
    if (c.lacks != nullptr) {
      EXPECT_THAT(message, HasSubstr(fmt::format("), which has no {}", c.lacks)));
    } else {
      EXPECT_THAT(message, Not(HasSubstr("which has no")));
      EXPECT_THAT(message, HasSubstr("); its fields are all known to it: what differs is not in the config"));
    }
  }
}

// Values that the nearest family does not implement are named too, all of them.
TEST(UnknownFamilies, AreToldWhatDiffers) {
  Json config = OneOfEach().at("deepseek_v2");
  config.update({{"model_type", "deepseek_v3"},
                 {"architectures", {"DeepseekV3ForCausalLM"}},
                 {"bos_token_id", 0},
                 {"eos_token_id", 1},
                 {"num_nextn_predict_layers", 1},
                 {"scoring_func", "sigmoid"},
                 {"topk_method", "noaux_tc"},
                 {"norm_topk_prob", true},
                 {"routed_scaling_factor", 2.5}});
  const auto program = BuildProgram(config);
  ASSERT_FALSE(program.ok());
  EXPECT_THAT(
      program.error().message,
      HasSubstr("), which has no num_nextn_predict_layers; scoring_func: \"sigmoid\" is not implemented "
                "for deepseek_v2; expected \"softmax\"; topk_method 'noaux_tc' is not supported: "
                "expected greedy or group_limited_greedy; norm_topk_prob with routed_scaling_factor"));
}

}  // namespace
}  // namespace planish

#include "formats/lora.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>

#include "base/file.h"
#include "base/json.h"
#include "formats/gguf.h"
#include "formats/safetensors.h"

namespace planish {
namespace {

using testing::HasSubstr;

// The format page's example: A = [1, 2], B = [3, 4]^T, alpha 2 for rank 1.
Json Config() { return {{"peft_type", "LORA"}, {"r", 1}, {"lora_alpha", 2}, {"target_modules", {"q_proj"}}}; }

struct Tensor {
  std::string name;
  std::vector<int64_t> shape;
  DType type = DType::kF32;
};
const std::vector<Tensor> kPair = {{"base_model.model.l.q_proj.lora_A.weight", {1, 2}},
                                   {"base_model.model.l.q_proj.lora_B.weight", {2, 1}}};

class LoraTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = testing::TempDir() + "planish_lora_" + std::to_string(getpid());
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  Result<LoraAdapter> Peft(const Json& config, const std::vector<Tensor>& tensors) {
    std::vector<TensorSpec> specs;
    for (const Tensor& t : tensors) specs.push_back({t.name, t.type, t.shape});
    auto writer = SafetensorsWriter::Create(JoinPath(folder_, kLoraTensorsName), specs);
    EXPECT_TRUE(writer.ok());
    for (const auto& spec : writer->order()) {
      // A holds 1, 2, ...; B goes on at 3.
      std::vector<float> values(static_cast<size_t>(*TensorByteSize(spec.type, spec.shape)) / 4);
      float next = spec.name.find("A") != std::string::npos ? 1 : 3;
      for (float& value : values) value = next++;
      EXPECT_TRUE(writer->Append(spec.name, std::as_bytes(std::span(values))).ok());
    }
    EXPECT_TRUE(writer->Commit().ok());
    EXPECT_TRUE(WriteFileAtomically(JoinPath(folder_, kLoraConfigName), DumpJson(config)).ok());
    return OpenLora(folder_);
  }
  Result<LoraAdapter> Gguf(const GgufMetadata& metadata, const std::vector<GgufTensorSpec>& tensors) {
    const std::string path = JoinPath(folder_, "adapter.gguf");
    auto writer = GgufWriter::Create(path, metadata, tensors);
    EXPECT_TRUE(writer.ok());
    for (const auto& t : tensors) {
      int64_t rows = 1;
      for (size_t i = 1; i < t.dims.size(); ++i) rows *= t.dims[i];
      const std::vector<std::byte> zeros(static_cast<size_t>(rows * GgufRowBytes(t.type, t.dims[0])));
      EXPECT_TRUE(writer->Append(zeros).ok());
    }
    EXPECT_TRUE(writer->Commit().ok());
    return OpenLora(path);
  }
  std::string folder_;
};

TEST_F(LoraTest, TheExample) {
  const auto adapter = Peft(Config(), kPair);
  ASSERT_TRUE(adapter.ok()) << adapter.error().message;
  ASSERT_EQ(adapter->pairs.size(), 1u);
  const LoraPair& pair = adapter->pairs.front();
  EXPECT_EQ(pair.target, "l.q_proj");
  EXPECT_EQ(pair.rank, 1);
  EXPECT_EQ(pair.scale, 2);
  float a[2], b[2];
  std::memcpy(a, pair.a.bytes.data(), 8);
  std::memcpy(b, pair.b.bytes.data(), 8);
  const float delta[2][2] = {{6, 12}, {8, 16}};
  for (int i = 0; i < 2; ++i) {
    for (int j = 0; j < 2; ++j) EXPECT_EQ(pair.scale * b[i] * a[j], delta[i][j]);
  }
}

TEST_F(LoraTest, ScalesFollowRanksAndPatterns) {
  const std::vector<Tensor> pair = {{"base_model.model.l.q_proj.lora_A.default.weight", {4, 2}},
                                    {"base_model.model.l.q_proj.lora_B.default.weight", {2, 4}}};
  Json config = Config();
  config["r"] = 4;
  config["use_rslora"] = true;
  EXPECT_EQ(Peft(config, pair)->pairs[0].scale, 1);  // 2 / sqrt(4)
  config["alpha_pattern"] = {{"q_proj", 6}};
  EXPECT_EQ(Peft(config, pair)->pairs[0].scale, 3);
  config["use_rslora"] = false;
  config["r"] = 8;
  EXPECT_THAT(Peft(config, pair).error().message, HasSubstr("factors of rank 4, the configuration says 8"));
  config["rank_pattern"] = {{"l\\.q_.*", 4}};
  EXPECT_EQ(Peft(config, pair)->pairs[0].scale, 1.5f);
  config["rank_pattern"] = {{"_proj", 4}};  // not behind a dot
  EXPECT_THAT(Peft(config, pair).error().message, HasSubstr("says 8"));
  config["rank_pattern"] = {{"q_proj", 4}, {"l.q_proj", 2}};
  EXPECT_THAT(Peft(config, pair).error().message, HasSubstr("the patterns 'l.q_proj' and 'q_proj' disagree"));
  config["rank_pattern"] = {{"q_proj", 4}};
  for (const Json& targets : {Json("all-linear"), Json(".*q_proj"), Json({"l.q_proj"}), Json()}) {
    config["target_modules"] = targets;
    EXPECT_TRUE(Peft(config, pair).ok()) << targets;
  }
  for (const Json& targets : {Json("q_proj"), Json({"proj"}), Json({"v_proj"})}) {
    config["target_modules"] = targets;
    EXPECT_THAT(Peft(config, pair).error().message, HasSubstr("none of target_modules")) << targets;
  }
}

// What chooses modules must choose those that have factors.
TEST_F(LoraTest, ChoicesOfModules) {
  const auto pair = [](const std::string& module) {
    return std::vector<Tensor>{{"base_model.model." + module + ".lora_A.weight", {1, 2}},
                               {"base_model.model." + module + ".lora_B.weight", {2, 1}}};
  };
  const std::string q = "model.layers.12.self_attn.q_proj", expert = "model.layers.2.mlp.experts.7.q_proj";
  struct Case {
    std::string module;
    Json changes;
    const char* message;  // "": read
  };
  const Case cases[] = {
      {q, {{"exclude_modules", {"k_proj", "12"}}}, ""},
      {q, {{"exclude_modules", ".*layers\\.1\\..*"}}, ""},
      {q, {{"exclude_modules", Json::array()}}, ""},
      {q, {{"exclude_modules", ""}}, ""},
      {q, {{"exclude_modules", {"q_proj"}}}, "is among exclude_modules, which PEFT would not load"},
      {q, {{"exclude_modules", {q}}}, "is among exclude_modules"},
      {q, {{"exclude_modules", ".*12.*"}}, "is among exclude_modules"},
      {q, {{"layers_to_transform", 12}}, ""},
      {q, {{"layers_to_transform", {3, 12}}}, ""},
      {q, {{"layers_to_transform", Json::array()}}, ""},
      {q, {{"layers_to_transform", 0}}, "is in layer 12, which is none of layers_to_transform (0)"},
      {q, {{"layers_to_transform", {1, 2}}}, "is in layer 12, which is none of layers_to_transform (1, 2)"},
      {expert, {{"layers_to_transform", 2}}, ""},
      {expert, {{"layers_to_transform", 7}}, "is in layer 2"},
      {expert, {{"layers_to_transform", 7}, {"layers_pattern", "experts"}}, ""},
      {expert, {{"layers_to_transform", 2}, {"layers_pattern", {"h", "layers"}}}, ""},
      {expert, {{"layers_to_transform", 2}, {"layers_pattern", {"experts", "layers"}}}, "is in layer 7"},
      {q, {{"layers_to_transform", 12}, {"layers_pattern", {"h"}}}, "is in no layer, and so none of"},
      {"q_proj", {{"layers_to_transform", 12}}, "is in no layer"},
      {q, {{"target_modules", Json::array()}}, "is none of target_modules"},
      {q, {{"target_modules", nullptr}, {"layers_to_transform", 12}}, ""},
  };
  for (const Case& c : cases) {
    Json config = Config();
    config.update(c.changes);
    const auto adapter = Peft(config, pair(c.module));
    EXPECT_EQ(adapter.ok(), *c.message == '\0') << config;
    if (!adapter.ok()) {
      EXPECT_THAT(adapter.error().message,
                  testing::AllOf(HasSubstr(c.message), HasSubstr("module '" + c.module + "'")));
    }
  }
}

// Fields that say how an adapter was trained, or that a base is stored [in, out], leave its factors as they
// are.
TEST_F(LoraTest, FieldsThatChangeNothing) {
  const auto plain = Peft(Config(), kPair);
  ASSERT_TRUE(plain.ok());
  const std::vector<std::byte> a(plain->pairs[0].a.bytes.begin(), plain->pairs[0].a.bytes.end());
  const std::pair<const char*, Json> fields[] = {{"fan_in_fan_out", true},
                                                 {"init_lora_weights", false},
                                                 {"init_lora_weights", "Gaussian"},
                                                 {"init_lora_weights", "mica"},
                                                 {"use_dora", false},
                                                 {"modules_to_save", Json::array()},
                                                 {"lora_bias", nullptr},
                                                 {"megatron_config", nullptr},
                                                 {"megatron_core", "megatron.core"},
                                                 {"loftq_config", Json::object()},
                                                 {"target_parameters", nullptr},
                                                 {"layers_pattern", Json::array()},
                                                 {"layers_pattern", ""},
                                                 {"use_qalora", false},
                                                 {"qalora_group_size", 16},
                                                 {"lora_dropout", 0.1},
                                                 {"inference_mode", true},
                                                 {"some_new_field", {1, 2}}};
  for (const auto& [field, value] : fields) {
    Json config = Config();
    config[field] = value;
    const auto adapter = Peft(config, kPair);
    ASSERT_TRUE(adapter.ok()) << field << ": " << adapter.error().message;
    EXPECT_EQ(adapter->pairs[0].scale, plain->pairs[0].scale) << field;
    EXPECT_TRUE(std::ranges::equal(adapter->pairs[0].a.bytes, a)) << field;
  }
}

TEST_F(LoraTest, ConfigurationsThatAreRefused) {
  struct Case {
    const char* field;
    Json value;
    const char* message;
  };
  const Case cases[] = {
      {"peft_type", "IA3", "peft_type 'IA3': only LORA can be read"},
      {"peft_type", nullptr, "peft_type"},
      {"r", 0, "r: 0, expected 1 to 65536"},
      {"r", 1 << 20, "r: 1048576"},
      {"r", "8", "r"},
      {"lora_alpha", nullptr, "lora_alpha"},
      {"bias", "all", "bias 'all': adapters with biases"},
      {"use_dora", true, "use_dora: DoRA"},
      {"lora_bias", true, "lora_bias"},
      {"modules_to_save", {"lm_head"}, "modules_to_save: whole copies"},
      {"target_parameters", {"experts.up"}, "target_parameters: factors of parameters"},
      {"use_qalora", true, "use_qalora: factors of pooled inputs"},
      {"use_bdlora", {{"nblocks", 2}}, "use_bdlora: factors in blocks"},
      {"arrow_config", {{"top_k", 3}}, "arrow_config: adapters that are chosen"},
      {"kasa_config", {{"beta", 1}}, "kasa_config: a diagonal between"},
      {"monteclora_config", {{"num_samples", 2}}, "monteclora_config: factors that are drawn"},
      {"layer_replication", {{0, 4}}, "layer_replication: replicated layers"},
      {"trainable_token_indices", {1, 2}, "trainable_token_indices: single rows"},
      {"alora_invocation_tokens", {5}, "alora_invocation_tokens: adapters that start"},
      {"megatron_config", {{"a", 1}}, "megatron_config: sharded"},
      {"init_lora_weights", "pissa",
       "init_lora_weights 'pissa': expected true, false or one of gaussian, eva"},
      {"init_lora_weights", "pissa_niter_4", "init_lora_weights 'pissa_niter_4'"},
      {"init_lora_weights", "olora", "save the adapter with path_initial_model_for_weight_conversion"},
      {"init_lora_weights", "loftq", "init_lora_weights 'loftq'"},
      {"init_lora_weights", 3, "init_lora_weights '3'"},
      {"use_rslora", 1, "field 'use_rslora': expected true or false, found 1"},
      {"fan_in_fan_out", "x", "field 'fan_in_fan_out': expected true or false"},
      {"exclude_modules", "(", "exclude_modules: "},
      {"exclude_modules", 5, "exclude_modules: expected a list of names or a pattern, found 5"},
      {"exclude_modules", {5}, "exclude_modules: expected names"},
      {"layers_to_transform", "1", "layers_to_transform: expected numbers of layers, found \"1\""},
      {"layers_to_transform", true, "layers_to_transform: expected numbers of layers, found true"},
      {"layers_to_transform", {1, -1}, "layers_to_transform: expected numbers of layers, found -1"},
      {"layers_pattern", "h", "layers_pattern: expected layers_to_transform beside it"},
      {"rank_pattern", {1, 2}, "rank_pattern: expected an object"},
      {"rank_pattern", {{"q", "x"}}, "rank_pattern: 'q': expected a number"},
      {"alpha_pattern", {{"(", 1}}, "alpha_pattern: '('"},
      {"target_modules", "(", "target_modules"},
      {"target_modules", 5, "target_modules: expected a list"},
      {"target_modules", {5}, "target_modules: expected names"},
  };
  for (const Case& c : cases) {
    Json config = Config();
    config[c.field] = c.value;
    const auto adapter = Peft(config, kPair);
    ASSERT_FALSE(adapter.ok()) << c.message;
    EXPECT_THAT(adapter.error().message, HasSubstr(c.message));
    EXPECT_THAT(adapter.error().message, HasSubstr("adapter_config.json: "));
  }
  const struct {
    Json changes;
    const char* message;
  } pairs[] = {
      {{{"target_modules", "all-linear"}, {"layers_to_transform", 1}},
       "layers_to_transform: expected a list of target_modules"},
      {{{"layers_pattern", "("}, {"layers_to_transform", 1}}, "layers_pattern: "},
      {{{"layers_pattern", {1}}, {"layers_to_transform", 1}},
       "layers_pattern: expected names of lists of layers"},
  };
  for (const auto& c : pairs) {
    Json config = Config();
    config.update(c.changes);
    EXPECT_THAT(Peft(config, kPair).error().message, HasSubstr(c.message));
  }
  for (const char* text : {"", "[]", "{"}) {
    EXPECT_FALSE(ParsePeftLora(text, {}, "x").ok());
  }
}

TEST_F(LoraTest, TensorsThatAreRefused) {
  const std::string m = "base_model.model.l.q_proj";
  struct Case {
    std::vector<Tensor> tensors;
    const char* message;
  };
  const Case cases[] = {
      {{}, "no factors"},
      {{kPair[0]}, "module 'l.q_proj': lora_B is missing"},
      {{kPair[1]}, "module 'l.q_proj': lora_A is missing"},
      {{{"q_proj.lora_A.weight", {1, 2}}}, "expected a name that starts with base_model.model."},
      {{{m + ".lora_C.weight", {1, 2}}}, "expected {module}.lora_A.weight"},
      {{{m + ".lora_B.bias", {2}}}, "expected {module}.lora_A.weight"},
      {{{m + ".lora_magnitude_vector", {2}}}, "DoRA"},
      {{{m + ".lora_A.weight", {2}}}, "shape [2], expected a matrix"},
      {{{m + ".lora_A.weight", {0, 2}}}, "shape [0, 2], expected a matrix"},
      {{{m + ".lora_A.weight", {1, 2}, DType::kI32}}, "type I32, expected F32, F16 or BF16"},
      {{kPair[0], {m + ".lora_B.weight", {2, 2}}}, "rank 1 of lora_A and 2 of lora_B"},
      {{kPair[0], {m + ".lora_A.default.weight", {1, 2}}}, "has such a factor already"},
      {{kPair[0], {m + ".lora_embedding_B", {2, 1}}}, "has such a factor already"},
  };
  for (const Case& c : cases) {
    const auto adapter = Peft(Config(), c.tensors);
    ASSERT_FALSE(adapter.ok()) << c.message;
    EXPECT_THAT(adapter.error().message, HasSubstr(c.message));
    EXPECT_THAT(adapter.error().message, HasSubstr("adapter_model.safetensors: "));
  }
}

GgufMetadata Metadata(float alpha, const char* type = "lora") {
  GgufMetadata metadata;
  metadata.String("general.type", "adapter");
  metadata.String("general.architecture", "llama");
  metadata.String("adapter.type", type);
  metadata.Float("adapter.lora.alpha", alpha);
  return metadata;
}

TEST_F(LoraTest, GgufAdapters) {
  constexpr GgufType kF32 = GgufType::kF32;
  const std::vector<GgufTensorSpec> pair = {{"blk.0.ffn_up.weight.lora_a", kF32, {3, 4}},
                                            {"blk.0.ffn_up.weight.lora_b", kF32, {4, 5}},
                                            {"token_embd.weight.lora_a", kF32, {2, 11}},
                                            {"token_embd.weight.lora_b", kF32, {2, 3}}};
  const auto adapter = Gguf(Metadata(2), pair);
  ASSERT_TRUE(adapter.ok()) << adapter.error().message;
  EXPECT_EQ(adapter->architecture, "llama");
  ASSERT_EQ(adapter->pairs.size(), 2u);
  EXPECT_EQ(adapter->pairs[0].target, "blk.0.ffn_up.weight");
  EXPECT_EQ(adapter->pairs[0].rank, 4);
  EXPECT_EQ(adapter->pairs[0].scale, 0.5f);
  EXPECT_TRUE(adapter->pairs[1].embedding);
  EXPECT_EQ(adapter->pairs[1].rank, 2);
  EXPECT_EQ(Gguf(Metadata(0), pair)->pairs[0].scale, 1);
}

// Factors of a layer's experts lie in one tensor, the first expert's first.
TEST_F(LoraTest, GgufAdaptersOfExperts) {
  constexpr GgufType kF32 = GgufType::kF32;
  const auto adapter = Gguf(Metadata(8), {{"blk.1.ffn_up_exps.weight.lora_a", kF32, {3, 4, 2}},
                                          {"blk.1.ffn_up_exps.weight.lora_b", kF32, {4, 5, 2}}});
  ASSERT_TRUE(adapter.ok()) << adapter.error().message;
  ASSERT_EQ(adapter->pairs.size(), 2u);
  for (int64_t expert : {0, 1}) {
    const LoraPair& pair = adapter->pairs[static_cast<size_t>(expert)];
    EXPECT_EQ(pair.target, "blk.1.ffn_up_exps.weight");
    EXPECT_EQ(pair.expert, expert);
    EXPECT_EQ(pair.scale, 2);
    EXPECT_EQ(pair.a.rows, 4);
    EXPECT_EQ(pair.a.bytes.size(), 3u * 4 * 4);
    EXPECT_EQ(pair.b.rows, 5);
    EXPECT_EQ(pair.b.bytes.size(), 4u * 5 * 4);
  }
  EXPECT_EQ(adapter->pairs[1].a.bytes.data() - adapter->pairs[0].a.bytes.data(), 48);
}

TEST_F(LoraTest, GgufAdaptersThatAreRefused) {
  constexpr GgufType kF32 = GgufType::kF32;
  const GgufTensorSpec a{"l.weight.lora_a", kF32, {3, 4}}, b{"l.weight.lora_b", kF32, {4, 5}};
  GgufMetadata late = Metadata(1), nameless, numbered, text;
  late.Ints("adapter.alora.invocation_tokens", std::vector<int32_t>{5});
  nameless.String("general.type", "adapter");
  nameless.String("adapter.type", "lora");
  numbered.Int("general.type", 3);
  text.String("general.type", "adapter");
  text.String("general.architecture", "llama");
  text.String("adapter.type", "lora");
  text.String("adapter.lora.alpha", "16");
  struct Case {
    GgufMetadata metadata;
    std::vector<GgufTensorSpec> tensors;
    const char* message;
  };
  const Case cases[] = {
      {{}, {a, b}, "general.type '' and adapter.type '': expected adapter and lora"},
      {Metadata(1, "control"), {a, b}, "adapter.type 'control'"},
      {numbered, {a, b}, "key 'general.type': type u32, expected string"},
      {nameless, {a, b}, "key 'general.architecture' (string) is missing"},
      {text, {a, b}, "key 'adapter.lora.alpha': type string, expected a number"},
      {Metadata(INFINITY), {a, b}, "adapter.lora.alpha: expected a finite number"},
      {late, {a, b}, "adapters that start at a token cannot be read"},
      {Metadata(1), {}, "no factors"},
      {Metadata(1), {a}, "module 'l.weight': lora_b is missing"},
      {Metadata(1), {b}, "module 'l.weight': lora_a is missing"},
      {Metadata(1), {{"l.weight", kF32, {3, 4}}}, "expected matrices {weight}.lora_a and .lora_b"},
      {Metadata(1), {{"l.weight.lora_a", kF32, {3}}}, "[3]: expected matrices"},
      {Metadata(1), {{"l.weight.lora_a", kF32, {3, 4, 2, 2}}}, "[3, 4, 2, 2]: expected matrices"},
      {Metadata(1), {{"l.weight.lora_a", kF32, {1, 1, 1025}}}, "or those of at most 1024 experts"},
      {Metadata(1),
       {{"l.weight.lora_a", kF32, {3, 4, 2}}, {"l.weight.lora_b", kF32, {4, 5, 3}}},
       "module 'l.weight': lora_a is missing"},
      {Metadata(1), {a, {"l.weight.lora_b", kF32, {5, 5}}}, "rank 4 of lora_a and 5 of lora_b"},
      {Metadata(1),
       {{"l.weight.lora_a", kF32, {1, 65537}}, {"l.weight.lora_b", kF32, {65537, 1}}},
       "rank 65537 of lora_a and 65537 of lora_b, expected the same, at most 65536"},
  };
  for (const Case& c : cases) {
    const auto adapter = Gguf(c.metadata, c.tensors);
    ASSERT_FALSE(adapter.ok()) << c.message;
    EXPECT_THAT(adapter.error().message, HasSubstr(c.message));
    EXPECT_THAT(adapter.error().message, testing::StartsWith(folder_));
  }
}

TEST_F(LoraTest, MissingFilesAreExplained) {
  EXPECT_THAT(OpenLora(folder_).error().message, HasSubstr("no adapter there; expected a folder with"));
  ASSERT_TRUE(WriteFileAtomically(JoinPath(folder_, kLoraConfigName), "{}").ok());
  ASSERT_TRUE(WriteFileAtomically(JoinPath(folder_, "adapter_model.bin"), "x").ok());
  EXPECT_THAT(OpenLora(folder_).error().message, HasSubstr("a pickle, which is not read"));
}

}  // namespace
}  // namespace planish

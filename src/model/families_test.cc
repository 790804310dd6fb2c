// What families accept and refuse: other spellings of tensors and configs, options that are not implemented,
// and the models that tests of all of them go over.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <functional>
#include <tuple>

#include "model/family_models.h"
#include "model/load.h"
#include "model/model_test_util.h"
#include "model/unread_tensors.h"

namespace planish {
namespace {

using test::MaxDifference;
using test::ModelFolder;
using test::OnePass;
using test::ReadJson;
using test::TemporaryFolder;
using test::TestContext;
using testing::HasSubstr;

// A model folder in memory, to be spelled in another way.
struct Spelled {
  explicit Spelled(const std::string& name) : config(ReadJson(ModelFolder(name) + "/config.json")) {
    const auto checkpoint = Checkpoint::Open(ModelFolder(name));
    EXPECT_TRUE(checkpoint.ok());
    for (const TensorInfo* info : checkpoint->tensors()) {
      const auto bytes = checkpoint->Get(info->name)->bytes();
      tensors[info->name] = {{info->name, info->type, info->shape}, {bytes.begin(), bytes.end()}};
    }
  }
  void Rename(const std::function<std::string(const std::string&)>& name) {
    std::map<std::string, Tensor> renamed;
    for (auto& [old, tensor] : tensors) {
      tensor.spec.name = name(old);
      renamed[tensor.spec.name] = std::move(tensor);
    }
    tensors = std::move(renamed);
  }
  void Write(const std::string& folder) const {
    ASSERT_TRUE(WriteFileAtomically(JoinPath(folder, "config.json"), DumpJson(config)).ok());
    std::vector<TensorSpec> specs;
    for (const auto& [name, tensor] : tensors) specs.push_back(tensor.spec);
    auto writer = SafetensorsWriter::Create(JoinPath(folder, "model.safetensors"), specs);
    ASSERT_TRUE(writer.ok()) << writer.error().message;
    const auto order = writer->order();
    for (const auto& spec : order) ASSERT_TRUE(writer->Append(spec.name, tensors.at(spec.name).bytes).ok());
    ASSERT_TRUE(writer->Commit().ok());
  }
  struct Tensor {
    TensorSpec spec;
    std::vector<std::byte> bytes;
  };
  Json config;
  std::map<std::string, Tensor> tensors;
};

void ExpectSameLogits(const Spelled& spelled, const std::string& original) {
  const TemporaryFolder folder;
  spelled.Write(folder.path());
  const auto a = LoadModel(ModelFolder(original)), b = LoadModel(folder.path());
  ASSERT_TRUE(a.ok() && b.ok()) << (b.ok() ? a.error() : b.error()).message;
  const TestContext run;
  const std::vector<int32_t> ids = {3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8};
  EXPECT_EQ(MaxDifference(OnePass(run.context, *a, ids), 0, OnePass(run.context, *b, ids)), 0);
}

TEST(Spelling, PrefixesOfTensors) {
  const auto renamed = [](const char* name, const std::string& from, const std::string& to) {
    Spelled spelled(name);
    spelled.Rename(
        [&](const std::string& old) { return old.starts_with(from) ? to + old.substr(from.size()) : old; });
    return spelled;
  };
  ExpectSameLogits(renamed("opt", "model.decoder.", "decoder."), "opt");
  ExpectSameLogits(renamed("gpt2", "transformer.", ""), "gpt2");
  ExpectSameLogits(renamed("gemma3", "model.", "language_model.model."), "gemma3");
}

TEST(Spelling, GemmaInsideAVisionModel) {
  Spelled spelled("gemma3");
  Json text = spelled.config;
  // The older spelling of what differs between layers.
  for (const char* key : {"rope_parameters", "layer_types", "_sliding_window_pattern", "eos_token_id"}) {
    text.erase(key);
  }
  text.update({{"rope_theta", 1e6}, {"rope_local_base_freq", 1e4}, {"sliding_window_pattern", 6}});
  spelled.config = {{"model_type", "gemma3"}, {"text_config", text}, {"eos_token_id", {1, 106}}};
  spelled.Rename([](const std::string& name) { return "language_model." + name; });
  ExpectSameLogits(spelled, "gemma3");
  const auto program = BuildProgram(spelled.config);
  ASSERT_TRUE(program.ok());
  EXPECT_THAT(program->eos_ids, testing::ElementsAre(1, 106));
}

TEST(Spelling, RotationAtTheTopLevel) {
  for (const auto& [name, partial] :
       {std::pair{"gpt_neox", "rotary_pct"}, {"stablelm", "partial_rotary_factor"}}) {
    Spelled spelled(std::string("tiny/") + name);
    spelled.config.erase("rope_parameters");
    spelled.config[partial] = 0.25;
    ExpectSameLogits(spelled, std::string("tiny/") + name);
  }
}

// All experts of a layer in one tensor, as newer libraries keep them.
void FuseExperts(int64_t layers, int64_t experts, Spelled& spelled) {
  for (int64_t layer = 0; layer < layers; ++layer) {
    const std::string prefix = fmt::format("model.layers.{}.mlp.experts.", layer);
    Spelled::Tensor gate_up, down;
    std::vector<int64_t> shape;
    for (int64_t e = 0; e < experts; ++e) {
      const auto take = [&](const char* name, Spelled::Tensor& to) {
        const auto node = spelled.tensors.extract(fmt::format("{}{}.{}.weight", prefix, e, name));
        shape = node.mapped().spec.shape;
        to.bytes.insert(to.bytes.end(), node.mapped().bytes.begin(), node.mapped().bytes.end());
      };
      take("gate_proj", gate_up);
      take("up_proj", gate_up);
      gate_up.spec = {prefix + "gate_up_proj", DType::kF32, {experts, 2 * shape[0], shape[1]}};
      take("down_proj", down);
      down.spec = {prefix + "down_proj", DType::kF32, {experts, shape[0], shape[1]}};
    }
    spelled.tensors[gate_up.spec.name] = std::move(gate_up);
    spelled.tensors[down.spec.name] = std::move(down);
  }
}

TEST(Spelling, ExpertsInOneTensor) {
  for (const char* name : {"tiny/qwen3_moe", "tiny/qwen2_moe"}) {
    Spelled spelled(name);
    FuseExperts(2, 8, spelled);
    ExpectSameLogits(spelled, name);
    auto& bank = spelled.tensors.at("model.layers.1.mlp.experts.down_proj").spec.shape;
    std::swap(bank[1], bank[2]);
    const TemporaryFolder folder;
    spelled.Write(folder.path());
    const auto model = LoadModel(folder.path());
    ASSERT_FALSE(model.ok());
    EXPECT_THAT(
        model.error().message,
        HasSubstr("tensor 'model.layers.1.mlp.experts.down_proj': expected BF16, F16 or F32 [8, 64, "));
  }
}

TEST(Spelling, BareInfinity) {
  Spelled spelled("tiny/mamba2");
  const TemporaryFolder folder;
  spelled.Write(folder.path());
  std::string text = DumpJson(spelled.config);
  const std::string quoted = R"({"__float__":"Infinity"})";
  text.replace(text.find(quoted), quoted.size(), "Infinity");
  ASSERT_TRUE(WriteFileAtomically(JoinPath(folder.path(), "config.json"), text).ok());
  EXPECT_TRUE(LoadModel(folder.path()).ok());
  // In a string it is a string, and elsewhere it is no number.
  ASSERT_TRUE(
      WriteFileAtomically(JoinPath(folder.path(), "config.json"), R"({"model_type":"-Infinity\"NaN"})").ok());
  EXPECT_THAT(LoadModel(folder.path()).error().message,
              HasSubstr(R"(model_type '-Infinity"NaN' is not known)"));
  ASSERT_TRUE(WriteFileAtomically(JoinPath(folder.path(), "config.json"),
                                  R"({"model_type":"mamba2","hidden_size":Infinity})")
                  .ok());
  EXPECT_THAT(LoadModel(folder.path()).error().message, HasSubstr("'hidden_size': expected an integer"));
}

// Where the router says nothing every expert has an eighth of the score, and three of them, divided by their
// sum, a third: as if an eighth were scaled by 8/3.
TEST(Experts, WeightsDividedByTheirSum) {
  Spelled divided("tiny/deepseek_v2"), scaled("tiny/deepseek_v2");
  for (Spelled* spelled : {&divided, &scaled}) {
    for (auto& [name, tensor] : spelled->tensors) {
      if (name.ends_with("mlp.gate.weight")) std::ranges::fill(tensor.bytes, std::byte{0});
    }
  }
  divided.config.update({{"norm_topk_prob", true}, {"routed_scaling_factor", 1.0}});
  scaled.config.update({{"norm_topk_prob", false}, {"routed_scaling_factor", 8.0 / 3}});
  const TemporaryFolder a, b;
  divided.Write(a.path());
  scaled.Write(b.path());
  const auto model = LoadModel(a.path()), other = LoadModel(b.path());
  ASSERT_TRUE(model.ok() && other.ok()) << (model.ok() ? other.error() : model.error()).message;
  const TestContext run;
  const std::vector<int32_t> ids = {3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8};
  const Mat<float> logits = OnePass(run.context, *model, ids);
  EXPECT_LE(MaxDifference(logits, 0, OnePass(run.context, *other, ids)), 1e-5 * test::MaxAbs(logits));
}

TEST(Refusals, ByName) {
  struct Case {
    const char* folder;
    Json changes;
    const char* message;
  };
  for (const Case& c : std::vector<Case>{
           {"tiny/falcon", {{"alibi", true}}, "alibi: true is not implemented for falcon; expected false"},
           {"tiny/falcon", {{"num_kv_heads", 3}}, "no multiple of num_key_value_heads 3"},
           {"tiny/falcon", {{"num_ln_in_parallel_attn", 3}}, "'num_ln_in_parallel_attn': expected 1 to 2"},
           {"tiny/stablelm", {{"qk_layernorm", 3}}, "field 'qk_layernorm': expected"},
           {"tiny/gemma2",
            {{"use_bidirectional_attention", true}},
            "use_bidirectional_attention: true is not"},
           {"tiny/gemma2", {{"attn_logit_softcapping", -1}}, "attn_logit_softcapping: expected a positive"},
           {"tiny/gemma2", {{"query_pre_attn_scalar", 0}}, "query_pre_attn_scalar: expected a factor"},
           {"gpt2", {{"add_cross_attention", true}}, "add_cross_attention: true is not implemented for gpt2"},
           {"gpt2", {{"n_embd", 0}}, "'n_embd': expected 1 to"},
           {"opt", {{"layer_norm_elementwise_affine", false}}, "layer_norm_elementwise_affine: false is not"},
           {"tiny/smollm3", {{"no_rope_layers", {1, 0}}}, "no_rope_layers has 2 entries for 3 layers"},
           {"tiny/smollm3", {{"no_rope_layers", {1, 0, 2}}}, "no_rope_layers[2]: expected 0 or 1, found 2"},
           {"tiny/granite", {{"logits_scaling", 0}}, "logits_scaling: expected a factor of 1e-9 to 1e9"},
           {"tiny/mixtral", {{"num_experts_per_tok", 5}}, "num_experts_per_tok 5 is more than the 4 experts"},
           {"tiny/mixtral", {{"num_local_experts", 5000}}, "'num_local_experts': expected 1 to 4096"},
           {"tiny/qwen3_moe",
            {{"num_local_experts", 4096}, {"num_hidden_layers", 4096}},
            "4096 layers of 4096 experts are too many"},
           {"tiny/qwen3_moe",
            {{"mlp_only_layers", {2}}},
            "mlp_only_layers: expected layers below 2, found 2"},
           {"tiny/deepseek_v2", {{"topk_method", "noaux_tc"}}, "topk_method 'noaux_tc' is not supported"},
           {"tiny/deepseek_v2",
            {{"norm_topk_prob", true}},
            "norm_topk_prob with routed_scaling_factor 2 and num_experts_per_tok 3: programs differ"},
           {"tiny/deepseek_v2",
            {{"norm_topk_prob", true}, {"routed_scaling_factor", 1.0}, {"num_experts_per_tok", 1}},
            "norm_topk_prob with routed_scaling_factor 1 and num_experts_per_tok 1: programs differ"},
           {"tiny/deepseek_v2",
            {{"scoring_func", "sigmoid"}},
            "scoring_func: \"sigmoid\" is not implemented"},
           {"tiny/deepseek_v2", {{"n_group", 3}}, "8 in 3 groups of which 2 are used do not fit"},
           {"tiny/deepseek_v2", {{"topk_group", 1}}, "num_experts_per_tok 3 is more than the 2 experts"},
           {"tiny/deepseek_v2", {{"n_shared_experts", -1}}, "n_shared_experts: -1 of width 16 do not fit"},
           {"tiny/mamba2", {{"rms_norm", false}}, "rms_norm: false is not implemented for mamba2"},
           {"tiny/mamba2", {{"n_groups", 3}}, "in n_groups 3: expected expand * hidden_size = 128"},
           {"tiny/mamba2", {{"num_heads", 7}}, "num_heads 7 of head_dim 16"},
           {"tiny/mamba2", {{"time_step_limit", {0.0}}}, "time_step_limit: expected a list of two numbers"},
           {"tiny/mamba2",
            {{"time_step_limit", {"x", 1}}},
            "time_step_limit: expected a number of at least 0"},
           {"tiny/mamba2", {{"time_step_limit", {2, 1}}}, "the first bound is above the second"},
           {"gemma3", {{"text_config", 3}}, "field 'text_config': expected an object"}}) {
    Json config = ReadJson(ModelFolder(c.folder) + "/config.json");
    ASSERT_TRUE(BuildProgram(config).ok()) << c.folder;
    config.update(c.changes);
    const auto program = BuildProgram(config);
    ASSERT_FALSE(program.ok()) << c.folder << " " << c.changes;
    EXPECT_EQ(program.error().code, Code::kInput);
    EXPECT_THAT(program.error().message, HasSubstr(c.message));
  }
}

// What files may ask for, whether a family knows it or not.
struct Option {
  const char* field;
  std::vector<Json> values;
};
const std::vector<Option>& Options() {
  static const Json kMadeUpRotation = {{"rope_type", "linear"}, {"factor", 2.0}, {"made_up", 3}};
  static const std::vector<Option> kOptions = {{"a_made_up_option", {3}},
                                               {"alibi", {true, false}},
                                               {"attention_bias", {true, false}},
                                               {"attn_logit_softcapping", {3.0}},
                                               {"clip_qkv", {8.0}},
                                               {"elementwise_affine", {true, false}},
                                               {"embedding_multiplier", {3.0}},
                                               {"final_logit_softcapping", {3.0}},
                                               {"hidden_act", {"relu"}},
                                               {"is_causal", {true, false}},
                                               {"is_gated_act", {true, false}},
                                               {"logit_scale", {0.7}},
                                               {"mlp_bias", {true, false}},
                                               {"norm_topk_prob", {true, false}},
                                               {"qk_norm", {true, false}},
                                               {"query_pre_attn_scalar", {7}},
                                               {"residual_multiplier", {0.7}},
                                               {"rope_interleave", {true, false}},
                                               {"rope_scaling", {kMadeUpRotation}},
                                               {"routed_scaling_factor", {2.5}},
                                               {"scale_attn_weights", {true, false}},
                                               {"scoring_func", {"sigmoid"}},
                                               {"sliding_window", {7}},
                                               {"tie_word_embeddings", {true, false}},
                                               {"use_parallel_residual", {true, false}},
                                               {"use_qk_norm", {true, false}}};
  return kOptions;
}

class FamilyOptions : public testing::TestWithParam<test::FamilyModel> {
 protected:
  void SetUp() override {
    const std::string original = ModelFolder(GetParam().folder);
    if (!std::filesystem::exists(original)) GTEST_SKIP() << "no shared models here";
    for (const auto& file : std::filesystem::directory_iterator(original)) {
      const std::string name = file.path().filename().string();
      if (name.find(".safetensors") == std::string::npos) continue;
      std::filesystem::create_symlink(file.path(), JoinPath(folder_.path(), name));
    }
    config_ = ReadJson(original + "/config.json");
    ASSERT_TRUE(Logits(config_, logits_));
  }
  // False: other tensors are needed.
  bool Logits(const Json& config, Mat<float>& logits) {
    EXPECT_TRUE(WriteFileAtomically(JoinPath(folder_.path(), "config.json"), DumpJson(config)).ok());
    const auto model = LoadModel(folder_.path());
    if (!model.ok()) return false;
    const std::vector<int32_t> ids = {3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8};
    logits = OnePass(run_.context, *model, ids);
    return true;
  }
  // Whether the model computes the same with the option as without. A family that refuses it has to name it.
  bool Passes(const char* field, const Json& value) {
    Json config = config_;
    config[field] = value;
    if (field == std::string("sliding_window")) {  // which some ask for in other fields too
      config.erase("layer_types");
      if (config.contains("use_sliding_window")) {
        config.update({{"use_sliding_window", true}, {"max_window_layers", 0}});
      }
    }
    const auto program = BuildProgram(config);
    if (!program.ok()) {
      EXPECT_THAT(program.error().message, HasSubstr(field)) << value;
      return false;
    }
    Mat<float> logits;
    return Logits(config, logits) && MaxDifference(logits_, 0, logits) == 0;
  }

  const TemporaryFolder folder_;
  const TestContext run_;
  Json config_;
  Mat<float> logits_;
};

// An option is refused by its name, or another model comes of it; of a flag's two values one may be what the
// model does anyway.
TEST_P(FamilyOptions, AreRefusedOrDoSomething) {
  for (const auto& [field, values] : Options()) {
    std::vector<std::string> passed;
    for (const Json& value : values) {
      if (Passes(field, value)) passed.push_back(DumpJson(value));
    }
    EXPECT_LE(passed.size(), values.size() - 1) << field << " " << fmt::format("{}", fmt::join(passed, ", "));
  }
}

INSTANTIATE_TEST_SUITE_P(All, FamilyOptions, testing::ValuesIn(test::AllFamilyModels()),
                         [](const auto& model) { return test::NameOf(model.param); });

// Nothing of a checkpoint is dropped in silence, but what is known to say nothing.
TEST(UnreadTensors, AreRefusedByName) {
  struct Case {
    const char* folder;
    Json changes;
    const char* message;
  };
  for (const Case& c : std::vector<Case>{
           {"qwen3",
            {{"model_type", "llama"}, {"layer_types", nullptr}, {"max_window_layers", nullptr}},
            "tensors 'model.layers.0.self_attn.k_norm.weight', 'model.layers.0.self_attn.q_norm.weight', "},
           {"tiny/llama_bias", {{"attention_bias", false}}, "self_attn.k_proj.bias', "},
           {"tiny/llama_bias", {{"mlp_bias", false}}, "mlp.down_proj.bias', "},
           {"tiny/llama_bias",
            {{"num_hidden_layers", 1}, {"layer_types", nullptr}},
            "' and 13 more: not read, as the llama model of the config has no such parts"}}) {
    Spelled spelled(c.folder);
    spelled.config.update(c.changes);
    const TemporaryFolder folder;
    spelled.Write(folder.path());
    const auto model = LoadModel(folder.path());
    ASSERT_FALSE(model.ok()) << c.folder << " " << c.changes;
    EXPECT_EQ(model.error().code, Code::kInput);
    EXPECT_THAT(model.error().message, HasSubstr(c.message));
    EXPECT_THAT(model.error().message, HasSubstr("--ignore-tensors NAME,..."));
  }
}

TEST(UnreadTensors, CanBeIgnored) {
  Spelled spelled("tiny/llama_bias");
  spelled.config["mlp_bias"] = false;
  const TemporaryFolder folder;
  spelled.Write(folder.path());
  EXPECT_FALSE(LoadModel(folder.path(), {.ignored_tensors = {"model.layers.0.mlp", "other"}}).ok());
  const auto model = LoadModel(folder.path(), {.ignored_tensors = {"*.mlp.*.bias"}});
  ASSERT_TRUE(model.ok()) << model.error().message;
  EXPECT_FALSE(model->checkpoint.Has("model.layers.0.mlp.up_proj.bias"));
  EXPECT_TRUE(model->checkpoint.Has("model.layers.0.self_attn.q_proj.bias"));
}

TEST(UnreadTensors, ThatSayNothingAreFine) {
  struct Case {
    const char* folder;
    const char* tensor;
    std::vector<int64_t> shape;
    float value;
    bool fine;
  };
  for (const Case& c :
       std::vector<Case>{{"tiny/olmo2", "model.layers.1.self_attn.rotary_emb.inv_freq", {8}, 1, true},
                         {"tiny/olmo2", "model.layers.1.self_attn.rotary_emb", {8}, 1, false},
                         {"tiny/olmo2", "model.layers.1.self_attn.o_proj.bias", {64}, 0, true},
                         {"tiny/olmo2", "model.layers.1.self_attn.o_proj.bias", {64}, 1, false},
                         {"tiny/gemma2", "lm_head.weight", {2, 2}, 1, true},
                         {"gpt2", "transformer.h.1.attn.bias", {1, 1, 2, 2}, 1, true},
                         {"gpt2", "h.1.attn.masked_bias", {}, 1, true},
                         {"gpt2", "transformer.h.1.attn.c_attn.scale", {1}, 1, false},
                         {"tiny/gpt_neox", "gpt_neox.layers.1.attention.masked_bias", {}, 1, true},
                         {"opt", "decoder.version", {1}, 1, true},
                         {"gemma3", "vision_tower.embeddings.weight", {1}, 1, false}}) {
    Spelled spelled(c.folder);
    const std::string name = c.tensor;
    int64_t count = 1;
    for (const int64_t d : c.shape) count *= d;
    std::vector<float> values(static_cast<size_t>(count), c.value);
    const auto bytes = std::as_bytes(std::span(values));
    spelled.tensors[name] = {{name, DType::kF32, c.shape}, {bytes.begin(), bytes.end()}};
    if (c.fine) {
      ExpectSameLogits(spelled, c.folder);
      continue;
    }
    const TemporaryFolder folder;
    spelled.Write(folder.path());
    const auto model = LoadModel(folder.path());
    ASSERT_FALSE(model.ok()) << name;
    EXPECT_THAT(model.error().message, HasSubstr(fmt::format("tensor '{}': not read", name)));
  }
}

TEST(UnreadTensors, FitPatterns) {
  for (const auto& [name, pattern, fits] :
       std::vector<std::tuple<const char*, const char*, bool>>{{"a.b.c", "a.b.c", true},
                                                               {"a.b.c", "a.b", true},
                                                               {"a.b.c", "a", true},
                                                               {"a.b.c", "a.", false},
                                                               {"a.b.c", "b", false},
                                                               {"a.bc.d", "a.b", false},
                                                               {"a.b.c", "*", true},
                                                               {"a.b.c", "*.c", true},
                                                               {"a.b.c", "a.*.c", true},
                                                               {"a.b.c", "a.*.d", false},
                                                               {"a.b.c.d", "a*b*d", true},
                                                               {"a.b.c.d", "a*c*b", false},
                                                               {"", "a", false},
                                                               {"", "*", true},
                                                               {".a", "", true},
                                                               {"a.b", "**", true},
                                                               {"a.b", "", false}}) {
    EXPECT_EQ(FitsTensorPattern(name, pattern), fits) << name << " " << pattern;
  }
}

TEST(Refusals, PositionsPastTheLearnedOnes) {
  const auto model = LoadModel(ModelFolder("opt"));
  ASSERT_TRUE(model.ok());
  const TestContext run;
  DenseCache cache(model->program.cache_layers, 1, 2000);
  Executor executor(*model);
  Mat<float> logits;
  const std::vector<int32_t> ids(1025, 5);
  const int64_t row = 0;
  const Status done = Forward(run.context, *model, executor, Batch::Of(ids), {&row, 1}, cache, logits);
  ASSERT_FALSE(done.ok());
  EXPECT_THAT(done.error().message, HasSubstr("position 1024 is past the 1024 the model has learned"));
}

TEST(Refusals, StatesDoNotGoBack) {
  const auto model = LoadModel(ModelFolder("tiny/mamba2"));
  ASSERT_TRUE(model.ok());
  const TestContext run;
  DenseCache cache(0, 1, 100);
  Executor executor(*model);
  Mat<float> logits;
  const std::vector<int32_t> ids = {1, 2, 3};
  const int64_t row = 0;
  ASSERT_TRUE(Forward(run.context, *model, executor, Batch::Of(ids), {&row, 1}, cache, logits).ok());
  const Status done = Forward(run.context, *model, executor, Batch::Of(ids, 0, 2), {&row, 1}, cache, logits);
  ASSERT_FALSE(done.ok());
  EXPECT_THAT(done.error().message, HasSubstr("starts at position 2, but the state of the sequence is at 3"));
}

// Two sequences side by side, one of them cut in two: experts and states keep them apart.
TEST(RaggedBatches, AgreeWithOnePass) {
  for (const char* name : {"tiny/mamba2", "tiny/mixtral", "tiny/deepseek_v2", "tiny/gemma2"}) {
    const auto model = LoadModel(ModelFolder(name));
    ASSERT_TRUE(model.ok());
    const TestContext run;
    const Json golden = ReadJson(ModelFolder(name) + "/golden.json");
    const auto a = golden["input_ids"][0].get<std::vector<int32_t>>();
    const auto b = golden["input_ids"][1].get<std::vector<int32_t>>();
    const Mat<float> one_a = OnePass(run.context, *model, a), one_b = OnePass(run.context, *model, b);
    DenseCache cache(model->program.cache_layers, 2, 48);
    Executor executor(*model);
    Mat<float> logits;
    const std::span<const int32_t> rest(b);
    ASSERT_TRUE(
        Forward(run.context, *model, executor, Batch::Of(rest.first(17), 1), test::AllRows(17), cache, logits)
            .ok());
    Batch batch = Batch::Of(a, 0);
    batch.Add(rest.subspan(17), 1, 17);
    ASSERT_TRUE(
        Forward(run.context, *model, executor, batch, test::AllRows(batch.rows()), cache, logits).ok());
    EXPECT_LE(MaxDifference(one_a, 0, logits.view().Rows(0, 48)), 1e-4) << name;
    EXPECT_LE(MaxDifference(one_b, 17, logits.view().Rows(48, 31)), 1e-4) << name;
  }
}

TEST(FamilyModels, AreThereForEveryFamilyAndForItsRowsOfGguf) {
  std::map<const Family*, bool> travels;
  for (const test::FamilyModel& model : test::AllFamilyModels()) {
    const Json config = ReadJson(ModelFolder(model.folder) + "/config.json");
    const Family* family = FindFamily(config["model_type"].get<std::string>());
    ASSERT_NE(family, nullptr) << model.folder;
    travels[family] |= !model.gguf.is_null();
  }
  for (const Family* family : AllFamilies()) {
    ASSERT_TRUE(travels.contains(family)) << family->model_type << " has no line in family_models.h";
    EXPECT_EQ(travels[family], !family->gguf.empty()) << family->model_type;
  }
}

}  // namespace
}  // namespace planish

// Folders, configs and checkpoints that are wrong in one way each, with the message each must give, and
// counts of programs by hand.
#include "model/model.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

#include "model/family.h"
#include "model/model_test_util.h"

namespace planish {
namespace {

using test::TemporaryFolder;
using test::TestContext;
using test::TinyModel;
using testing::AllOf;
using testing::HasSubstr;

constexpr char kQ0[] = "model.layers.0.self_attn.q_proj.weight";

TinyModel Tiny(const std::string& type = "llama", const Json& changes = Json::object()) {
  TinyModel tiny(type);
  tiny.config.update(changes);
  tiny.MakeTensors();
  return tiny;
}

Result<Model> WriteAndLoad(const TinyModel& tiny, const TemporaryFolder& folder) {
  tiny.Write(folder.path());
  return LoadModel(folder.path());
}

std::string LoadError(const TinyModel& tiny) {
  const TemporaryFolder folder;
  const auto model = WriteAndLoad(tiny, folder);
  if (model.ok()) return "(loads)";
  EXPECT_EQ(model.error().code, Code::kInput);
  return model.error().message;
}

std::string BuildError(const Json& config) {
  const auto program = BuildProgram(config);
  if (program.ok()) return "(builds)";
  EXPECT_EQ(program.error().code, Code::kInput);
  return program.error().message;
}

TEST(LoadModelTest, NamesTheTensorThatIsWrong) {
  const std::tuple<std::function<void(TinyModel&)>, const char*, const char*> cases[] = {
      {[](TinyModel& t) { t.tensors.erase(kQ0); }, kQ0, "did you mean"},
      {[](TinyModel& t) { t.tensors.erase("model.norm.weight"); }, "model.norm.weight", "no tensor"},
      {[](TinyModel& t) { t.tensors.erase("lm_head.weight"); }, "lm_head.weight", "no tensor"},
      {[](TinyModel& t) {
         t.tensors[kQ0].shape = {8, 16};
       },
       kQ0, "expected shape [16, 8] from the config, found [8, 16]"},
      {[](TinyModel& t) { t.tensors[kQ0].shape = {128}; }, kQ0,
       "expected shape [16, 8] from the config, found [128]"},
      {[](TinyModel& t) { t.tensors[kQ0].type = DType::kF64; }, kQ0, "type F64 cannot be computed with"},
      {[](TinyModel& t) { t.tensors[kQ0].type = DType::kI8; }, kQ0, "type I8 cannot be computed with"},
      {[](TinyModel& t) {
         t.tensors["model.norm.weight"].shape = {2, 4};
       },
       "model.norm.weight", "expected 8 values"},
      {[](TinyModel& t) { t.tensors["model.norm.weight"].type = DType::kI32; }, "model.norm.weight",
       "found I32 [8]"},
      {[](TinyModel& t) { t.tensors["model.norm.weight"].values[3] = NAN; }, "model.norm.weight",
       "element 3 is nan"},
  };
  for (const auto& [change, tensor, message] : cases) {
    TinyModel tiny = Tiny();
    change(tiny);
    EXPECT_THAT(LoadError(tiny), AllOf(HasSubstr(tensor), HasSubstr(message)));
  }
}

TEST(LoadModelTest, SizesOfTheConfigMustBeThoseOfTheTensors) {
  TinyModel tiny = Tiny();
  tiny.config["intermediate_size"] = 16;
  EXPECT_THAT(LoadError(tiny), HasSubstr("model.layers.0.mlp.gate_proj.weight': expected shape [16, 8]"));
}

TEST(LoadModelTest, FoldersThatAreNone) {
  EXPECT_THAT(LoadModel("/nowhere/at/all").error().message, HasSubstr("no such folder"));
  const TemporaryFolder folder;
  EXPECT_THAT(LoadModel(folder.path()).error().message, HasSubstr("config.json"));
  ASSERT_TRUE(WriteFileAtomically(JoinPath(folder.path(), "config.json"), "{\"model_type\":").ok());
  EXPECT_THAT(LoadModel(folder.path()).error().message,
              AllOf(HasSubstr("config.json"), HasSubstr("not valid JSON")));
  ASSERT_TRUE(WriteFileAtomically(JoinPath(folder.path(), "config.json"), DumpJson(TinyModel().config)).ok());
  EXPECT_THAT(LoadModel(folder.path()).error().message, HasSubstr("neither model.safetensors nor"));
}

TEST(LoadModelTest, MalformedFilesBesideTheConfig) {
  const TinyModel tiny = Tiny();
  const struct {
    const char* name;
    const char* text;
    const char* message;
  } cases[] = {
      {"generation_config.json", "{", "generation_config.json: not valid JSON"},
      {"generation_config.json", "[1]", "(loads)"},
      {"generation_config.json", R"({"eos_token_id": ["x", -1, 1e99, null]})", "(loads)"},
      {"quantize_config.json", "3", "quantize_config.json: expected an object"},
      {"quantize_config.json", R"({"bits": 4})", "'group_size'"},
      {"quant_config.json", "{]", "quant_config.json: not valid JSON"},
      {"quant_config.json", R"({"w_bit": 3, "q_group_size": 128})", "bits: expected 4, found 3"},
      {"quant_config.json", R"({"quant_method": "hqq"})", "already compressed with 'hqq'"},
  };
  for (const auto& c : cases) {
    const TemporaryFolder folder;
    ASSERT_TRUE(WriteFileAtomically(JoinPath(folder.path(), c.name), c.text).ok());
    const auto model = WriteAndLoad(tiny, folder);
    EXPECT_THAT(model.ok() ? "(loads)" : model.error().message, HasSubstr(c.message)) << c.text;
    if (!model.ok()) continue;
    EXPECT_THAT(model->program.eos_ids, testing::ElementsAre(2));
  }
}

TEST(LoadModelTest, StopTokensOfBothConfigs) {
  const TinyModel tiny = Tiny();
  const TemporaryFolder folder;
  // 99 is outside the vocabulary: generation_config.json is a hint, so it is dropped.
  ASSERT_TRUE(
      WriteFileAtomically(JoinPath(folder.path(), "generation_config.json"), R"({"eos_token_id":[2,5,99]})")
          .ok());
  const auto model = WriteAndLoad(tiny, folder);
  ASSERT_TRUE(model.ok()) << model.error().message;
  EXPECT_THAT(model->program.eos_ids, testing::ElementsAre(2, 5));
  EXPECT_EQ(model->program.bos_id, 1);
}

TEST(CheckFiniteTest, NamesTensorAndElement) {
  for (const float bad : {NAN, INFINITY}) {
    TinyModel tiny = Tiny();
    tiny.tensors[kQ0].values[5 * 8 + 3] = bad;
    tiny.tensors[kQ0].values[5 * 8 + 7] = bad;
    tiny.tensors[kQ0].values[9 * 8] = bad;
    const TemporaryFolder folder;
    const auto model = WriteAndLoad(tiny, folder);
    ASSERT_TRUE(model.ok()) << model.error().message;
    const TestContext run;
    const std::string place = fmt::format("tensor '{}': element [5, 3] is {}", kQ0, bad);
    const Status status = CheckFinite(run.context, *model);
    ASSERT_FALSE(status.ok());
    EXPECT_THAT(status.error().message, HasSubstr(place));
    // A forward pass meets the same and says so.
    DenseCache cache(model->program.cache_layers, 1, 4);
    Executor executor(*model);
    Mat<float> logits;
    const int32_t ids[] = {1, 2};
    const int64_t row = 1;
    const Status forward = Forward(run.context, *model, executor, Batch::Of(ids), {&row, 1}, cache, logits);
    ASSERT_FALSE(forward.ok());
    EXPECT_THAT(forward.error().message, HasSubstr(place));
  }
}

TEST(ForwardTest, OverflowOfFiniteWeightsIsNoFaultOfTheCheckpoint) {
  TinyModel tiny = Tiny();
  for (auto& w : tiny.tensors["model.layers.1.mlp.down_proj.weight"].values) w = 3e38f;
  const TemporaryFolder folder;
  const auto model = WriteAndLoad(tiny, folder);
  ASSERT_TRUE(model.ok()) << model.error().message;
  const TestContext run;
  EXPECT_TRUE(CheckFinite(run.context, *model).ok());
  DenseCache cache(model->program.cache_layers, 1, 4);
  Executor executor(*model);
  Mat<float> logits;
  const int32_t ids[] = {1, 2};
  const int64_t row = 1;
  const Status forward = Forward(run.context, *model, executor, Batch::Of(ids), {&row, 1}, cache, logits);
  ASSERT_FALSE(forward.ok());
  EXPECT_EQ(forward.error().code, Code::kFailure);
  EXPECT_THAT(forward.error().message, AllOf(HasSubstr("layer 1"), HasSubstr("activations overflow")));
}

TEST(ForwardTest, RefusesIdsOutsideTheVocabularyAndFullCaches) {
  const TemporaryFolder folder;
  const auto model = WriteAndLoad(Tiny(), folder);
  ASSERT_TRUE(model.ok()) << model.error().message;
  const TestContext run;
  DenseCache cache(model->program.cache_layers, 1, 2);
  Executor executor(*model);
  Mat<float> logits;
  const int64_t row = 0;
  const auto forward = [&](std::vector<int32_t> ids) {
    const Status status = Forward(run.context, *model, executor, Batch::Of(ids), {&row, 1}, cache, logits);
    return status.ok() ? "(runs)" : status.error().message;
  };
  EXPECT_EQ(forward({10, 0}), "(runs)");
  EXPECT_THAT(forward({0, 11}), HasSubstr("token 1 of the batch has id 11; the vocabulary has 11"));
  EXPECT_THAT(forward({-1}), HasSubstr("token 0 of the batch has id -1"));
  EXPECT_THAT(forward({1, 2, 3}), HasSubstr("needs 3 positions, the cache holds 2"));
}

TEST(BuildProgramTest, UnknownFamiliesAreToldTheNearest) {
  Json config = {{"model_type", "lama"}, {"alibi", true}, {"hidden_size", 8}, {"unset", nullptr}};
  EXPECT_THAT(BuildError(config),
              AllOf(HasSubstr("model_type 'lama' is not known; known: "),
                    HasSubstr("the nearest is 'llama' (RMSNorm"), HasSubstr("which has no alibi")));
  EXPECT_THAT(BuildError(config), Not(HasSubstr("hidden_size")));
  EXPECT_THAT(BuildError(config), Not(HasSubstr("unset")));
  config["model_type"] = "qwen4";
  EXPECT_THAT(BuildError(config), HasSubstr("the nearest is 'qwen"));
}

TEST(BuildProgramTest, RefusesBadFields) {
  const std::pair<Json, const char*> cases[] = {
      {{{"model_type", nullptr}}, "field 'model_type' is missing"},
      {{{"model_type", 7}}, "field 'model_type': expected a string"},
      {{{"vocab_size", 0}}, "field 'vocab_size': expected 1 to 16777216, found 0"},
      {{{"vocab_size", "11"}}, "field 'vocab_size': expected an integer"},
      {{{"hidden_size", -8}}, "field 'hidden_size': expected 1 to"},
      {{{"hidden_size", 8.0}}, "field 'hidden_size': expected an integer"},
      {{{"hidden_size", 1e30}}, "field 'hidden_size': expected an integer"},
      {{{"intermediate_size", int64_t{1} << 40}}, "field 'intermediate_size': expected 1 to 16777216"},
      {{{"num_hidden_layers", 4097}}, "field 'num_hidden_layers': expected 1 to 4096, found 4097"},
      {{{"num_hidden_layers", 0}}, "field 'num_hidden_layers': expected 1 to 4096, found 0"},
      {{{"num_attention_heads", 3}}, "num_attention_heads 3 is no multiple of num_key_value_heads 2"},
      {{{"num_key_value_heads", 0}}, "field 'num_key_value_heads': expected 1 to"},
      {{{"head_dim", 5}}, "head_dim 5 is odd"},
      {{{"head_dim", 8192}}, "field 'head_dim': expected 1 to 4096"},
      {{{"head_dim", nullptr}, {"hidden_size", 2}}, "field 'head_dim': expected 1 to 4096, found 0"},
      {{{"head_dim", 4096}, {"num_attention_heads", 8192}}, "8192 heads of 4096 are too wide"},
      {{{"rms_norm_eps", 0}}, "rms_norm_eps: expected in (0, 1], found 0"},
      {{{"rms_norm_eps", 2}}, "rms_norm_eps: expected in (0, 1], found 2"},
      {{{"max_position_embeddings", 0}}, "field 'max_position_embeddings': expected 1 to"},
      {{{"hidden_act", "mish"}}, "hidden_act 'mish' is not supported: expected silu, gelu"},
      {{{"tie_word_embeddings", "yes"}}, "field 'tie_word_embeddings': expected true or false"},
      {{{"attention_bias", 1}}, "field 'attention_bias': expected true or false"},
      {{{"rope_theta", 0}}, "rope_theta: expected a number above 1, found 0"},
      {{{"eos_token_id", 11}}, "eos_token_id: expected ids below 11, found 11"},
      {{{"eos_token_id", {2, "x"}}}, "eos_token_id: expected ids below 11, found \"x\""},
      {{{"eos_token_id", uint64_t{1} << 63}}, "eos_token_id: expected ids below 11"},
      {{{"bos_token_id", 11}}, "bos_token_id: expected an id below 11 or -1 for none, found 11"},
      {{{"bos_token_id", -(int64_t{1} << 32)}},
       "bos_token_id: expected an id below 11 or -1 for none, found -4294967296"},
      {{{"quantization_config", {{"quant_method", "hqq"}}}}, "already compressed with 'hqq'"},
  };
  for (const auto& [changes, message] : cases) {
    Json config = TinyModel().config;
    config.update(changes);
    EXPECT_THAT(BuildError(config), HasSubstr(message)) << changes;
  }
  EXPECT_THAT(BuildError(Json::array()), HasSubstr("expected a JSON object"));
  EXPECT_EQ(BuildError(TinyModel().config), "(builds)");
}

TEST(BuildProgramTest, RefusesBadWindows) {
  const std::pair<Json, const char*> cases[] = {
      {{{"sliding_window", 0}}, "field 'sliding_window': expected 1 to 2147483648, found 0"},
      {{{"sliding_window", 4}, {"layer_types", {"full_attention"}}},
       "layer_types has 1 entries for 2 layers"},
      {{{"sliding_window", 4}, {"layer_types", {"full_attention", "chunked"}}},
       "layer_types[1]: expected full_attention or sliding_attention, found \"chunked\""}};
  for (const auto& [changes, message] : cases) {
    Json config = TinyModel("mistral").config;
    config.update(changes);
    EXPECT_THAT(BuildError(config), HasSubstr(message)) << changes;
  }
}

// As the class does: a window that is asked for and is null is none.
TEST(BuildProgramTest, NullIsNoWindow) {
  Json config = TinyModel("qwen3").config;
  config.update({{"use_sliding_window", true}, {"sliding_window", nullptr}, {"max_window_layers", 0}});
  const auto window = [&] {
    const auto program = BuildProgram(config);
    EXPECT_TRUE(program.ok()) << (program.ok() ? "" : program.error().message);
    int64_t found = -1;
    if (!program.ok()) return found;
    for (const Op& op : program->blocks[1].ops) {
      if (const auto* attention = std::get_if<AttentionOp>(&op.body)) found = attention->shape.window;
    }
    return found;
  };
  EXPECT_EQ(window(), 0);
  config["sliding_window"] = 7;
  EXPECT_EQ(window(), 7);
  config.erase("sliding_window");
  EXPECT_EQ(window(), 4096);
}

TEST(ProgramTest, CountsByHand) {
  // A layer: q [16, 8], k and v [8, 8], o [8, 16], gate and up [12, 8], down [8, 12].
  constexpr int64_t kLayer = 128 + 64 + 64 + 128 + 3 * 96, kEmbedding = 11 * 8;
  const auto llama = BuildProgram(TinyModel().config);
  ASSERT_TRUE(llama.ok()) << llama.error().message;
  EXPECT_EQ(llama->LinearWeights(), 2 * kLayer);
  EXPECT_EQ(llama->Parameters(), 2 * (kLayer + 2 * 8) + 8 + 2 * kEmbedding);
  EXPECT_EQ(llama->LinearMacsPerToken(), 2 * kLayer + kEmbedding);
  EXPECT_EQ(llama->cache_layers, 2);
  EXPECT_EQ(llama->blocks.size(), 4u);
  Json config = TinyModel("qwen2").config;
  config["tie_word_embeddings"] = true;
  const auto qwen2 = BuildProgram(config);  // biases on q, k, v; the embedding is the head
  ASSERT_TRUE(qwen2.ok()) << qwen2.error().message;
  EXPECT_EQ(qwen2->Parameters(), 2 * (kLayer + 32 + 2 * 8) + 8 + kEmbedding);
  EXPECT_EQ(qwen2->LinearMacsPerToken(), 2 * kLayer + kEmbedding);
  const auto qwen3 = BuildProgram(TinyModel("qwen3").config);  // norms of a head's width on q and k
  ASSERT_TRUE(qwen3.ok()) << qwen3.error().message;
  EXPECT_EQ(qwen3->Parameters(), 2 * (kLayer + 2 * 4 + 2 * 8) + 8 + 2 * kEmbedding);
}

TEST(ProgramTest, CountsOfTheLargestConfigDoNotOverflow) {
  Json config = TinyModel().config;
  config.update({{"vocab_size", 1 << 24},
                 {"hidden_size", 1 << 24},
                 {"intermediate_size", 1 << 24},
                 {"num_hidden_layers", 4096},
                 {"num_attention_heads", 4096},
                 {"num_key_value_heads", 4096},
                 {"head_dim", 4096},
                 {"attention_bias", true},
                 {"mlp_bias", true}});
  const auto program = BuildProgram(config);
  ASSERT_TRUE(program.ok()) << program.error().message;
  EXPECT_EQ(program->LinearWeights(), int64_t{7} << 60);  // 4096 layers of seven matrices of 2^48
  EXPECT_GT(program->Parameters(), int64_t{7} << 60);
}

}  // namespace
}  // namespace planish

// Binding models to checkpoints that are wrong in one way each, forward passes against plain loops in
// double, and the strict profile's bytes.
#include "model/model.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

#include "model/family.h"
#include "model/model_test_util.h"

namespace planish {
namespace {

using test::MaxDifference;
using test::OnePass;
using test::StepByStep;
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
      {{{"rope_theta", 0}}, "rope_theta: expected at least 1, found 0"},
      {{{"eos_token_id", 11}}, "eos_token_id: expected ids below 11, found 11"},
      {{{"eos_token_id", {2, "x"}}}, "eos_token_id: expected ids below 11, found \"x\""},
      {{{"eos_token_id", uint64_t{1} << 63}}, "eos_token_id: expected ids below 11"},
      {{{"bos_token_id", 11}}, "bos_token_id: expected an id below 11 or null, found 11"},
      {{{"bos_token_id", -(int64_t{1} << 32)}},
       "bos_token_id: expected an id below 11 or null, found -4294967296"},
      {{{"quantization_config", {{"quant_method", "gptq"}}}}, "already compressed with 'gptq'"},
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
      {{{"sliding_window", 0}}, "sliding_window: expected at least 1, found 0"},
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

// The definition of the families here in double, one position after the other.
class Naive {
 public:
  Naive(const TinyModel& tiny, const Program& program, std::vector<int64_t> windows)
      : tiny_(tiny), theta_(tiny.config["rope_theta"].get<double>()), windows_(std::move(windows)) {
    heads_ = tiny.config["num_attention_heads"].get<int64_t>();
    kv_heads_ = tiny.config["num_key_value_heads"].get<int64_t>();
    dim_ = tiny.config["head_dim"].get<int64_t>();
    eps_ = tiny.config["rms_norm_eps"].get<double>();
    qk_norm_ = program.family == "qwen3";
  }

  std::vector<std::vector<double>> Logits(std::span<const int32_t> ids) const {
    Rows x;
    for (int32_t id : ids) x.push_back(Row("model.embed_tokens.weight", id));
    for (size_t l = 0; l < windows_.size(); ++l) Layer(fmt::format("model.layers.{}.", l), windows_[l], x);
    for (auto& row : x) row = Linear("lm_head", Norm("model.norm.weight", row));
    return x;
  }

 private:
  using Rows = std::vector<std::vector<double>>;

  std::vector<double> Row(const std::string& name, int64_t i) const {
    const auto& t = tiny_.tensors.at(name);
    const auto width = t.shape.back();
    return {t.values.begin() + i * width, t.values.begin() + (i + 1) * width};
  }
  std::vector<double> Linear(const std::string& name, const std::vector<double>& x) const {
    std::vector<double> y;
    for (int64_t o = 0; o < tiny_.tensors.at(name + ".weight").shape[0]; ++o) {
      const auto w = Row(name + ".weight", o);
      y.push_back(std::inner_product(w.begin(), w.end(), x.begin(), 0.0));
      const auto bias = tiny_.tensors.find(name + ".bias");
      if (bias != tiny_.tensors.end()) y.back() += bias->second.values[static_cast<size_t>(o)];
    }
    return y;
  }
  // Over groups as wide as the weight.
  std::vector<double> Norm(const std::string& name, std::vector<double> x) const {
    const auto& w = tiny_.tensors.at(name).values;
    for (size_t begin = 0; begin < x.size(); begin += w.size()) {
      double sum = 0;
      for (size_t i = 0; i < w.size(); ++i) sum += x[begin + i] * x[begin + i];
      const double scale = 1 / std::sqrt(sum / static_cast<double>(w.size()) + eps_);
      for (size_t i = 0; i < w.size(); ++i) x[begin + i] *= scale * w[i];
    }
    return x;
  }
  std::vector<double> Rotate(std::vector<double> x, size_t position) const {
    const auto half = static_cast<size_t>(dim_ / 2);
    for (size_t head = 0; head < x.size(); head += 2 * half) {
      for (size_t i = 0; i < half; ++i) {
        const double angle = static_cast<double>(position) *
                             std::pow(theta_, -static_cast<double>(i) / static_cast<double>(half));
        double &a = x[head + i], &b = x[head + i + half];
        const double rotated = a * std::cos(angle) - b * std::sin(angle);
        b = b * std::cos(angle) + a * std::sin(angle);
        a = rotated;
      }
    }
    return x;
  }
  std::vector<double> Attend(const std::vector<double>& q, const Rows& k, const Rows& v,
                             int64_t window) const {
    std::vector<double> out(q.size());
    const auto position = static_cast<int64_t>(k.size()) - 1;
    for (int64_t h = 0; h < heads_; ++h) {
      const int64_t from = h / (heads_ / kv_heads_) * dim_;
      double total = 0;
      for (int64_t j = window == 0 ? 0 : std::max<int64_t>(0, position - window + 1); j <= position; ++j) {
        double score = 0;
        for (int64_t d = 0; d < dim_; ++d)
          score +=
              q[static_cast<size_t>(h * dim_ + d)] * k[static_cast<size_t>(j)][static_cast<size_t>(from + d)];
        const double p = std::exp(score / std::sqrt(static_cast<double>(dim_)));
        total += p;
        for (int64_t d = 0; d < dim_; ++d)
          out[static_cast<size_t>(h * dim_ + d)] +=
              p * v[static_cast<size_t>(j)][static_cast<size_t>(from + d)];
      }
      for (int64_t d = 0; d < dim_; ++d) out[static_cast<size_t>(h * dim_ + d)] /= total;
    }
    return out;
  }
  static void Add(const std::vector<double>& y, std::vector<double>& x) {
    for (size_t i = 0; i < x.size(); ++i) x[i] += y[i];
  }
  void Layer(const std::string& prefix, int64_t window, Rows& x) const {
    Rows keys, values;
    for (size_t position = 0; position < x.size(); ++position) {
      const auto h = Norm(prefix + "input_layernorm.weight", x[position]);
      const std::string attention = prefix + "self_attn.";
      auto q = Linear(attention + "q_proj", h), k = Linear(attention + "k_proj", h);
      if (qk_norm_) {
        q = Norm(attention + "q_norm.weight", q);
        k = Norm(attention + "k_norm.weight", k);
      }
      keys.push_back(Rotate(k, position));
      values.push_back(Linear(attention + "v_proj", h));
      Add(Linear(attention + "o_proj", Attend(Rotate(q, position), keys, values, window)), x[position]);
      const auto m = Norm(prefix + "post_attention_layernorm.weight", x[position]);
      auto gate = Linear(prefix + "mlp.gate_proj", m);
      const auto up = Linear(prefix + "mlp.up_proj", m);
      for (size_t i = 0; i < gate.size(); ++i) gate[i] *= up[i] / (1 + std::exp(-gate[i]));
      Add(Linear(prefix + "mlp.down_proj", gate), x[position]);
    }
  }

  const TinyModel& tiny_;
  double theta_, eps_;
  int64_t heads_, kv_heads_, dim_;
  bool qk_norm_;
  std::vector<int64_t> windows_;
};

struct NaiveCase {
  const char* name;
  const char* type;
  Json changes;
  std::vector<int64_t> windows;
};

class NaiveTest : public testing::TestWithParam<NaiveCase> {};

TEST_P(NaiveTest, OnePassAndStepsAgree) {
  const NaiveCase& c = GetParam();
  const TinyModel tiny = Tiny(c.type, c.changes);
  const TemporaryFolder folder;
  const auto model = WriteAndLoad(tiny, folder);
  ASSERT_TRUE(model.ok()) << model.error().message;
  const int32_t ids[] = {3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3, 2, 3, 8, 4, 6, 2, 6, 4};
  const auto expected = Naive(tiny, model->program, c.windows).Logits(ids);
  const TestContext run;
  const Mat<float> one = OnePass(run.context, *model, ids), steps = StepByStep(run.context, *model, ids);
  double absmax = 0, without_window = 0;
  const auto full = Naive(tiny, model->program, {0, 0}).Logits(ids);
  for (size_t i = 0; i < std::size(ids); ++i) {
    for (size_t j = 0; j < expected[i].size(); ++j) {
      absmax = std::max(absmax, std::abs(expected[i][j]));
      without_window = std::max(without_window, std::abs(full[i][j] - expected[i][j]));
      // Some two hundred roundings of 6e-8 on the way to a logit of about 5, magnified a little by norms.
      EXPECT_NEAR(one(static_cast<int64_t>(i), static_cast<int64_t>(j)), expected[i][j], 3e-5)
          << i << ", " << j;
      EXPECT_NEAR(steps(static_cast<int64_t>(i), static_cast<int64_t>(j)), expected[i][j], 3e-5)
          << i << ", " << j;
    }
  }
  EXPECT_GT(absmax, 1) << "logits too small to tell anything";
  const bool windowed = c.windows != std::vector<int64_t>{0, 0};
  EXPECT_EQ(without_window > 0.1, windowed) << "without a window logits move by " << without_window;
}

INSTANTIATE_TEST_SUITE_P(
    Families, NaiveTest,
    testing::Values(NaiveCase{"llama", "llama", Json::object(), {0, 0}},
                    NaiveCase{"llama_bias", "llama", {{"attention_bias", true}, {"mlp_bias", true}}, {0, 0}},
                    NaiveCase{"qwen2", "qwen2", Json::object(), {0, 0}},
                    NaiveCase{"qwen3", "qwen3", Json::object(), {0, 0}},
                    NaiveCase{"mistral_window_3", "mistral", {{"sliding_window", 3}}, {3, 3}},
                    NaiveCase{"mistral_window_1", "mistral", {{"sliding_window", 1}}, {1, 1}},
                    NaiveCase{"mistral_full", "mistral", {{"sliding_window", nullptr}}, {0, 0}},
                    NaiveCase{"qwen3_layer_types",
                              "qwen3",
                              {{"use_sliding_window", true},
                               {"sliding_window", 5},
                               {"layer_types", {"sliding_attention", "full_attention"}}},
                              {5, 0}},
                    NaiveCase{"qwen2_max_window_layers",
                              "qwen2",
                              {{"use_sliding_window", true}, {"sliding_window", 4}, {"max_window_layers", 1}},
                              {0, 4}}),
    [](const auto& tested) { return std::string(tested.param.name); });

uint64_t Fnv64(std::span<const std::byte> bytes) {
  uint64_t hash = 0xcbf29ce484222325;
  for (const std::byte b : bytes) hash = (hash ^ static_cast<uint64_t>(b)) * 0x100000001b3;
  return hash;
}

// The strict profile's promise: these bytes on any CPU. A change of the number is a change of results that
// users were told would not happen, and needs a line in the changelog.
constexpr uint64_t kStrictHash = 7222638719172632349u;

TEST(StrictProfileTest, LogitsOfDemoHaveTheStoredBytes) {
  const auto model = LoadModel(PLANISH_SOURCE_DIR "/models/demo");
  ASSERT_TRUE(model.ok()) << model.error().message;
  std::vector<int32_t> ids;
  for (int32_t i = 0; i < 32; ++i) ids.push_back((i * 2654 + 435) % 8192);
  for (const Isa isa : {Isa::kScalar, Isa::kAvx2, Isa::kAvx512}) {
    if (!IsaSupported(isa)) continue;
    for (const int threads : {1, 3}) {
      const TestContext run(isa, Profile::kStrict, threads);
      const Mat<float> one = OnePass(run.context, *model, ids);
      EXPECT_EQ(Fnv64(std::as_bytes(std::span(one.data(), static_cast<size_t>(one.rows() * one.cols())))),
                kStrictHash)
          << IsaName(isa) << ", " << threads << " threads";
    }
  }
}

}  // namespace
}  // namespace planish

// Rotary parameters against formulas written out here, and whole tiny models against golden outputs of an
// independent implementation (models/tiny/README.md).
#include "model/rope.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numbers>

#include "model/model_test_util.h"

namespace planish {
namespace {

using test::ModelFolder;
using test::ReadJson;
using testing::HasSubstr;

RopeTable Read(const Json& config, int64_t head_dim = 128, const std::string& layer_type = "full_attention") {
  auto rope = ReadRope(config, head_dim, {}, layer_type);
  EXPECT_TRUE(rope.ok()) << (rope.ok() ? "" : rope.error().message);
  return rope.ok() ? *rope : RopeTable();
}

double Plain(double theta, int64_t i, int64_t d) {
  return std::exp(-2.0 * static_cast<double>(i) / static_cast<double>(d) * std::log(theta));
}

void ExpectFrequencies(const RopeTable& rope, const std::vector<double>& expected) {
  ASSERT_EQ(rope.inv_freq.size(), expected.size());
  // exp and log in double: a dozen roundings of 1e-16, the exponent up to 13 magnifying them.
  for (size_t i = 0; i < expected.size(); ++i) EXPECT_NEAR(rope.inv_freq[i] / expected[i], 1, 1e-14) << i;
}

TEST(RopeTest, DefaultIsAPowerSeries) {
  const RopeTable rope = Read({{"rope_theta", 10000.0}}, 8);
  EXPECT_EQ(rope.head_dim, 8);
  EXPECT_EQ(rope.attention_factor, 1);
  EXPECT_EQ(rope.pairing, RopePairing::kHalves);
  ExpectFrequencies(rope, {1, 0.1, 0.01, 0.001});
}

TEST(RopeTest, PartialRotatesTheFirstDimensions) {
  const RopeTable rope = Read({{"rope_theta", 100.0}, {"partial_rotary_factor", 0.5}}, 8);
  EXPECT_EQ(rope.head_dim, 8);
  ExpectFrequencies(rope, {1, 0.1});
}

TEST(RopeTest, LinearDividesEveryFrequency) {
  ExpectFrequencies(
      Read({{"rope_theta", 10000.0}, {"rope_scaling", {{"type", "linear"}, {"factor", 4.0}}}}, 8),
      {0.25, 0.025, 0.0025, 0.00025});
}

// Llama 3.1 and 3.2: theta 500000, low 1, high 4, original 8192, heads of 128.
TEST(RopeTest, Llama3KeepsShortAndStretchesLongWavelengths) {
  for (const double factor : {8.0, 32.0}) {
    const RopeTable rope = Read({{"rope_theta", 500000.0},
                                 {"max_position_embeddings", 131072},
                                 {"rope_scaling",
                                  {{"rope_type", "llama3"},
                                   {"factor", factor},
                                   {"low_freq_factor", 1.0},
                                   {"high_freq_factor", 4.0},
                                   {"original_max_position_embeddings", 8192}}}});
    std::vector<double> expected;
    int kept = 0, stretched = 0;
    for (int64_t i = 0; i < 64; ++i) {
      const double f = Plain(500000, i, 128);
      const double turns = 8192 * f / (2 * std::numbers::pi);  // within the original context
      const double share = std::clamp((turns - 1) / 3, 0.0, 1.0);
      expected.push_back(f * (share + (1 - share) / factor));
      kept += share == 1;
      stretched += share == 0;
    }
    ExpectFrequencies(rope, expected);
    // Turns are 8192 / 2 pi * 500000^(-i/64): 4 at i = 28.2 and 1 at i = 35.0 (34.98).
    EXPECT_EQ(kept, 29) << factor;
    EXPECT_EQ(stretched, 29) << factor;
    EXPECT_EQ(rope.inv_freq[0], 1);
    EXPECT_EQ(rope.attention_factor, 1);
  }
}

// Qwen2.5 and 3 at long context: yarn factor 4, original 32768, theta 1e6.
TEST(RopeTest, YarnRampsBetweenFastAndSlowDimensions) {
  const Json scaling = {{"rope_type", "yarn"}, {"factor", 4.0}, {"original_max_position_embeddings", 32768}};
  const RopeTable rope = Read({{"rope_theta", 1e6}, {"rope_scaling", scaling}});
  // dim(r) = 128 ln(32768 / (2 pi r)) / (2 ln 1e6): 23.6 for r = 32, 39.6 for r = 1.
  std::vector<double> expected;
  for (int64_t i = 0; i < 64; ++i) {
    const double ramp = std::clamp((static_cast<double>(i) - 23) / (40.0 - 23), 0.0, 1.0);
    expected.push_back(Plain(1e6, i, 128) * (ramp / 4 + 1 - ramp));
  }
  ExpectFrequencies(rope, expected);
  EXPECT_FLOAT_EQ(rope.attention_factor, 1.1386294f);  // 0.1 ln 4 + 1
}

TEST(RopeTest, YarnWithoutTruncationAndItsAttentionFactors) {
  const auto with = [](Json more) {
    Json scaling = {{"type", "yarn"}, {"factor", 16.0}, {"original_max_position_embeddings", 4096}};
    scaling.update(more);
    return Read({{"rope_theta", 10000.0}, {"rope_scaling", scaling}}, 64);
  };
  const auto dim = [](double turns) {
    return 64 * std::log(4096 / (2 * std::numbers::pi * turns)) / (2 * std::log(10000.0));
  };
  std::vector<double> expected;
  for (int64_t i = 0; i < 32; ++i) {
    const double ramp = std::clamp((static_cast<double>(i) - dim(32)) / (dim(1) - dim(32)), 0.0, 1.0);
    expected.push_back(Plain(10000, i, 64) * (ramp / 16 + 1 - ramp));
  }
  ExpectFrequencies(with({{"truncate", false}}), expected);
  const double log16 = std::log(16.0);
  EXPECT_FLOAT_EQ(with(Json::object()).attention_factor, static_cast<float>(0.1 * log16 + 1));
  EXPECT_FLOAT_EQ(with({{"attention_factor", 1.5}}).attention_factor, 1.5f);
  EXPECT_FLOAT_EQ(with({{"mscale", 1.0}, {"mscale_all_dim", 0.707}}).attention_factor,
                  static_cast<float>((0.1 * log16 + 1) / (0.0707 * log16 + 1)));
  // One of the two alone does not count.
  EXPECT_FLOAT_EQ(with({{"mscale", 2.0}}).attention_factor, static_cast<float>(0.1 * log16 + 1));
}

TEST(RopeTest, OldAndNewSpellingGiveTheSame) {
  const Json scalings[] = {
      {{"rope_type", "default"}},
      {{"rope_type", "linear"}, {"factor", 2.0}},
      {{"rope_type", "llama3"},
       {"factor", 8.0},
       {"low_freq_factor", 1.0},
       {"high_freq_factor", 4.0},
       {"original_max_position_embeddings", 512}},
      {{"rope_type", "yarn"}, {"factor", 4.0}, {"original_max_position_embeddings", 512}}};
  for (const Json& scaling : scalings) {
    Json oldest = scaling, parameters = scaling;
    oldest.erase("rope_type");
    oldest["type"] = scaling["rope_type"];
    parameters["rope_theta"] = 5e5;
    const RopeTable expected = Read({{"rope_theta", 5e5}, {"rope_scaling", scaling}});
    const Json others[] = {{{"rope_theta", 5e5}, {"rope_scaling", oldest}},
                           {{"rope_parameters", parameters}},
                           {{"rope_parameters", {{"full_attention", parameters}}}}};
    for (const Json& config : others) {
      const RopeTable rope = Read(config);
      EXPECT_EQ(rope.inv_freq, expected.inv_freq) << config;
      EXPECT_EQ(rope.attention_factor, expected.attention_factor) << config;
    }
  }
  const RopeTable expected = Read({{"rope_theta", 5e5}});
  EXPECT_EQ(Read({{"rope_theta", 5e5}, {"rope_scaling", nullptr}}).inv_freq, expected.inv_freq);
}

TEST(RopeTest, LayerTypePicksItsParameters) {
  const Json config = {{"rope_parameters",
                        {{"full_attention", {{"rope_type", "default"}, {"rope_theta", 1e6}}},
                         {"sliding_attention", {{"rope_type", "default"}, {"rope_theta", 1e4}}}}}};
  EXPECT_DOUBLE_EQ(Read(config, 4).inv_freq[1], 1e-3);
  EXPECT_DOUBLE_EQ(Read(config, 4, "sliding_attention").inv_freq[1], 1e-2);
}

TEST(RopeTest, RefusesWhatItCannotDo) {
  const auto scaled = [](Json scaling) {
    return Json{{"rope_theta", 1e4}, {"rope_scaling", std::move(scaling)}};
  };
  const std::pair<Json, const char*> cases[] = {
      {scaled({{"type", "dynamic"}, {"factor", 2.0}}), "rope_type 'dynamic' is not supported"},
      {scaled({{"rope_type", "longrope"}}), "expected one of default, linear, llama3, yarn"},
      {scaled({{"type", "linear"}}), "field 'factor' is missing"},
      {scaled({{"type", "linear"}, {"factor", 0.5}}), "rope factor: expected at least 1, found 0.5"},
      {scaled({{"type", "linear"}, {"factor", "2"}}), "field 'factor': expected a number"},
      {scaled({{"type", 3}}), "field 'type': expected a string"},
      {{{"rope_theta", -1.0}}, "rope_theta: expected at least 1, found -1"},
      {{{"rope_theta", 1e-308}}, "rope_theta: expected at least 1"},
      {{{"rope_theta", "big"}}, "field 'rope_theta': expected a number"},
      {{{"partial_rotary_factor", 0.0}}, "partial_rotary_factor: expected in (0, 1], found 0"},
      {{{"partial_rotary_factor", 1.5}}, "partial_rotary_factor: expected in (0, 1], found 1.5"},
      {{{"partial_rotary_factor", 0.01}}, "head_dim 128 leaves no pair to rotate"},
      {scaled({{"type", "llama3"}, {"factor", 2.0}, {"low_freq_factor", 4.0}, {"high_freq_factor", 1.0}}),
       "expected 0 < low_freq_factor < high_freq_factor, found 4 and 1"},
      {scaled({{"type", "yarn"}, {"factor", 2.0}, {"beta_fast", 1.0}, {"beta_slow", 1.0}}),
       "expected 0 < beta_slow < beta_fast, found 1 and 1"},
      {scaled({{"type", "yarn"}, {"factor", 2.0}, {"attention_factor", 1e300}}),
       "attention factor: expected in (0, 1e6], found 1e+300"},
      {scaled({{"type", "yarn"}, {"factor", 2.0}, {"original_max_position_embeddings", 0}}),
       "original_max_position_embeddings: expected at least 1, found 0"},
      {{{"rope_theta", 1.0}, {"rope_scaling", {{"type", "yarn"}, {"factor", 2.0}}}},
       "rope_theta: expected above 1, found 1"}};
  for (const auto& [config, message] : cases) {
    const auto rope = ReadRope(config, 128, {});
    ASSERT_FALSE(rope.ok()) << config;
    EXPECT_EQ(rope.error().code, Code::kInput);
    EXPECT_THAT(rope.error().message, HasSubstr(message));
  }
}

class TinyGoldenTest : public testing::TestWithParam<const char*> {};

// Sixteen ids after the first sixteen tokens, the whole prefix computed again at each step.
void ExpectGreedy(const Context& context, const Model& model, std::vector<int32_t> ids, int64_t prompt,
                  const std::vector<int32_t>& greedy) {
  ids.resize(static_cast<size_t>(prompt));
  for (size_t step = 0; step < greedy.size(); ++step) {
    const Mat<float> logits = test::OnePass(context, model, ids);
    const auto vocab = static_cast<size_t>(logits.cols());
    ASSERT_EQ(ArgMax({logits.row(logits.rows() - 1), vocab}), greedy[step]) << step;
    ids.push_back(greedy[step]);
  }
}

TEST_P(TinyGoldenTest, Matches) {
  const std::string folder = ModelFolder(std::string("tiny/") + GetParam());
  const Json golden = ReadJson(folder + "/golden.json");
  const auto model = LoadModel(folder);
  ASSERT_TRUE(model.ok()) << model.error().message;
  test::TestContext run;
  ASSERT_GE(golden["input_ids"].size(), 2u);
  for (size_t s = 0; s < golden["input_ids"].size(); ++s) {
    SCOPED_TRACE(fmt::format("sequence {}", s));
    const auto ids = golden["input_ids"][s].get<std::vector<int32_t>>();
    const Mat<float> logits = test::OnePass(run.context, *model, ids);
    const double absmax = golden["logits_absmax"][s].get<double>();
    EXPECT_NEAR(test::MaxAbs(logits), absmax, 1e-4 * absmax);
    const auto last = golden["logits_last"][s].get<std::vector<double>>();
    ASSERT_EQ(static_cast<int64_t>(last.size()), logits.cols());
    for (int64_t j = 0; j < logits.cols(); ++j) {
      EXPECT_NEAR(logits(logits.rows() - 1, j), last[static_cast<size_t>(j)], 1e-4 * absmax) << j;
    }
    EXPECT_NEAR(test::MeanLoss(logits, ids) / golden["loss"][s].get<double>(), 1, 1e-5);
    const double count = static_cast<double>(logits.rows() * logits.cols());
    EXPECT_NEAR(test::Total(logits), golden["logits_sum"][s].get<double>(), 1e-6 * absmax * count);
    const auto argmax = golden["argmax_last32"][s].get<std::vector<int32_t>>();
    for (size_t i = 0; i < argmax.size(); ++i) {
      const float* row = logits.row(logits.rows() - static_cast<int64_t>(argmax.size() - i));
      EXPECT_EQ(ArgMax({row, static_cast<size_t>(logits.cols())}), argmax[i]) << i;
    }
    ExpectGreedy(run.context, *model, ids, golden["greedy_prompt_tokens"].get<int64_t>(),
                 golden["greedy"][s].get<std::vector<int32_t>>());
  }
}

INSTANTIATE_TEST_SUITE_P(Models, TinyGoldenTest,
                         testing::Values("llama_linear", "llama_llama3", "llama_yarn", "llama_bias"),
                         [](const auto& tested) { return std::string(tested.param); });

TEST(TinyModels, OthersAreRefusedByName) {
  const std::pair<const char*, const char*> cases[] = {
      {"llama_dynamic",
       "rope_type 'dynamic' is not supported: expected one of default, linear, llama3, yarn"},
      {"phi3", "model_type 'phi3' is not known; known: "},
      {"mixtral", "model_type 'mixtral' is not known"},
      {"qwen3_moe", "the nearest is 'qwen3'"},
      {"mamba2", "model_type 'mamba2' is not known"}};
  for (const auto& [name, message] : cases) {
    const auto model = LoadModel(ModelFolder(std::string("tiny/") + name));
    ASSERT_FALSE(model.ok()) << name;
    EXPECT_EQ(model.error().code, Code::kInput);
    EXPECT_THAT(model.error().message, HasSubstr(message));
    EXPECT_THAT(model.error().message, HasSubstr("config.json: ")) << name;
  }
  const auto moe = LoadModel(ModelFolder("tiny/qwen3_moe"));
  EXPECT_THAT(moe.error().message, HasSubstr("which has no "));
  EXPECT_THAT(moe.error().message, HasSubstr("num_experts"));
}

}  // namespace
}  // namespace planish

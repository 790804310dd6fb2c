// Rotary parameters: config spellings, scalings, and whole models that use them (tiny/README.md there
// states the tolerances).
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <numbers>

#include "model/model_test_util.h"
#include "model/rope.h"

namespace planish {
namespace {

using test::MaxAbs;
using test::MeanLoss;
using test::ModelFolder;
using test::OnePass;
using test::ReadJson;
using test::TestContext;

TEST(Rope, Llama31ScalesAsPublished) {
  const Json config = *ParseJson(R"({"max_position_embeddings":131072,"rope_theta":500000.0,"rope_scaling":
      {"rope_type":"llama3","factor":8.0,"low_freq_factor":1.0,"high_freq_factor":4.0,
       "original_max_position_embeddings":8192}})");
  const auto rope = ReadRope(config, 128, {});
  ASSERT_TRUE(rope.ok()) << rope.error().message;
  ASSERT_EQ(rope->inv_freq.size(), 64u);
  for (size_t i = 0; i < 64; ++i) {
    const double plain = std::pow(500000.0, -static_cast<double>(i) / 64);
    const double wavelength = 2 * std::numbers::pi / plain;
    double expected = plain;
    if (wavelength > 8192) {
      expected = plain / 8;
    } else if (wavelength > 2048) {
      const double s = (8192 / wavelength - 1) / 3;
      expected = (1 - s) * plain / 8 + s * plain;
    }
    EXPECT_NEAR(rope->inv_freq[i], expected, 1e-14) << i;
  }
}

TEST(Rope, OldAndNewSpellingAgree) {
  const Json old_form = *ParseJson(
      R"({"rope_theta":20000.0,"max_position_embeddings":4096,"rope_scaling":{"type":"linear","factor":4.0}})");
  const Json new_form = *ParseJson(
      R"({"max_position_embeddings":4096,"rope_parameters":{"rope_type":"linear","rope_theta":20000.0,"factor":4.0}})");
  const Json by_layer = *ParseJson(
      R"({"max_position_embeddings":4096,"rope_parameters":{"full_attention":
          {"rope_type":"linear","rope_theta":20000.0,"factor":4.0}}})");
  const auto a = ReadRope(old_form, 64, {}), b = ReadRope(new_form, 64, {}), c = ReadRope(by_layer, 64, {});
  ASSERT_TRUE(a.ok() && b.ok() && c.ok());
  EXPECT_EQ(a->inv_freq, b->inv_freq);
  EXPECT_EQ(a->inv_freq, c->inv_freq);
  EXPECT_NEAR(a->inv_freq[1], std::pow(20000.0, -1.0 / 32) / 4, 1e-15);
}

TEST(Rope, RefusesByName) {
  for (const auto& [text, expected] : std::vector<std::pair<std::string, std::string>>{
           {R"({"rope_scaling":{"rope_type":"dynamic","factor":2}})", "'dynamic' is not supported"},
           {R"({"rope_scaling":{"rope_type":"linear","factor":0.5}})", "rope factor"},
           {R"({"rope_scaling":{"rope_type":"linear"}})", "'factor' is missing"},
           {R"({"rope_theta":-1})", "rope_theta"},
           {R"({"partial_rotary_factor":1.5})", "partial_rotary_factor"},
           {R"({"rope_scaling":{"rope_type":7}})", "'rope_type': expected a string"}}) {
    const auto rope = ReadRope(*ParseJson(text), 64, {});
    ASSERT_FALSE(rope.ok()) << text;
    EXPECT_NE(rope.error().message.find(expected), std::string::npos) << rope.error().message;
  }
}

class TinyGolden : public testing::TestWithParam<const char*> {};

TEST_P(TinyGolden, LogitsLossAndGreedy) {
  const std::string folder = ModelFolder(std::string("tiny/") + GetParam());
  const Json golden = ReadJson(folder + "/golden.json");
  auto model = LoadModel(folder);
  ASSERT_TRUE(model.ok()) << model.error().message;
  TestContext run;
  for (size_t s = 0; s < golden["input_ids"].size(); ++s) {
    SCOPED_TRACE(fmt::format("{}, sequence {}", GetParam(), s));
    const auto ids = golden["input_ids"][s].get<std::vector<int32_t>>();
    const Mat<float> logits = OnePass(run.context, *model, ids);
    const double absmax = golden["logits_absmax"][s].get<double>();
    const auto last = golden["logits_last"][s].get<std::vector<double>>();
    for (size_t j = 0; j < last.size(); ++j) {
      EXPECT_NEAR(logits(logits.rows() - 1, static_cast<int64_t>(j)), last[j], 1e-4 * absmax) << j;
    }
    const double loss = golden["loss"][s].get<double>();
    EXPECT_NEAR(MeanLoss(logits, ids), loss, 1e-5 * loss);
    std::vector<int32_t> text(ids.begin(), ids.begin() + golden["greedy_prompt_tokens"].get<int>());
    for (const auto& next : golden["greedy"][s]) {
      const Mat<float> step = OnePass(run.context, *model, text);
      const auto best = ArgMax({step.row(step.rows() - 1), static_cast<size_t>(step.cols())});
      EXPECT_EQ(best, next.get<int64_t>());
      text.push_back(next.get<int32_t>());
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Models, TinyGolden,
                         testing::Values("llama_linear", "llama_llama3", "llama_yarn", "llama_bias"),
                         [](const auto& tested) { return std::string(tested.param); });

}  // namespace
}  // namespace planish

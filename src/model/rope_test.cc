// Rotary parameters: config spellings, scalings, and whole models that use them (tiny/README.md there
// states the tolerances).
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <bit>
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

Result<RopeTable> ReadRopeOf(const Json& config, int64_t head_dim, const RopeDefaults& defaults) {
  return ReadRope(Config(config), head_dim, defaults);
}

TEST(Rope, Llama31ScalesAsPublished) {
  const Json config = *ParseJson(R"({"max_position_embeddings":131072,"rope_theta":500000.0,"rope_scaling":
      {"rope_type":"llama3","factor":8.0,"low_freq_factor":1.0,"high_freq_factor":4.0,
       "original_max_position_embeddings":8192}})");
  const auto rope = ReadRopeOf(config, 128, {});
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

// One number in two places must be one number.
TEST(Rope, PlacesThatContradictEachOther) {
  const RopeDefaults neox{.older_theta = "rotary_emb_base", .older_partial = "rotary_pct"};
  const RopeDefaults local{.theta_field = "rope_local_base_freq", .scaled = false};
  const Json nested = {{"full_attention", {{"rope_theta", 1e6}}},
                       {"sliding_attention", {{"rope_theta", 1e4}}}};
  const auto message = [](const Json& config, const RopeDefaults& defaults, const char* layers) {
    const auto rope = ReadRope(Config(config), 64, defaults, layers);
    return rope.ok() ? std::string("(reads)") : rope.error().message;
  };
  const struct {
    Json config;
    RopeDefaults defaults;
    const char* layers;
    const char* expected;
  } cases[] = {
      {{{"rope_parameters", {{"rope_theta", 1e4}}}, {"rope_theta", 5e5}},
       {},
       "full_attention",
       "rope_parameters.rope_theta is 10000, but rope_theta is 500000: expected one of the two, or the same"},
      {{{"rope_parameters", {{"rope_theta", 5e5}}}, {"rope_theta", 500000}}, {}, "full_attention", "(reads)"},
      {{{"rope_parameters", {{"partial_rotary_factor", 0.25}}}, {"rotary_pct", 0.5}},
       neox,
       "full_attention",
       "rope_parameters.partial_rotary_factor is 0.25, but rotary_pct is 0.5"},
      {{{"rotary_emb_base", 1e4}, {"rope_theta", 1e5}},
       neox,
       "full_attention",
       "rope_theta is 100000, but rotary_emb_base is 10000"},
      {{{"rope_parameters", {{"partial_rotary_factor", 0.25}}}, {"partial_rotary_factor", 0.5}},
       {},
       "full_attention",
       "rope_parameters.partial_rotary_factor is 0.25, but partial_rotary_factor is 0.5"},
      {{{"rope_scaling", {{"type", "yarn"}, {"factor", 4.0}, {"original_max_position_embeddings", 64}}},
        {"original_max_position_embeddings", 32}},
       {},
       "full_attention",
       "rope_scaling.original_max_position_embeddings is 64, but original_max_position_embeddings is 32"},
      {{{"rope_parameters", nested}, {"rope_theta", 1e6}}, {}, "full_attention", "(reads)"},
      {{{"rope_parameters", nested}, {"rope_theta", 1e6}}, local, "sliding_attention", "(reads)"},
      {{{"rope_parameters", nested}, {"rope_theta", 1e5}},
       {},
       "full_attention",
       "rope_parameters.full_attention.rope_theta is 1000000, but rope_theta is 100000"},
      {{{"rope_parameters", nested}, {"rope_local_base_freq", 2e4}},
       local,
       "sliding_attention",
       "rope_parameters.sliding_attention.rope_theta is 10000, but rope_local_base_freq is 20000"}};
  for (const auto& c : cases) {
    EXPECT_EQ(message(c.config, c.defaults, c.layers).find(c.expected), 0u)
        << message(c.config, c.defaults, c.layers);
  }
}

// Frequencies come from fixed operations, not from libm: the strict profile rests on it. With glibc 2.36,
// std::pow(8e6, -19.0 / 64) depends on whether the CPU has fused multiply-add. The hash is of their bytes.
TEST(Rope, FrequenciesAreTheSameOnAnyCpuAndExact) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (const double theta : {10000.0, 500000.0, 1e6, 8e6, 1.5}) {
    for (const char* scaling :
         {R"({"type":"default"})", R"({"type":"yarn","factor":4.0,"truncate":false})"}) {
      const Json config = {{"rope_theta", theta}, {"rope_scaling", *ParseJson(scaling)}};
      const auto rope = ReadRopeOf(config, 128, {});
      ASSERT_TRUE(rope.ok()) << rope.error().message;
      for (size_t i = 0; i < rope->inv_freq.size(); ++i) {
        const uint64_t bits = std::bit_cast<uint64_t>(rope->inv_freq[i]);
        for (int b = 0; b < 64; b += 8) hash = (hash ^ (bits >> b & 0xff)) * 0x100000001b3u;
        if (scaling[9] == 'y') continue;
        const double expected = std::pow(theta, -static_cast<double>(i) / 64);
        EXPECT_NEAR(rope->inv_freq[i] / expected, 1, 1e-14) << theta << ", " << i;
      }
    }
  }
  EXPECT_EQ(hash, 18358605742385190962u);
}

TEST(Rope, OldAndNewSpellingAgree) {
  const Json old_form = *ParseJson(
      R"({"rope_theta":20000.0,"max_position_embeddings":4096,"rope_scaling":{"type":"linear","factor":4.0}})");
  const Json new_form = *ParseJson(
      R"({"max_position_embeddings":4096,"rope_parameters":{"rope_type":"linear","rope_theta":20000.0,"factor":4.0}})");
  const Json by_layer = *ParseJson(
      R"({"max_position_embeddings":4096,"rope_parameters":{"full_attention":
          {"rope_type":"linear","rope_theta":20000.0,"factor":4.0}}})");
  const auto a = ReadRopeOf(old_form, 64, {}), b = ReadRopeOf(new_form, 64, {}),
             c = ReadRopeOf(by_layer, 64, {});
  ASSERT_TRUE(a.ok() && b.ok() && c.ok());
  EXPECT_EQ(a->inv_freq, b->inv_freq);
  EXPECT_EQ(a->inv_freq, c->inv_freq);
  EXPECT_NEAR(a->inv_freq[1], std::pow(20000.0, -1.0 / 32) / 4, 1e-15);
}

// arXiv 2309.00071, section 3.2, in other words than the code: a dimension that makes r turns over the
// original context keeps its frequency if r is large, is divided by the factor if r is small, and the
// ramp between them is linear in the dimension's index.
TEST(Rope, YarnInterpolatesSlowDimensions) {
  const Json config = *ParseJson(R"({"max_position_embeddings":131072,"rope_theta":10000.0,"rope_scaling":
      {"type":"yarn","factor":16.0,"original_max_position_embeddings":4096}})");
  const auto rope = ReadRopeOf(config, 128, {});
  ASSERT_TRUE(rope.ok()) << rope.error().message;
  ASSERT_EQ(rope->inv_freq.size(), 64u);
  EXPECT_NEAR(rope->attention_factor, 0.1 * std::log(16.0) + 1, 1e-6);
  const auto turns = [](int i) { return 4096 * std::pow(10000.0, -i / 64.0) / (2 * std::numbers::pi); };
  int first = 0, last = 63;  // the ramp's ends: the last index of 32 turns, the first of at most 1
  while (turns(first + 1) >= 32) ++first;
  while (turns(last - 1) <= 1) --last;
  ASSERT_LT(first, last);
  for (int i = 0; i < 64; ++i) {
    const double plain = std::pow(10000.0, -i / 64.0);
    const double slow = i <= first ? 0 : i >= last ? 1 : static_cast<double>(i - first) / (last - first);
    EXPECT_NEAR(rope->inv_freq[static_cast<size_t>(i)], plain * (1 - slow) + plain / 16 * slow, 1e-14) << i;
  }
}

TEST(Rope, YarnAttentionFactor) {
  const std::string start = R"({"rope_scaling":{"rope_type":"yarn","factor":40.0,)";
  const auto factor = [&](const std::string& fields) {
    const auto rope = ReadRopeOf(*ParseJson(start + fields + "}}"), 64, {});
    EXPECT_TRUE(rope.ok()) << fields;
    return rope.ok() ? static_cast<double>(rope->attention_factor) : 0;
  };
  const double log = std::log(40.0);
  EXPECT_NEAR(factor(R"("mscale":1.0,"mscale_all_dim":0.707)"), (0.1 * log + 1) / (0.0707 * log + 1), 1e-6);
  EXPECT_NEAR(factor(R"("mscale":0.707,"mscale_all_dim":0.707)"), 1, 1e-6);
  EXPECT_NEAR(factor(R"("mscale":0.707)"), 0.1 * log + 1, 1e-6);
  EXPECT_NEAR(factor(R"("attention_factor":1.25)"), 1.25, 1e-6);
}

// Both spellings of every scaling, and partial rotation.
TEST(Rope, SpellingsOfScalingsAgree) {
  for (const std::string fields :
       {R"("factor":8.0,"low_freq_factor":1.0,"high_freq_factor":4.0,"original_max_position_embeddings":64)",
        R"("factor":4.0,"beta_fast":16.0,"beta_slow":2.0,"original_max_position_embeddings":64)"}) {
    const std::string type = fields.find("beta") == std::string::npos ? "llama3" : "yarn";
    const std::string sizes = R"({"max_position_embeddings":512,)";
    const auto a = ReadRopeOf(*ParseJson(sizes + R"("rope_theta":5000.0,"partial_rotary_factor":0.5,)" +
                                         R"("rope_scaling":{"type":")" + type + "\"," + fields + "}}"),
                              64, {});
    const auto b =
        ReadRopeOf(*ParseJson(sizes + R"("rope_parameters":{"rope_theta":5000.0,)" +
                              R"("partial_rotary_factor":0.5,"rope_type":")" + type + "\"," + fields + "}}"),
                   64, {});
    ASSERT_TRUE(a.ok() && b.ok()) << type;
    EXPECT_EQ(a->inv_freq.size(), 16u);
    EXPECT_EQ(a->inv_freq, b->inv_freq);
    EXPECT_EQ(a->attention_factor, b->attention_factor);
    EXPECT_NE(a->inv_freq.back(), std::pow(5000.0, -15.0 / 16)) << type;  // scaled at all
  }
}

TEST(Rope, RefusesByName) {
  for (const auto& [text, expected] : std::vector<std::pair<std::string, std::string>>{
           {R"({"rope_scaling":{"rope_type":"ntk","factor":2}})", "'ntk' is not supported"},
           {R"({"rope_scaling":{"rope_type":"dynamic","factor":0.5}})", "rope factor: expected at least 1"},
           {R"({"rope_scaling":{"rope_type":"dynamic","factor":1e300}})",
            "dynamic rope: expected a factor up to"},
           {R"({"rope_scaling":{"rope_type":"dynamic","factor":2},"partial_rotary_factor":0.03125})",
            "dynamic rope: needs at least two rotated pairs"},
           {R"({"rope_scaling":{"rope_type":"longrope","long_factor":[1,1]}})",
            "longrope: short_factor: expected a list of 32 numbers"},
           {R"({"rope_scaling":{"rope_type":"linear","factor":0.5}})", "rope factor"},
           {R"({"rope_scaling":{"rope_type":"linear"}})", "'factor' is missing"},
           {R"({"rope_theta":-1})", "rope_theta"},
           {R"({"rope_theta":1})", "rope_theta: expected a number above 1"},
           {R"({"rope_scaling":{"type":"yarn","factor":2,"attention_factor":1e300}})", "an attention factor"},
           {R"({"rope_scaling":{"type":"yarn","factor":2,"attention_factor":-1}})", "an attention factor"},
           {R"({"rope_scaling":{"type":"yarn","factor":2,"beta_slow":0}})", "0 < beta_slow < beta_fast"},
           {R"({"rope_scaling":{"type":"yarn","factor":2,"beta_fast":0.5}})", "0 < beta_slow < beta_fast"},
           {R"({"rope_scaling":{"type":"yarn","factor":2,"original_max_position_embeddings":0}})",
            "original_max_position_embeddings: expected at least 1"},
           {R"({"rope_scaling":{"type":"llama3","factor":2,"low_freq_factor":4,"high_freq_factor":4}})",
            "low_freq_factor < high_freq_factor"},
           {R"({"partial_rotary_factor":1.5})", "partial_rotary_factor"},
           {R"({"rope_scaling":{"rope_type":7}})", "'rope_type': expected a string"}}) {
    const auto rope = ReadRopeOf(*ParseJson(text), 64, {});
    ASSERT_FALSE(rope.ok()) << text;
    EXPECT_NE(rope.error().message.find(expected), std::string::npos) << rope.error().message;
  }
}

}  // namespace
}  // namespace planish

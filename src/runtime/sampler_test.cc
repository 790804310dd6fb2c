#include "runtime/sampler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <set>

namespace planish {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

constexpr float kForbidden = -std::numeric_limits<float>::infinity();

// One thread, the best kernels here.
const Context& Here() {
  static ThreadPool pool(1);
  static const Context context = {.pool = &pool, .isa = BestIsa()};
  return context;
}

Sampler Make(const SamplingOptions& options) {
  auto sampler = Sampler::Create(options);
  EXPECT_TRUE(sampler.ok());
  return std::move(sampler).value();
}

// How often each token comes in n steps.
std::map<int32_t, int> Counts(const SamplingOptions& options, const std::vector<float>& logits, int n,
                              const std::vector<int32_t>& history = {}) {
  Sampler sampler = Make(options);
  std::map<int32_t, int> counts;
  for (int step = 0; step < n; ++step) {
    const auto token = sampler.Next(Here(), logits, history, static_cast<uint64_t>(step));
    EXPECT_TRUE(token.ok());
    if (token.ok()) ++counts[*token];
  }
  return counts;
}

std::set<int32_t> Drawn(const SamplingOptions& options, const std::vector<float>& logits) {
  std::set<int32_t> out;
  for (const auto& [token, count] : Counts(options, logits, 2000)) out.insert(token);
  return out;
}

std::vector<float> LogitsOf(const std::vector<double>& probabilities) {
  std::vector<float> out;
  for (double p : probabilities) out.push_back(static_cast<float>(std::log(p)) + 3.0f);
  return out;
}

double ChiSquare(const std::map<int32_t, int>& counts, const std::vector<double>& probabilities, int n) {
  double sum = 0;
  for (size_t i = 0; i < probabilities.size(); ++i) {
    const auto it = counts.find(static_cast<int32_t>(i));
    const double expected = probabilities[i] * n;
    const double difference = (it == counts.end() ? 0 : it->second) - expected;
    sum += difference * difference / expected;
  }
  return sum;
}

TEST(Sampler, FrequenciesFollowTheDistribution) {
  const std::vector<double> p = {0.05, 0.4, 0.1, 0.25, 0.2};
  constexpr int kDraws = 20000;
  // 18.5: the 99.9 % quantile of chi-square with 4 degrees of freedom; the seeds are fixed.
  for (uint64_t seed : {1, 2, 3}) {
    EXPECT_LT(ChiSquare(Counts({.seed = seed}, LogitsOf(p), kDraws), p, kDraws), 18.5) << seed;
  }
  // Temperature 1/2 squares the probabilities.
  std::vector<double> squared;
  double sum = 0;
  for (double x : p) sum += x * x;
  for (double x : p) squared.push_back(x * x / sum);
  EXPECT_LT(ChiSquare(Counts({.temperature = 0.5, .seed = 4}, LogitsOf(p), kDraws), squared, kDraws), 18.5);
  // What the test would see if temperature were ignored.
  EXPECT_GT(ChiSquare(Counts({.seed = 4}, LogitsOf(p), kDraws), squared, kDraws), 1000);
  // top_k = 2 leaves 0.4 and 0.25, renormalized. 10.8: 99.9 % with 1 degree.
  const auto counts = Counts({.top_k = 2, .seed = 5}, LogitsOf(p), kDraws);
  const double share = static_cast<double>(counts.at(1)) / kDraws;
  EXPECT_LT(std::pow((share - 0.4 / 0.65) * kDraws, 2) / (kDraws * 0.4 / 0.65 * 0.25 / 0.65), 10.8);
  EXPECT_EQ(counts.size(), 2u);
}

TEST(Sampler, AStepDependsOnItsNumberAlone) {
  const std::vector<float> logits(1000, 0.0f);
  Sampler a = Make({.seed = 9}), b = Make({.seed = 9}), other = Make({.seed = 10});
  std::vector<int32_t> forward, backward(20), different;
  for (uint64_t step = 0; step < 20; ++step) forward.push_back(*a.Next(Here(), logits, {}, step));
  for (uint64_t step = 20; step-- > 0;) backward[step] = *b.Next(Here(), logits, {}, step);
  for (uint64_t step = 0; step < 20; ++step) different.push_back(*other.Next(Here(), logits, {}, step));
  EXPECT_EQ(forward, backward);
  EXPECT_NE(forward, different);
}

TEST(Sampler, GreedyTakesTheLowestOfTheLargest) {
  Sampler sampler = Make({.temperature = 0});
  EXPECT_EQ(*sampler.Next(Here(), std::vector<float>{1, 3, 2, 3}, {}, 0), 1);
  EXPECT_EQ(*sampler.Next(Here(), std::vector<float>{kForbidden, -5, kForbidden}, {}, 1), 1);
  EXPECT_EQ(*sampler.Next(Here(), std::vector<float>{-3e38f, 3e38f}, {}, 2), 1);
}

TEST(Sampler, TopK) {
  const std::vector<float> logits = LogitsOf({0.1, 0.3, 0.1, 0.4, 0.1});
  EXPECT_THAT(Drawn({.top_k = 1}, logits), ElementsAre(3));
  EXPECT_THAT(Drawn({.top_k = 2}, logits), ElementsAre(1, 3));
  EXPECT_THAT(Drawn({.top_k = 3}, logits), ElementsAre(0, 1, 3));  // of three equal ones the lowest id
  EXPECT_THAT(Drawn({.top_k = 99}, logits), ElementsAre(0, 1, 2, 3, 4));
}

TEST(Sampler, TopP) {
  const std::vector<float> logits = LogitsOf({0.1, 0.3, 0.1, 0.4, 0.1});
  EXPECT_THAT(Drawn({.top_p = 1e-9}, logits), ElementsAre(3));
  EXPECT_THAT(Drawn({.top_p = 0.39}, logits), ElementsAre(3));
  EXPECT_THAT(Drawn({.top_p = 0.41}, logits), ElementsAre(1, 3));
  EXPECT_THAT(Drawn({.top_p = 0.71}, logits), ElementsAre(0, 1, 3));
  EXPECT_THAT(Drawn({.top_p = 0.99}, logits), ElementsAre(0, 1, 2, 3, 4));
  // After top_k = 2 the largest has 4/7 = 0.571 of the rest.
  EXPECT_THAT(Drawn({.top_k = 2, .top_p = 0.56}, logits), ElementsAre(3));
  EXPECT_THAT(Drawn({.top_k = 2, .top_p = 0.58}, logits), ElementsAre(1, 3));
  // Temperature comes first: squared and renormalized the largest has 0.16 / 0.28 = 0.571.
  EXPECT_THAT(Drawn({.temperature = 0.5, .top_p = 0.56}, logits), ElementsAre(3));
}

// A vocabulary of many blocks, against sorting all of it.
TEST(Sampler, LargeVocabularies) {
  constexpr int kVocab = 5003;
  const Random random(11);
  std::vector<float> logits(kVocab);
  for (int i = 0; i < kVocab; ++i) {
    // Few distinct values, so that there are ties.
    logits[static_cast<size_t>(i)] = static_cast<float>(random.Below(static_cast<uint64_t>(i), 40)) / 4;
  }
  std::vector<int32_t> order(kVocab);
  for (int i = 0; i < kVocab; ++i) order[static_cast<size_t>(i)] = i;
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
  EXPECT_EQ(*Make({.temperature = 0}).Next(Here(), logits, {}, 0), order.front());
  const auto check = [&](const SamplingOptions& options, size_t count) {
    const std::set<int32_t> allowed(order.begin(), order.begin() + static_cast<ptrdiff_t>(count));
    for (const auto& [id, times] : Counts(options, logits, 4000)) EXPECT_TRUE(allowed.contains(id)) << id;
    EXPECT_EQ(Counts(options, logits, 4000).size(), std::min<size_t>(count, 4000));
  };
  check({.temperature = 1000, .top_k = 50}, 50);
  // At this temperature all are about as likely, so a hundredth of the mass are the 50 likeliest or so.
  std::vector<double> p(kVocab);
  double total = 0;
  for (int i = 0; i < kVocab; ++i) total += p[i] = std::exp((logits[order[i]] - logits[order[0]]) / 1000.0);
  size_t count = 0;
  for (double sum = 0; sum < 0.01 * total; ++count) sum += p[count];
  check({.temperature = 1000, .top_p = 0.01}, count);
}

TEST(Sampler, MinP) {
  const std::vector<float> logits = LogitsOf({0.1, 0.3, 0.1, 0.4, 0.1});
  EXPECT_THAT(Drawn({.min_p = 1}, logits), ElementsAre(3));
  EXPECT_THAT(Drawn({.min_p = 0.76}, logits), ElementsAre(3));
  EXPECT_THAT(Drawn({.min_p = 0.74}, logits), ElementsAre(1, 3));
  EXPECT_THAT(Drawn({.min_p = 0.26}, logits), ElementsAre(1, 3));
  EXPECT_THAT(Drawn({.min_p = 0.24}, logits), ElementsAre(0, 1, 2, 3, 4));
}

TEST(Sampler, RepetitionPenaltyOnTheHistory) {
  Sampler sampler = Make({.temperature = 0, .repetition_penalty = 2});
  const std::vector<float> logits = {4, 3, 1.5, -1};
  EXPECT_EQ(*sampler.Next(Here(), logits, {}, 0), 0);
  EXPECT_EQ(*sampler.Next(Here(), logits, std::vector<int32_t>{0}, 0), 1);           // 2, 3, 1.5
  EXPECT_EQ(*sampler.Next(Here(), logits, std::vector<int32_t>{0, 0, 0, 1}, 0), 0);  // 2 once, not 0.5; 1.5
  EXPECT_EQ(*sampler.Next(Here(), logits, std::vector<int32_t>{1, -7, 1000}, 0), 0);
  // A negative logit becomes smaller, not larger.
  EXPECT_EQ(*sampler.Next(Here(), std::vector<float>{-1, -1.5f}, std::vector<int32_t>{0}, 0), 1);
  EXPECT_EQ(*sampler.Next(Here(), std::vector<float>{kForbidden, -9}, std::vector<int32_t>{0}, 0), 1);
}

TEST(Sampler, ForbiddenTokensAreNeverDrawn) {
  EXPECT_THAT(Drawn({}, {0, kForbidden, 0, kForbidden}), ElementsAre(0, 2));
  EXPECT_THAT(Drawn({.temperature = 100, .top_k = 3, .top_p = 0.999}, {0, kForbidden, 0, kForbidden}),
              ElementsAre(0, 2));
}

TEST(Sampler, BadLogits) {
  for (double temperature : {0.0, 1.0}) {
    Sampler sampler = Make({.temperature = temperature});
    const auto message = [&](std::vector<float> logits) {
      const auto token = sampler.Next(Here(), logits, {}, 0);
      EXPECT_FALSE(token.ok());
      return token.ok() ? "" : token.error().message;
    };
    EXPECT_THAT(message({0, std::numeric_limits<float>::quiet_NaN(), 1}), HasSubstr("token 1 is nan"));
    EXPECT_THAT(message({0, 1, std::numeric_limits<float>::infinity()}), HasSubstr("token 2 is inf"));
    EXPECT_THAT(message({kForbidden, kForbidden}), HasSubstr("none of 2 tokens"));
    EXPECT_THAT(message({}), HasSubstr("none of 0 tokens"));
  }
}

TEST(Sampler, RefusesOptions) {
  constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
  const std::pair<SamplingOptions, const char*> cases[] = {
      {{.repetition_penalty = 0}, "repetition_penalty: found 0"},
      {{.repetition_penalty = kNan}, "repetition_penalty: found nan"},
      {{.temperature = -0.1}, "temperature: found -0.1"},
      {{.temperature = std::numeric_limits<double>::infinity()}, "temperature: found inf"},
      {{.top_k = -1}, "top_k: found -1"},
      {{.top_p = 0}, "top_p: found 0"},
      {{.top_p = 1.01}, "top_p: found 1.01"},
      {{.min_p = kNan}, "min_p: found nan"},
      {{.min_p = 1.5}, "min_p: found 1.5"},
  };
  for (const auto& [options, message] : cases) {
    const auto sampler = Sampler::Create(options);
    ASSERT_FALSE(sampler.ok()) << message;
    EXPECT_EQ(sampler.error().code, Code::kInput);
    EXPECT_THAT(sampler.error().message, HasSubstr(message));
  }
}

}  // namespace
}  // namespace planish

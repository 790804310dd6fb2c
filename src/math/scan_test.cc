// Convolution and scan against direct loops in double, on every kernel set, and in pieces.
#include "math/scan.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "math/nn_test_util.h"

namespace planish {
namespace {

using namespace nn_test;  // NOLINT: the helpers of this folder's tests

std::vector<float> Vector(int64_t n, uint64_t seed, double low, double high) {
  return Flat(RandomMat(1, n, seed, low, high));
}

TEST(Scan, Convolution) {
  constexpr int64_t kTokens = 23, kChannels = 37, kKernel = 4;
  const Mat<float> x = RandomMat(kTokens, kChannels, 1);
  const auto weight = Vector(kChannels * kKernel, 2, -1, 1), bias = Vector(kChannels, 3, -1, 1);
  const auto past = Vector(kChannels * (kKernel - 1), 4, -1, 1);
  Expected expected;
  for (int64_t t = 0; t < kTokens; ++t) {
    for (int64_t i = 0; i < kChannels; ++i) {
      double sum = bias[static_cast<size_t>(i)];
      for (int64_t k = 0; k < kKernel; ++k) {
        const int64_t from = t - (kKernel - 1) + k;
        const float value =
            from >= 0 ? x(from, i) : past[static_cast<size_t>((from + kKernel - 1) * kChannels + i)];
        sum += static_cast<double>(weight[static_cast<size_t>(i * kKernel + k)]) * static_cast<double>(value);
      }
      expected.Add(sum, 1e-6);
    }
  }
  // In calls of 1, 2, 3 ... tokens, the state carried over.
  CheckOperation(
      "CausalConvolution", expected,
      [&](const Context& context) {
        Mat<float> y(kTokens, kChannels);
        auto state = past;
        for (int64_t at = 0, count = 1; at < kTokens; at += count, ++count) {
          count = std::min(count, kTokens - at);
          CausalConvolution(context, x.view().Rows(at, count), weight, bias, kKernel, state,
                            y.view().Rows(at, count));
        }
        return Flat(y);
      },
      1);
}

struct ScanCase {
  ScanShape shape;
  int64_t tokens;
};

Expected NaiveScan(const ScanCase& c, const std::vector<float>& a_log, const std::vector<float>& d,
                   const std::vector<float>& dt_bias, MatView<const float> x, MatView<const float> b,
                   MatView<const float> cc, MatView<const float> dt) {
  const ScanShape& s = c.shape;
  std::vector<double> state(static_cast<size_t>(s.StateSize()), 0.0);
  Expected expected;
  for (int64_t t = 0; t < c.tokens; ++t) {
    for (int64_t h = 0; h < s.heads; ++h) {
      const auto head = static_cast<size_t>(h);
      const double raw = static_cast<double>(dt(t, h)) + static_cast<double>(dt_bias[head]);
      const double step =
          std::clamp(std::log1p(std::exp(raw)), static_cast<double>(s.dt_min), static_cast<double>(s.dt_max));
      const double decay = std::exp(-step * std::exp(static_cast<double>(a_log[head])));
      const int64_t group = h / (s.heads / s.groups) * s.state;
      for (int64_t i = 0; i < s.head_dim; ++i) {
        const double value = static_cast<double>(x(t, h * s.head_dim + i));
        double sum = static_cast<double>(d[head]) * value;
        for (int64_t n = 0; n < s.state; ++n) {
          double& at = state[static_cast<size_t>((h * s.state + n) * s.head_dim + i)];
          at = decay * at + step * value * static_cast<double>(b(t, group + n));
          sum += at * static_cast<double>(cc(t, group + n));
        }
        expected.Add(sum, 2e-5);
      }
    }
  }
  return expected;
}

TEST(Scan, SelectiveScan) {
  for (const ScanCase& c :
       {ScanCase{{.heads = 4, .head_dim = 16, .state = 8, .groups = 2}, 19},
        ScanCase{{.heads = 3, .head_dim = 21, .state = 5, .groups = 1, .dt_min = 0.4f, .dt_max = 1.1f},
                 13}}) {
    const ScanShape& s = c.shape;
    const auto a_log = Vector(s.heads, 1, -1, 1), d = Vector(s.heads, 2, -1, 1);
    const auto dt_bias = Vector(s.heads, 3, -1, 1);
    const Mat<float> x = RandomMat(c.tokens, s.heads * s.head_dim, 4),
                     b = RandomMat(c.tokens, s.groups * s.state, 5);
    const Mat<float> cc = RandomMat(c.tokens, s.groups * s.state, 6),
                     dt = RandomMat(c.tokens, s.heads, 7, -3, 3);
    CheckOperation(
        "SelectiveScan", NaiveScan(c, a_log, d, dt_bias, x, b, cc, dt),
        [&](const Context& context) {
          Mat<float> y(c.tokens, s.heads * s.head_dim);
          std::vector<float> state(static_cast<size_t>(s.StateSize()), 0.0f);
          for (int64_t at = 0, count = 1; at < c.tokens; at += count, ++count) {
            count = std::min(count, c.tokens - at);
            SelectiveScan(context, s, {a_log, d, dt_bias}, x.view().Rows(at, count), b.view().Rows(at, count),
                          cc.view().Rows(at, count), dt.view().Rows(at, count), state,
                          y.view().Rows(at, count));
          }
          return Flat(y);
        },
        1);
  }
}

// Steps far below and above 0: softplus keeps its relative accuracy and does not overflow.
TEST(Scan, ExtremeSteps) {
  ThreadPool pool(1);
  Context context;
  context.pool = &pool;
  const ScanShape shape{.heads = 1, .head_dim = 1, .state = 1, .groups = 1};
  const std::vector<float> zero = {0.0f}, gone = {-50.0f};  // exp(-50) of decay: the step alone is seen
  const float one = 1;
  for (const float raw : {-80.0f, -20.0f, -10.0f, 0.0f, 30.0f, 200.0f}) {
    std::vector<float> state = {0.0f};
    float y = 0;
    SelectiveScan(context, shape, {gone, zero, zero}, {&one, 1, 1}, {&one, 1, 1}, {&one, 1, 1}, {&raw, 1, 1},
                  state, {&y, 1, 1});
    const double expected = raw > 50 ? raw : std::log1p(std::exp(static_cast<double>(raw)));
    EXPECT_NEAR(y, expected, 3e-7 * expected) << raw;
  }
}

}  // namespace
}  // namespace planish

// Elementwise operations, norms, rotary positions and the output of nn.h. kUlp below is the spacing of
// floats relative to their value; one rounding is half of it.
#include "math/nn.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <numbers>

#include "math/nn_test_util.h"

namespace planish {
namespace {

using namespace nn_test;  // NOLINT: the helpers of this folder's tests

constexpr double kUlp = 1.1920929e-7;
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
const std::pair<const char*, Activation> kActivations[] = {{"silu", Activation::kSilu},
                                                           {"gelu_tanh", Activation::kGeluTanh},
                                                           {"gelu", Activation::kGelu},
                                                           {"relu", Activation::kRelu},
                                                           {"sigmoid", Activation::kSigmoid}};

double Formula(Activation act, double x) {
  switch (act) {
    case Activation::kSilu:
      return x / (1 + std::exp(-x));
    case Activation::kGeluTanh:  // as x sigmoid(2 u): the textbook form cancels for negative x
      return x / (1 + std::exp(-2 * std::sqrt(2 / std::numbers::pi) * (x + 0.044715 * x * x * x)));
    case Activation::kGelu:
      return 0.5 * x * std::erfc(-x / std::numbers::sqrt2);
    case Activation::kRelu:
      return std::max(x, 0.0);
    case Activation::kSigmoid:
      return 1 / (1 + std::exp(-x));
  }
  return 0;
}

// Relative error: silu 2 ulp of exp, sum, quotient; gelu_tanh as well, but 3 roundings in an exponent 2 u
// turn into |2 u| times as much; gelu 8 ulp. Results below 1e-36 may be flushed with their exponential.
double ActivationTolerance(Activation act, double x) {
  double ulps = 4;
  if (act == Activation::kGelu) ulps = 8;
  if (act == Activation::kGeluTanh) ulps = 4 + 2 * std::abs(1.6 * (x + 0.044715 * x * x * x));
  return ulps * kUlp * std::abs(Formula(act, x)) + 1e-36;
}

// Rounding x^2 where products are not fused costs x^2 / 4 ulp in gelu's tail: at |x| = 13 40 ulp.
constexpr double kSse4Gelu = 6;

TEST(Nn, Exp) {
  const Mat<float> x = RandomMat(1, 100003, 1, -87.2, 88.6);
  Expected expected;
  for (const double v : Doubles(x)) expected.Add(std::exp(v), 2 * kUlp * std::exp(v));
  for (const double v : {0.0, 1.0, -87.2, 88.6, 1e-8}) {
    const double e = std::exp(static_cast<double>(static_cast<float>(v)));
    expected.Add(e, 2 * kUlp * e);
  }
  CheckOperation(
      "Exp", expected,
      [&](const Context& context) {
        std::vector<float> in = Flat(x);
        for (const float v : {0.0f, 1.0f, -87.2f, 88.6f, 1e-8f}) in.push_back(v);
        std::vector<float> y(in.size());
        Exp(context, in, y);
        return y;
      },
      1);
}

TEST(Nn, ExtremeValues) {
  for (const Isa isa : kAllIsas) {
    if (!IsaSupported(isa)) continue;
    ThreadPool pool(1);
    Context context;
    context.pool = &pool;
    context.isa = isa;
    const float strange = std::bit_cast<float>(0x7fc001ffu);  // a NaN whose low bits are set
    const std::vector<float> x = {-200, 200, -kInfinity, kInfinity, kNan, strange, -87.4f, 88.8f, 0, -0.0f};
    std::vector<float> y(x.size());
    Exp(context, x, y);
    EXPECT_EQ(y[0], 0);
    EXPECT_EQ(y[1], kInfinity);
    EXPECT_EQ(y[2], 0);
    EXPECT_EQ(y[3], kInfinity);
    EXPECT_TRUE(std::isnan(y[4]) && std::isnan(y[5]));
    EXPECT_EQ(y[6], 0);
    EXPECT_EQ(y[7], kInfinity);
    EXPECT_EQ(y[8], 1);
    EXPECT_EQ(y[9], 1);
    for (const auto& [name, act] : kActivations) {
      const std::vector<float> in = {kNan, strange, 1e30f, -1e30f, kInfinity, 0, 3e38f};
      std::vector<float> out(in.size());
      const int64_t n = static_cast<int64_t>(in.size());
      Activate(context, act, {in.data(), 1, n}, {out.data(), 1, n});
      EXPECT_TRUE(std::isnan(out[0]) && std::isnan(out[1])) << name << " " << IsaName(isa);
      const bool bounded = act == Activation::kSigmoid;
      EXPECT_EQ(out[2], bounded ? 1 : 1e30f) << name << " " << IsaName(isa);
      EXPECT_EQ(out[3], 0) << name << " " << IsaName(isa);
      EXPECT_EQ(out[4], bounded ? 1 : kInfinity) << name << " " << IsaName(isa);
      EXPECT_EQ(out[5], bounded ? 0.5f : 0) << name << " " << IsaName(isa);
      EXPECT_EQ(out[6], bounded ? 1 : 3e38f) << name << " " << IsaName(isa);
    }
  }
}

TEST(Nn, Activations) {
  // 13 rows of an odd width, as a view with a stride.
  const Mat<float> wide = RandomMat(13, 2051, 2, -16, 16), up = RandomMat(13, 2047, 3);
  const MatView<const float> x = wide.view().Cols(3, 2047);
  for (const auto& [name, act] : kActivations) {
    Expected value, gated;
    for (int64_t i = 0; i < x.rows; ++i) {
      for (int64_t j = 0; j < x.cols; ++j) {
        const double f = Formula(act, x(i, j)), t = ActivationTolerance(act, x(i, j));
        value.Add(f, t);
        gated.Add(f * up(i, j), 2 * t);
      }
    }
    const Activation kind = act;
    CheckOperation(
        std::string("Activate ") + name, value,
        [&](const Context& context) {
          Mat<float> y(x.rows, x.cols);
          Activate(context, kind, x, y);
          return Flat(y);
        },
        kSse4Gelu);
    CheckOperation(
        std::string("GatedActivate ") + name, gated,
        [&](const Context& context) {
          Mat<float> y(x.rows, x.cols);
          GatedActivate(context, kind, x, up, y);
          return Flat(y);
        },
        kSse4Gelu);
  }
}

TEST(Nn, ActivationGradients) {
  const Mat<float> x = RandomMat(7, 301, 4, -9, 9), up = RandomMat(7, 301, 5), d_y = RandomMat(7, 301, 6);
  for (const auto& [name, act] : kActivations) {
    const Activation kind = act;
    Expected plain, gated;
    std::vector<double> d_up, d_up_tolerance;
    for (int64_t i = 0; i < x.rows() * x.cols(); ++i) {
      const double v = x.data()[i], d = d_y.data()[i], u = up.data()[i];
      const double slope = Slope([&](const std::vector<double>& p) { return Formula(kind, p[0]); }, {v}, 0);
      // Slopes are of order 1, made of a handful of terms up to |x u'| ~ 10 that cancel in the tails.
      plain.Add(d * slope, 4e-6);
      gated.Add(d * u * slope, 8e-6);
      d_up.push_back(d * Formula(kind, v));
      d_up_tolerance.push_back(2 * std::abs(d) * ActivationTolerance(kind, v) + 1e-36);
    }
    gated.value.insert(gated.value.end(), d_up.begin(), d_up.end());
    gated.tolerance.insert(gated.tolerance.end(), d_up_tolerance.begin(), d_up_tolerance.end());
    CheckOperation(std::string("ActivateBackward ") + name, plain, [&](const Context& context) {
      Mat<float> d_x(x.rows(), x.cols());
      ActivateBackward(context, kind, x, d_y, d_x);
      return Flat(d_x);
    });
    CheckOperation(
        std::string("GatedActivateBackward ") + name, gated,
        [&](const Context& context) {
          Mat<float> d_gate(x.rows(), x.cols()), d_u(x.rows(), x.cols());
          GatedActivateBackward(context, kind, x, up, d_y, d_gate, d_u);
          std::vector<float> out = Flat(d_gate), rest = Flat(d_u);
          out.insert(out.end(), rest.begin(), rest.end());
          return out;
        },
        kSse4Gelu);
  }
}

TEST(Nn, AddScaledAndBias) {
  const Mat<float> x = RandomMat(9, 45, 8), y = RandomMat(9, 45, 9), bias = RandomMat(1, 45, 10);
  Expected scaled, biased;
  for (int64_t i = 0; i < 9; ++i) {
    for (int64_t j = 0; j < 45; ++j) {
      scaled.Add(y(i, j) + 0.3 * x(i, j), 3 * kUlp);
      biased.Add(static_cast<double>(y(i, j)) + bias(0, j), 2 * kUlp);
    }
  }
  const auto copy = [&] {
    Mat<float> z(9, 45);
    std::memcpy(z.data(), y.data(), 9 * 45 * sizeof(float));
    return z;
  };
  CheckOperation("AddScaled", scaled, [&](const Context& context) {
    Mat<float> z = copy();
    AddScaled(context, 0.3f, x, z);
    return Flat(z);
  });
  CheckOperation("AddBias", biased, [&](const Context& context) {
    Mat<float> z = copy();
    AddBias(context, {bias.data(), 45}, z);
    return Flat(z);
  });
}

// Normalization of groups of weight.size() columns in double; centered: LayerNorm.
std::vector<double> NormFormula(const std::vector<double>& x, const std::vector<double>& weight,
                                const std::vector<double>& bias, double eps, bool centered) {
  std::vector<double> y(x.size());
  const size_t n = weight.size();
  for (size_t at = 0; at < x.size(); at += n) {
    double mean = 0, squares = 0;
    for (size_t j = 0; j < n && centered; ++j) mean += x[at + j] / static_cast<double>(n);
    for (size_t j = 0; j < n; ++j) squares += (x[at + j] - mean) * (x[at + j] - mean);
    const double inv = 1 / std::sqrt(squares / static_cast<double>(n) + eps);
    for (size_t j = 0; j < n; ++j) {
      y[at + j] = (x[at + j] - mean) * inv * weight[j] + (bias.empty() ? 0.0 : bias[j]);
    }
  }
  return y;
}

TEST(Nn, Norms) {
  for (const int64_t width : {1, 15, 16, 37, 768}) {
    const Mat<float> x = RandomMat(33, 3 * width, 11, -1, 3), weight = RandomMat(1, width, 12);
    const Mat<float> full = RandomMat(1, 3 * width, 13), bias = RandomMat(1, 3 * width, 14);
    // Values up to about 4, chains of at most 144 roundings that mostly cancel, half of it by the root.
    Expected rms, layer;
    for (const double v : NormFormula(Doubles(x), Doubles(weight), {}, 1e-5, false)) rms.Add(v, 12 * kUlp);
    for (const double v : NormFormula(Doubles(x), Doubles(full), Doubles(bias), 1e-5, true)) {
      layer.Add(v, 24 * kUlp);
    }
    CheckOperation("RmsNorm " + std::to_string(width), rms, [&](const Context& context) {
      Mat<float> y(x.rows(), x.cols());
      RmsNorm(context, x, {weight.data(), static_cast<size_t>(width)}, 1e-5f, y);
      return Flat(y);
    });
    CheckOperation("LayerNorm " + std::to_string(3 * width), layer, [&](const Context& context) {
      Mat<float> y(x.rows(), x.cols());
      const size_t n = static_cast<size_t>(3 * width);
      LayerNorm(context, x, {full.data(), n}, {bias.data(), n}, 1e-5f, y);
      return Flat(y);
    });
  }
}

TEST(Nn, NormGradients) {
  for (const bool centered : {false, true}) {
    const int64_t width = 37, groups = centered ? 1 : 2;
    const Mat<float> x = RandomMat(5, width * groups, 15), weight = RandomMat(1, width, 16);
    const Mat<float> d_y = RandomMat(5, width * groups, 17);
    const auto loss = [&](const std::vector<double>& p, const std::vector<double>& w,
                          const std::vector<double>& b) {
      const std::vector<double> y = NormFormula(p, w, b, 1e-3, centered);
      double sum = 0;
      for (size_t i = 0; i < y.size(); ++i) sum += y[i] * d_y.data()[i];
      return sum;
    };
    const std::vector<double> xs = Doubles(x), ws = Doubles(weight), zeros(static_cast<size_t>(width), 0.0);
    Expected expected;  // 5e-6: sums of a few dozen terms of order 1; parameters start from 0.5
    for (size_t i = 0; i < xs.size(); ++i) {
      expected.Add(Slope([&](const auto& p) { return loss(p, ws, zeros); }, xs, i), 5e-6);
    }
    for (size_t i = 0; i < ws.size(); ++i) {
      expected.Add(0.5 + Slope([&](const auto& w) { return loss(xs, w, zeros); }, ws, i), 5e-6);
    }
    for (size_t i = 0; i < ws.size() && centered; ++i) {
      expected.Add(0.5 + Slope([&](const auto& b) { return loss(xs, ws, b); }, zeros, i), 5e-6);
    }
    CheckOperation(centered ? "LayerNormBackward" : "RmsNormBackward", expected, [&](const Context& context) {
      Mat<float> d_x(x.rows(), x.cols());
      std::vector<float> d_w(ws.size(), 0.5f), d_b(ws.size(), 0.5f);
      const std::span<const float> w(weight.data(), ws.size());
      if (centered) {
        LayerNormBackward(context, x, w, 1e-3f, d_y, d_x, d_w, d_b);
      } else {
        RmsNormBackward(context, x, w, 1e-3f, d_y, d_x, d_w);
      }
      std::vector<float> out = Flat(d_x);
      out.insert(out.end(), d_w.begin(), d_w.end());
      if (centered) out.insert(out.end(), d_b.begin(), d_b.end());
      return out;
    });
  }
}

TEST(Nn, Rope) {
  const std::vector<int32_t> positions = {0, 1, 1, 1, 77, 4095, 131071, 1000003, 5};
  const int64_t rows = static_cast<int64_t>(positions.size()), heads = 3;
  for (const int64_t head_dim : {6, 40, 64}) {
    for (const RopePairing pairing : {RopePairing::kHalves, RopePairing::kAdjacent}) {
      const int64_t n = head_dim / 2 - 1;  // two dimensions stay as they are
      std::vector<double> inv_freq;
      for (int64_t i = 0; i < n; ++i) inv_freq.push_back(std::pow(10000.0, -static_cast<double>(i) / n));
      const Mat<float> x = RandomMat(rows, heads * head_dim, 18);
      Expected expected;
      for (int64_t r = 0; r < rows; ++r) {
        for (int64_t c = 0; c < x.cols(); ++c) {
          const int64_t base = c / head_dim * head_dim, d = c % head_dim;
          if (d >= 2 * n) {
            expected.Add(x(r, c), 0);
            continue;
          }
          const bool halves = pairing == RopePairing::kHalves;
          const int64_t i = halves ? d % n : d / 2, first = halves ? i : 2 * i,
                        second = halves ? i + n : 2 * i + 1;
          const double angle = positions[static_cast<size_t>(r)] * inv_freq[static_cast<size_t>(i)];
          const double a = x(r, base + first), b = x(r, base + second);
          const double y = d == first ? a * std::cos(angle) - b * std::sin(angle)
                                      : b * std::cos(angle) + a * std::sin(angle);
          expected.Add(1.25 * y, 4 * 2 * 1.25 * kUlp);  // four roundings of values up to 2.5
        }
      }
      const auto rotated = [&](const Context& context) {
        Mat<float> y(rows, x.cols());
        std::memcpy(y.data(), x.data(), static_cast<size_t>(rows * x.cols()) * sizeof(float));
        Rope(context, y, head_dim, positions, inv_freq, 1.25f, pairing);
        return y;
      };
      CheckOperation(
          "Rope", expected, [&](const Context& context) { return Flat(rotated(context)); }, 1);
      Expected back;  // the inverse scales by the factor once more
      for (int64_t i = 0; i < rows * x.cols(); ++i) {
        const bool kept = i % head_dim >= 2 * n;
        back.Add(x.data()[i] * (kept ? 1.0 : 1.5625), kept ? 0 : 3e-6);
      }
      CheckOperation(
          "Rope inverse", back,
          [&](const Context& context) {
            Mat<float> y = rotated(context);
            Rope(context, y, head_dim, positions, inv_freq, 1.25f, pairing, true);
            return Flat(y);
          },
          1);
    }
  }
}

TEST(Nn, LogSoftmax) {
  for (const int64_t cols : {1, 5, 16, 257, 8191}) {
    const Mat<float> x = RandomMat(6, cols, 19, -12, 12);
    Expected expected;
    for (int64_t i = 0; i < x.rows(); ++i) {
      double max = -1e300, sum = 0;
      for (int64_t j = 0; j < cols; ++j) max = std::max(max, static_cast<double>(x(i, j)));
      for (int64_t j = 0; j < cols; ++j) sum += std::exp(x(i, j) - max);
      for (int64_t j = 0; j < cols; ++j) {
        const double y = x(i, j) - max - std::log(sum);  // two differences of values up to 36, and the sum
        expected.Add(y, 16 * kUlp + kUlp * std::abs(y));
      }
    }
    CheckOperation(
        "LogSoftmax " + std::to_string(cols), expected,
        [&](const Context& context) {
          Mat<float> y(x.rows(), cols);
          std::memcpy(y.data(), x.data(), static_cast<size_t>(x.rows() * cols) * sizeof(float));
          LogSoftmax(context, y);
          return Flat(y);
        },
        1);
  }
}

TEST(Nn, CrossEntropyBackward) {
  const Mat<float> logits = RandomMat(4, 19, 20);
  const std::vector<int32_t> targets = {0, 18, 7, 7};
  const auto loss = [&](const std::vector<double>& z) {
    double sum = 0;
    for (size_t i = 0; i < 4; ++i) {
      double total = 0;
      for (size_t j = 0; j < 19; ++j) total += std::exp(z[i * 19 + j]);
      sum += std::log(total) - z[i * 19 + static_cast<size_t>(targets[i])];
    }
    return sum / 4;
  };
  Expected expected;
  for (size_t i = 0; i < 4 * 19; ++i) expected.Add(Slope(loss, Doubles(logits), i), 1e-6);
  CheckOperation("CrossEntropyBackward", expected, [&](const Context& context) {
    Mat<float> y(4, 19), d(4, 19);
    std::memcpy(y.data(), logits.data(), 4 * 19 * sizeof(float));
    LogSoftmax(context, y);
    EXPECT_NEAR(CrossEntropyBackward(context, y, targets, d), loss(Doubles(logits)), 1e-6);
    return Flat(d);
  });
}

TEST(Nn, SearchesAndSum) {
  for (const size_t n : {0u, 1u, 15u, 16u, 17u, 64u, 1000u}) {
    const Mat<float> m = RandomMat(1, static_cast<int64_t>(n), 21);
    std::vector<float> x = Flat(m);
    double sum = 0;
    for (const float v : x) sum += static_cast<double>(v);
    EXPECT_NEAR(Sum(x), sum, 1e-12);
    EXPECT_EQ(FindNonFinite(x), -1);
    if (n == 0) {
      EXPECT_EQ(ArgMax(x), -1);
      continue;
    }
    const int64_t at = static_cast<int64_t>(n) / 2, last = static_cast<int64_t>(n) - 1;
    x[static_cast<size_t>(at)] = 5;
    x[static_cast<size_t>(last)] = 5;
    EXPECT_EQ(ArgMax(x), at) << n;
    x[0] = kNan;
    EXPECT_EQ(FindNonFinite(x), 0);
    if (at > 0) {
      EXPECT_EQ(ArgMax(x), at) << n;
    }
    x[0] = 0;
    x[static_cast<size_t>(last)] = -kInfinity;
    EXPECT_EQ(FindNonFinite(x), last);
    EXPECT_EQ(ArgMax(std::vector<float>(n, kNan)), -1);
    EXPECT_EQ(ArgMax(std::vector<float>(n, -kInfinity)), 0);
  }
}

}  // namespace
}  // namespace planish

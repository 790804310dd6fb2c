// Refit: scales, zeros and single codes under the full H.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "methods/round/round_test_util.h"
#include "tensor/dtype.h"

namespace planish {
namespace {

using RefitTest = FeedbackTest;

// A coding that RefitSweep starts from: nearest codes on the static grid.
ColumnCoding NearestCoding(const ColumnProblem& problem, ColumnScratch& scratch) {
  ColumnCoding coding = MakeCoding(problem);
  FitStatic(problem, ClipSearch::kMinMax, coding);
  RoundNearest(problem, scratch, coding);
  return coding;
}

TEST_F(RefitTest, RefitNeverRaisesTheLossAndLowersItAtTwoBits) {
  const int64_t n = 160;
  const Mat<float> w = RandomWeights(100, n, 50), h = CorrelatedHessian(n, 600, 51);
  double left_at_2 = 0, left_at_4 = 0;  // of the loss without refit, over all cases
  for (const bool symmetric : {false, true}) {
    for (const int bits : {2, 4}) {
      for (const int64_t group : {64, 0}) {
        const IntegerGrid grid{.bits = bits, .group = group, .symmetric = symmetric};
        double before = std::numeric_limits<double>::infinity();
        double first = 0;
        for (int rounds = 0; rounds <= 3; ++rounds) {
          const FeedbackOptions options{.refit_rounds = rounds};
          const auto site = FactorSite(context_, h, group, options);
          const Rounded rounded = Round(context_, w, h, grid, options);
          const double loss = ExactLoss(w, rounded.matrix, h, site->lambda);
          EXPECT_LE(loss, before * (1 + 1e-6)) << bits << " " << group << " " << rounds;
          before = loss;
          if (rounds == 0) first = loss;
          if (rounds > 0) {
            EXPECT_GT(rounded.rows_refitted, 90);
          }
          for (int64_t k = 0; k < rounded.matrix.scales.rows() * rounded.matrix.scales.cols(); ++k) {
            const float s = rounded.matrix.scales.data()[k];
            ASSERT_TRUE(s > 0 && ToFloat(ToF16(s)) == s);
            ASSERT_LT(rounded.matrix.zeros.data()[k], 1 << bits);
          }
        }
        EXPECT_LT(before, (bits == 2 && group == 64 ? 0.95 : 1.0) * first) << bits << " " << group;
        (bits == 2 ? left_at_2 : left_at_4) += before / first;
      }
    }
  }
  EXPECT_LT(left_at_2, left_at_4);
}

// With one group a sweep without polish is one closed-form solve for the nearest codes' grid.
TEST_F(RefitTest, RefitOfOneGroupIsTheBestGridForItsCodes) {
  const int64_t n = 48;
  const Mat<float> w = RandomWeights(30, n, 52), h = CorrelatedHessian(n, 300, 53);
  for (const bool symmetric : {true, false}) {
    const IntegerGrid grid{.bits = 2, .group = 0, .symmetric = symmetric};
    const auto site = FactorSite(context_, h, 0, {});
    ASSERT_TRUE(site.ok());
    const ColumnProblem problem = MakeProblem(context_, w, *site, grid);
    ColumnScratch scratch;
    ColumnCoding coding = NearestCoding(problem, scratch);
    const IntegerMatrix start = ToMatrix(problem, coding);
    ASSERT_TRUE(RefitSweep(problem, /*polish=*/false, scratch, coding).ok());
    const IntegerMatrix refitted = ToMatrix(problem, coding);
    ASSERT_EQ(DifferentCodes(start, refitted), 0);
    for (int64_t i = 0; i < w.rows(); ++i) {
      // The best scale for each zero by the normal equation w H v / v H v, v = codes - zero, in double.
      double best_loss = std::numeric_limits<double>::infinity(), best_scale = 0;
      int best_zero = 0;
      for (int zero = symmetric ? 2 : 0; zero <= (symmetric ? 2 : 3); ++zero) {
        double whw = 0, whv = 0, vhv = 0;
        for (int64_t j = 0; j < n; ++j) {
          for (int64_t k = 0; k < n; ++k) {
            const double h_jk = h(j, k) + (j == k ? site->lambda : 0.0);
            const double v_j = start.codes(i, j) - zero, v_k = start.codes(i, k) - zero;
            whw += w(i, j) * h_jk * w(i, k);
            whv += w(i, j) * h_jk * v_k;
            vhv += v_j * h_jk * v_k;
          }
        }
        const double loss = whw - whv * whv / vhv;
        if (whv <= 0 || loss >= best_loss) continue;
        best_loss = loss;
        best_scale = whv / vhv;
        best_zero = zero;
      }
      EXPECT_EQ(refitted.zeros(i, 0), best_zero) << i;
      EXPECT_NEAR(refitted.scales(i, 0), best_scale, 0x1p-11 * best_scale) << i;  // half an ulp of fp16
      EXPECT_NEAR(coding.losses[i], best_loss, 1e-3 * best_loss) << i;
    }
  }
}

// H = I and one group with fine zeros: the line of least squares of w on its codes, as far as it is stored.
TEST_F(RefitTest, OfUncorrelatedInputsIsTheLineOfLeastSquares) {
  const int64_t n = 64;
  const Mat<float> w = RandomWeights(30, n, 56);
  Mat<float> h(n, n);
  h.Fill(0.0f);
  for (int64_t j = 0; j < n; ++j) h(j, j) = 1.0f;
  const auto site = FactorSite(context_, h, 0, {});
  ASSERT_TRUE(site.ok());
  const ColumnProblem problem = MakeProblem(context_, w, *site, {.bits = 3, .group = 0, .zero_bits = 8});
  ColumnScratch scratch;
  ColumnCoding coding = NearestCoding(problem, scratch);
  ASSERT_TRUE(RefitSweep(problem, /*polish=*/false, scratch, coding).ok());
  const IntegerMatrix m = ToMatrix(problem, coding);
  for (int64_t i = 0; i < w.rows(); ++i) {
    double a = 0, aa = 0, x = 0, ax = 0, xx = 0;
    for (int64_t j = 0; j < n; ++j) {
      const double code = m.codes(i, j), value = w(i, j);
      a += code / n;
      aa += code * code / n;
      x += value / n;
      ax += code * value / n;
      xx += value * value / n;
    }
    const double slope = (ax - a * x) / (aa - a * a), zero = a - x / slope;
    EXPECT_NEAR(m.zeros(i, 0), zero, 0.51 / 32) << i;  // steps of 2^(3 - 8)
    const double z = m.zeros(i, 0), at_z = (ax - z * x) / (aa - 2 * z * a + z * z);
    EXPECT_NEAR(m.scales(i, 0), at_z, 0x1.01p-11 * at_z) << i;  // half a step of fp16
    const double loss = n * (1 + site->lambda) * (xx - x * x - slope * (ax - a * x));
    EXPECT_NEAR(coding.losses[i], loss, 1e-2 * loss) << i;
    EXPECT_GT(coding.losses[i], loss * (1 - 1e-5)) << i;
  }
}

// Where sweeps change nothing more, the errors' gradient is orthogonal to the codes of every group, and to
// its ones where zeros are stored, as far as half a step of the stored scale or zero could still change it.
TEST_F(RefitTest, IsStationaryInEveryGroup) {
  const int64_t n = 96, size = 32, rows = 20;
  const Mat<float> w = RandomWeights(rows, n, 57), h = CorrelatedHessian(n, 300, 58);
  for (const bool symmetric : {true, false}) {
    const GridSpec grid{.bits = 2, .group = size, .symmetric = symmetric, .zero_bits = symmetric ? 0 : 8};
    const auto site = FactorSite(context_, h, size, {});
    ASSERT_TRUE(site.ok());
    const ColumnProblem problem = MakeProblem(context_, w, *site, grid);
    ColumnScratch scratch;
    ColumnCoding coding = NearestCoding(problem, scratch);
    const IntegerMatrix start = ToMatrix(problem, coding);
    int negative = 0;
    // Of (w - q) H_d over the group, times its values; in units of what half a step of the scale does to it.
    const auto gradients = [&](const IntegerMatrix& m, bool last) {
      Mat<float> q(rows, n);
      Decode(m, q);
      double most = 0;
      for (int64_t i = 0; i < rows; ++i) {
        for (int64_t g = 0; g < n / size; ++g) {
          double scale_gradient = 0, zero_gradient = 0, vhv = 0, ones = 0;
          const double zero = m.zeros(i, g), s = m.scales(i, g);
          for (int64_t j = g * size; j < (g + 1) * size; ++j) {
            const double v = m.codes(i, j) - zero;
            for (int64_t k = 0; k < n; ++k) {
              const double h_jk = h(j, k) + (j == k ? site->lambda : 0.0), e = double{w(i, k)} - q(i, k);
              scale_gradient += v * h_jk * e;
              zero_gradient += h_jk * e;
              if (k / size != g) continue;
              vhv += v * h_jk * (m.codes(i, k) - zero);
              ones += h_jk;
            }
          }
          if (scale_gradient + s * vhv <=
              0) {  // the best scale of these codes is negative, which none can be
            ++negative;
            continue;
          }
          const double half = 0.5 * std::ldexp(1.0, std::ilogb(s) - 10);
          most = std::max(most, std::fabs(scale_gradient) / (vhv * half));
          if (!last) continue;
          EXPECT_LE(std::fabs(scale_gradient), 1.01 * vhv * half) << i << " " << g;
          if (!symmetric && zero > 0 && zero < 4 - grid.ZeroStep()) {
            EXPECT_LE(std::fabs(zero_gradient), 1.01 * ones * s * grid.ZeroStep() / 2) << i << " " << g;
          }
        }
      }
      return most;
    };
    const double before = gradients(start, false);
    for (int sweep = 0; sweep < 200; ++sweep) {
      ASSERT_TRUE(RefitSweep(problem, /*polish=*/false, scratch, coding).ok());
    }
    const IntegerMatrix refitted = ToMatrix(problem, coding);
    EXPECT_EQ(DifferentCodes(start, refitted), 0);
    EXPECT_LT(gradients(refitted, true), 0.1 * before);
    EXPECT_LE(negative, 3);  // of 120
  }
}

// Every code of a polished row is the best one for itself, all others fixed, as far as the sweep went.
TEST_F(RefitTest, PolishLowersTheLossByWhatItSays) {
  const int64_t n = 90;
  const Mat<float> w = RandomWeights(30, n, 54), h = CorrelatedHessian(n, 300, 55);
  const auto site = FactorSite(context_, h, 32, {});
  ASSERT_TRUE(site.ok());
  const ColumnProblem problem = MakeProblem(context_, w, *site, {.bits = 3, .group = 32});
  ColumnScratch scratch;
  ColumnCoding coding = NearestCoding(problem, scratch);
  double before = ExactLoss(w, ToMatrix(problem, coding), h, site->lambda);
  for (int sweep = 0; sweep < 3; ++sweep) {
    ASSERT_TRUE(RefitSweep(problem, /*polish=*/true, scratch, coding).ok());
    const double after = ExactLoss(w, ToMatrix(problem, coding), h, site->lambda);
    double tracked = 0;
    for (const double loss : coding.losses) tracked += loss;
    EXPECT_NEAR(tracked, after, 1e-4 * after);
    EXPECT_LT(after, before);
    before = after;
  }
}

}  // namespace
}  // namespace planish

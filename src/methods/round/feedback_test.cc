#include "methods/round/feedback.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include "methods/round/round_test_util.h"

namespace planish {
namespace {

using ::testing::HasSubstr;

// GPTQ as published, in double: explicit inverse of H_d, upper Cholesky factor U of the inverse
// (H_d^-1 = U^T U), err = (w - q) / U_jj, w[j:] -= err U[j, j:]. Columns in natural order; `new_group` is
// called with the compensated row at the first column of each group.
using GroupHook = std::function<void(int64_t row, int64_t begin, int64_t end, const std::vector<double>& w)>;
void PublishedGptq(const Mat<float>& w, const Mat<float>& h, double lambda, IntegerMatrix& m,
                   const GroupHook& new_group = nullptr) {
  const int64_t n = w.cols(), size = m.grid.GroupSize(n);
  Mat<double> inverse(n, n), work(n, n), u(n, n);
  for (int64_t i = 0; i < n; ++i) {  // Gauss-Jordan; H_d is positive definite, so pivots need no search
    for (int64_t j = 0; j < n; ++j) {
      work(i, j) = h(i, j) + (i == j ? lambda : 0.0);
      inverse(i, j) = i == j;
      u(i, j) = 0;
    }
  }
  for (int64_t p = 0; p < n; ++p) {
    const double pivot = work(p, p);
    for (int64_t j = 0; j < n; ++j) {
      work(p, j) /= pivot;
      inverse(p, j) /= pivot;
    }
    for (int64_t i = 0; i < n; ++i) {
      const double factor = work(i, p);
      for (int64_t j = 0; i != p && j < n; ++j) {
        work(i, j) -= factor * work(p, j);
        inverse(i, j) -= factor * inverse(p, j);
      }
    }
  }
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = i; j < n; ++j) {
      double sum = inverse(i, j);
      for (int64_t k = 0; k < i; ++k) sum -= u(k, i) * u(k, j);
      u(i, j) = i == j ? std::sqrt(sum) : sum / u(i, i);
    }
  }
  for (int64_t r = 0; r < w.rows(); ++r) {
    std::vector<double> row(w.row(r), w.row(r) + n);
    for (int64_t j = 0; j < n; ++j) {
      if (new_group && j % size == 0) new_group(r, j, std::min(n, j + size), row);
      const float scale = m.scales(r, j / size);
      const uint8_t zero = m.zeros(r, j / size);
      m.codes(r, j) = EncodeNearest(static_cast<float>(row[j]), scale, zero, (1 << m.grid.bits) - 1);
      const double err = (row[j] - static_cast<double>(m.codes(r, j) - zero) * scale) / u(j, j);
      for (int64_t k = j; k < n; ++k) row[k] -= err * u(j, k);
    }
  }
}

TEST_F(FeedbackTest, EqualsPublishedGptqCodeForCode) {
  const int64_t n = 100;
  const Mat<float> w = RandomWeights(70, n, 1), h = CorrelatedHessian(n, 400, 2);
  for (const int bits : {2, 3, 4, 8}) {
    for (const int64_t group : {0, 16, 48}) {
      const IntegerGrid grid{.bits = bits, .group = group};
      const auto site = FactorSite(context_, h, group, Plain());
      ASSERT_TRUE(site.ok());
      const IntegerMatrix ours = FeedbackOnly(context_, w, *site, grid, Plain(), /*dynamic=*/false);
      IntegerMatrix published = FitGrid(context_, w, {}, grid, ClipSearch::kMinMax);
      PublishedGptq(w, h, site->lambda, published);
      EXPECT_EQ(DifferentCodes(ours, published), 0) << bits << " bits, group " << group;
    }
  }
}

// LDLQ as published, in double: H_d = L D L^T with L unit lower triangular; from the last column to the
// first, column j is rounded at w_j + sum_{i > j} (w_i - q_i) L_ij. On m's grid.
void PublishedLdlq(const Mat<float>& w, const Mat<float>& h, double lambda, IntegerMatrix& m) {
  const int64_t n = w.cols(), size = m.grid.GroupSize(n);
  Mat<double> l(n, n);
  std::vector<double> d(static_cast<size_t>(n));
  for (int64_t j = 0; j < n; ++j) {
    for (int64_t i = j; i < n; ++i) {
      double sum = h(i, j) + (i == j ? lambda : 0.0);
      for (int64_t k = 0; k < j; ++k) sum -= l(i, k) * d[k] * l(j, k);
      if (i == j) d[j] = sum;
      l(i, j) = sum / d[j];
    }
  }
  for (int64_t r = 0; r < w.rows(); ++r) {
    std::vector<double> errors(static_cast<size_t>(n));
    for (int64_t j = n - 1; j >= 0; --j) {
      double target = w(r, j);
      for (int64_t i = j + 1; i < n; ++i) target += errors[i] * l(i, j);
      const float scale = m.scales(r, j / size), zero = m.zeros(r, j / size);
      m.codes(r, j) = EncodeNearest(static_cast<float>(target), scale, zero, (1 << m.grid.bits) - 1);
      errors[j] = w(r, j) - double{m.codes(r, j) - zero} * scale;
    }
  }
}

// The same map as GPTQ with the columns and H reversed.
TEST_F(FeedbackTest, EqualsPublishedLdlqInReverse) {
  const int64_t n = 96;
  const Mat<float> w = RandomWeights(40, n, 1), h = CorrelatedHessian(n, 400, 2);
  Mat<float> w_reversed(40, n), h_reversed(n, n);
  for (int64_t i = 0; i < 40; ++i) std::reverse_copy(w.row(i), w.row(i) + n, w_reversed.row(i));
  std::reverse_copy(h.data(), h.data() + n * n, h_reversed.data());
  for (const int bits : {2, 4}) {
    for (const int64_t group : {0, 16}) {
      const IntegerGrid grid{.bits = bits, .group = group};
      const auto site = FactorSite(context_, h_reversed, group, Plain());
      ASSERT_TRUE(site.ok());
      const IntegerMatrix ours = FeedbackOnly(context_, w_reversed, *site, grid, Plain(), /*dynamic=*/false);
      IntegerMatrix published = FitGrid(context_, w, {}, grid, ClipSearch::kMinMax);
      PublishedLdlq(w, h, site->lambda, published);
      for (int64_t i = 0; i < 40; ++i) {
        for (int64_t j = 0; j < n; ++j) {
          ASSERT_EQ(ours.codes(i, n - 1 - j), published.codes(i, j)) << bits << " " << group << " " << i;
        }
      }
    }
  }
}

// Dynamic groups take their range from the weights as GPTQ has compensated them, not from W.
TEST_F(FeedbackTest, DynamicGroupsEqualPublishedGptq) {
  const int64_t n = 100;
  const Mat<float> w = RandomWeights(70, n, 1), h = CorrelatedHessian(n, 400, 2);
  for (const int64_t group : {16, 48}) {
    for (const int64_t block : {1, 32, 128}) {
      const IntegerGrid grid{.bits = 3, .group = group};
      FeedbackOptions options = Plain();
      options.block = block;
      const auto site = FactorSite(context_, h, group, options);
      ASSERT_TRUE(site.ok());
      const IntegerMatrix ours = FeedbackOnly(context_, w, *site, grid, options, /*dynamic=*/true);
      IntegerMatrix published = FitGrid(context_, w, {}, grid, ClipSearch::kMinMax);
      PublishedGptq(w, h, site->lambda, published,
                    [&](int64_t row, int64_t begin, int64_t end, const std::vector<double>& compensated) {
                      Mat<float> part(1, end - begin);
                      std::copy(compensated.begin() + begin, compensated.begin() + end, part.data());
                      const IntegerMatrix fitted =
                          FitGrid(context_, part, {}, {.bits = 3, .group = 0}, ClipSearch::kMinMax);
                      published.scales(row, begin / group) = fitted.scales(0, 0);
                      published.zeros(row, begin / group) = fitted.zeros(0, 0);
                    });
      EXPECT_TRUE(SameMatrix(ours, published)) << group << " block " << block;
    }
  }
}

TEST_F(FeedbackTest, ReportedLossesAreTheTraces) {
  const int64_t n = 96;
  const Mat<float> w = RandomWeights(40, n, 3), h = CorrelatedHessian(n, 300, 4);
  for (const int rounds : {0, 2}) {
    for (const ColumnOrder order :
         {ColumnOrder::kNatural, ColumnOrder::kActivation, ColumnOrder::kGroupAware}) {
      const IntegerGrid grid{.bits = 3, .group = 32};
      const FeedbackOptions options{.order = order, .refit_rounds = rounds};
      const Rounded rounded = Round(context_, w, h, grid, options);
      const double exact = ExactLoss(w, rounded.matrix, h);
      EXPECT_NEAR(rounded.loss, exact, 1e-4 * exact);
      Mat<float> w_hat(40, n);
      Decode(rounded.matrix, w_hat);
      EXPECT_NEAR(LayerLoss(context_, w, w_hat, h), exact, 1e-4 * exact);
      const Rounded nearest = Nearest(context_, w, h, grid, ClipSearch::kWeighted);
      EXPECT_NEAR(rounded.loss_nearest, nearest.loss, 1e-4 * nearest.loss);
      EXPECT_NEAR(nearest.loss, ExactLoss(w, nearest.matrix, h), 1e-4 * nearest.loss);
    }
  }
}

TEST_F(FeedbackTest, WeightsOnTheGridStay) {
  const int64_t n = 64;
  const Mat<float> h = CorrelatedHessian(n, 200, 5);
  Mat<float> w(9, n);
  for (int64_t i = 0; i < w.rows(); ++i) {
    // Every group of 16 holds all codes, so min-max finds its grid again.
    for (int64_t j = 0; j < n; ++j) w(i, j) = static_cast<float>((j * 3 + i) % 16 - 5) * 0x1p-7f;
  }
  for (const bool dynamic : {false, true}) {
    FeedbackOptions options{.refit_rounds = 1, .dynamic_groups = dynamic};
    const Rounded rounded = Round(context_, w, h, {.bits = 4, .group = 16}, options);
    EXPECT_EQ(rounded.loss, 0.0);
    Mat<float> w_hat(9, n);
    Decode(rounded.matrix, w_hat);
    EXPECT_TRUE(std::equal(w.data(), w.data() + 9 * n, w_hat.data()));
  }
}

TEST_F(FeedbackTest, DiagonalHessianGivesNearestCodes) {
  const int64_t n = 80;
  const Mat<float> w = RandomWeights(33, n, 6);
  Mat<float> h(n, n);
  h.Fill(0.0f);
  for (int64_t i = 0; i < n; ++i) h(i, i) = 1.0f + static_cast<float>((i * 7) % 13);
  for (const ColumnOrder order :
       {ColumnOrder::kNatural, ColumnOrder::kActivation, ColumnOrder::kGroupAware}) {
    for (const ClipSearch search : {ClipSearch::kMinMax, ClipSearch::kWeighted}) {
      const IntegerGrid grid{.bits = 3, .group = 32};
      const Rounded feedback =
          Round(context_, w, h, grid,
                {.order = order, .search = search, .refit_rounds = 0, .dynamic_groups = false});
      EXPECT_TRUE(SameMatrix(feedback.matrix, Nearest(context_, w, h, grid, search).matrix));
    }
  }
}

TEST_F(FeedbackTest, BlockSizeChangesNoCode) {
  const int64_t n = 150;
  const Mat<float> w = RandomWeights(67, n, 7), h = CorrelatedHessian(n, 500, 8);
  for (const bool dynamic : {false, true}) {
    const IntegerGrid grid{.bits = 3, .group = 32};
    FeedbackOptions options{.refit_rounds = 1, .dynamic_groups = dynamic};
    const Rounded expected = Round(context_, w, h, grid, options);
    for (const int64_t block : {1, 7, 32, 64, 150, 1000}) {
      options.block = block;
      EXPECT_TRUE(SameMatrix(Round(context_, w, h, grid, options).matrix, expected.matrix)) << block;
    }
  }
}

TEST_F(FeedbackTest, LossOrdersNearestFeedbackAndActivationOrder) {
  const int64_t n = 192;
  double nearest = 0, natural = 0, activation = 0, group_aware = 0;
  for (uint64_t seed = 0; seed < 3; ++seed) {
    const Mat<float> w = RandomWeights(64, n, 10 + seed), h = CorrelatedHessian(n, 800, 20 + seed);
    const IntegerGrid grid{.bits = 3, .group = 64};
    FeedbackOptions options = Plain();
    const Rounded plain = Round(context_, w, h, grid, options);
    EXPECT_LT(plain.loss, plain.loss_nearest);
    nearest += plain.loss_nearest;
    natural += plain.loss;
    options.order = ColumnOrder::kActivation;
    activation += Round(context_, w, h, grid, options).loss;
    options.order = ColumnOrder::kGroupAware;
    group_aware += Round(context_, w, h, grid, options).loss;
  }
  EXPECT_LT(natural, 0.5 * nearest);
  EXPECT_LT(activation, natural);
  EXPECT_LT(group_aware, natural);
}

TEST_F(FeedbackTest, NoRowIsWorseThanNearest) {
  // Two bits and a hard clip: exactly where feedback alone loses rows.
  const int64_t n = 64;
  const Mat<float> w = RandomWeights(200, n, 30), h = CorrelatedHessian(n, 40, 31);
  const IntegerGrid grid{.bits = 2, .group = 0};
  const FeedbackOptions options{.damping = 1.0};
  const auto site = FactorSite(context_, h, 0, options);
  ASSERT_TRUE(site.ok());
  const Rounded rounded = Round(context_, w, h, grid, options);
  const Rounded nearest = Nearest(context_, w, h, grid, ClipSearch::kWeighted);
  EXPECT_GT(rounded.rows_nearest, 0);
  EXPECT_LT(rounded.rows_nearest, 200);
  for (int64_t i = 0; i < 200; ++i) {
    Mat<float> row(1, n);
    std::copy_n(w.row(i), n, row.data());
    const auto loss = [&](const IntegerMatrix& m) {
      IntegerMatrix one;
      one.grid = m.grid;
      one.codes.Resize(1, n);
      one.scales.Resize(1, 1);
      one.zeros.Resize(1, 1);
      std::copy_n(m.codes.row(i), n, one.codes.data());
      one.scales(0, 0) = m.scales(i, 0);
      one.zeros(0, 0) = m.zeros(i, 0);
      return ExactLoss(row, one, h, site->lambda);
    };
    EXPECT_LE(loss(rounded.matrix), loss(nearest.matrix) * (1 + 1e-5)) << i;
  }
}

TEST_F(FeedbackTest, FewerTokensThanInputs) {
  const int64_t n = 128;
  const Mat<float> w = RandomWeights(32, n, 40), h = CorrelatedHessian(n, 20, 41);
  const Rounded rounded = Round(context_, w, h, {.bits = 4, .group = 32}, {});
  EXPECT_LT(rounded.loss, 0.5 * rounded.loss_nearest);
}

TEST_F(FeedbackTest, DeadInputsBecomeZeroAndChangeNothingElse) {
  const int64_t n = 70;
  Mat<float> w = RandomWeights(20, n, 42), h = CorrelatedHessian(n, 300, 43);
  for (const int64_t dead : {3, 40, 69}) {
    for (int64_t j = 0; j < n; ++j) h(dead, j) = h(j, dead) = 0.0f;
    for (int64_t i = 0; i < w.rows(); ++i) w(i, dead) = 50.0f;  // must not widen the grid
  }
  const FeedbackOptions options{.refit_rounds = 1};
  const auto site = FactorSite(context_, h, 35, options);
  ASSERT_TRUE(site.ok());
  EXPECT_EQ(site->dead, (std::vector<int32_t>{3, 40, 69}));
  const Rounded rounded = Round(context_, w, h, {.bits = 4, .group = 35}, options);
  Mat<float> w_hat(20, n);
  Decode(rounded.matrix, w_hat);
  for (int64_t i = 0; i < w.rows(); ++i) {
    for (const int64_t dead : {3, 40, 69}) EXPECT_EQ(w_hat(i, dead), 0.0f);
  }
  EXPECT_LT(rounded.loss, 0.5 * rounded.loss_nearest);
  EXPECT_NEAR(rounded.loss, ExactLoss(w, rounded.matrix, h), 1e-4 * rounded.loss);
}

// Whatever the weights of dead inputs are, nothing else sees them: not tables, nor units of rows or of the
// tensor.
TEST_F(FeedbackTest, DeadWeightsReachNoParameterOfAnyGrid) {
  const int64_t n = 96;
  Mat<float> w = RandomWeights(20, n, 42), h = CorrelatedHessian(n, 300, 43);
  for (const int64_t dead : {3, 40, 69}) {
    for (int64_t j = 0; j < n; ++j) h(dead, j) = h(j, dead) = 0.0f;
  }
  const auto decoded = [&](const GridSpec& grid, float weight) {
    for (int64_t i = 0; i < w.rows(); ++i) w(i, 3) = w(i, 40) = w(i, 69) = i % 2 == 0 ? weight : -weight;
    Mat<float> w_hat(w.rows(), n);
    Decode(Round(context_, w, h, grid, {.refit_rounds = 1}).matrix, w_hat);
    return w_hat;
  };
  int grids = 0;
  for (const NamedGrid& named : NamedGrids()) {
    if (named.grid.InBlocks()) continue;  // chosen from the zeroed columns alone
    for (const bool steps : {false, true}) {
      GridSpec grid = named.grid;
      if (steps && grid.scale != ScaleKind::kHalf) continue;
      if (grid.scale == ScaleKind::kHalf) grid.group = 32;
      if (steps) grid.scale = ScaleKind::kSteps, grid.scale_bits = 6;
      const Mat<float> zero = decoded(grid, 0.0f), large = decoded(grid, 50.0f);
      EXPECT_TRUE(std::equal(zero.data(), zero.data() + 20 * n, large.data())) << named.name << steps;
      ++grids;
    }
  }
  EXPECT_GT(grids, 40);
}

TEST_F(FeedbackTest, AllInputsDead) {
  const Mat<float> w = RandomWeights(5, 20, 44);
  Mat<float> h(20, 20);
  h.Fill(0.0f);
  const Rounded rounded = Round(context_, w, h, {.bits = 4, .group = 8}, {.refit_rounds = 1});
  EXPECT_EQ(rounded.loss, 0.0);
  EXPECT_EQ(rounded.matrix.scales(0, 0), 1.0f);
}

TEST_F(FeedbackTest, MoreDampingWhenTheFactorizationFails) {
  // Indefinite: smallest eigenvalue 1 - 1.05, mean diagonal 1. Damping 0.01 fails, 0.1 works.
  Mat<float> h(2, 2);
  h(0, 0) = h(1, 1) = 1.0f;
  h(0, 1) = h(1, 0) = 1.05f;
  const auto site = FactorSite(context_, h, 0, {.damping = 0.01});
  ASSERT_TRUE(site.ok()) << site.error().message;
  EXPECT_EQ(site->retries, 1);
  EXPECT_NEAR(site->lambda, 0.1, 1e-12);
  const auto failed = FactorSite(context_, h, 0, {.damping = 0.01, .max_damping_retries = 0});
  ASSERT_FALSE(failed.ok());
  EXPECT_EQ(failed.error().code, Code::kFailure);
  EXPECT_THAT(failed.error().message, HasSubstr("damping 0.01"));
}

TEST_F(FeedbackTest, BadNumbersAreErrorsThatNameTheirPlace) {
  Mat<float> h = CorrelatedHessian(8, 30, 45), w = RandomWeights(4, 8, 46);
  const auto site = FactorSite(context_, h, 0, {});
  ASSERT_TRUE(site.ok());
  const float inf = std::numeric_limits<float>::infinity();
  for (const float bad : {inf, -inf, std::numeric_limits<float>::quiet_NaN()}) {
    w(2, 5) = bad;
    const auto feedback = RoundWithFeedback(context_, w, *site, {.bits = 4, .group = 0}, {});
    const auto nearest = RoundToNearest(context_, w, h, {.bits = 4, .group = 0}, ClipSearch::kMinMax);
    ASSERT_FALSE(feedback.ok());
    ASSERT_FALSE(nearest.ok());
    EXPECT_THAT(feedback.error().message, HasSubstr("row 2, column 5"));
    EXPECT_THAT(nearest.error().message, HasSubstr("row 2, column 5"));
    EXPECT_EQ(feedback.error().code, Code::kInput);
    Mat<float> bad_h = CorrelatedHessian(8, 30, 45);
    bad_h(1, 6) = bad;
    const auto failed = FactorSite(context_, bad_h, 0, {});
    ASSERT_FALSE(failed.ok());
    EXPECT_THAT(failed.error().message, HasSubstr("(1, 6)"));
  }
  h(3, 3) = -1.0f;
  EXPECT_FALSE(FactorSite(context_, h, 0, {}).ok());
}

TEST_F(FeedbackTest, OrdersByHand) {
  // Diagonal: groups of 3 and a tail of 2.
  const float diag[] = {1, 5, 2, 9, 3, 4, 7, 100};
  Mat<float> h(8, 8);
  h.Fill(0.0f);
  for (int64_t i = 0; i < 8; ++i) h(i, i) = diag[i];
  const auto order = [&](ColumnOrder kind) { return FactorSite(context_, h, 3, {.order = kind})->order; };
  EXPECT_EQ(order(ColumnOrder::kNatural), (std::vector<int32_t>{0, 1, 2, 3, 4, 5, 6, 7}));
  EXPECT_EQ(order(ColumnOrder::kActivation), (std::vector<int32_t>{7, 3, 6, 1, 5, 4, 2, 0}));
  EXPECT_EQ(order(ColumnOrder::kGroupAware), (std::vector<int32_t>{3, 5, 4, 1, 2, 0, 7, 6}));
}

TEST_F(FeedbackTest, SameBitsOnEveryInstructionSetAndThreadCount) {
  const int64_t n = 150;
  const Mat<float> w = RandomWeights(131, n, 60), h = CorrelatedHessian(n, 300, 61);
  for (const bool dynamic : {false, true}) {
    const IntegerGrid grid{.bits = 3, .group = 64};
    const FeedbackOptions options{.refit_rounds = 1, .dynamic_groups = dynamic};
    ThreadPool one(1);
    const Rounded expected = Round(OnPool(one, Isa::kScalar), w, h, grid, options);
    for (const Isa isa : {Isa::kScalar, Isa::kAvx2, Isa::kAvx512}) {
      if (!IsaSupported(isa)) continue;
      for (const int threads : {1, 2, 3, 5}) {
        ThreadPool pool(threads);
        const Rounded rounded = Round(OnPool(pool, isa), w, h, grid, options);
        EXPECT_TRUE(SameMatrix(rounded.matrix, expected.matrix))
            << IsaName(isa) << ", " << threads << " threads";
        EXPECT_EQ(rounded.loss, expected.loss);
        EXPECT_EQ(rounded.loss_nearest, expected.loss_nearest);
      }
    }
  }
}

TEST_F(FeedbackTest, ShapesAndWidths) {
  for (const auto& [rows, cols] : {std::pair<int64_t, int64_t>{1, 1}, {1, 17}, {65, 30}, {3, 200}}) {
    const Mat<float> w = RandomWeights(rows, cols, 70), h = CorrelatedHessian(cols, 2 * cols + 5, 71);
    IntegerMatrix zero = FitGrid(context_, w, {}, {.bits = 2, .group = 0}, ClipSearch::kMinMax);
    for (int64_t i = 0; i < rows; ++i) std::fill_n(zero.codes.row(i), cols, zero.zeros(i, 0));
    const double energy = ExactLoss(w, zero, h);  // w H w
    for (int bits = 2; bits <= 8; ++bits) {
      for (const int64_t group : {0, 16, 1024}) {
        for (const bool symmetric : {false, true}) {
          const Rounded rounded = Round(
              context_, w, h, {.bits = bits, .group = group, .symmetric = symmetric}, {.refit_rounds = 1});
          const double exact = ExactLoss(w, rounded.matrix, h);
          // The refit's products are in fp32, so it cannot tell losses apart below 1e-7 of w H w (only
          // one weight to a row gets there).
          EXPECT_NEAR(rounded.loss, exact, 1e-3 * exact + 3e-7 * energy)
              << rows << "x" << cols << " " << bits;
          EXPECT_LE(rounded.loss, rounded.loss_nearest * 1.0001 + 1e-12);
        }
      }
    }
  }
}

// Every grid that is not in blocks (BlocksTest has those): the loss is that of the decoded weights, feedback
// beats nearest rounding, refit never loses, and all instruction sets agree.
TEST_F(FeedbackTest, EveryGrid) {
  const int64_t n = 40, rows = 35;  // the last group is shorter
  const Mat<float> w = RandomWeights(rows, n, 90), h = CorrelatedHessian(n, 120, 91);
  Mat<float> zero(rows, n);
  zero.Fill(0.0f);
  const double energy = LayerLoss(context_, w, zero, h);
  std::vector<GridSpec> grids = {
      {.bits = 2, .group = 32, .scale = ScaleKind::kSteps, .scale_bits = 6, .zero_bits = 6},
      {.bits = 3, .group = 32, .symmetric = true, .scale = ScaleKind::kSteps}};
  for (const NamedGrid& named : NamedGrids()) {
    if (named.grid.InBlocks()) continue;
    grids.push_back(named.grid);
    if (named.grid.group == 128) grids.back().group = 16;
  }
  for (const GridSpec& grid : grids) {
    for (const bool dynamic : {false, true}) {
      SCOPED_TRACE(GridText(grid) + (dynamic ? " dynamic" : ""));
      double before = std::numeric_limits<double>::infinity();
      for (const int rounds : {0, 1}) {
        const FeedbackOptions options{.refit_rounds = rounds, .dynamic_groups = dynamic};
        const auto site = FactorSite(context_, h, grid.group, options);
        const Rounded rounded = Round(context_, w, h, grid, options);
        // Products are in fp32: losses are not told apart below a ten-millionth of w H w.
        EXPECT_NEAR(rounded.loss, ExactLoss(w, rounded.matrix, h), 1e-3 * rounded.loss + 3e-7 * energy);
        EXPECT_LT(rounded.loss, rounded.loss_nearest);
        const double damped = ExactLoss(w, rounded.matrix, h, site->lambda);
        EXPECT_LE(damped, before * (1 + 1e-6));
        before = damped;
        if (rounds == 0 || !dynamic) continue;
        const Rounded scalar = Round(OnPool(pool_, Isa::kScalar), w, h, grid, options);
        EXPECT_EQ(DifferentCodes(scalar.matrix, rounded.matrix), 0);
        for (int64_t k = 0; k < rounded.matrix.scales.rows() * rounded.matrix.scales.cols(); ++k) {
          const float s = rounded.matrix.scales.data()[k];
          const int64_t row = k / rounded.matrix.scales.cols();
          const auto& units = rounded.matrix.units;
          ASSERT_EQ(StoredScale(grid, units.empty() ? 1.0f : units[units.size() == 1 ? 0 : row], s), s);
        }
      }
    }
  }
}

TEST_F(FeedbackTest, CancelStopsBetweenBlocks) {
  const Mat<float> w = RandomWeights(4, 32, 80), h = CorrelatedHessian(32, 90, 81);
  const auto site = FactorSite(context_, h, 0, {});
  const std::atomic<bool> cancel{true};
  context_.cancel = &cancel;
  const auto rounded = RoundWithFeedback(context_, w, *site, {.bits = 4, .group = 0}, {});
  ASSERT_FALSE(rounded.ok());
  EXPECT_EQ(rounded.error().code, Code::kInterrupted);
}

}  // namespace
}  // namespace planish

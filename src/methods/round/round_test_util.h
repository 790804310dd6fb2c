// What tests of rounding with feedback share.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "grids/grids_test_util.h"
#include "methods/round/columns.h"
#include "methods/round/feedback.h"

namespace planish {

// X^T X / tokens of inputs that are correlated (a few shared directions) and of uneven scale.
inline Mat<float> CorrelatedHessian(int64_t n, int64_t tokens, uint64_t seed) {
  const Random random(seed);
  uint64_t next = 0;
  const int64_t shared = 6;
  Mat<double> mix(shared, n), x(tokens, n);
  for (int64_t i = 0; i < shared * n; ++i) mix.data()[i] = random.Normal(next++);
  for (int64_t t = 0; t < tokens; ++t) {
    double common[shared];
    for (double& c : common) c = 1.5 * random.Normal(next++);
    for (int64_t j = 0; j < n; ++j) {
      x(t, j) = 0.7 * random.Normal(next++);
      for (int64_t k = 0; k < shared; ++k) x(t, j) += common[k] * mix(k, j);
      x(t, j) *= std::exp(0.5 * std::sin(static_cast<double>(j)));
    }
  }
  Mat<float> h(n, n);
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j <= i; ++j) {
      double sum = 0;
      for (int64_t t = 0; t < tokens; ++t) sum += x(t, i) * x(t, j);
      h(i, j) = h(j, i) = static_cast<float>(sum / static_cast<double>(tokens));
    }
  }
  return h;
}

// tr(E H E^T) with `ridge` added to the diagonal, all in double.
inline double ExactLoss(const Mat<float>& w, const IntegerMatrix& m, const Mat<float>& h, double ridge = 0) {
  Mat<float> w_hat(w.rows(), w.cols());
  Decode(m, w_hat);
  double loss = 0;
  for (int64_t i = 0; i < w.rows(); ++i) {
    for (int64_t a = 0; a < w.cols(); ++a) {
      const double e_a = static_cast<double>(w(i, a)) - w_hat(i, a);
      double he = ridge * e_a;
      for (int64_t b = 0; b < w.cols(); ++b) he += h(a, b) * (static_cast<double>(w(i, b)) - w_hat(i, b));
      loss += e_a * he;
    }
  }
  return loss;
}

inline Rounded Round(const Context& context, const Mat<float>& w, const Mat<float>& h,
                     const IntegerGrid& grid, const FeedbackOptions& options) {
  auto site = FactorSite(context, h, grid.group, options);
  EXPECT_TRUE(site.ok()) << site.error().message;
  auto rounded = RoundWithFeedback(context, w, *site, grid, options);
  EXPECT_TRUE(rounded.ok()) << rounded.error().message;
  return std::move(*rounded);
}

inline Rounded Nearest(const Context& context, const Mat<float>& w, const Mat<float>& h,
                       const IntegerGrid& grid, ClipSearch search) {
  auto rounded = RoundToNearest(context, w, h, grid, search);
  EXPECT_TRUE(rounded.ok()) << rounded.error().message;
  return std::move(*rounded);
}

inline int64_t DifferentCodes(const IntegerMatrix& a, const IntegerMatrix& b) {
  int64_t different = 0;
  for (int64_t i = 0; i < a.rows() * a.cols(); ++i) different += a.codes.data()[i] != b.codes.data()[i];
  return different;
}

inline bool SameMatrix(const IntegerMatrix& a, const IntegerMatrix& b) {
  const int64_t groups = a.scales.rows() * a.scales.cols();
  return DifferentCodes(a, b) == 0 &&
         std::equal(a.scales.data(), a.scales.data() + groups, b.scales.data()) &&
         std::equal(a.zeros.data(), a.zeros.data() + groups, b.zeros.data());
}

inline FeedbackOptions Plain() {
  return {.damping = 0.01,
          .order = ColumnOrder::kNatural,
          .search = ClipSearch::kMinMax,
          .dynamic_groups = false};
}

// The feedback pass alone on the min-max grid, without the choice between it and nearest codes.
inline IntegerMatrix FeedbackOnly(const Context& context, const Mat<float>& w, const SiteFactor& site,
                                  const IntegerGrid& grid, const FeedbackOptions& options, bool dynamic) {
  const ColumnProblem problem = MakeProblem(context, w, site, grid);
  ColumnScratch scratch;
  ColumnCoding coding = MakeCoding(problem);
  if (!dynamic) FitStatic(problem, ClipSearch::kMinMax, coding);
  EXPECT_TRUE(RoundFeedback(problem, options, dynamic, scratch, coding).ok());
  return ToMatrix(problem, coding);
}

class FeedbackTest : public ::testing::Test {
 protected:
  ThreadPool pool_{2};
  Context context_ = OnPool(pool_);
};

}  // namespace planish

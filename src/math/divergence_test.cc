#include "math/divergence.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "base/random.h"

namespace planish {
namespace {

// Rows of exact log-probabilities rounded to fp32: logits are normal with the given scale.
Mat<float> RandomLogProbs(int64_t rows, int64_t cols, double scale, uint64_t seed, const Mat<float>* near) {
  const Random random(seed);
  Mat<float> out(rows, cols);
  for (int64_t i = 0; i < rows; ++i) {
    std::vector<double> logits(static_cast<size_t>(cols));
    double sum = 0;
    for (int64_t j = 0; j < cols; ++j) {
      const double base = near == nullptr ? 0.0 : static_cast<double>((*near)(i, j));
      logits[static_cast<size_t>(j)] = base + scale * random.Normal(static_cast<uint64_t>(i * cols + j));
      sum += std::exp(logits[static_cast<size_t>(j)]);
    }
    for (int64_t j = 0; j < cols; ++j) {
      out(i, j) = static_cast<float>(logits[static_cast<size_t>(j)] - std::log(sum));
    }
  }
  return out;
}

long double DirectKl(const float* ref, const float* other, int64_t cols) {
  long double sum = 0;
  for (int64_t j = 0; j < cols; ++j) {
    const long double x = ref[j];
    sum += std::exp(x) * (x - static_cast<long double>(other[j]));
  }
  return sum;
}

TEST(KlRows, MatchesTheFormulaInEveryKernelSet) {
  ThreadPool pool(2);
  for (int64_t cols : {1, 2, 7, 8, 9, 15, 16, 17, 31, 100, 1003}) {
    for (double damage : {3.0, 0.1, 0.001}) {
      const Mat<float> ref = RandomLogProbs(3, cols, 4.0, 1, nullptr);
      const Mat<float> other = RandomLogProbs(3, cols, damage, 2, &ref);
      std::vector<double> scalar(3);
      KlRows(Context{.pool = &pool, .isa = Isa::kScalar}, ref, other, scalar);
      for (Isa isa : kAllIsas) {
        if (!IsaSupported(isa)) continue;
        std::vector<double> kl(3);
        KlRows(Context{.pool = &pool, .isa = isa}, ref, other, kl);
        for (int64_t i = 0; i < 3; ++i) {
          const double got = kl[static_cast<size_t>(i)];
          // exp is good to 1e-11, and the terms that cancel are below the damage each.
          EXPECT_NEAR(got, static_cast<double>(DirectKl(ref.row(i), other.row(i), cols)), 2e-11 * damage * 4)
              << IsaName(isa) << " " << cols;
          if (isa == Isa::kSse4) continue;  // no fused multiply-add: other roundings
          EXPECT_EQ(got, scalar[static_cast<size_t>(i)]) << IsaName(isa) << " " << cols;
        }
      }
    }
  }
}

TEST(KlRows, ExtremesAndEqualRows) {
  ThreadPool pool(1);
  constexpr float kNever = -std::numeric_limits<float>::infinity();
  // Two equal halves against one sure outcome with a share of 2^-k; impossible columns add nothing,
  // also where both distributions call them impossible.
  const float half = std::log(0.5f);
  Mat<float> ref(1, 20), other(1, 20);
  ref.Fill(-3e38f);
  other.Fill(kNever);
  ref(0, 0) = ref(0, 17) = half;
  ref(0, 5) = kNever;
  ref(0, 6) = -699.0f;  // e^-699 is representable: the term is negligible, not invalid
  other(0, 6) = -1.0f;
  other(0, 0) = -1.5f;
  other(0, 17) = -2.5f;
  for (Isa isa : kAllIsas) {
    if (!IsaSupported(isa)) continue;
    std::vector<double> kl(1);
    KlRows(Context{.pool = &pool, .isa = isa}, ref, other, kl);
    EXPECT_NEAR(kl[0], 2.0 + static_cast<double>(half), 1e-7) << IsaName(isa);
    KlRows(Context{.pool = &pool, .isa = isa}, ref, ref, kl);
    EXPECT_EQ(kl[0], 0.0) << IsaName(isa);
    other(0, 17) = kNever;  // possible for the reference, impossible for the other
    KlRows(Context{.pool = &pool, .isa = isa}, ref, other, kl);
    EXPECT_EQ(kl[0], std::numeric_limits<double>::infinity()) << IsaName(isa);
    other(0, 17) = -2.5f;
  }
}

TEST(KlRows, StridedViewsAndThreads) {
  const Mat<float> ref = RandomLogProbs(50, 37, 2.0, 3, nullptr);
  const Mat<float> other = RandomLogProbs(50, 37, 0.5, 4, &ref);
  std::vector<double> expected(50), got(50);
  ThreadPool one(1), five(5);
  KlRows(Context{.pool = &one, .isa = BestIsa()}, ref.view().Cols(3, 21), other.view().Cols(3, 21), expected);
  KlRows(Context{.pool = &five, .isa = BestIsa()}, ref.view().Cols(3, 21), other.view().Cols(3, 21), got);
  EXPECT_EQ(expected, got);
  EXPECT_NEAR(got[49], static_cast<double>(DirectKl(ref.row(49) + 3, other.row(49) + 3, 21)), 1e-10);
}

}  // namespace
}  // namespace planish

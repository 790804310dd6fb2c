#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "base/random.h"
#include "math/factor.h"
#include "math/gemm.h"

namespace planish {
namespace {

void ApplyDense(const Context& context, const void* op, MatView<const float> q, MatView<float> qm) {
  MatMulNN(context, q, static_cast<const Mat<float>*>(op)->view(), qm);
}

Mat<float> Uniform(int64_t rows, int64_t cols, uint64_t seed) {
  const Random random(seed);
  Mat<float> m(rows, cols);
  for (int64_t i = 0; i < rows * cols; ++i)
    m.data()[i] = static_cast<float>(random.Uniform(static_cast<uint64_t>(i)) - 0.5);
  return m;
}

// The Gram matrix of inputs with decaying directions: mixed by a random matrix, condition about 1e4.
Mat<float> CorrelatedGram(const Context& context, int64_t n) {
  Mat<float> mix = Uniform(n, n, 21), h(n, n);
  for (int64_t i = 0; i < n; ++i) {
    const double decay = std::pow(1e-4, 0.5 * static_cast<double>(i) / static_cast<double>(n));
    for (int64_t j = 0; j < n; ++j) mix(i, j) = static_cast<float>(mix(i, j) * decay);
  }
  Gram(context, mix, h);
  double mean = 0;
  for (int64_t i = 0; i < n; ++i) mean += h(i, i) / static_cast<double>(n);
  for (int64_t i = 0; i < n; ++i) h(i, i) += static_cast<float>(1e-4 * mean);
  return h;
}

// E H E^T, symmetric, in fp32.
Mat<float> ErrorGram(const Context& context, const Mat<float>& e, const Mat<float>& h) {
  Mat<float> eh(e.rows(), e.cols()), m(e.rows(), e.rows());
  MatMulNN(context, e, h, eh);
  MatMulNT(context, eh, Weights(e.view()), m);
  for (int64_t i = 0; i < m.rows(); ++i)
    for (int64_t j = 0; j < i; ++j) m(i, j) = m(j, i) = 0.5f * (m(i, j) + m(j, i));
  return m;
}

std::vector<double> ExactValues(const Mat<float>& m) {
  Mat<double> a(m.rows(), m.cols());
  for (int64_t i = 0; i < m.rows() * m.cols(); ++i) a.data()[i] = m.data()[i];
  std::vector<double> values(static_cast<size_t>(m.rows()));
  EXPECT_TRUE(SymmetricEigen(a, values, {}).ok());
  return values;
}

double MaxOffOrthonormal(const Mat<float>& v) {
  double worst = 0;
  for (int64_t i = 0; i < v.rows(); ++i) {
    for (int64_t j = 0; j <= i; ++j) {
      double dot = i == j ? -1 : 0;
      for (int64_t k = 0; k < v.cols(); ++k) dot += static_cast<double>(v(i, k)) * v(j, k);
      worst = std::max(worst, std::isfinite(dot) ? std::abs(dot) : 1e30);
    }
  }
  return worst;
}

// The energy of m in the span of the rows of v, by definition: sum of v m v^T.
double EnergyIn(const Mat<float>& m, const Mat<float>& v) {
  double sum = 0;
  for (int64_t r = 0; r < v.rows(); ++r) {
    for (int64_t i = 0; i < m.rows(); ++i) {
      double row = 0;
      for (int64_t j = 0; j < m.cols(); ++j) row += static_cast<double>(m(i, j)) * v(r, j);
      sum += row * v(r, i);
    }
  }
  return sum;
}

void ExpectCaptures(const Context& context, const Mat<float>& m, int64_t rank, double least) {
  const std::vector<double> exact = ExactValues(m);
  double best = 0;
  for (int64_t i = 0; i < rank; ++i) best += exact[i];
  const auto top = KrylovTopEigen(context, m.rows(), rank, ApplyDense, &m);
  ASSERT_TRUE(top.ok());
  const double captured = EnergyIn(m, (*top).vectors);
  EXPECT_GE(captured, least * best) << "rank " << rank << ", blocks " << (*top).blocks_used;
  double claimed = 0;
  for (double value : (*top).values) claimed += value;
  EXPECT_NEAR(claimed, captured, 1e-5 * captured);
  EXPECT_LT(MaxOffOrthonormal((*top).vectors), 1e-5);
}

TEST(Krylov, CapturesTheEnergyOfRoundingErrorsUnderCorrelatedInputs) {
  ThreadPool pool(2);
  Context context{&pool};
  const Mat<float> m = ErrorGram(context, Uniform(384, 320, 1), CorrelatedGram(context, 320));
  for (int64_t rank : {1, 8, 32, 64}) ExpectCaptures(context, m, rank, 0.9995);
}

TEST(Krylov, CapturesTheEnergyOfWhiteNoise) {
  ThreadPool pool(2);
  Context context{&pool};
  Mat<float> identity(400, 400);
  identity.Fill(0);
  for (int64_t i = 0; i < 400; ++i) identity(i, i) = 1;
  const Mat<float> m = ErrorGram(context, Uniform(400, 400, 2), identity);
  for (int64_t rank : {4, 16, 32}) ExpectCaptures(context, m, rank, 0.9995);
  ExpectCaptures(context, identity, 24, 0.99999);  // all values equal: every direction is a top one
}

TEST(Krylov, BlocksNarrowerThanTheRankAndRepeatedValuesFillUp) {
  // The identity: each block of 5 spans an invariant space, so random rows must fill up to rank 12.
  ThreadPool pool(1);
  Context context{&pool};
  Mat<float> identity(60, 60);
  identity.Fill(0);
  for (int64_t i = 0; i < 60; ++i) identity(i, i) = 1;
  KrylovOptions options;
  options.block = 5;
  const auto top = KrylovTopEigen(context, 60, 12, ApplyDense, &identity, options);
  ASSERT_TRUE(top.ok());
  EXPECT_GT((*top).blocks_used, 0);
  for (double value : (*top).values) EXPECT_NEAR(value, 1, 1e-5);
  EXPECT_LT(MaxOffOrthonormal((*top).vectors), 1e-5);
}

TEST(Krylov, RankDeficientOperatorsGiveZerosAndOrthonormalVectors) {
  ThreadPool pool(2);
  Context context{&pool};
  const int64_t n = 200;
  for (int64_t depth : {0, 1, 7}) {
    const Mat<float> g = Uniform(n, depth, 3);
    Mat<float> m(n, n);
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j < n; ++j) {
        double sum = 0;
        for (int64_t k = 0; k < depth; ++k) sum += static_cast<double>(g(i, k)) * g(j, k);
        m(i, j) = static_cast<float>(sum);
      }
    }
    const std::vector<double> exact = ExactValues(m);
    const auto top = KrylovTopEigen(context, n, 20, ApplyDense, &m);
    ASSERT_TRUE(top.ok());
    EXPECT_GT((*top).blocks_used, 0);
    ASSERT_EQ((*top).values.size(), 20u);
    ASSERT_EQ((*top).vectors.rows(), 20);
    EXPECT_LT(MaxOffOrthonormal((*top).vectors), 1e-5);
    for (int64_t i = 0; i < 20; ++i) {
      const double expected = i < depth ? exact[i] : 0;
      EXPECT_NEAR((*top).values[i], expected, 2e-6 * std::max(exact[0], 1e-30)) << depth << ": " << i;
    }
  }
}

TEST(Krylov, SmallOperatorsTakeTheExactRoute) {
  ThreadPool pool(1);
  Context context{&pool};
  const Mat<float> m = CorrelatedGram(context, 40);
  const std::vector<double> exact = ExactValues(m);
  const auto top = KrylovTopEigen(context, 40, 40, ApplyDense, &m);
  ASSERT_TRUE(top.ok());
  EXPECT_EQ((*top).blocks_used, 0);
  for (int64_t i = 0; i < 40; ++i) EXPECT_NEAR((*top).values[i], exact[i], 1e-6 * exact[0]);
}

TEST(Krylov, SameBytesForAnyNumberOfThreadsOtherBytesForOtherSeeds) {
  ThreadPool one(1);
  const Mat<float> m = CorrelatedGram(Context{&one}, 300);
  const auto first = KrylovTopEigen(Context{&one}, 300, 10, ApplyDense, &m);
  ASSERT_TRUE(first.ok());
  for (int threads : {2, 3}) {
    ThreadPool pool(threads);
    const auto again = KrylovTopEigen(Context{&pool}, 300, 10, ApplyDense, &m);
    ASSERT_TRUE(again.ok());
    EXPECT_EQ(std::memcmp((*again).vectors.data(), (*first).vectors.data(), 10 * 300 * 4), 0);
    EXPECT_EQ((*again).values, (*first).values);
  }
  KrylovOptions options;
  options.seed = 1;
  const auto other = KrylovTopEigen(Context{&one}, 300, 10, ApplyDense, &m, options);
  ASSERT_TRUE(other.ok());
  EXPECT_NE(std::memcmp((*other).vectors.data(), (*first).vectors.data(), 10 * 300 * 4), 0);
}

TEST(Krylov, RefusesNanAndStopsWhenCancelled) {
  ThreadPool pool(1);
  Context context{&pool};
  Mat<float> m(100, 100);
  m.Fill(std::numeric_limits<float>::quiet_NaN());
  const auto nan = KrylovTopEigen(context, 100, 3, ApplyDense, &m);
  ASSERT_FALSE(nan.ok());
  EXPECT_EQ(nan.error().code, Code::kFailure);
  const std::atomic<bool> cancel{true};
  context.cancel = &cancel;
  m.Fill(1);
  const auto stopped = KrylovTopEigen(context, 100, 3, ApplyDense, &m);
  ASSERT_FALSE(stopped.ok());
  EXPECT_EQ(stopped.error().code, Code::kInterrupted);
}

}  // namespace
}  // namespace planish

#include "math/factor.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "base/random.h"

namespace planish {
namespace {

// G G^T + shift I, with G [n, depth] uniform in [-1, 1).
Mat<double> Definite(int64_t n, int64_t depth, double shift, uint64_t seed) {
  const Random random(seed);
  Mat<double> g(n, depth), a(n, n);
  for (int64_t i = 0; i < n * depth; ++i) g.data()[i] = 2 * random.Uniform(static_cast<uint64_t>(i)) - 1;
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      double sum = i == j ? shift : 0;
      for (int64_t k = 0; k < depth; ++k) sum += g(i, k) * g(j, k);
      a(i, j) = sum;
    }
  }
  return a;
}

Mat<float> ToFloat(const Mat<double>& a) {
  Mat<float> f(a.rows(), a.cols());
  for (int64_t i = 0; i < a.rows() * a.cols(); ++i) f.data()[i] = static_cast<float>(a.data()[i]);
  return f;
}

// max |A - R R^T| over max |A|, with the shape of R checked.
template <typename T>
double FactorError(const Mat<T>& a, const Mat<T>& r) {
  const int64_t n = a.rows();
  double error = 0, largest = 0;
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = i; j < n; ++j) {
      double sum = 0;
      for (int64_t k = j; k < n; ++k) sum += static_cast<double>(r(i, k)) * r(j, k);
      error = std::max(error, std::abs(sum - a(i, j)));
      largest = std::max(largest, std::abs(static_cast<double>(a(i, j))));
    }
    for (int64_t j = 0; j < i; ++j) EXPECT_EQ(r(i, j), 0) << i << " " << j;
    EXPECT_GT(r(i, i), 0);
  }
  return error / largest;
}

TEST(Cholesky, HandCheckedTwoByTwo) {
  // R = [[2, 3], [0, 4]]: R R^T = [[13, 12], [12, 16]].
  Mat<double> a(2, 2);
  a(0, 0) = 13, a(0, 1) = a(1, 0) = 12, a(1, 1) = 16;
  ASSERT_TRUE(CholeskyUpper(a).ok());
  EXPECT_DOUBLE_EQ(a(0, 0), 2);
  EXPECT_DOUBLE_EQ(a(0, 1), 3);
  EXPECT_DOUBLE_EQ(a(1, 0), 0);
  EXPECT_DOUBLE_EQ(a(1, 1), 4);
}

TEST(Cholesky, FactorsOfAllSizesMultiplyBack) {
  ThreadPool pool(2);
  Context context{&pool};
  for (int64_t n : {1, 2, 31, 33, 127, 128, 129, 160, 300, 513}) {
    const Mat<double> a = Definite(n, n / 2 + 1, 0.1, static_cast<uint64_t>(n));
    Mat<double> r = Definite(n, n / 2 + 1, 0.1, static_cast<uint64_t>(n));
    ASSERT_TRUE(CholeskyUpper(r).ok());
    EXPECT_LT(FactorError(a, r), 1e-13) << n;
    const Mat<float> a32 = ToFloat(a);
    Mat<float> r32 = ToFloat(a);
    ASSERT_TRUE(CholeskyUpper(context, r32).ok());
    // Each element is a chain of at most n products bounded by the diagonal; roundings average out,
    // so sqrt(n) half ulps with room for a factor of four.
    EXPECT_LT(FactorError(a32, r32), 4 * std::sqrt(n) * 6e-8) << n;
  }
}

TEST(Cholesky, SameBytesForAnyNumberOfThreads) {
  const Mat<double> a = Definite(400, 200, 0.1, 7);
  Mat<float> first = ToFloat(a);
  ThreadPool one(1);
  ASSERT_TRUE(CholeskyUpper(Context{&one}, first).ok());
  for (int threads : {2, 3}) {
    ThreadPool pool(threads);
    Mat<float> r = ToFloat(a);
    ASSERT_TRUE(CholeskyUpper(Context{&pool}, r).ok());
    EXPECT_EQ(std::memcmp(r.data(), first.data(), 400 * 400 * 4), 0) << threads;
  }
}

TEST(Cholesky, ReadsTheUpperTriangleOfAStridedViewOnly) {
  ThreadPool pool(1);
  const int64_t n = 140, stride = 150;
  const Mat<float> a = ToFloat(Definite(n, n, 1, 3));
  Mat<float> plain = ToFloat(Definite(n, n, 1, 3)), wide(n, stride);
  wide.Fill(-5);
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j < n; ++j) wide(i, j) = j >= i ? a(i, j) : std::numeric_limits<float>::quiet_NaN();
  ASSERT_TRUE(CholeskyUpper(Context{&pool}, plain).ok());
  ASSERT_TRUE(CholeskyUpper(Context{&pool}, wide.view().Cols(0, n)).ok());
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < n; ++j) ASSERT_EQ(wide(i, j), plain(i, j)) << i << " " << j;
    for (int64_t j = n; j < stride; ++j) ASSERT_EQ(wide(i, j), -5);
  }
}

TEST(Cholesky, NamesThePivotThatFails) {
  ThreadPool pool(1);
  Mat<double> a = Definite(200, 200, 1, 5);
  a(17, 17) = -3;
  Mat<float> a32 = ToFloat(a);
  const Status status = CholeskyUpper(Context{&pool}, a32);
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().code, Code::kFailure);
  EXPECT_NE(status.error().message.find("200x200 matrix: pivot 17 is -"), std::string::npos)
      << status.error().message;
  EXPECT_FALSE(CholeskyUpper(a).ok());
  Mat<float> nan(3, 3);
  nan.Fill(std::numeric_limits<float>::quiet_NaN());
  EXPECT_FALSE(CholeskyUpper(Context{&pool}, nan).ok());
}

TEST(Cholesky, SolvesSystems) {
  const int64_t n = 37, m = 5;
  const Mat<double> a = Definite(n, n, 0.5, 11), x = Definite(n, 3, 0, 12);
  Mat<double> r = Definite(n, n, 0.5, 11), b(m, n);
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      double sum = 0;
      for (int64_t k = 0; k < n; ++k) sum += x(i, k) * a(k, j);
      b(i, j) = sum;
    }
  }
  ASSERT_TRUE(CholeskyUpper(r).ok());
  SolveCholesky(r, b);
  for (int64_t i = 0; i < m; ++i)
    for (int64_t j = 0; j < n; ++j) EXPECT_NEAR(b(i, j), x(i, j), 1e-10);
}

}  // namespace
}  // namespace planish

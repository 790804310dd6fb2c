#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numbers>

#include "base/random.h"
#include "math/factor.h"

namespace planish {
namespace {

Mat<double> RandomSymmetric(int64_t n, uint64_t seed) {
  const Random random(seed);
  Mat<double> a(n, n);
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j <= i; ++j)
      a(i, j) = a(j, i) = 2 * random.Uniform(static_cast<uint64_t>(i * n + j)) - 1;
  return a;
}

// Residual A v = lambda v, orthonormality, order and sign, all relative to `scale`.
void ExpectEigen(const Mat<double>& a, double scale) {
  const int64_t n = a.rows();
  std::vector<double> values(n), alone(n);
  Mat<double> v(n, n);
  ASSERT_TRUE(SymmetricEigen(a, values, v).ok());
  ASSERT_TRUE(SymmetricEigen(a, alone, {}).ok());
  EXPECT_EQ(values, alone);
  const double tolerance = 1e-14 * static_cast<double>(n + 10);
  for (int64_t i = 0; i < n; ++i) {
    EXPECT_LE(values[i], values[std::max<int64_t>(0, i - 1)]);
    int64_t top = 0;
    for (int64_t j = 0; j < n; ++j) {
      double residual = -values[i] * v(i, j), dot = i == j ? -1 : 0;
      for (int64_t k = 0; k < n; ++k) residual += v(i, k) * a(k, j), dot += v(i, k) * v(j, k);
      ASSERT_NEAR(residual / scale, 0, tolerance) << n << ": " << i << " " << j;
      ASSERT_NEAR(dot, 0, tolerance) << n << ": " << i << " " << j;
      if (std::abs(v(i, j)) > std::abs(v(i, top))) top = j;
    }
    EXPECT_GT(v(i, top), 0);
  }
}

TEST(SymmetricEigen, HandCheckedTwoByTwo) {
  // [[2, 1], [1, 2]]: 3 with (1, 1)/sqrt 2, 1 with (1, -1)/sqrt 2.
  Mat<double> a(2, 2), v(2, 2);
  a(0, 0) = a(1, 1) = 2, a(0, 1) = a(1, 0) = 1;
  std::vector<double> values(2);
  ASSERT_TRUE(SymmetricEigen(a, values, v).ok());
  EXPECT_NEAR(values[0], 3, 1e-15);
  EXPECT_NEAR(values[1], 1, 1e-15);
  EXPECT_NEAR(v(0, 0), std::numbers::sqrt2 / 2, 1e-15);
  EXPECT_NEAR(v(0, 1), std::numbers::sqrt2 / 2, 1e-15);
  EXPECT_NEAR(std::abs(v(1, 0)), std::numbers::sqrt2 / 2, 1e-15);
  EXPECT_NEAR(v(1, 0) + v(1, 1), 0, 1e-15);
}

TEST(SymmetricEigen, SecondDifferencesHaveTheirKnownSpectrum) {
  // Diagonal 2, neighbors -1: values 2 - 2 cos(k pi / (n + 1)).
  const int64_t n = 50;
  Mat<double> a(n, n);
  a.Fill(0);
  for (int64_t i = 0; i < n; ++i) {
    a(i, i) = 2;
    if (i > 0) a(i, i - 1) = a(i - 1, i) = -1;
  }
  std::vector<double> values(n);
  ASSERT_TRUE(SymmetricEigen(a, values, {}).ok());
  for (int64_t i = 0; i < n; ++i)
    EXPECT_NEAR(values[i], 2 - 2 * std::cos(static_cast<double>(n - i) * std::numbers::pi / (n + 1)), 1e-14);
}

TEST(SymmetricEigen, RandomMatricesOfAllSizes) {
  for (int64_t n : {1, 2, 3, 4, 5, 8, 17, 31, 32, 33, 65, 130})
    ExpectEigen(RandomSymmetric(n, 100 + n), std::sqrt(n));
}

TEST(SymmetricEigen, ManyBatchesOfRotations) { ExpectEigen(RandomSymmetric(330, 1), std::sqrt(330)); }

TEST(SymmetricEigen, DegenerateSpectra) {
  Mat<double> zero(20, 20), identity(20, 20), ones(20, 20), blocks(20, 20);
  zero.Fill(0), identity.Fill(0), ones.Fill(1), blocks.Fill(0);
  for (int64_t i = 0; i < 20; ++i) identity(i, i) = 7;
  for (int64_t i = 0; i < 20; ++i)
    for (int64_t j = 0; j < 20; ++j)
      if (i / 5 == j / 5) blocks(i, j) = i == j ? 1 : -0.25;
  for (const Mat<double>* a : {&zero, &identity, &ones, &blocks}) ExpectEigen(*a, 20);
}

TEST(SymmetricEigen, HugeAndTinyNumbers) {
  for (double scale : {1e300, 1e150, 1e-150, 1e-290}) {
    Mat<double> a = RandomSymmetric(12, 5);
    for (int64_t i = 0; i < 144; ++i) a.data()[i] *= scale;
    ExpectEigen(a, scale);
  }
}

TEST(SymmetricEigen, ReadsTheLowerTriangleAndRefusesNan) {
  Mat<double> a = RandomSymmetric(9, 8), upper = RandomSymmetric(9, 8);
  std::vector<double> values(9), again(9);
  for (int64_t i = 0; i < 9; ++i)
    for (int64_t j = i + 1; j < 9; ++j) upper(i, j) = std::numeric_limits<double>::quiet_NaN();
  ASSERT_TRUE(SymmetricEigen(a, values, {}).ok());
  ASSERT_TRUE(SymmetricEigen(upper, again, {}).ok());
  EXPECT_EQ(values, again);
  a(4, 2) = std::numeric_limits<double>::infinity();
  const Status status = SymmetricEigen(a, values, {});
  ASSERT_FALSE(status.ok());
  EXPECT_NE(status.error().message.find("element (4, 2) is not finite"), std::string::npos)
      << status.error().message;
}

}  // namespace
}  // namespace planish

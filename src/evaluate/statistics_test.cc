#include "evaluate/statistics.h"

#include <gtest/gtest.h>

#include <cmath>

namespace planish {
namespace {

TEST(StudentQuantile975, MatchesTables) {
  // To 20 digits by root finding on the incomplete beta function with 40-digit arithmetic (mpmath); df 1
  // to 30 agree with printed tables.
  const struct {
    double df, t;
  } kTable[] = {{1, 12.706204736174704646},   {2, 4.3026527297494638523},  {2.5, 3.5746548420036832185},
                {3, 3.1824463052837095927},   {10, 2.2281388519862747484}, {30, 2.04227245630123831},
                {395, 1.9659878660673017637}, {1e6, 1.9599663568141070353}};
  for (const auto& row : kTable) EXPECT_NEAR(StudentQuantile975(row.df), row.t, 1e-12 * row.t) << row.df;
  // df 1 is the Cauchy distribution, whose quantile is a tangent.
  EXPECT_NEAR(StudentQuantile975(1), std::tan(0.475 * std::acos(-1.0)), 1e-11);
}

TEST(MeanOverWindows, EqualWindowsAreTheTextbookInterval) {
  // Window means 1, 2, 3, 6: mean 3, s^2 = (4 + 1 + 0 + 9) / 3, t(3) = 3.18245.
  const double sums[] = {10, 20, 30, 60};
  const int64_t counts[] = {10, 10, 10, 10};
  const auto result = MeanOverWindows(sums, counts);
  EXPECT_DOUBLE_EQ(result.mean, 3);
  ASSERT_TRUE(result.ci95);
  const double half_width = 3.1824463052837096 * std::sqrt(14.0 / 3 / 4);
  EXPECT_NEAR((*result.ci95)[0], 3 - half_width, 1e-12);
  EXPECT_NEAR((*result.ci95)[1], 3 + half_width, 1e-12);
}

TEST(MeanOverWindows, WeightsByPositions) {
  // Means 2 (weight 3) and 4 (weight 1): mean 10 / 4; deviations times weights are -1.5 and 1.5.
  const double sums[] = {6, 4};
  const int64_t counts[] = {3, 1};
  const auto result = MeanOverWindows(sums, counts);
  EXPECT_DOUBLE_EQ(result.mean, 2.5);
  const double half_width = 12.706204736174705 * std::sqrt(2.0 / 1 * (2.25 + 2.25)) / 4;
  EXPECT_NEAR((*result.ci95)[1], 2.5 + half_width, 1e-11);
  EXPECT_NEAR((*result.ci95)[0], 2.5 - half_width, 1e-11);
}

TEST(MeanOverWindows, OneWindowHasNoInterval) {
  const double sums[] = {6};
  const int64_t counts[] = {3};
  const auto result = MeanOverWindows(sums, counts);
  EXPECT_EQ(result.mean, 2);
  EXPECT_FALSE(result.ci95);
}

TEST(LinearQuantile, BetweenNeighbors) {
  const double values[] = {1, 2, 4, 8};
  EXPECT_DOUBLE_EQ(LinearQuantile(values, 0), 1);
  EXPECT_DOUBLE_EQ(LinearQuantile(values, 1), 8);
  EXPECT_DOUBLE_EQ(LinearQuantile(values, 0.5), 3);
  EXPECT_NEAR(LinearQuantile(values, 0.99), 4 + 0.97 * 4, 1e-12);
  EXPECT_EQ(LinearQuantile(std::span(values).first(1), 0.99), 1);
}

}  // namespace
}  // namespace planish

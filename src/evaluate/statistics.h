// The statistics of an evaluation: means with confidence intervals over windows, and quantiles.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace planish {

using Interval = std::array<double, 2>;  // low, high

// The t with P(T <= t) = 0.975 for Student's distribution with `df` >= 1 degrees of freedom: half the
// width of a 95 % interval in standard errors. Relative error below 1e-12.
double StudentQuantile975(double df);

struct MeanWithInterval {
  double mean = 0;
  std::optional<Interval> ci95;  // absent with fewer than two windows
};

// Mean over positions from sums over windows: mean = sum_j sums[j] / sum_j counts[j].
//
// Neighboring positions are not independent, so the interval treats windows as the sample: each
// window's mean m_j with weight w_j = counts[j] (windows may differ in length). The variance of the
// weighted mean is the linearized one of a ratio estimator (Cochran, Sampling Techniques, 3rd ed.,
// section 6.4), n / (n - 1) * sum_j (w_j (m_j - mean))^2 / (sum_j w_j)^2; with equal weights that is
// s^2 / n. The interval is mean -/+ t * its root, t Student's for n - 1 degrees of freedom.
// counts[j] > 0; at least one window.
MeanWithInterval MeanOverWindows(std::span<const double> sums, std::span<const int64_t> counts);

// The value at position q (n - 1) of the sorted values, linear between neighbors; q in [0, 1].
// `sorted` ascending and not empty.
double LinearQuantile(std::span<const double> sorted, double q);

}  // namespace planish

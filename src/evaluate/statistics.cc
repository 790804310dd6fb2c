#include "evaluate/statistics.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "base/check.h"

namespace planish {
namespace {

// Gamma(a + 1/2) / Gamma(a), a > 0: the asymptotic series in 1 / a, after the recurrence has moved a
// to where its first neglected term is below 1e-15. (libm's lgamma keeps a global and cancels here.)
double GammaRatio(double a) {
  double factor = 1;
  for (; a < 64; a += 1) factor *= a / (a + 0.5);
  const double u = 1 / a;
  const double series =
      1 + u * (-1.0 / 8 +
               u * (1.0 / 128 +
                    u * (5.0 / 1024 + u * (-21.0 / 32768 + u * (-399.0 / 262144 + u * 869.0 / 4194304)))));
  return factor * std::sqrt(a) * series;
}

// The continued fraction of the incomplete beta function (DLMF 8.17.22), by Lentz's method.
double BetaFraction(double a, double b, double x) {
  constexpr double kTiny = 1e-300;
  const auto away_from_zero = [](double v) { return std::abs(v) < kTiny ? kTiny : v; };
  double c = 1, d = 1 / away_from_zero(1 - (a + b) * x / (a + 1)), value = d;
  for (int m = 1; m < 100000; ++m) {
    const double even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m));
    d = 1 / away_from_zero(1 + even * d);
    c = away_from_zero(1 + even / c);
    value *= c * d;
    const double odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1));
    d = 1 / away_from_zero(1 + odd * d);
    c = away_from_zero(1 + odd / c);
    value *= c * d;
    if (std::abs(c * d - 1) < 1e-16) break;
  }
  return value;
}

// P(T > t), t > 0: half of I_x(df / 2, 1/2) at x = df / (df + t^2) (DLMF 8.17).
double StudentUpperTail(double df, double t) {
  const double a = df / 2, b = 0.5;
  const double x = df / (df + t * t), y = t * t / (df + t * t);
  // x^a y^b / B(a, b)
  const double front =
      std::exp(-a * std::log1p(t * t / df)) * std::sqrt(y) * GammaRatio(a) / std::sqrt(std::numbers::pi);
  // Both forms converge here; near x = 1 the first denominator of the direct one would cancel.
  if (x < 0.5) return 0.5 * front / a * BetaFraction(a, b, x);
  return 0.5 * (1 - front / b * BetaFraction(b, a, y));
}

double StudentDensity(double df, double t) {
  return GammaRatio(df / 2) / std::sqrt(df * std::numbers::pi) *
         std::exp(-(df + 1) / 2 * std::log1p(t * t / df));
}

}  // namespace

double StudentQuantile975(double df) {
  PLANISH_CHECK(df >= 1) << df;
  // The tail is convex and falling for t > 0 and the normal quantile is below every Student one, so
  // Newton's method climbs to the root from the left.
  double t = 1.959963984540054;
  for (int i = 0; i < 100; ++i) {
    const double step = (StudentUpperTail(df, t) - 0.025) / StudentDensity(df, t);
    t += step;
    if (std::abs(step) < 1e-14 * t) break;
  }
  return t;
}

MeanWithInterval MeanOverWindows(std::span<const double> sums, std::span<const int64_t> counts) {
  PLANISH_CHECK(!sums.empty() && sums.size() == counts.size()) << sums.size() << " " << counts.size();
  double sum = 0;
  int64_t count = 0;
  for (size_t j = 0; j < sums.size(); ++j) {
    PLANISH_CHECK(counts[j] > 0) << "window " << j;
    sum += sums[j];
    count += counts[j];
  }
  MeanWithInterval out{.mean = sum / static_cast<double>(count)};
  if (sums.size() < 2) return out;
  double squares = 0;
  for (size_t j = 0; j < sums.size(); ++j) {
    const double deviation = sums[j] - static_cast<double>(counts[j]) * out.mean;  // w_j (m_j - mean)
    squares += deviation * deviation;
  }
  const auto n = static_cast<double>(sums.size());
  const double error = std::sqrt(n / (n - 1) * squares) / static_cast<double>(count);
  const double half_width = StudentQuantile975(n - 1) * error;
  out.ci95 = {out.mean - half_width, out.mean + half_width};
  return out;
}

double LinearQuantile(std::span<const double> sorted, double q) {
  PLANISH_CHECK(!sorted.empty() && q >= 0 && q <= 1) << sorted.size() << " values, q " << q;
  const double position = q * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<size_t>(position);
  const size_t above = std::min(below + 1, sorted.size() - 1);
  const double fraction = position - static_cast<double>(below);
  return sorted[below] + fraction * (sorted[above] - sorted[below]);
}

}  // namespace planish

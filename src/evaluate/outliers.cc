#include "evaluate/outliers.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <vector>

namespace planish {
namespace {

constexpr int64_t kPanel = 64;                     // rows read at a time by one task
constexpr int64_t kWaveBytes = int64_t{32} << 20;  // of partial results, unless a panel has more
constexpr int kBins = 1 << 15;                     // sign dropped, upper 16 bits of a float
constexpr double kTopShare = 0.001;

struct Partial {
  double max = 0, sum2 = 0, sum4 = 0;
};

// Energy in the top share, taking whole bins from above and part of the last one.
double TopEnergy(const std::vector<int64_t>& counts, double total) {
  int64_t all = 0;
  for (int64_t c : counts) all += c;
  double left = kTopShare * static_cast<double>(all), energy = 0;
  for (int bin = kBins - 1; bin >= 0 && left > 0; --bin) {
    const auto mid = static_cast<double>(std::bit_cast<float>(static_cast<uint32_t>(bin) << 16 | 0x8000u));
    const double take = std::min(left, static_cast<double>(counts[static_cast<size_t>(bin)]));
    if (take > 0) energy += take * mid * mid;
    left -= take;
  }
  return total > 0 ? std::min(1.0, energy / total) : 0;
}

}  // namespace

OutlierStats MeasureOutliers(const Context& context, const Matrix& matrix) {
  const int64_t panels = (matrix.rows + kPanel - 1) / kPanel;
  std::vector<Partial> partials(static_cast<size_t>(panels));
  std::vector<int64_t> counts(kBins);
  const int64_t panels_per_wave = std::max<int64_t>(1, kWaveBytes / (2 * kPanel * matrix.cols));
  for (int64_t first = 0; first < panels; first += panels_per_wave) {
    const int64_t wave = std::min(panels_per_wave, panels - first);
    std::vector<std::vector<uint16_t>> bins(static_cast<size_t>(wave));
    context.pool->ParallelFor(wave, [&](int64_t p) {
      const int64_t row = (first + p) * kPanel, rows = std::min(kPanel, matrix.rows - row);
      Mat<float> w(rows, matrix.cols);
      ReadRows(matrix, row, rows, 0, matrix.cols, w.data(), matrix.cols);
      Partial& partial = partials[static_cast<size_t>(first + p)];
      auto& own = bins[static_cast<size_t>(p)];
      own.reserve(static_cast<size_t>(rows * matrix.cols));
      for (int64_t i = 0; i < rows * matrix.cols; ++i) {
        const double x = w.data()[i];
        partial.max = std::max(partial.max, std::abs(x));
        partial.sum2 += x * x;
        partial.sum4 += x * x * x * x;
        own.push_back(static_cast<uint16_t>(std::bit_cast<uint32_t>(w.data()[i]) >> 16 & 0x7fffu));
      }
    });
    for (const auto& own : bins) {
      for (uint16_t bin : own) ++counts[bin];
    }
  }
  OutlierStats stats;
  double sum2 = 0, sum4 = 0;
  for (const auto& p : partials) {
    stats.absmax = std::max(stats.absmax, p.max);
    sum2 += p.sum2;
    sum4 += p.sum4;
  }
  const auto n = static_cast<double>(matrix.rows * matrix.cols);
  stats.rms = std::sqrt(sum2 / n);
  stats.kurtosis = sum2 > 0 ? sum4 * n / (sum2 * sum2) : 0;
  stats.top_energy = TopEnergy(counts, sum2);
  return stats;
}

}  // namespace planish

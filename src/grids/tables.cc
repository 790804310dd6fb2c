#include "grids/tables.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <utility>

#include "base/check.h"
#include "grids/cluster.h"
#include "grids/fit_support.h"

namespace planish {
namespace {

// Values of a whole tensor are first put into this many bins of equal width: a 16-level table has borders
// to 1/256 of a level's width then, and bins keep their exact moments.
constexpr int kBins = 4096;

// Ascending, byte by byte from the last: a comparison that goes either way costs more than these four passes.
void SortByValue(std::vector<WeightedValue>& values) {
  const auto key = [](float value) {
    const auto bits = std::bit_cast<uint32_t>(value);
    return bits ^ ((bits >> 31) != 0 ? 0xffffffffu : 0x80000000u);
  };
  uint32_t ends[4][256] = {};
  for (const WeightedValue& v : values) {
    for (int byte = 0; byte < 4; ++byte) ++ends[byte][key(v.value) >> (8 * byte) & 255];
  }
  std::vector<WeightedValue> sorted(values.size());
  for (int byte = 0; byte < 4; ++byte) {
    uint32_t begin = 0;
    for (uint32_t& end : ends[byte]) begin += std::exchange(end, begin);
    for (const WeightedValue& v : values) sorted[ends[byte][key(v.value) >> (8 * byte) & 255]++] = v;
    values.swap(sorted);
  }
}

// Weight of column j, or one where all are zero.
std::vector<float> ColumnWeights(std::span<const float> h, int64_t cols) {
  std::vector<float> weights(h.begin(), h.end());
  if (std::all_of(weights.begin(), weights.end(), [](float x) { return x == 0; })) weights.assign(cols, 1.0f);
  return weights;
}

std::vector<float> TensorTable(const Context& context, MatView<const float> w, const std::vector<float>& h,
                               const GridMatrix& m) {
  const int64_t size = m.grid.GroupSize(w.cols);
  // Rows in a fixed number of parts, added in order: the same sums for any number of threads.
  constexpr int64_t kParts = 16;
  float largest = 0;
  for (int64_t i = 0; i < w.rows; ++i) {
    for (int64_t j = 0; j < w.cols; ++j)
      largest = std::max(largest, std::fabs(w(i, j)) / m.scales(i, j / size));
  }
  if (!(largest > 0)) return StoredLevels(std::vector<float>{0.0f}, m.grid.bits);
  std::vector<std::vector<PointSums>> parts(kParts, std::vector<PointSums>(kBins));
  context.pool->ParallelFor(kParts, [&](int64_t part) {
    for (int64_t i = w.rows * part / kParts; i < w.rows * (part + 1) / kParts; ++i) {
      for (int64_t j = 0; j < w.cols; ++j) {
        const double s = m.scales(i, j / size), x = w(i, j) / s;
        const auto bin = static_cast<int64_t>((x / largest + 1) * (kBins / 2));
        parts[part][std::clamp<int64_t>(bin, 0, kBins - 1)].Add(x, h[j] * s * s);
      }
    }
  });
  std::vector<PointSums> points;
  for (int b = 0; b < kBins; ++b) {
    PointSums sum;
    for (const auto& part : parts) {
      sum.weight += part[b].weight;
      sum.first += part[b].first;
    }
    if (sum.weight > 0) points.push_back(sum);
  }
  return BestCenters(std::move(points), m.grid.NumLevels());
}

// The table of columns [begin, end) of a row, over its scales.
std::vector<float> RowTable(MatView<const float> w, const std::vector<float>& h, const GridMatrix& m,
                            int64_t row, int64_t begin, int64_t end) {
  const int64_t size = m.grid.GroupSize(w.cols);
  std::vector<WeightedValue> values;
  for (int64_t j = begin; j < end; ++j) {
    const float s = m.scales(row, j / size);
    values.push_back({w(row, j) / s, h[j] * s * s});
  }
  return KMeansLevels(std::move(values), m.grid.NumLevels());
}

void SetTable(std::vector<float> levels, bool normalize, int bits, float* out) {
  float largest = 0;
  for (const float level : levels) largest = std::max(largest, std::fabs(level));
  for (float& level : levels)
    level = normalize && largest > 0 ? level / largest : std::clamp(level, -65504.0f, 65504.0f);
  levels = StoredLevels(std::move(levels), bits);
  std::copy(levels.begin(), levels.end(), out);
}

// All tables for the scales of m.
Mat<float> TablesFor(const Context& context, MatView<const float> w, const std::vector<float>& h,
                     const GridMatrix& m) {
  const GridSpec& grid = m.grid;
  const int64_t groups = grid.NumGroups(w.cols), size = grid.GroupSize(w.cols);
  Mat<float> tables(grid.NumTables(w.rows, w.cols), grid.NumLevels());
  const bool normalize = grid.scale != ScaleKind::kNone;
  if (grid.tables == TableScope::kTensor) {
    SetTable(TensorTable(context, w, h, m), normalize, grid.bits, tables.row(0));
    return tables;
  }
  context.pool->ParallelFor(w.rows, [&](int64_t i) {
    if (grid.tables == TableScope::kRow) {
      SetTable(RowTable(w, h, m, i, 0, w.cols), normalize, grid.bits, tables.row(i));
      return;
    }
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t end = std::min(w.cols, (g + 1) * size);
      SetTable(RowTable(w, h, m, i, g * size, end), false, grid.bits, tables.row(i * groups + g));
    }
  });
  return tables;
}

// Tables of rows, every level moved to the mean of what is nearest to it.
Mat<float> MeansOfCodes(const Context& context, MatView<const float> w, const std::vector<float>& h,
                        GridMatrix& m) {
  EncodeAll(context, w, m);
  const int64_t size = m.grid.GroupSize(w.cols), count = m.grid.NumLevels();
  Mat<float> tables(w.rows, count);
  context.pool->ParallelFor(w.rows, [&](int64_t i) {
    std::vector<PointSums> sums(count);
    for (int64_t j = 0; j < w.cols; ++j) {
      const double s = m.scales(i, j / size);
      sums[m.codes(i, j)].Add(w(i, j) / s, h[j] * s * s);
    }
    std::vector<float> levels(count);
    for (int64_t k = 0; k < count; ++k) {
      levels[k] = sums[k].weight > 0 ? static_cast<float>(sums[k].first / sums[k].weight) : m.levels(i, k);
    }
    SetTable(std::move(levels), /*normalize=*/true, m.grid.bits, tables.row(i));
  });
  return tables;
}

// Weighted error of nearest rounding with these levels.
double ErrorOf(const Context& context, MatView<const float> w, const std::vector<float>& h,
               const GridSpec& grid, const std::vector<float>& levels, ClipSearch search) {
  Mat<float> table(1, grid.NumLevels());
  std::copy(levels.begin(), levels.end(), table.data());
  const GridFitter fitter(grid, std::move(table));
  GridMatrix m = AllocateGrid(fitter, w.rows, w.cols);
  FitGroups(context, w, h, fitter, search, m);
  EncodeAll(context, w, m);
  std::vector<double> errors(w.rows);
  context.pool->ParallelFor(w.rows, [&](int64_t i) {
    std::vector<float> q(w.cols);
    DecodeRow(m, i, 0, w.cols, q.data());
    for (int64_t j = 0; j < w.cols; ++j)
      errors[i] += h[j] * (double{w(i, j)} - q[j]) * (double{w(i, j)} - q[j]);
  });
  double sum = 0;
  for (const double e : errors) sum += e;
  return sum;
}

// Golden section: 7 judgements leave an interval of 0.8 * 0.618^6 = 0.045, in which the error moves by less
// than 1 %.
std::vector<float> BestPower(const Context& context, MatView<const float> w, const std::vector<float>& h,
                             GridSpec grid, ClipSearch search) {
  grid.scale = ScaleKind::kHalf;
  const int64_t step = std::max<int64_t>(1, (w.rows + 47) / 48), rows = (w.rows + step - 1) / step;
  Mat<float> sample(rows, w.cols);
  for (int64_t i = 0; i < rows; ++i) std::copy_n(w.row(i * step), w.cols, sample.row(i));
  const auto levels = [&](double a) { return StoredLevels(PowerLevels(grid.bits, a), grid.bits); };
  const auto error = [&](double a) { return ErrorOf(context, sample, h, grid, levels(a), search); };
  constexpr double kGolden = 0.6180339887498949;
  double low = 0.2, high = 1.0, x = high - kGolden * (high - low), y = low + kGolden * (high - low);
  double at_x = error(x), at_y = error(y);
  for (int i = 0; i < 5; ++i) {
    if (at_x <= at_y) {
      high = y;
      y = x;
      at_y = at_x;
      x = high - kGolden * (high - low);
      at_x = error(x);
    } else {
      low = x;
      x = y;
      at_x = at_y;
      y = low + kGolden * (high - low);
      at_y = error(y);
    }
  }
  const double best = at_x <= at_y ? x : y;
  return levels(error(1.0) <= std::min(at_x, at_y) ? 1.0 : best);
}

}  // namespace

std::vector<float> KMeansLevels(std::vector<WeightedValue> values, int count) {
  PLANISH_CHECK(!values.empty() && count > 0);
  SortByValue(values);
  const bool weighted =
      std::any_of(values.begin(), values.end(), [](const WeightedValue& v) { return v.weight > 0; });
  std::vector<PointSums> points;
  float last = 0;
  for (const WeightedValue& v : values) {
    const double weight = weighted ? v.weight : 1.0;
    if (weight == 0) continue;
    if (points.empty() || v.value != last) points.emplace_back();
    points.back().Add(v.value, weight);
    last = v.value;
  }
  return BestCenters(std::move(points), count);
}

std::vector<float> PowerLevels(int bits, double exponent) {
  const int top = (1 << (bits - 1)) - 1;
  std::vector<float> levels;
  for (int q = -top; q <= top; ++q) {
    const double magnitude = std::pow(std::abs(q) / static_cast<double>(top), 1 / exponent);
    levels.push_back(static_cast<float>(q < 0 ? -magnitude : magnitude));
  }
  return levels;
}

Mat<float> LearnLevels(const Context& context, MatView<const float> w, std::span<const float> h,
                       const GridSpec& grid, ClipSearch search) {
  const std::vector<float> weights = ColumnWeights(h, w.cols);
  if (grid.levels == LevelKind::kPower) {
    Mat<float> levels(1, grid.NumLevels());
    const std::vector<float> best = BestPower(context, w, weights, grid, search);
    std::copy(best.begin(), best.end(), levels.data());
    return levels;
  }
  GridSpec work = grid;
  if (work.scale != ScaleKind::kNone) work.scale = ScaleKind::kHalf;
  Mat<float> tables(grid.NumTables(w.rows, w.cols), grid.NumLevels());
  const Mat<float> normal = FixedLevels({.bits = grid.bits, .levels = LevelKind::kNormal});
  for (int64_t t = 0; t < tables.rows(); ++t) std::copy_n(normal.data(), normal.cols(), tables.row(t));
  // One table is cheap to cluster. For tables of rows the levels of a normal distribution only begin, and the
  // last round moves levels to means.
  const bool one = grid.tables == TableScope::kTensor;
  const int rounds = grid.scale == ScaleKind::kNone ? 1 : one ? 3 : 2;
  for (int round = 0; round < rounds; ++round) {
    const GridFitter fitter(work, std::move(tables));
    GridMatrix m = AllocateGrid(fitter, w.rows, w.cols);
    FitGroups(context, w, weights, fitter, one || round > 0 ? search : ClipSearch::kMinMax, m);
    tables = one || round == 0 ? TablesFor(context, w, weights, m) : MeansOfCodes(context, w, weights, m);
  }
  return tables;
}

GridFitter MakeFitter(const Context& context, MatView<const float> w, std::span<const float> h,
                      const GridSpec& grid, ClipSearch search) {
  return grid.Learned() ? GridFitter(grid, LearnLevels(context, w, h, grid, search)) : GridFitter(grid);
}

}  // namespace planish

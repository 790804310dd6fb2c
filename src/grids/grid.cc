#include "grids/grid.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>

#include <fmt/format.h>

#include "base/check.h"
#include "grids/fit_support.h"
#include "grids/gguf_fit.h"
#include "tensor/dtype.h"

namespace planish {
namespace {

int64_t RunBytes(int64_t count, int bits) { return (count * bits + 7) / 8; }

// std::nextafter(x, -infinity) of finite x, as vectors can do it.
float NextBelow(float x) {
  const auto bits = std::bit_cast<int32_t>(x);
  const int32_t below = bits > 0 ? bits - 1 : bits + 1;
  return std::bit_cast<float>(x == 0.0f ? int32_t{INT32_MIN} + 1 : below);
}

}  // namespace

int64_t GridBytes(const GridSpec& grid, int64_t rows, int64_t cols) {
  if (grid.InBlocks()) return rows * GgufRowBytes(FitGgufType(grid.block_type, cols), cols);
  const int64_t groups = rows * grid.NumGroups(cols);
  int64_t bytes = rows * RunBytes(cols, grid.bits);
  if (grid.HasZeros()) bytes += RunBytes(groups, grid.ZeroBits());
  if (grid.NumSets() > 1) bytes += RunBytes(groups, 2);
  if (!grid.Uniform()) bytes += 2 * grid.NumTables(rows, cols) * grid.NumLevels();
  switch (grid.scale) {
    case ScaleKind::kHalf:
      return bytes + 2 * groups;
    case ScaleKind::kSteps:
      return bytes + RunBytes(groups, grid.scale_bits) + 2 * rows;
    case ScaleKind::kE8M0:
      return bytes + groups;
    case ScaleKind::kE4M3:
      return bytes + groups + 4;
    case ScaleKind::kNone:
      return bytes;
  }
  return bytes;
}

int64_t GridMatrix::StoredBytes() const { return GridBytes(grid, rows(), cols()); }

void DecodeRow(const GridMatrix& matrix, int64_t row, int64_t col, int64_t count, float* out) {
  const int64_t size = matrix.grid.GroupSize(matrix.cols());
  const uint8_t* codes = matrix.codes.row(row) + col;
  for (int64_t done = 0; done < count;) {
    const int64_t group = (col + done) / size;
    const int64_t end = std::min(count, (group + 1) * size - col);
    const float scale = matrix.scales(row, group);
    if (matrix.grid.Uniform()) {
      const float zero = matrix.zeros(row, group);
      for (; done < end; ++done) out[done] = (static_cast<float>(codes[done]) - zero) * scale;
    } else {
      const float* levels = matrix.LevelsOf(row, group);
      for (; done < end; ++done) out[done] = levels[codes[done]] * scale;
    }
  }
}

void Decode(const GridMatrix& matrix, MatView<float> out) {
  PLANISH_CHECK(out.rows == matrix.rows() && out.cols == matrix.cols());
  for (int64_t i = 0; i < out.rows; ++i) DecodeRow(matrix, i, 0, out.cols, out.row(i));
}

uint8_t EncodeNearest(float w, float scale, float zero, int max_code) {
  const float whole = std::nearbyint(zero), part = zero - whole;
  const float lo = -whole, hi = static_cast<float>(max_code) - whole;
  return static_cast<uint8_t>(std::clamp(std::nearbyint(w / scale + part), lo, hi) - lo);
}

uint8_t EncodeNearest(float w, const float* mids, int count) {
  int code = 0;
  for (int i = 1; i < count; ++i) {
    if (w > mids[i]) code = i;
  }
  return static_cast<uint8_t>(code);
}

void Midpoints(const GridSpec& grid, const float* values, int count, float* mids, int lanes) {
  const bool minifloat = grid.levels == LevelKind::kMinifloat;
  int zero = 0;
  while (minifloat && zero < count && values[zero * lanes] != 0.0f) ++zero;
  for (int i = 1; i < count; ++i) {
    // A minifloat's codes count its magnitudes from 0 on, so that every second value is even.
    const bool upper = minifloat && (i - zero) % 2 == 0;
    const float *low = values + (i - 1) * lanes, *high = low + lanes;
    float* mid = mids + i * lanes;
    for (int r = 0; r < lanes; ++r) {
      mid[r] = 0.5f * (low[r] + high[r]);
      const float below = NextBelow(mid[r]);
      mid[r] = upper && low[r] < high[r] ? below : mid[r];
    }
  }
}

float StoredScale(const GridSpec& grid, float unit, float s) {
  switch (grid.scale) {
    case ScaleKind::kHalf:
      return ToFloat(ToF16(std::clamp(s, 0x1p-24f, 65504.0f)));
    case ScaleKind::kSteps: {
      const auto most = static_cast<float>((1 << grid.scale_bits) - 1);
      return std::clamp(std::nearbyint(s / unit), 1.0f, most) * unit;
    }
    case ScaleKind::kE8M0: {
      int exponent;
      const float mantissa = std::frexp(std::clamp(s, 0x1p-100f, 0x1p100f), &exponent);
      return std::ldexp(1.0f, mantissa < 0.75f ? exponent - 1 : exponent);
    }
    case ScaleKind::kE4M3: {
      const float t = std::clamp(grid.unit_divides ? s * unit : s / unit, 0x1p-9f, 448.0f);
      const int exponent = std::max(std::ilogb(t), -6);
      const float stored = std::ldexp(std::nearbyint(std::ldexp(t, 3 - exponent)), exponent - 3);
      return grid.unit_divides ? stored / unit : stored * unit;
    }
    case ScaleKind::kNone:
      return 1.0f;
  }
  return s;
}

void GridFitter::Describe(int64_t row, std::vector<float>& own, PanelFit& fit) const {
  fit.bits = grid_.bits;
  fit.symmetric = grid_.symmetric;
  fit.zero_step = grid_.Uniform() ? grid_.ZeroStep() : 1.0f;
  constexpr ScaleForm kForms[] = {ScaleForm::kHalf, ScaleForm::kSteps, ScaleForm::kPowerOfTwo,
                                  ScaleForm::kE4M3};
  PLANISH_CHECK(grid_.scale != ScaleKind::kNone);
  fit.scale = kForms[static_cast<int>(grid_.scale)];
  fit.max_steps = static_cast<float>((1 << grid_.scale_bits) - 1);
  fit.levels = grid_.Uniform() ? nullptr : panel_levels_.data();
  fit.guide = guide_.view();
  fit.num_sets = grid_.NumSets();
  if (grid_.tables == TableScope::kTensor) return;
  own.resize(levels_.cols() * kPanelRows);
  for (int64_t r = 0; r < kPanelRows; ++r) {
    const float* levels = LevelsOf(row + r, 0, 1, 0);
    for (int64_t k = 0; k < levels_.cols(); ++k) own[k * kPanelRows + r] = levels[k];
  }
  fit.levels = own.data();
}

GridFitter::GridFitter(const GridSpec& grid, Mat<float> learned) : grid_(grid) {
  if (grid.Uniform()) return;
  levels_ = grid.Learned() ? std::move(learned) : FixedLevels(grid);
  PLANISH_CHECK(levels_.cols() == grid.NumLevels()) << levels_.cols();
  if (grid.tables != TableScope::kTensor) return;
  if (grid.NumSets() == 1) guide_ = LevelGuide({levels_.data(), static_cast<size_t>(levels_.cols())});
  const int64_t count = levels_.rows() * levels_.cols();
  panel_levels_.resize(count * kPanelRows);
  for (int64_t k = 0; k < count; ++k) {
    std::fill_n(panel_levels_.data() + k * kPanelRows, kPanelRows, levels_.data()[k]);
  }
}

void FitGroups(const Context& context, MatView<const float> w, std::span<const float> h,
               const GridFitter& fitter, ClipSearch search, GridMatrix& matrix) {
  const GridSpec& grid = fitter.grid();
  const int64_t groups = grid.NumGroups(w.cols), size = grid.GroupSize(w.cols);
  if (grid.scale == ScaleKind::kNone) {
    matrix.scales.Fill(1.0f);
    return;
  }
  std::vector<std::vector<float>> panels(context.pool->NumThreads());
  const int64_t num_panels = (w.rows + kPanelRows - 1) / kPanelRows;
  context.pool->ParallelFor(num_panels, [&](int64_t p, int worker) {
    const int64_t row = p * kPanelRows, rows = std::min(kPanelRows, w.rows - row);
    std::vector<float>& panel = panels[worker];
    panel.assign(std::min(size, w.cols) * kPanelRows, 0.0f);
    std::vector<float> levels;
    float scales[kPanelRows], zeros[kPanelRows], units[kPanelRows];
    uint8_t sets[kPanelRows] = {};
    for (int64_t r = 0; r < kPanelRows; ++r) {
      const int64_t n = static_cast<int64_t>(matrix.units.size());
      units[r] = n == 0 ? 1.0f : matrix.units[n == 1 ? 0 : std::min(row + r, n - 1)];
    }
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t col = g * size, cols = std::min(size, w.cols - col);
      for (int64_t r = 0; r < rows; ++r) {
        const float* from = w.row(row + r) + col;
        for (int64_t k = 0; k < cols; ++k) panel[k * kPanelRows + r] = from[k];
      }
      PanelFit fit{.w = panel.data(),
                   .ld = kPanelRows,
                   .cols = cols,
                   .h = h.empty() ? nullptr : h.data() + col,
                   .search = search == ClipSearch::kWeighted,
                   .scales = scales,
                   .zeros = zeros,
                   .units = units,
                   .sets = sets};
      fitter.Describe(row, levels, fit);
      FitPanel(context.isa, fit);
      for (int64_t r = 0; r < rows; ++r) {
        matrix.scales(row + r, g) = scales[r];
        if (grid.Uniform()) matrix.zeros(row + r, g) = zeros[r];
        if (grid.NumSets() > 1) matrix.sets(row + r, g) = sets[r];
      }
    }
  });
}

GridMatrix AllocateGrid(const GridFitter& fitter, int64_t rows, int64_t cols) {
  GridMatrix matrix;
  matrix.grid = fitter.grid();
  const int64_t groups = matrix.grid.NumGroups(cols);
  matrix.codes.Resize(rows, cols);
  matrix.scales.Resize(rows, groups);
  if (matrix.grid.Uniform()) matrix.zeros.Resize(rows, groups);
  if (matrix.grid.NumSets() > 1) matrix.sets.Resize(rows, groups);
  const Mat<float>& levels = fitter.levels();
  matrix.levels.Resize(levels.rows(), levels.cols());
  std::copy_n(levels.data(), levels.rows() * levels.cols(), matrix.levels.data());
  return matrix;
}

float LargestMagnitude(MatView<const float> w) {
  float largest = 0;
  for (int64_t i = 0; i < w.rows; ++i) {
    for (int64_t j = 0; j < w.cols; ++j) largest = std::max(largest, std::fabs(w(i, j)));
  }
  return largest;
}

namespace {

// The least power of two under which the largest block scale, amax / top, is at most 448, the largest FP8.
// Whether a file multiplies by it or divides by its inverse, and in which order, the values are the same.
float UnitOfBytes(float largest, float top) {
  const float least = largest / (top * 448.0f);
  if (!(least > 0x1p-100f)) return 1.0f;
  int exponent;
  const float mantissa = std::frexp(least, &exponent);
  return std::ldexp(1.0f, mantissa == 0.5f ? exponent - 1 : exponent);
}

}  // namespace

std::vector<float> FitUnits(const Context& context, MatView<const float> w, std::span<const float> h,
                            const GridFitter& fitter, ClipSearch search, float largest) {
  const GridSpec& grid = fitter.grid();
  if (grid.scale == ScaleKind::kE4M3) {
    const float top = grid.Uniform() ? static_cast<float>((1 << (grid.bits - 1)))
                                     : fitter.levels()(0, fitter.levels().cols() - 1);
    return {UnitOfBytes(largest > 0 ? largest : LargestMagnitude(w), top)};
  }
  if (grid.scale != ScaleKind::kSteps) return {};
  // A first fit with fp16 scales says how large a row's scales are. A sixteenth of the steps is left above
  // the largest, because feedback and refit may ask for a larger one.
  GridSpec wide = grid;
  wide.scale = ScaleKind::kHalf;
  GridMatrix first = AllocateGrid(fitter, w.rows, w.cols);
  FitGroups(context, w, h, GridFitter(wide, std::move(first.levels)), search, first);
  const auto steps = static_cast<float>((1 << grid.scale_bits) - 1);
  std::vector<float> units(w.rows);
  for (int64_t i = 0; i < w.rows; ++i) {
    float widest = 0;
    for (int64_t g = 0; g < first.scales.cols(); ++g) widest = std::max(widest, first.scales(i, g));
    units[i] = ToFloat(ToF16(std::clamp(widest * 1.0625f / steps, 0x1p-24f, 65504.0f / steps)));
  }
  return units;
}

GridMatrix FitGrid(const Context& context, MatView<const float> w, std::span<const float> h,
                   const GridSpec& grid, ClipSearch search, float largest) {
  const std::string wrong = CheckGrid(grid);
  PLANISH_CHECK(wrong.empty()) << wrong;
  PLANISH_CHECK(h.empty() || static_cast<int64_t>(h.size()) == w.cols) << h.size();
  if (w.rows == 0 || w.cols == 0) {
    GridMatrix empty;
    empty.grid = grid;
    return empty;
  }
  const GridFitter fitter = MakeFitter(context, w, h, grid, search);
  GridMatrix matrix = AllocateGrid(fitter, w.rows, w.cols);
  matrix.units = FitUnits(context, w, h, fitter, search, largest);
  FitGroups(context, w, h, fitter, search, matrix);
  return matrix;
}

void EncodeAll(const Context& context, MatView<const float> w, GridMatrix& matrix) {
  const GridSpec& grid = matrix.grid;
  const int64_t size = grid.GroupSize(w.cols);
  context.pool->ParallelFor(w.rows, [&](int64_t i) {
    float values[256], mids[256];
    for (int64_t j = 0; j < w.cols; ++j) {
      const int64_t g = j / size;
      const float scale = matrix.scales(i, g);
      if (grid.Uniform()) {
        matrix.codes(i, j) = EncodeNearest(w(i, j), scale, matrix.zeros(i, g), grid.NumLevels() - 1);
        continue;
      }
      if (j % size == 0) {
        const float* levels = matrix.LevelsOf(i, g);
        for (int k = 0; k < grid.NumLevels(); ++k) values[k] = levels[k] * scale;
        Midpoints(grid, values, grid.NumLevels(), mids);
      }
      matrix.codes(i, j) = EncodeNearest(w(i, j), mids, grid.NumLevels());
    }
  });
}

}  // namespace planish

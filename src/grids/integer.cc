#include "grids/integer.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/check.h"
#include "grids/integer_fit.h"

namespace planish {

int64_t IntegerMatrix::StoredBytes() const {
  const int64_t groups = grid.NumGroups(cols());
  const int64_t code_bytes = (cols() * grid.bits + 7) / 8;
  const int64_t zero_bytes = grid.symmetric ? 0 : (rows() * groups * grid.bits + 7) / 8;
  return rows() * (code_bytes + 2 * groups) + zero_bytes;
}

void DecodeRow(const IntegerMatrix& matrix, int64_t row, int64_t col, int64_t count, float* out) {
  const int64_t size = matrix.grid.GroupSize(matrix.cols());
  const uint8_t* codes = matrix.codes.row(row) + col;
  for (int64_t done = 0; done < count;) {
    const int64_t group = (col + done) / size;
    const int64_t end = std::min(count, (group + 1) * size - col);
    const float scale = matrix.scales(row, group);
    const int zero = matrix.zeros(row, group);
    for (; done < end; ++done) out[done] = static_cast<float>(codes[done] - zero) * scale;
  }
}

void Decode(const IntegerMatrix& matrix, MatView<float> out) {
  PLANISH_CHECK(out.rows == matrix.rows() && out.cols == matrix.cols());
  for (int64_t i = 0; i < out.rows; ++i) DecodeRow(matrix, i, 0, out.cols, out.row(i));
}

uint8_t EncodeNearest(float w, float scale, uint8_t zero, int max_code) {
  const float lo = -static_cast<float>(zero), hi = static_cast<float>(max_code - zero);
  return static_cast<uint8_t>(std::clamp(std::nearbyint(w / scale), lo, hi) - lo);
}

IntegerMatrix FitGrid(const Context& context, MatView<const float> w, std::span<const float> h,
                      const IntegerGrid& grid, ClipSearch search) {
  PLANISH_CHECK(grid.bits >= 2 && grid.bits <= 8) << grid.bits;
  PLANISH_CHECK(grid.group >= 0) << grid.group;
  PLANISH_CHECK(h.empty() || static_cast<int64_t>(h.size()) == w.cols) << h.size();
  IntegerMatrix matrix;
  matrix.grid = grid;
  if (w.rows == 0 || w.cols == 0) return matrix;
  const int64_t groups = grid.NumGroups(w.cols), size = grid.GroupSize(w.cols);
  matrix.codes.Resize(w.rows, w.cols);
  matrix.scales.Resize(w.rows, groups);
  matrix.zeros.Resize(w.rows, groups);

  std::vector<std::vector<float>> panels(context.pool->NumThreads());
  const int64_t num_panels = (w.rows + kPanelRows - 1) / kPanelRows;
  context.pool->ParallelFor(num_panels, [&](int64_t p, int worker) {
    const int64_t row = p * kPanelRows, rows = std::min(kPanelRows, w.rows - row);
    std::vector<float>& panel = panels[worker];
    panel.assign(std::min(size, w.cols) * kPanelRows, 0.0f);
    float scales[kPanelRows], zeros[kPanelRows];
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t col = g * size, cols = std::min(size, w.cols - col);
      for (int64_t r = 0; r < rows; ++r) {
        const float* from = w.row(row + r) + col;
        for (int64_t k = 0; k < cols; ++k) panel[k * kPanelRows + r] = from[k];
      }
      FitPanel(context.isa, {.w = panel.data(),
                             .ld = kPanelRows,
                             .cols = cols,
                             .h = h.empty() ? nullptr : h.data() + col,
                             .bits = grid.bits,
                             .symmetric = grid.symmetric,
                             .search = search == ClipSearch::kWeighted,
                             .scales = scales,
                             .zeros = zeros});
      for (int64_t r = 0; r < rows; ++r) {
        matrix.scales(row + r, g) = scales[r];
        matrix.zeros(row + r, g) = static_cast<uint8_t>(zeros[r]);
      }
    }
  });
  return matrix;
}

}  // namespace planish

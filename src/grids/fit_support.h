// What a grid means to the kernel that fits groups: used by FitGrid and by rounding methods that fit groups
// on their way.
#pragma once

#include <vector>

#include "grids/fit.h"
#include "grids/grid.h"
#include "grids/level_guide.h"

namespace planish {

class GridFitter {
 public:
  // `learned`: the levels [grid.NumTables, 2^bits] of a learned grid.
  explicit GridFitter(const GridSpec& grid, Mat<float> learned = {});
  // Fills what depends on the grid: bits, zeros, form of scales, levels of the panel at `row`; `own` keeps
  // levels that differ by row. The rest is the caller's. Not for scales of kind kNone, which are 1.
  void Describe(int64_t row, std::vector<float>& own, PanelFit& fit) const;
  const GridSpec& grid() const { return grid_; }
  // To the levels, where all rows have the same and they are many.
  GuideView guide() const { return guide_.view(); }
  const Mat<float>& levels() const { return levels_; }  // [grid.NumTables, 2^bits], empty: uniform
  // Of a row, which may be one of the padding, and a group.
  const float* LevelsOf(int64_t row, int64_t g, int64_t num_groups, int set) const {
    const int64_t table = grid_.TableOf(row, g, num_groups, set);
    return levels_.row(table < levels_.rows() ? table : levels_.rows() - 1);
  }

 private:
  GridSpec grid_;
  Mat<float> levels_;
  std::vector<float> panel_levels_;  // [sets][2^bits][kPanelRows]
  LevelGuide guide_;
};

// The fitter for w: learns the levels where the grid's are learned (h as in FitGrid).
GridFitter MakeFitter(const Context& context, MatView<const float> w, std::span<const float> h,
                      const GridSpec& grid, ClipSearch search);
// Units of scales: [rows] for kSteps, [1] for kE4M3 (`largest` as in FitGrid), else none.
std::vector<float> FitUnits(const Context& context, MatView<const float> w, std::span<const float> h,
                            const GridFitter& fitter, ClipSearch search, float largest);
// Scales, zeros and sets of every row and group; the matrix has its sizes, units and levels.
void FitGroups(const Context& context, MatView<const float> w, std::span<const float> h,
               const GridFitter& fitter, ClipSearch search, GridMatrix& matrix);
// A matrix of the fitter's grid without codes and parameters.
GridMatrix AllocateGrid(const GridFitter& fitter, int64_t rows, int64_t cols);

}  // namespace planish

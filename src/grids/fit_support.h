// What a grid means to the kernel that fits groups: used by FitGrid and by rounding methods that fit groups
// on their way.
#pragma once

#include <vector>

#include "grids/fit.h"
#include "grids/grid.h"

namespace planish {

class GridFitter {
 public:
  explicit GridFitter(const GridSpec& grid);
  // Fills what depends on the grid: bits, zeros, form of scales, levels. The rest is the caller's.
  void Describe(PanelFit& fit) const;
  const GridSpec& grid() const { return grid_; }
  const Mat<float>& levels() const { return levels_; }  // [sets, 2^bits], empty: uniform

 private:
  GridSpec grid_;
  Mat<float> levels_;
  std::vector<float> panel_levels_;  // [sets][2^bits][kPanelRows]
};

}  // namespace planish

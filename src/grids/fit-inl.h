// The body of FitPanel over Lanes: see fit.h. Included by fit*.cc only.
#pragma once

#include "grids/fit_levels-inl.h"
#include "grids/fit_uniform-inl.h"

namespace planish {
namespace {

inline void FitPanelBody(const PanelFit& fit) {
  for (int64_t row = 0; row < kPanelRows; row += Lanes::kWidth) {
    if (fit.levels == nullptr) {
      FitUniformLanes(fit, row);
    } else {
      FitLevelLanes(fit, row);
    }
  }
}

}  // namespace
}  // namespace planish

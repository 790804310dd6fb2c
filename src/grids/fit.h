// The search for the parameters of one group of columns in a panel of rows: the kernel under
// FitGrid, also called by rounding methods that keep their weights in panels already.
#pragma once

#include <cstdint>

#include "base/cpu.h"

namespace planish {

// Rows that a kernel call works on. Panels are stored by columns (row index fastest), so the inner
// loops run over rows, which are independent: 64 rows are four AVX-512 or eight AVX2 registers.
inline constexpr int64_t kPanelRows = 64;

// How scales are stored, as kernels see it (ScaleKind of grid.h).
enum class ScaleForm : uint8_t { kHalf, kSteps, kPowerOfTwo, kE4M3 };

// A LevelGuide (level_guide.h) as kernels see it; null: none.
struct GuideView {
  const float* start = nullptr;
  int shift = 0, steps = 0, distinct = 0;
};

struct PanelFit {
  const float* w = nullptr;  // column k of the group, row r: w[k * ld + r]
  int64_t ld = 0;
  int64_t cols = 0;
  const float* h = nullptr;  // [cols] weights >= 0 of the columns, or null: all ones
  int bits = 4;
  bool symmetric = false;
  bool search = true;       // false: min-max
  float* scales = nullptr;  // [kPanelRows] out
  float* zeros = nullptr;   // [kPanelRows] out, multiples of zero_step; not written with levels
  float zero_step = 1;      // 1 or a negative power of two
  ScaleForm scale = ScaleForm::kHalf;
  float max_steps = 255;         // kSteps
  const float* units = nullptr;  // [kPanelRows], kSteps and kE4M3
  // With levels: sets [num_sets][2^bits][kPanelRows], ascending in every row, and chosen sets out.
  const float* levels = nullptr;
  GuideView guide;  // to the levels
  int num_sets = 1;
  uint8_t* sets = nullptr;  // [kPanelRows] out
};

// The same bits on every instruction set. w must be finite.
void FitPanel(Isa isa, const PanelFit& fit);

void FitPanelScalar(const PanelFit& fit);
#if defined(__x86_64__)
void FitPanelAvx2(const PanelFit& fit);
void FitPanelAvx512(const PanelFit& fit);
#endif

}  // namespace planish

// The search for scale and zero of one group of columns in a panel of rows: the kernel under
// FitGrid, also called by rounding methods that keep their weights in panels already.
#pragma once

#include <cstdint>

#include "base/cpu.h"

namespace planish {

// Rows that a kernel call works on. Panels are stored by columns (row index fastest), so the inner
// loops run over rows, which are independent: 64 rows are four AVX-512 or eight AVX2 registers.
inline constexpr int64_t kPanelRows = 64;

struct PanelFit {
  const float* w = nullptr;  // column k of the group, row r: w[k * ld + r]
  int64_t ld = 0;
  int64_t cols = 0;
  const float* h = nullptr;  // [cols] weights >= 0 of the columns, or null: all ones
  int bits = 4;
  bool symmetric = false;
  bool search = true;       // false: min-max
  float* scales = nullptr;  // [kPanelRows] out
  float* zeros = nullptr;   // [kPanelRows] out, whole numbers
};

// The same bits on every instruction set. w must be finite.
void FitPanel(Isa isa, const PanelFit& fit);

void FitPanelScalar(const PanelFit& fit);
#if defined(__x86_64__)
void FitPanelAvx2(const PanelFit& fit);
void FitPanelAvx512(const PanelFit& fit);
#endif

}  // namespace planish

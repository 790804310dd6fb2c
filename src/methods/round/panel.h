// The kernel of error feedback: one panel of rows through a block of columns.
#pragma once

#include <cstdint>

#include "base/cpu.h"
#include "grids/fit.h"

namespace planish {

// Matrices are stored by columns (row index fastest), `ld` floats apart; a panel is kPanelRows rows.
// Three kinds of index: w and codes are read at columns[j], the grid at groups[j], and acc, e, the
// coefficients and inv_diag at the position j inside the block.
struct PanelBlock {
  const float* w = nullptr;
  uint8_t* codes = nullptr;
  const float* scales = nullptr;  // [groups] x ld
  const float* zeros = nullptr;
  const int32_t* columns = nullptr;
  const int32_t* groups = nullptr;
  float* acc = nullptr;  // in: sums of fed-back error from outside the block; out: complete sums
  float* e = nullptr;    // out: w - q
  int64_t ld = 0;
  const float* coefficients = nullptr;  // [j * coefficients_ld + i] = weight of error i in column j, i < j
  int64_t coefficients_ld = 0;
  const float* inv_diag = nullptr;  // t_j = w_j + acc_j * inv_diag[j]
  // How a value is made of its code: (code - zero) * scale with a whole zero or any; (code + low_code) *
  // scale
  // + zero; the IQ4 table's entry times scale; or one of `values`. Scales may be negative in the last three.
  enum class Form : uint8_t { kWhole, kFine, kMinimum, kTable, kValues } form = Form::kWhole;
  float max_code = 0;
  float low_code = 0;  // kMinimum
  // kValues, one group at a time: the values [num_levels][kPanelRows] of its codes, ascending in
  // every row, and the midpoints between value i - 1 and i at [i]. Zeros are not read then, scales only
  // for a guide to the values over the scales.
  const float* values = nullptr;
  const float* midpoints = nullptr;
  GuideView guide;
  int num_levels = 0;
};

// For columns j in [begin, end): acc_j += sum_{begin <= i < j} e_i c_ij, i ascending; then
// q_j = the nearest value of the grid to t_j (EncodeNearest) and e_j = w_j - q_j.
void RoundPanel(Isa isa, const PanelBlock& block, int64_t begin, int64_t end);
// For columns j in [begin, end): acc_j += sum_{first <= i < last} e_i c_ij. With last = begin, RoundPanel
// from `begin` continues the same chain of fused multiply-adds.
void FeedPanel(Isa isa, const PanelBlock& block, int64_t first, int64_t last, int64_t begin, int64_t end);
// What columns [begin, end) would be if their errors could cancel all that was fed into them: t_j as in
// RoundPanel with q_j = t_j, so that (E R)_j = 0. targets[(j - begin) * kPanelRows + row]. Overwrites e of
// these columns and leaves acc.
void TargetPanel(Isa isa, const PanelBlock& block, int64_t begin, int64_t end, float* targets);

void RoundPanelScalar(const PanelBlock& block, int64_t begin, int64_t end);
void FeedPanelScalar(const PanelBlock& block, int64_t first, int64_t last, int64_t begin, int64_t end);
void TargetPanelScalar(const PanelBlock& block, int64_t begin, int64_t end, float* targets);
#if defined(__x86_64__)
void RoundPanelAvx2(const PanelBlock& block, int64_t begin, int64_t end);
void FeedPanelAvx2(const PanelBlock& block, int64_t first, int64_t last, int64_t begin, int64_t end);
void TargetPanelAvx2(const PanelBlock& block, int64_t begin, int64_t end, float* targets);
void RoundPanelAvx512(const PanelBlock& block, int64_t begin, int64_t end);
void FeedPanelAvx512(const PanelBlock& block, int64_t first, int64_t last, int64_t begin, int64_t end);
void TargetPanelAvx512(const PanelBlock& block, int64_t begin, int64_t end, float* targets);
#endif

}  // namespace planish

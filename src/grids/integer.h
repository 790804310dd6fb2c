// Integer grids: code q in [0, 2^bits), value (q - zero) * scale, one (scale, zero) for each row and
// group of `group` consecutive columns. Everything that another program needs to decode is in
// IntegerMatrix; the packing of codes into bits belongs to the artifact and the exporters.
#pragma once

#include <cstdint>

#include "base/context.h"
#include "tensor/view.h"

namespace planish {

// Plain data: what the grid is, not how it is found.
struct IntegerGrid {
  int bits = 4;            // 2 to 8
  int64_t group = 128;     // columns that share a scale; 0: the whole row
  bool symmetric = false;  // zero fixed at 2^(bits-1) and not stored
  int64_t GroupSize(int64_t cols) const { return group == 0 ? cols : group; }
  int64_t NumGroups(int64_t cols) const { return (cols + GroupSize(cols) - 1) / GroupSize(cols); }
};

// A matrix on the grid. The last group of a row may be shorter.
struct IntegerMatrix {
  IntegerGrid grid;
  Mat<uint8_t> codes;  // [rows, cols], one code a byte
  Mat<float> scales;   // [rows, groups], every value exactly representable in fp16, > 0
  Mat<uint8_t> zeros;  // [rows, groups], in [0, 2^bits); filled also when symmetric
  int64_t rows() const { return codes.rows(); }
  int64_t cols() const { return codes.cols(); }
  // Bytes that a file needs: codes bit-packed per row and padded to a byte, 2-byte scales,
  // zeros bit-packed as one run (none when symmetric).
  int64_t StoredBytes() const;
};

// out[i, j] = (codes[i, j] - zeros[i, g]) * scales[i, g] in fp32 (one rounding): the definition.
void Decode(const IntegerMatrix& matrix, MatView<float> out);
// Columns [col, col + count) of one row, for kernels that make panels on demand.
void DecodeRow(const IntegerMatrix& matrix, int64_t row, int64_t col, int64_t count, float* out);

// How scale and zero are chosen.
enum class ClipSearch {
  kMinMax,    // the range of the group, forced to contain 0
  kWeighted,  // shrink search that minimizes sum_j h_j (w_j - q_j)^2
};

// Scale and zero for each (row, group) of w [rows, cols], h [cols] >= 0 the weight of each column
// (all ones if empty). Fills scales and zeros (scale rounded to fp16 before it is judged; a group of
// all zeros gets scale 1); codes are allocated and left unset.
IntegerMatrix FitGrid(const Context& context, MatView<const float> w, std::span<const float> h,
                      const IntegerGrid& grid, ClipSearch search);
// The nearest code to w under the given scale and zero: round half to even, clamped.
uint8_t EncodeNearest(float w, float scale, uint8_t zero, int max_code);

}  // namespace planish

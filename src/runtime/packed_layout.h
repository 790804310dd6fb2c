// The form of linear layers that kernels compute from: plain bytes without pointers, the same in memory as in
// a file.
//
// A tile is 16 rows by all columns, one contiguous stream. Columns are padded to whole steps of 32, 64 or
// 128; a step's codes share a scale for each row, and inputs are quantized by the same steps. Eight steps
// form a block: [scales of the steps][zeros][codes of the steps], parts in multiples of 64 bytes but for the
// scales and zeros, which are padded together. A line of 64 bytes holds dwords of the 16 rows, four columns
// to a dword:
// - scales: 16 fp16 a step; or with scales8 16 bytes a step, times the 16 fp16 row scales in the first 64
//   bytes of the segment
// - zeros: none when constant; 16 bytes a step for 8-bit codes; else 16 bytes for two steps, low nibble first
// - int8: a line for 4 columns
// - int4 and table4: a line for 8 columns, 0-3 in the low nibbles, 4-7 in the high ones
// - int2: a line for 16 columns, 4 i to 4 i + 3 at bit 2 i
// - int3: for 32 columns two lines as int2 with the low bits, then one whose bit i is the top bit of columns
//   4 i to 4 i + 3
// - bf16: a line for 2 columns; f16 32 bytes and f32 64 bytes a column, 16 rows side by side
// After the main segment a tile with a low-rank path holds a second one: its rows of U as int8 codes with
// steps of 32 ranks, so that W x + U (V x) is one stream. V is a packed layer of its own, in the same bytes.
//
// The bytes: [PackedHeader][bias][tables][outlier index][outliers][tiles][V], each part at a multiple of 64.
// The header's numbers determine every offset.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "base/result.h"
#include "runtime/packed_kernels.h"

namespace planish {

using PackedKind = packed::Kind;

inline constexpr int64_t kPackedAlignment = 64;
inline constexpr int kLowRankStep = 32;
inline constexpr int kTileRows = packed::kTileRows;

inline bool IsCoded(PackedKind kind) { return static_cast<int>(kind) < packed::kCodeKinds; }
int PackedBits(PackedKind kind);  // of a code or value
const char* PackedKindName(PackedKind kind);

// What determines the layout.
struct PackedShape {
  PackedKind kind = PackedKind::kBF16;
  bool asymmetric = false;  // zeros are stored
  bool scales8 = false;
  bool has_bias = false;
  int step = 0;      // 32, 64 or 128; dense: 0
  int zero = 0;      // constant zero, when not stored
  int u_zero = 128;  // of the codes of U
  int64_t rows = 0, cols = 0;
  int64_t rank = 0;        // 0: no low-rank path
  int64_t num_tables = 0;  // table4: 1, or one for each step; each 16 bytes, entry + 128
  int64_t num_outliers = 0;
  int64_t v_bytes = 0;  // of the packed V
};

// A weight added to the others: y[row] += value * x[column].
struct PackedOutlier {
  uint32_t row = 0, column = 0;
  float value = 0;
};
static_assert(sizeof(PackedOutlier) == 12);

// Everything that follows from a shape; all sizes in bytes, offsets from the header's first byte.
struct PackedLayout {
  int64_t tiles = 0, steps = 0, padded_cols = 0;
  int64_t main_bytes = 0, u_bytes = 0, tile_bytes = 0;
  int64_t u_steps = 0;
  int64_t bias = 0, tables = 0, outlier_index = 0, outliers = 0, tile_data = 0, v = 0, total = 0;
};

// Errors: numbers that are out of range, do not fit each other, or whose bytes exceed int64.
Result<PackedLayout> LayOutPacked(const PackedShape& shape);

// Bytes of scales and zeros in front of the codes of n <= 8 steps.
int64_t PackedBlockHeader(PackedKind kind, bool asymmetric, bool scales8, int64_t n);
// Bytes of a step's codes.
inline int64_t PackedStepBytes(PackedKind kind, int step) { return 2 * int64_t{step} * PackedBits(kind); }

// The first bytes of a packed layer. Version 1; little-endian; unused bytes are zero.
struct PackedHeader {
  char magic[8];  // "PLPACKED"
  uint32_t version;
  uint8_t kind, flags, zero, u_zero;  // flags: 1 asymmetric, 2 scales8, 4 bias
  int32_t step;
  uint32_t reserved;
  int64_t rows, cols, rank, num_tables, num_outliers, v_bytes, total;
  uint8_t padding[48];
};
static_assert(sizeof(PackedHeader) == 128);

PackedHeader MakePackedHeader(const PackedShape& shape, const PackedLayout& layout);
// The shape in a header. Errors: another magic or version, unknown kinds or flags, a total that is not the
// layout's.
Result<PackedShape> ReadPackedHeader(const PackedHeader& header);

// "int4 step 64 asym + low-rank 32", "bf16".
std::string DescribePacked(const PackedShape& shape);

}  // namespace planish

// The form of linear layers that kernels compute from: plain bytes without pointers, the same in memory as in
// a file.
//
// A tile is 16 rows by all columns, one contiguous stream. Columns are padded to whole steps of 16 (in
// pairs), 32, 64 or 128; a step's codes share a scale and an offset for each row, and sums of inputs are kept
// by the same steps. Eight steps (sixteen of 16 columns) form a block: [units][scales][offsets][sets][codes
// of the steps], what stands before the codes padded together to a multiple of 64 bytes. packed_kernels.h
// says what the forms of scales and offsets mean; their bytes, for 16 rows:
// - units: 16 fp16 for scales of bytes or nibbles under a block, 16 more for such offsets
// - scales: 16 fp16 a step, or 16 bytes; with kRowBytes 16 fp16 of the rows are the segment's first 64 bytes
// - offsets: none when constant or in the scales' bytes; 16 fp16 or bytes a step; nibbles: 16 bytes for two
//   steps, low nibble first
// - sets: none, or 16 bytes for two steps, low nibble first
// Tables of rows (bytes, entry + 128) stand in front of the first block, those of rows and steps between a
// block's header and its codes; for 16 rows as lines of 64 bytes whose i-th 16 bytes belong to rows 4 i to
// 4 i + 3: tables of 4 entries in one line, of 8 in two (rows 0 and 1 of the four in the first), of 16 in
// four.
// A line of 64 bytes holds dwords of the 16 rows, four columns to a dword:
// - 8 bits: a line for 4 columns
// - 4 bits: a line for 8 columns, 0-3 in the low nibbles, 4-7 in the high ones
// - 2 bits: a line for 16 columns, 4 i to 4 i + 3 at bit 2 i
// - 3 bits: for 32 columns two lines as of 2 bits with the low bits, then one whose bit i is the top bit of
//   columns 4 i to 4 i + 3
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
inline bool HasSets(PackedKind kind) { return kind == PackedKind::kSets3 || kind == PackedKind::kSets4; }
inline bool HasRowTables(PackedKind kind) { return kind >= PackedKind::kRows2 && kind <= PackedKind::kRows4; }
// Tables of any kind.
inline bool HasTable(PackedKind kind) { return kind >= PackedKind::kTable2 && kind <= PackedKind::kRows4; }
// Steps that share a header, and columns whose codes are written together.
inline int BlockSteps(int step) { return step == 16 ? packed::kMostBlockSteps : packed::kBlockSteps; }
inline int UnitColumns(int step) { return step == 16 ? 32 : step; }
int PackedBits(PackedKind kind);  // of a code or value
const char* PackedKindName(PackedKind kind);

// What determines the layout.
struct PackedShape {
  PackedKind kind = PackedKind::kBF16;
  packed::Scales scales = packed::Scales::kHalf;
  packed::Offsets offsets = packed::Offsets::kConstant;
  bool has_bias = false;
  int step = 0;        // 16, 32, 64 or 128; dense: 0
  int zero = 0;        // Offsets::kConstant
  int zero_shift = 0;  // Offsets::kNibbles and kBytes count in steps of 2^-zero_shift
  int scale_bias = 0;  // Scales::kBlockBytes
  float unit = 1;      // of every scale
  int u_zero = 128;    // of the codes of U
  int64_t rows = 0, cols = 0;
  int64_t rank = 0;        // 0: no low-rank path
  int64_t num_tables = 0;  // of 16 bytes, entry + 128: 1, sets 2; of rows: of one row, 1 or one for each step
  int64_t num_outliers = 0;
  int64_t v_bytes = 0;  // of the packed V
};

// A weight added to the others: y[row] += value * x[column].
struct PackedOutlier {
  uint32_t row = 0, column = 0;
  float value = 0;
};
static_assert(sizeof(PackedOutlier) == 12);

// Steps of a row, in whole units of columns.
int64_t PackedSteps(int64_t cols, int step);

// Everything that follows from a shape; all sizes in bytes, offsets from the header's first byte.
struct PackedLayout {
  int64_t tiles = 0, steps = 0, padded_cols = 0;
  int64_t main_bytes = 0, u_bytes = 0, tile_bytes = 0;
  int64_t u_steps = 0;
  int64_t bias = 0, tables = 0, outlier_index = 0, outliers = 0, tile_data = 0, v = 0, total = 0;
};

// Errors: numbers that are out of range, do not fit each other, or whose bytes exceed int64.
Result<PackedLayout> LayOutPacked(const PackedShape& shape);

// Tables of rows: of 16 rows, or of 16 rows for a step; else 0.
int64_t PackedTableBytes(PackedKind kind);
inline bool HasStepTables(const PackedShape& shape) {
  return HasRowTables(shape.kind) && shape.num_tables > 1;
}
// Bytes in front of the codes of a block of n steps, without tables of rows.
int64_t PackedBlockHeader(const PackedShape& shape, int64_t n);
// Bytes of a step's codes.
inline int64_t PackedStepBytes(PackedKind kind, int step) { return 2 * int64_t{step} * PackedBits(kind); }

// The first bytes of a packed layer. Version 3; little-endian; unused bytes are zero.
struct PackedHeader {
  char magic[8];  // "PLPACKED"
  uint32_t version;
  uint8_t kind, flags, zero, u_zero;  // flags: 4 bias
  int32_t step;
  uint8_t scales, offsets, zero_shift, scale_bias;
  int64_t rows, cols, rank, num_tables, num_outliers, v_bytes, total;
  float unit;
  uint8_t padding[44];
};
static_assert(sizeof(PackedHeader) == 128);

PackedHeader MakePackedHeader(const PackedShape& shape, const PackedLayout& layout);
// The shape in a header. Errors: another magic or version, unknown kinds or flags, a total that is not the
// layout's.
Result<PackedShape> ReadPackedHeader(const PackedHeader& header);

// "int4 step 64, zeros of 4 bits + low-rank 32", "bf16".
std::string DescribePacked(const PackedShape& shape);

}  // namespace planish

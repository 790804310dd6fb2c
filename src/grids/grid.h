// Number formats for weights ("grids"). A scalar grid of at most 256 values is one of two forms:
//   uniform   value = (code - zero) * scale
//   levels    value = level[code] * scale, levels sorted ascending
// with one scale for each row and group of `group` consecutive columns. Levels are fixed by the format, one
// of a few fixed sets chosen for each group, or learned from the weights (tables.h). Integers, minifloats, MX
// and NVFP4 blocks, NF, RF8, BitMoD, power functions and tables are all of these forms; everything another
// program needs to decode is in GridMatrix. Packing belongs to the layer's artifact.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/context.h"
#include "formats/gguf_types.h"
#include "tensor/view.h"

namespace planish {

enum class LevelKind : uint8_t {
  kUniform,    // no levels
  kBinary,     // -1, 1
  kMinifloat,  // sign, `exponent_bits`, the rest mantissa; subnormals, no infinities
  kNormal,     // quantiles of a normal distribution, 0 included (NF4 of arXiv 2305.14314)
  kResidual,   // RF8: +-2^e (1 + 2^-k), k in {none, 1..4}, e in 0..15
  kBitMod,     // one of four sets chosen for each group (arXiv 2411.11745)
  kGguf,       // a block type of GGUF files, which says all of codes, scales and minima: grids/gguf_fit.h
  kTable,      // learned: weighted k-means (arXiv 2306.07629)
  kPower,      // learned: sign(q) |q / Q|^(1/a), one exponent a of the tensor (arXiv 2308.05600)
};

// What shares one learned table.
enum class TableScope : uint8_t { kTensor, kRow, kGroup };

enum class ScaleKind : uint8_t {
  kHalf,   // fp16 a group
  kSteps,  // whole number in [1, 2^scale_bits) a group, times an fp16 unit a row
  kE8M0,   // power of two a group, one byte
  kE4M3,   // FP8 a group, times an fp32 unit of the tensor (or divided by it); units made here: powers of two
  kNone,   // 1, not stored: the levels are the values
};

// Plain data: what the grid is, not how it is found. The default is an integer grid.
struct GridSpec {
  int bits = 4;            // of a code, 1 to 8
  int64_t group = 128;     // columns that share a scale; 0: the whole row
  bool symmetric = false;  // uniform: zero fixed at 2^(bits-1) and not stored
  LevelKind levels = LevelKind::kUniform;
  int exponent_bits = 0;  // kMinifloat
  ScaleKind scale = ScaleKind::kHalf;
  int scale_bits = 8;                       // kSteps: 4 to 8
  TableScope tables = TableScope::kTensor;  // kTable
  bool unit_divides = false;  // kE4M3: the scale is FP8 / unit, as compressed-tensors stores NVFP4
  int zero_bits = 0;          // uniform: zeros are multiples of 2^(bits - zero_bits) below 2^bits; 0: as bits
  // kGguf: one that encodes; `group` is its block and nothing else here counts. F16: no block fits the rows.
  GgufType block_type = GgufType::kF32;

  int64_t GroupSize(int64_t cols) const { return group == 0 ? cols : group; }
  int64_t NumGroups(int64_t cols) const { return (cols + GroupSize(cols) - 1) / GroupSize(cols); }
  bool Uniform() const { return levels == LevelKind::kUniform; }
  bool InBlocks() const { return levels == LevelKind::kGguf; }
  bool HasZeros() const { return Uniform() && !symmetric; }
  int ZeroBits() const { return zero_bits == 0 ? bits : zero_bits; }
  float ZeroStep() const { return 1.0f / static_cast<float>(1 << (ZeroBits() - bits)); }
  int NumLevels() const { return 1 << bits; }
  int NumSets() const { return levels == LevelKind::kBitMod ? 4 : 1; }
  bool Learned() const { return levels == LevelKind::kTable || levels == LevelKind::kPower; }
  // Rows of the matrix of levels, and the one of a row and group.
  int64_t NumTables(int64_t rows, int64_t cols) const {
    if (tables == TableScope::kTensor) return NumSets();
    return tables == TableScope::kRow ? rows : rows * NumGroups(cols);
  }
  int64_t TableOf(int64_t row, int64_t g, int64_t num_groups, int set) const {
    if (tables == TableScope::kTensor) return set;
    return tables == TableScope::kRow ? row : row * num_groups + g;
  }
  // Whole zeros and fp16 scales: what integer kernels and exporters know.
  bool PlainInteger() const {
    return Uniform() && bits >= 2 && scale == ScaleKind::kHalf && ZeroBits() == bits;
  }
  bool operator==(const GridSpec&) const = default;
};

// For places that make integer grids only.
using IntegerGrid = GridSpec;

// "int4", "nf4", "mxfp4", ... and the grid each stands for. Groups are 128 unless the format fixes them.
struct NamedGrid {
  const char* name;
  GridSpec grid;
};
std::span<const NamedGrid> NamedGrids();
std::optional<GridSpec> FindGrid(const std::string& name);
// The same grid for rows of `cols` values: a block type that does not fit gives way (FitGgufType).
GridSpec FitToRows(const GridSpec& grid, int64_t cols);
// The name, and what differs from what the name stands for: "int3 g64 s8 z6", "nf4 g32".
std::string GridText(const GridSpec& grid);
// The name of the levels alone, whatever the scales: "e2m1" for mxfp4. Not for uniform grids.
std::string LevelsName(const GridSpec& grid);
// Nothing, or what is wrong with the numbers of a grid ("bits: expected 1 to 8, found 9").
std::string CheckGrid(const GridSpec& grid);

// The fixed levels [sets, 2^bits], every one an fp16 number, each set ascending. Formats with fewer values
// than codes repeat the last. The grid must not be uniform, learned or in blocks.
Mat<float> FixedLevels(const GridSpec& grid);
// Of a minifloat: for the index of every fixed level its code in the format, the sign in the highest bit. Not
// for those with a bias of their own, e5m0 and e5m1.
std::vector<uint8_t> MinifloatCodes(const GridSpec& grid);
// As fp16 numbers, sorted, the last repeated up to 2^bits.
std::vector<float> StoredLevels(std::vector<float> levels, int bits);

// Between which values a code changes: code i for (mids[i], mids[i + 1]], mids [count], the first unused.
// `values` ascending. A value just between two gets the lower; in minifloats the one whose code is even. Of
// `lanes` rows side by side value k of row r is values[k * lanes + r], and so are the midpoints.
void Midpoints(const GridSpec& grid, const float* values, int count, float* mids, int lanes = 1);

// A matrix on a grid that is not in blocks. The last group of a row may be shorter.
struct GridMatrix {
  GridSpec grid;
  Mat<uint8_t> codes;        // [rows, cols], one code a byte
  Mat<float> scales;         // [rows, groups] > 0, as stored, units multiplied in
  Mat<float> zeros;          // [rows, groups], uniform grids; filled also when symmetric
  Mat<uint8_t> sets;         // [rows, groups], kBitMod
  Mat<float> levels;         // [grid.NumTables, 2^bits]; empty: uniform
  std::vector<float> units;  // kSteps: [rows]; kE4M3: [1]

  const float* LevelsOf(int64_t row, int64_t g) const {
    return levels.row(grid.TableOf(row, g, scales.cols(), grid.NumSets() > 1 ? sets(row, g) : 0));
  }
  int64_t rows() const { return codes.rows(); }
  int64_t cols() const { return codes.cols(); }
  // Bytes that a file needs: codes bit-packed per row and padded to a byte; scales, zeros and sets each
  // packed as one run; 2 bytes a level; 2 or 4 bytes a unit.
  int64_t StoredBytes() const;
};
using IntegerMatrix = GridMatrix;

int64_t GridBytes(const GridSpec& grid, int64_t rows, int64_t cols);

// out[i, j] = (code - zero) * scale or level * scale in fp32 (one rounding each): the definition.
void Decode(const GridMatrix& matrix, MatView<float> out);
// Columns [col, col + count) of one row, for kernels that make panels on demand.
void DecodeRow(const GridMatrix& matrix, int64_t row, int64_t col, int64_t count, float* out);

// How the parameters of a group are chosen.
enum class ClipSearch {
  kMinMax,    // the range of the group, forced to contain 0
  kWeighted,  // search that minimizes sum_j h_j (w_j - q_j)^2
};

// The scale nearest to s > 0 that the grid can store, `unit` being the row's or the tensor's.
float StoredScale(const GridSpec& grid, float unit, float s);

// Parameters for each (row, group) of w [rows, cols], h [cols] the weight of each
// column (all ones if empty). Fills all but the codes, which are allocated and left
// unset. Scales have their stored precision before they are judged; a group of all zeros gets scale 1 or
// the nearest there is. `largest`: the |w| that the unit of FP8 scales is made for; 0: that of w.
GridMatrix FitGrid(const Context& context, MatView<const float> w, std::span<const float> h,
                   const GridSpec& grid, ClipSearch search, float largest = 0);

// Of no values 0.
float LargestMagnitude(MatView<const float> w);

// The nearest code to w: round half to even, clamped.
uint8_t EncodeNearest(float w, float scale, float zero, int max_code);
// The nearest of `count` values by their Midpoints; of equal ones, the first.
uint8_t EncodeNearest(float w, const float* mids, int count);
// Nearest codes of the whole matrix.
void EncodeAll(const Context& context, MatView<const float> w, GridMatrix& matrix);

}  // namespace planish

// The seam between packed linear layers and their kernels, one set for each instruction set. Files of a set
// are compiled with flags that other machines may lack, so this header holds no code (see
// math/gemm_kernels.h for why).
//
// Every set returns the same bits. Integer dots are exact. The floating-point folds of a tile's row are, in
// this order: for every step acc = fma(offset, x_neg_sum, acc); then for int8 inputs over its groups of 32
// columns ascending part = fma(float(dot), x_scale, part) from 0 (a step of 16 is half a group); for float
// inputs four chains (column mod 4, ascending fma), joined (0 + 1) + (2 + 3), as part; then acc = fma(part,
// scale, acc); for dense weights four such chains over all columns, then acc = acc + joined.
#pragma once

#include <stdint.h>

namespace planish::packed {

// How the weights of a segment lie in memory; packed_layout.h has the pictures. The first kCodeKinds are
// codes, the others floating-point. kTable: codes are places in a table of bytes; kSets: in one whose last
// place is filled for each row and step from a second table; kRows: in a table of the row, or of the row and
// step.
enum class Kind : uint8_t {
  kInt2,
  kInt3,
  kInt4,
  kInt8,
  kTable2,
  kTable3,
  kTable4,
  kSets3,
  kSets4,
  kRows2,
  kRows3,
  kRows4,
  kBF16,
  kF16,
  kF32
};
inline constexpr int kCodeKinds = 12, kDenseKinds = 3;

// A weight is scale * value - offset, value being the code or (table's entry + 128). The scale of a row and
// step, before it is multiplied by the segment's unit:
enum class Scales : uint8_t {
  kHalf,          // fp16
  kRowBytes,      // byte times the row's fp16
  kBlockBytes,    // byte - bias times the row's fp16 of the block
  kBlockNibbles,  // low nibble of a byte, times the row's fp16 of the block
  kPowers,        // 2^(byte - 127)
  kE4M3,          // FP8 without sign
};
inline constexpr int kNumScales = 6;
// The offset of a row and step:
enum class Offsets : uint8_t {
  kConstant,      // a constant zero times the scale
  kNibbles,       // 4-bit zero times the zero step, times the scale
  kBytes,         // 8-bit zero likewise
  kHalf,          // fp16
  kBlockBytes,    // byte times the row's second fp16 of the block
  kBlockNibbles,  // high nibble of the scale's byte, times the row's second fp16 of the block
};
inline constexpr int kNumOffsets = 6;

inline constexpr int kTileRows = 16;        // rows of a tile: the dwords of a cache line
inline constexpr int kBlockSteps = 8;       // steps of 32 columns and more that share a header
inline constexpr int kMostBlockSteps = 16;  // steps of 16 columns
inline constexpr int kMaxTokens = 8;        // tokens that an int8 kernel takes at once
inline constexpr int kFloatTokens = 4;      // tokens that a float kernel takes at once
inline constexpr int kInputStep = 32;       // columns of an int8 input that share a scale
inline constexpr int kTableEntries = 16;
inline constexpr float kSmallestScaled = 1e-30f;  // inputs whose largest magnitude is below count as zeros

// One tile's segment times the inputs, added to acc.
struct TileArgs {
  const unsigned char* data;  // the segment
  int64_t steps;              // of `step` columns; dense: the number of columns, a multiple of 4
  int step;                   // 16, 32, 64 or 128
  Scales scales;
  Offsets offsets;
  int scale_bias;               // Scales::kBlockBytes
  float unit;                   // of every scale
  int zero;                     // Offsets::kConstant
  float zero_step;              // Offsets::kNibbles, kBytes: a power of two
  const unsigned char* tables;  // 16 bytes each, entry + 128; kSets: the second has the last entries
  bool step_tables;             // kRows: tables in front of every block's codes, else of the segment's
  // int8 inputs of T tokens: dword (column / 4) * T + t holds four columns of token t; a scale for each
  // (column / 32) * T + t, a sum for each step * T + t.
  const signed char* x;
  const float* x_scale;
  const float* x_neg_sum;  // minus the sum of the step's quantized inputs times their scales
  // float inputs: column * x_stride + t; minus the sums of a step.
  const float* xf;
  const float* xf_neg_sum;
  int64_t x_stride;
  // Where the reader goes next, of `part` bytes four times: fetched beside the work in four streams, as one
  // stream does not get the whole bandwidth of every machine. Need not be readable.
  const unsigned char* next;
  int64_t part;
  float* acc;  // [tokens, 16], read and written
};
using TileKernel = void (*)(const TileArgs& args);

// One token of a QuantizedInput: groups of 32 columns to int8, sums of `step` columns (see packed_input.h).
struct QuantizeArgs {
  const float* x;
  int64_t cols, steps;
  int step, token, tokens;
  signed char* q;
  float* scale;
  float* neg_sum;
};

struct KernelSet {
  const char* name;
  bool byte_dots;  // the processor multiplies bytes into 32-bit sums in one instruction
  TileKernel int8[kCodeKinds][kMaxTokens];  // [kind][tokens - 1]
  TileKernel coded_float[kCodeKinds][kFloatTokens];
  TileKernel dense[kDenseKinds][kFloatTokens];
  // False when an input is NaN or infinite; its 32 columns then have scale NaN.
  bool (*quantize)(const QuantizeArgs& args);
  // out[i] = code i of a row packed little-endian, i < count; writes up to 7 bytes beyond out[count - 1].
  void (*unpack)(const unsigned char* in, int64_t count, int bits, unsigned char* out);
  // Codes of 16 rows, one a byte, `stride` bytes apart, to the code area of `step` columns, a multiple of 32.
  void (*interleave)(Kind kind, const unsigned char* codes, int64_t stride, int step, unsigned char* out);
};

extern const KernelSet kScalarKernels;
extern const KernelSet kAvx2Kernels;
extern const KernelSet kAvxVnniKernels;
extern const KernelSet kAvx512Kernels;
extern const KernelSet kAvx512VnniKernels;
extern const KernelSet kNeonKernels;

}  // namespace planish::packed

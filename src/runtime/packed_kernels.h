// The seam between packed linear layers and their kernels, one set for each instruction set. Files of a set
// are compiled with flags that other machines may lack, so this header holds no code (see
// math/gemm_kernels.h for why).
//
// Every set returns the same bits. Integer dots are exact. The floating-point folds of a tile's row are, in
// this order: for int8 inputs a step's part = zero * x_neg_sum, over its 32 columns each ascending
// part = fma(float(dot), x_scale, part), then acc = fma(part, scale, acc); for float inputs a step's four
// chains (column mod 4, ascending fma), joined (0 + 1) + (2 + 3), then d = fma(zero, x_neg_sum, d) and acc =
// fma(d, scale, acc); for dense weights four such chains over all columns, then acc = acc + joined.
#pragma once

#include <stdint.h>

namespace planish::packed {

// How the weights of a segment lie in memory; packed_layout.h has the pictures. The first kCodeKinds are
// codes, the others floating-point.
enum class Kind : uint8_t { kInt2, kInt3, kInt4, kTable4, kInt8, kBF16, kF16, kF32 };
inline constexpr int kCodeKinds = 5, kDenseKinds = 3;

inline constexpr int kTileRows = 16;    // rows of a tile: the dwords of a cache line
inline constexpr int kBlockSteps = 8;   // steps that share a header
inline constexpr int kMaxTokens = 8;    // tokens that an int8 kernel takes at once
inline constexpr int kFloatTokens = 4;  // tokens that a float kernel takes at once
inline constexpr int kInputStep = 32;   // columns of an int8 input that share a scale
inline constexpr int kTableEntries = 16;
inline constexpr float kSmallestScaled = 1e-30f;  // inputs whose largest magnitude is below count as zeros

// One tile's segment times the inputs, added to acc.
struct TileArgs {
  const unsigned char* data;  // the segment
  int64_t steps;              // of `step` columns; dense: the number of columns, a multiple of 4
  int step;
  int zero;                     // of every code, when it is not stored
  bool scales8;                 // scales are bytes under fp16 row scales
  const unsigned char* tables;  // kTable4: 16 bytes, table entry + 128
  int table_stride;             // bytes from a step's table to the next: 0 or 16
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
  TileKernel int8[kCodeKinds][2][kMaxTokens];  // [kind][asymmetric][tokens - 1]
  TileKernel coded_float[kCodeKinds][2][kFloatTokens];
  TileKernel dense[kDenseKinds][kFloatTokens];
  // False when an input is NaN or infinite; its 32 columns then have scale NaN.
  bool (*quantize)(const QuantizeArgs& args);
  // out[i] = code i of a row packed little-endian, i < count; writes up to 7 bytes beyond out[count - 1].
  void (*unpack)(const unsigned char* in, int64_t count, int bits, unsigned char* out);
  // Codes of 16 rows, one a byte, `stride` bytes apart, to the code area of a step.
  void (*interleave)(Kind kind, const unsigned char* codes, int64_t stride, int step, unsigned char* out);
};

extern const KernelSet kScalarKernels;
extern const KernelSet kAvx2Kernels;
extern const KernelSet kAvxVnniKernels;
extern const KernelSet kAvx512Kernels;
extern const KernelSet kAvx512VnniKernels;
extern const KernelSet kNeonKernels;

}  // namespace planish::packed

// Parameters of GGUF blocks: how a type that can be made is built of sub-blocks, and the choice of their
// scales and minima for given values and weights. EncodeBlocks uses it for whole matrices, rounding with
// feedback for blocks whose values change on the way.
#pragma once

#include <cstdint>
#include <string>

#include "formats/gguf_types.h"
#include "grids/gguf_pack.h"
#include "grids/gguf_search.h"

namespace planish {

// A value is a * scale + minimum, where a = code + low or, for IQ4, an entry of the table. With one sub-block
// scale and minimum are halves; with several, scale = d * step and minimum = -m * min_step, d and m halves
// of the whole block, m >= 0, steps small integers.
struct BlockLayout {
  int64_t block = 32;  // values of a block
  int n = 32;          // values of a sub-block
  int subs = 1;        // sub-blocks of a block
  bool affine = false;
  SearchCodes codes;
  int low_step = 0, high_step = 0;  // of the scale's steps; minima have 0 to high_step

  int NumCodes() const { return codes.high - codes.low + 1; }
};

// The type must encode.
BlockLayout LayoutOf(GgufType type);

// 16 sub-blocks side by side; the block of lane i is i / subs. Lanes without a block hold zeros.
struct LanePanel {
  float x[32 * kSearchLanes], w[32 * kSearchLanes];  // as in SearchPanel
  EncodedLanes out;
};

// Fills out: scales and minima with a small sum of w (value - x)^2 in every block, sub-scales included, and
// the nearest codes.
void FitLanes(const SearchKernels& kernels, const BlockLayout& layout, LanePanel& panel);

// Scale and minimum of a lane, as its values are decoded.
inline float LaneScale(const BlockLayout& layout, const EncodedLanes& e, int lane) {
  return layout.subs == 1 ? e.d[lane] : e.d[lane] * static_cast<float>(e.scale[lane]);
}
inline float LaneMin(const BlockLayout& layout, const EncodedLanes& e, int lane) {
  return layout.subs == 1 ? e.m[lane] : -e.m[lane] * static_cast<float>(e.min[lane]);
}

// The type that rows of `cols` values get where `type` is asked for: the type itself, or as llama.cpp one of
// blocks of 32 (Q4_K: Q5_0, Q5_K: Q5_1, Q6_K: Q8_0, others IQ4_NL), or F16 where these do not fit either.
GgufType FitGgufType(GgufType type, int64_t cols);
// "Q5_0, as rows of 704 values are no multiple of the 256 of Q4_K".
std::string FallbackText(GgufType wanted, GgufType found, int64_t cols);

// A scale as a finite half.
float HalfScale(float x);

}  // namespace planish

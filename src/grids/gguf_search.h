// The searches under EncodeBlocks: for 16 sub-blocks side by side, the scale (and minimum) whose nearest
// codes have the least weighted squared error sum_k w_k (s q_k + m - x_k)^2.
#pragma once

#include <cstdint>

#include "base/cpu.h"

namespace planish {

inline constexpr int kSearchLanes = 16;  // two AVX2 registers, one of AVX-512

// 16 sub-blocks of n values, a sub-block a lane: value k of lane i at x[k * 16 + i], its weight >= 0 at w.
struct SearchPanel {
  const float* x = nullptr;
  const float* w = nullptr;
  int n = 0;  // 16 or 32
};

// Codes low..high; value = code * scale + min, or table[code] * scale.
struct SearchCodes {
  int low = 0, high = 15;
  bool table = false;  // the 16 values of IQ4
};

// Scales and minima of the lanes as small multiples of their blocks': scale = d * step, min = -m * min_step.
struct LaneSteps {
  float d[kSearchLanes], m[kSearchLanes];            // the block's, for each of its lanes
  float step[kSearchLanes], min_step[kSearchLanes];  // integers
};
struct StepRange {
  float low = 0, high = 63;  // of `step`; min_step has 0 to high
  bool affine = false;       // without: min_step stays
};

// Sums over a lane's values x and their nearest codes q under a scale and a minimum.
struct CodeSums {
  float error[kSearchLanes], w[kSearchLanes], wx[kSearchLanes];
  float wq[kSearchLanes], wqq[kSearchLanes], wqx[kSearchLanes];
};

struct SearchKernels {
  // scale [16] and min [16] for codes 0..high; with `negative_min` the minimum is at most 0.
  void (*fit_affine)(const SearchPanel&, int high, bool negative_min, float* scale, float* min);
  // scale [16] for signed codes or the table, minimum 0. The scale may be negative.
  void (*fit_scale)(const SearchPanel&, const SearchCodes&, float* scale);
  // error [16] of the nearest codes under the given scales and minima; codes [n * 16], less `low`, if not
  // null.
  void (*judge)(const SearchPanel&, const SearchCodes&, const float* scale, const float* min, float* error,
                uint8_t* codes);
  // Moves each lane's steps by at most one to where the error of the nearest codes is least.
  void (*move_steps)(const SearchPanel&, const SearchCodes&, const StepRange&, LaneSteps&);
  void (*sum_codes)(const SearchPanel&, const SearchCodes&, const float* scale, const float* min, CodeSums&);
  // Blocks of Q8_0 as the reference makes them: scale of the largest value / 127, halves rounded away from 0.
  // x [32 * blocks], out [34 * blocks].
  void (*round_q8)(const float* x, int64_t blocks, uint8_t* out);
};

// All return the same bits on every instruction set. x must be finite.
const SearchKernels& SelectSearchKernels(Isa isa);

extern const SearchKernels kSearchScalar;
#if defined(__x86_64__)
extern const SearchKernels kSearchAvx2;
extern const SearchKernels kSearchAvx512;
#endif

}  // namespace planish

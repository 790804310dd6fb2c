// The kernels of attention over pages of a cache, as a table per instruction set. Plain C types only, so
// that the files compiled for one instruction set share no inline code with the others. Kernels trust
// their arguments; paged_cache.cc checks them.
#pragma once

#include <stdint.h>

namespace planish::attend {

// Positions of a page, the unit in which keys are stored, attended and given back.
inline constexpr int64_t kPageKeys = 256;
// Keys whose elements lie interleaved: a vector holds one pair of dimensions of each.
inline constexpr int64_t kKeyLanes = 16;
// Queries of one call.
inline constexpr int kMaxQueries = 32;

// Keys and values of one kv head in one page, elements bf16 or int8 with a scale per key. Pairs that one
// instruction multiplies and adds lie side by side:
//   k [kPageKeys / 16][key_dim / 2][16 keys][2]: dimensions 2 i and 2 i + 1 of a key
//   v [kPageKeys / 2][value_dim][2]: keys 2 i and 2 i + 1 of a dimension
// Every element must be finite, those of positions not yet written too.
struct PageHead {
  const void* k;
  const void* v;
  const float* k_scales;  // [kPageKeys], int8 only
  const float* v_scales;
};

// Queries that share a kv head: its query heads times the tokens at hand.
struct Queries {
  int count;                   // at most kMaxQueries
  int64_t key_dim, value_dim;  // padded: even, and a multiple of 16
  const uint32_t* q;           // [count][key_dim / 2], pairs of bf16, already scaled
  float softcap;               // 0: none
  // The softmax so far: largest score, sum of exponentials relative to it, weighted sum of values.
  float* max;  // [count], -infinity at the start
  float* sum;  // [count]
  float* out;  // [count][value_dim]
};

struct Kernels {
  const char* name;
  // Adds the keys [begin[i], end[i]) of the page to each query's softmax, keys in ascending order.
  // Query i's result does not depend on the other queries.
  void (*bf16_page)(const PageHead&, const Queries&, const int32_t* begin, const int32_t* end);
  void (*int8_page)(const PageHead&, const Queries&, const int32_t* begin, const int32_t* end);
};

extern const Kernels kScalarKernels;
#if defined(__x86_64__)
extern const Kernels kAvx2Kernels;
extern const Kernels kAvx512Kernels;
extern const Kernels kAvx512Bf16Kernels;
#endif

}  // namespace planish::attend

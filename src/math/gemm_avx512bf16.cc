// AVX-512 kernels for pairs of bf16: tiles of 14 x 32 in 28 registers, as those of fp32, with twice the
// multiply-adds in an instruction. Only intrinsics, C headers and code with internal linkage here (see
// gemm_kernels.h).
#if defined(__GNUC__) && !defined(__clang__)
// GCC 12's own intrinsics read a register they call undefined (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>
#include <stddef.h>
#include <string.h>

#include "math/gemm_kernels.h"

namespace planish::gemm {
namespace {

#include "math/gemm_pairs-inl.h"

struct Bf16Pairs512 : Pairs512 {
  static __m512bh Pairs(Reg v) { return (__m512bh)_mm512_castps_si512(v); }
  static Reg MulAdd(Reg a, Reg b, Reg c) { return _mm512_dpbf16_ps(c, Pairs(a), Pairs(b)); }
};

#include "math/gemm-inl.h"

// x = x + s o over pairs.
float PairChains(int64_t iterations, float scale, float offset) {
  const __m512i s = Pairs512::Upper(_mm512_set1_ps(scale)), o = Pairs512::Upper(_mm512_set1_ps(offset));
  __m512 x[kChains];
  for (int i = 0; i < kChains; ++i) x[i] = _mm512_setzero_ps();
  for (int64_t n = 0; n < iterations; ++n) {
#pragma GCC unroll 12
    for (int i = 0; i < kChains; ++i) {
      x[i] = Bf16Pairs512::MulAdd(_mm512_castsi512_ps(s), _mm512_castsi512_ps(o), x[i]);
    }
  }
  for (int i = 1; i < kChains; ++i) x[0] = _mm512_add_ps(x[0], x[i]);
  return Vec512::HalvingSum(x[0]);
}

}  // namespace

extern constinit const KernelSet kAvx512Bf16Kernels = {"avx512-bf16",
                                                       Bf16Pairs512::kTileRows,
                                                       Bf16Pairs512::kTileRegs* Bf16Pairs512::kLanes,
                                                       Bf16Pairs512::kPanelWidth,
                                                       Bf16Pairs512::kStepElements,
                                                       1,
                                                       &Tile<Bf16Pairs512>,
                                                       MakePackers<Bf16Pairs512>(),
                                                       MakePackers<Bf16Pairs512>(),
                                                       nullptr,
                                                       &PairChains,
                                                       int64_t{2} * kChains* Bf16Pairs512::kLanes};

}  // namespace planish::gemm

// Packed kernels with 256-bit registers and AVX2 alone.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>
#include <stddef.h>

#include "runtime/packed_kernels.h"

#define PACKED_INLINE inline __attribute__((always_inline))

namespace planish::packed {
namespace {

#include "runtime/packed_avx2-inl.h"

struct Avx2Plain : Avx2 {
  static constexpr bool kHasDot = false;
  static PACKED_INLINE I MulPairs(Codes w, const signed char* x) {
    return _mm256_maddubs_epi16(w, FourInputs(x));
  }
  static PACKED_INLINE I AddHalves(I a, I b) { return _mm256_add_epi16(a, b); }
  static PACKED_INLINE I Widened(I halves) { return _mm256_madd_epi16(halves, _mm256_set1_epi16(1)); }
  // Pairs of 8-bit codes overflow 16 bits, so w = 2 (w >> 1) + (w & 1): 127 * 127 * 2 fits.
  static PACKED_INLINE I DotWide(I sum, Codes w, const signed char* x) {
    const I four = FourInputs(x);
    const I high = _mm256_maddubs_epi16(And(ShiftRight<1>(w), Splat(127)), four);
    const I low = _mm256_maddubs_epi16(And(w, Splat(1)), four);
    sum = AddInt(sum, _mm256_madd_epi16(high, _mm256_set1_epi16(2)));
    return AddInt(sum, _mm256_madd_epi16(low, _mm256_set1_epi16(1)));
  }
};

#include "runtime/packed_kernels-inl.h"
#include "runtime/packed_portable-inl.h"

}  // namespace

extern constinit const KernelSet kAvx2Kernels =
    MakeKernels<Avx2Plain>("avx2", UnpackPortable, InterleavePortable);

}  // namespace planish::packed

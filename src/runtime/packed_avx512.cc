// Packed kernels with 512-bit registers and without VNNI: 8-bit products are widened in two steps.
#if defined(__GNUC__) && !defined(__clang__)
// GCC 12's own intrinsics read a register they call undefined (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>
#include <stddef.h>

#include "runtime/packed_kernels.h"

#define PACKED_INLINE inline __attribute__((always_inline))

namespace planish::packed {
namespace {

#include "runtime/packed_asm-inl.h"
#include "runtime/packed_avx512-inl.h"

struct Avx512Plain : Avx512 {
  static constexpr bool kHasDot = false;
  static PACKED_INLINE I FourInputs(const signed char* x) {
    int32_t four;
    __builtin_memcpy(&four, x, 4);
    return SplatInt(four);
  }
  static PACKED_INLINE I MulPairs(Codes w, const signed char* x) {
    return _mm512_maddubs_epi16(w, FourInputs(x));
  }
  static PACKED_INLINE I AddHalves(I a, I b) { return _mm512_add_epi16(a, b); }
  static PACKED_INLINE I Widened(I halves) { return _mm512_madd_epi16(halves, _mm512_set1_epi16(1)); }
  // Pairs of 8-bit codes overflow 16 bits, so w = 2 (w >> 1) + (w & 1): 127 * 127 * 2 fits.
  static PACKED_INLINE I DotWide(I sum, Codes w, const signed char* x) {
    const I four = FourInputs(x);
    const I high = _mm512_maddubs_epi16(And(ShiftRight<1>(w), Splat(127)), four);
    const I low = _mm512_maddubs_epi16(And(w, Splat(1)), four);
    sum = AddInt(sum, _mm512_madd_epi16(high, _mm512_set1_epi16(2)));
    return AddInt(sum, _mm512_madd_epi16(low, _mm512_set1_epi16(1)));
  }
};

#include "runtime/packed_kernels-inl.h"
#include "runtime/packed_pack_avx512-inl.h"

}  // namespace

extern constinit const KernelSet kAvx512Kernels = MakeKernels<Avx512Plain>("avx512", Unpack, Interleave);

}  // namespace planish::packed

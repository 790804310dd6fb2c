// Packed kernels with 512-bit registers and VNNI.
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

struct Avx512Vnni : Avx512 {
  static constexpr bool kHasDot = true;
  template <bool kWide>
  static PACKED_INLINE I Dot(I sum, Codes w, const signed char* x) {
    return DotBytesBroadcast(sum, w, x);
  }
};

#include "runtime/packed_kernels-inl.h"
#include "runtime/packed_pack_avx512-inl.h"

}  // namespace

extern constinit const KernelSet kAvx512VnniKernels =
    MakeKernels<Avx512Vnni>("avx512-vnni", Unpack, Interleave);

}  // namespace planish::packed

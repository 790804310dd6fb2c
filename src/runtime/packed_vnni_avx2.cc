// Packed kernels with 256-bit registers and AVX-VNNI's dot products.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>
#include <stddef.h>

#include "runtime/packed_kernels.h"

#define PACKED_INLINE inline __attribute__((always_inline))

namespace planish::packed {
namespace {

#include "runtime/packed_asm-inl.h"
#include "runtime/packed_avx2-inl.h"

struct AvxVnni : Avx2 {
  static constexpr bool kHasDot = true;
  template <bool kWide>
  static PACKED_INLINE I Dot(I sum, Codes w, const signed char* x) {
    return DotBytes(sum, w, FourInputs(x));
  }
};

#include "runtime/packed_kernels-inl.h"
#include "runtime/packed_portable-inl.h"

}  // namespace

extern constinit const KernelSet kAvxVnniKernels =
    MakeKernels<AvxVnni>("avx-vnni", UnpackPortable, InterleavePortable);

}  // namespace planish::packed

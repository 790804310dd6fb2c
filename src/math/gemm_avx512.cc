// AVX-512 kernels: tiles of 14 x 32 in 28 registers. Only intrinsics, C headers and code with internal
// linkage here (see gemm_kernels.h).
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

#include "math/gemm_vec512-inl.h"

#include "math/gemm-inl.h"

}  // namespace

extern constinit const KernelSet kAvx512Kernels = MakeKernels<Vec512>("avx512");

}  // namespace planish::gemm

// The avx2 kernel set of nn.h.
#if defined(__x86_64__)

#define PLANISH_SIMD_BITS 256
#define PLANISH_SIMD_NAMESPACE nn_avx2
#include "math/nn-inl.h"

namespace planish {
const NnKernels* NnKernelsAvx2() { return &nn_avx2::kKernels; }
}  // namespace planish

#else

#include "math/nn_kernels.h"

namespace planish {
const NnKernels* NnKernelsAvx2() { return nullptr; }
}  // namespace planish

#endif

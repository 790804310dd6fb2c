// The avx512 kernel set of nn.h.
#if defined(__x86_64__)

#define PLANISH_SIMD_BITS 512
#define PLANISH_SIMD_NAMESPACE nn_avx512
#include "math/nn-inl.h"

namespace planish {
const NnKernels* NnKernelsAvx512() { return &nn_avx512::kKernels; }
}  // namespace planish

#else

#include "math/nn_kernels.h"

namespace planish {
const NnKernels* NnKernelsAvx512() { return nullptr; }
}  // namespace planish

#endif

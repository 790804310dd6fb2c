// The sse4 kernel set of nn.h.
#if defined(__x86_64__)

#define PLANISH_SIMD_BITS 128
#define PLANISH_SIMD_NAMESPACE nn_sse4
#include "math/nn-inl.h"

namespace planish {
const NnKernels* NnKernelsSse4() { return &nn_sse4::kKernels; }
}  // namespace planish

#else

#include "math/nn_kernels.h"

namespace planish {
const NnKernels* NnKernelsSse4() { return nullptr; }
}  // namespace planish

#endif

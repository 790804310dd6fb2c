// The scalar kernel set of nn.h: the specification that the others are compared with.
#define PLANISH_SIMD_BITS 0
#define PLANISH_SIMD_NAMESPACE nn_scalar
#include "math/nn-inl.h"

namespace planish {
const NnKernels* NnKernelsScalar() { return &nn_scalar::kKernels; }
}  // namespace planish

// Attention over pages: the scalar kernels.
#define PLANISH_SIMD_BITS 0
#define PLANISH_SIMD_NAMESPACE attend_scalar
#include "runtime/attend-inl.h"

namespace planish::attend {

extern constinit const Kernels kScalarKernels = {"scalar",
                                                 &attend_scalar::AttendPage<attend_scalar::Bf16Page>,
                                                 &attend_scalar::AttendPage<attend_scalar::Int8>};

}  // namespace planish::attend

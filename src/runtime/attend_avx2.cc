// Attention over pages: the avx2 kernels.
#if defined(__x86_64__)

#define PLANISH_SIMD_BITS 256
#define PLANISH_SIMD_NAMESPACE attend_avx2
#include "runtime/attend-inl.h"

namespace planish::attend {

extern constinit const Kernels kAvx2Kernels = {"avx2", &attend_avx2::AttendPage<attend_avx2::Bf16Page>,
                                               &attend_avx2::AttendPage<attend_avx2::Int8>};

}  // namespace planish::attend

#endif

// Attention over pages: the avx512 kernels.
#if defined(__x86_64__)

#define PLANISH_SIMD_BITS 512
#define PLANISH_SIMD_NAMESPACE attend_avx512
#include "runtime/attend-inl.h"

namespace planish::attend {

extern constinit const Kernels kAvx512Kernels = {"avx512",
                                                 &attend_avx512::AttendPage<attend_avx512::Bf16Page>,
                                                 &attend_avx512::AttendPage<attend_avx512::Int8>};

}  // namespace planish::attend

#endif

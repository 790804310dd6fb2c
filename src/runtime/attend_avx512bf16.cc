// Attention over pages: the avx512 bf16 kernels.
#if defined(__x86_64__)

#define PLANISH_SIMD_BITS 512
#define PLANISH_SIMD_NAMESPACE attend_avx512bf16
#define PLANISH_ATTEND_BF16
#include "runtime/attend-inl.h"

namespace planish::attend {

extern constinit const Kernels kAvx512Bf16Kernels = {
    "avx512 bf16", &attend_avx512bf16::AttendPage<attend_avx512bf16::Bf16Page>,
    &attend_avx512bf16::AttendPage<attend_avx512bf16::Int8>};

}  // namespace planish::attend

#endif

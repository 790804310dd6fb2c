// AVX2 + FMA + F16C kernels: tiles of 6 x 16 in 12 registers. Only intrinsics, C headers and code with
// internal linkage here (see gemm_kernels.h).
#include <immintrin.h>
#include <stddef.h>
#include <string.h>

#include "math/gemm_kernels.h"

namespace planish::gemm {
namespace {

struct Vec256 {
  static constexpr int kLanes = 8, kTileRows = 6, kTileRegs = 2, kPanelWidth = 8, kDotRegs = 8, kDotRows = 1,
                       kStepElements = 1;
  static constexpr bool kPadSteps = false;
  using Reg = __m256;

  static __m256i First(int n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
  static Reg Zero() { return _mm256_setzero_ps(); }
  static Reg Load(const float* p) { return _mm256_loadu_ps(p); }
  static void Store(float* p, Reg v) { _mm256_storeu_ps(p, v); }
  static Reg LoadFirst(const float* p, int n) { return _mm256_maskload_ps(p, First(n)); }
  static void StoreFirst(float* p, Reg v, int n) { _mm256_maskstore_ps(p, First(n), v); }
  static Reg Broadcast(const float* p) { return _mm256_broadcast_ss(p); }
  static Reg MulAdd(Reg a, Reg b, Reg c) { return _mm256_fmadd_ps(a, b, c); }
  static Reg Add(Reg a, Reg b) { return _mm256_add_ps(a, b); }
  static Reg Negate(Reg v) { return _mm256_xor_ps(v, _mm256_set1_ps(-0.0f)); }

  static float HalvingSum(Reg v) {
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
  }

  template <Element kType>
  static Reg LoadElements(const unsigned char* p) {
    if constexpr (kType == Element::kF32) {
      return _mm256_castsi256_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
    }
    const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    if constexpr (kType == Element::kF16) return _mm256_cvtph_ps(half);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
  }

  static void Transpose(Reg* r) {
    Reg t[8];
#pragma GCC unroll 4
    for (int i = 0; i < 8; i += 2) {
      t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
      t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
    }
    Reg u[8];  // half h of u[4 i + c]: column 4 h + c of rows 4 i to 4 i + 3
#pragma GCC unroll 2
    for (int i = 0; i < 8; i += 4) {
      u[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
      u[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xee);
      u[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
      u[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xee);
    }
#pragma GCC unroll 4
    for (int c = 0; c < 4; ++c) {
      r[c] = _mm256_permute2f128_ps(u[c], u[4 + c], 0x20);
      r[4 + c] = _mm256_permute2f128_ps(u[c], u[4 + c], 0x31);
    }
  }
};

#include "math/gemm-inl.h"

}  // namespace

extern constinit const KernelSet kAvx2Kernels = MakeKernels<Vec256>("avx2");

}  // namespace planish::gemm

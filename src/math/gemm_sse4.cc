// Kernels of the baseline x86-64-v2, for processors without fused multiply-add: products are rounded
// before they are added, so the bits differ from the other sets'. Tiles of 6 x 8 in 12 registers.
#include <smmintrin.h>
#include <stddef.h>
#include <string.h>

#include "math/gemm_kernels.h"

namespace planish::gemm {
namespace {

struct Vec128 {
  static constexpr int kLanes = 4, kTileRows = 6, kTileRegs = 2, kPanelWidth = 8, kDotRegs = 8, kDotRows = 1,
                       kStepElements = 1;
  static constexpr bool kPadSteps = false;
  using Reg = __m128;

  static Reg Zero() { return _mm_setzero_ps(); }
  static Reg Load(const float* p) { return _mm_loadu_ps(p); }
  static void Store(float* p, Reg v) { _mm_storeu_ps(p, v); }
  static Reg LoadFirst(const float* p, int n) {
    float padded[4] = {};
    for (int i = 0; i < 4 && i < n; ++i) padded[i] = p[i];
    return _mm_loadu_ps(padded);
  }
  static void StoreFirst(float* p, Reg v, int n) {
    float all[4];
    _mm_storeu_ps(all, v);
    for (int i = 0; i < 4 && i < n; ++i) p[i] = all[i];
  }
  static Reg Broadcast(const float* p) { return _mm_set1_ps(*p); }
  static Reg MulAdd(Reg a, Reg b, Reg c) { return _mm_add_ps(_mm_mul_ps(a, b), c); }
  static Reg Add(Reg a, Reg b) { return _mm_add_ps(a, b); }
  static Reg Negate(Reg v) { return _mm_xor_ps(v, _mm_set1_ps(-0.0f)); }

  static float HalvingSum(Reg v) {
    const __m128 two = _mm_add_ps(v, _mm_movehl_ps(v, v));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 0x55)));
  }

  // The fraction and exponent of a half, moved into place, are a float too small by 2^112: the product is
  // exact, subnormals included. Infinity and NaN then get the float's full exponent.
  static Reg WidenHalf(__m128i half) {
    const __m128i bits = _mm_cvtepu16_epi32(half);
    const __m128i magnitude = _mm_and_si128(bits, _mm_set1_epi32(0x7fff));
    const __m128 scaled =
        _mm_mul_ps(_mm_castsi128_ps(_mm_slli_epi32(magnitude, 13)), _mm_set1_ps(0x1.0p112f));
    const __m128i special =
        _mm_and_si128(_mm_cmpgt_epi32(magnitude, _mm_set1_epi32(0x7bff)), _mm_set1_epi32(0x7f800000));
    const __m128i sign = _mm_slli_epi32(_mm_xor_si128(bits, magnitude), 16);
    return _mm_castsi128_ps(_mm_or_si128(_mm_or_si128(_mm_castps_si128(scaled), special), sign));
  }

  template <Element kType>
  static Reg LoadElements(const unsigned char* p) {
    if constexpr (kType == Element::kF32) {
      return _mm_castsi128_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    }
    const __m128i half = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
    if constexpr (kType == Element::kF16) return WidenHalf(half);
    return _mm_castsi128_ps(_mm_slli_epi32(_mm_cvtepu16_epi32(half), 16));
  }

  static void Transpose(Reg* r) { _MM_TRANSPOSE4_PS(r[0], r[1], r[2], r[3]); }
};

#include "math/gemm-inl.h"

}  // namespace

extern constinit const KernelSet kSse4Kernels = MakeKernels<Vec128>("sse4");

}  // namespace planish::gemm

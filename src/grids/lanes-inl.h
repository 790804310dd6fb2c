// One vector register of floats, the same operations on every instruction set: a kernel body is
// written once over Lanes and compiled by each of x.cc, x_avx2.cc and x_avx512.cc. Every operation
// is exactly rounded (or exact), and Min and Max treat NaN the same way everywhere, so the
// instruction sets return the same bits as long as lanes do not mix.
//
// Included by kernel files only. Everything has internal linkage and nothing of the standard
// library is instantiated, so no code of a faster set can be linked into the others.
#pragma once

#include <cstdint>

#if defined(__AVX2__)
// GCC 12 takes _mm512_undefined_ps for a use of an uninitialized variable (its bug 105593).
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop
#else
#include <cmath>

#include "tensor/dtype.h"
#endif

namespace planish {
namespace {

#if defined(__AVX2__)
inline float Largest(__m128 four) {
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}
#endif

#if defined(__AVX512F__)

struct Lanes {
  static constexpr int kWidth = 16;
  __m512 v;
};
inline Lanes Load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline void Store(float* p, Lanes a) { _mm512_storeu_ps(p, a.v); }
inline Lanes Set(float x) { return {_mm512_set1_ps(x)}; }
inline Lanes Add(Lanes a, Lanes b) { return {_mm512_add_ps(a.v, b.v)}; }
inline Lanes Sub(Lanes a, Lanes b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline Lanes Mul(Lanes a, Lanes b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline Lanes Div(Lanes a, Lanes b) { return {_mm512_div_ps(a.v, b.v)}; }
inline Lanes Fma(Lanes a, Lanes b, Lanes c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
inline Lanes Fnma(Lanes a, Lanes b, Lanes c) { return {_mm512_fnmadd_ps(a.v, b.v, c.v)}; }
inline Lanes Min(Lanes a, Lanes b) { return {_mm512_min_ps(a.v, b.v)}; }
inline Lanes Max(Lanes a, Lanes b) { return {_mm512_max_ps(a.v, b.v)}; }
inline Lanes RoundEven(Lanes a) {
  return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
inline Lanes SelectLess(Lanes a, Lanes b, Lanes yes, Lanes no) {
  return {_mm512_mask_blend_ps(_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ), no.v, yes.v)};
}
// p[index] of each lane, whole numbers.
inline Lanes Gather(const float* p, Lanes index) {
  return {_mm512_i32gather_ps(_mm512_cvtps_epi32(index.v), p, 4)};
}
// p[bits of x, shifted right] of each lane.
inline Lanes GatherByTop(const float* p, Lanes x, int shift) {
  return {_mm512_i32gather_ps(_mm512_srl_epi32(_mm512_castps_si512(x.v), _mm_cvtsi32_si128(shift)), p, 4)};
}
inline float Largest(Lanes a) {
  return Largest(_mm_max_ps(_mm_max_ps(_mm512_castps512_ps128(a.v), _mm512_extractf32x4_ps(a.v, 1)),
                            _mm_max_ps(_mm512_extractf32x4_ps(a.v, 2), _mm512_extractf32x4_ps(a.v, 3))));
}
inline Lanes RoundToHalf(Lanes a) {
  return {_mm512_cvtph_ps(_mm512_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC))};
}
inline void StoreBytes(uint8_t* p, Lanes a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(a.v)));
}

#elif defined(__AVX2__)

struct Lanes {
  static constexpr int kWidth = 8;
  __m256 v;
};
inline Lanes Load(const float* p) { return {_mm256_loadu_ps(p)}; }
inline void Store(float* p, Lanes a) { _mm256_storeu_ps(p, a.v); }
inline Lanes Set(float x) { return {_mm256_set1_ps(x)}; }
inline Lanes Add(Lanes a, Lanes b) { return {_mm256_add_ps(a.v, b.v)}; }
inline Lanes Sub(Lanes a, Lanes b) { return {_mm256_sub_ps(a.v, b.v)}; }
inline Lanes Mul(Lanes a, Lanes b) { return {_mm256_mul_ps(a.v, b.v)}; }
inline Lanes Div(Lanes a, Lanes b) { return {_mm256_div_ps(a.v, b.v)}; }
inline Lanes Fma(Lanes a, Lanes b, Lanes c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
inline Lanes Fnma(Lanes a, Lanes b, Lanes c) { return {_mm256_fnmadd_ps(a.v, b.v, c.v)}; }
inline Lanes Min(Lanes a, Lanes b) { return {_mm256_min_ps(a.v, b.v)}; }
inline Lanes Max(Lanes a, Lanes b) { return {_mm256_max_ps(a.v, b.v)}; }
inline Lanes RoundEven(Lanes a) {
  return {_mm256_round_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
inline Lanes SelectLess(Lanes a, Lanes b, Lanes yes, Lanes no) {
  return {_mm256_blendv_ps(no.v, yes.v, _mm256_cmp_ps(a.v, b.v, _CMP_LT_OQ))};
}
inline Lanes Gather(const float* p, Lanes index) {
  return {_mm256_i32gather_ps(p, _mm256_cvtps_epi32(index.v), 4)};
}
inline Lanes GatherByTop(const float* p, Lanes x, int shift) {
  return {_mm256_i32gather_ps(p, _mm256_srl_epi32(_mm256_castps_si256(x.v), _mm_cvtsi32_si128(shift)), 4)};
}
inline float Largest(Lanes a) {
  return Largest(_mm_max_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1)));
}
inline Lanes RoundToHalf(Lanes a) {
  return {_mm256_cvtph_ps(_mm256_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC))};
}
inline void StoreBytes(uint8_t* p, Lanes a) {
  const __m256i i32 = _mm256_cvtps_epi32(a.v);
  const __m128i i16 = _mm_packs_epi32(_mm256_castsi256_si128(i32), _mm256_extracti128_si256(i32, 1));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packus_epi16(i16, i16));
}

#else

struct Lanes {
  static constexpr int kWidth = 1;
  float v;
};
inline Lanes Load(const float* p) { return {*p}; }
inline void Store(float* p, Lanes a) { *p = a.v; }
inline Lanes Set(float x) { return {x}; }
inline Lanes Add(Lanes a, Lanes b) { return {a.v + b.v}; }
inline Lanes Sub(Lanes a, Lanes b) { return {a.v - b.v}; }
inline Lanes Mul(Lanes a, Lanes b) { return {a.v * b.v}; }
inline Lanes Div(Lanes a, Lanes b) { return {a.v / b.v}; }
inline Lanes Fma(Lanes a, Lanes b, Lanes c) { return {std::fma(a.v, b.v, c.v)}; }
inline Lanes Fnma(Lanes a, Lanes b, Lanes c) { return {std::fma(-a.v, b.v, c.v)}; }
inline Lanes Min(Lanes a, Lanes b) { return {a.v < b.v ? a.v : b.v}; }  // b if either is NaN
inline Lanes Max(Lanes a, Lanes b) { return {a.v > b.v ? a.v : b.v}; }  // b if either is NaN
inline Lanes RoundEven(Lanes a) { return {std::nearbyint(a.v)}; }
inline Lanes SelectLess(Lanes a, Lanes b, Lanes yes, Lanes no) { return a.v < b.v ? yes : no; }
inline Lanes Gather(const float* p, Lanes index) { return {p[static_cast<int64_t>(index.v)]}; }
inline Lanes GatherByTop(const float* p, Lanes x, int shift) {
  uint32_t bits;
  __builtin_memcpy(&bits, &x.v, 4);
  return {p[bits >> shift]};
}
inline float Largest(Lanes a) { return a.v; }
inline Lanes RoundToHalf(Lanes a) { return {ToFloat(ToF16(a.v))}; }
inline void StoreBytes(uint8_t* p, Lanes a) { *p = static_cast<uint8_t>(a.v); }

#endif

// The bits of x as a half.
inline uint16_t HalfBits(float x) {
#if defined(__AVX2__)
  return static_cast<uint16_t>(_cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#else
  return ToF16(x).bits;
#endif
}

}  // namespace
}  // namespace planish

// F16x: sixteen floats, the unit every kernel in nn-inl.h is written in. One zmm register with
// AVX-512, two ymm with AVX2, four xmm with SSE4, an array in the scalar set. Since all sets have the same
// sixteen lanes and the same join trees, and Fma is the only place where a product is fused, the sets
// scalar, avx2 and avx512 return the same bits. SSE4 has no fused multiply-add and rounds the product.
//
// To be included once by a *_<set>.cc file that has defined
//   PLANISH_SIMD_BITS       512, 256, 128, or 0 for the scalar set
//   PLANISH_SIMD_NAMESPACE  a namespace of its own
// Everything lives in an anonymous namespace, and neither this file nor nn-inl.h uses inline functions
// or templates of shared or standard headers: the linker keeps one copy of those, and it could be the one
// compiled for instructions that this machine lacks.
#pragma once

#include <stdint.h>

#if PLANISH_SIMD_BITS > 0
#pragma GCC diagnostic push
#if !defined(__clang__)
// GCC 12 takes the "undefined" operands inside its own intrinsics for mistakes of the caller (PR 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>
#pragma GCC diagnostic pop
#endif

// Sanitizers put checks on every access, and inlining all of it makes compiling take minutes.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define PLANISH_INLINE __attribute__((noinline, unused))
#else
#define PLANISH_INLINE inline __attribute__((always_inline))
#endif

namespace planish {
namespace PLANISH_SIMD_NAMESPACE {
namespace {

constexpr int64_t kLanes = 16;

// Lane semantics shared by all sets, NaN included: Max(a, b) is a > b ? a : b and Min(a, b) is a < b ? a : b,
// so the second operand is returned when either is NaN. SelectLess(a, b, x, y) is a < b ? x : y.
// ShiftExponent(x, t) adds the low nine bits of the integer held in the mantissa of t to the exponent of x.

#if PLANISH_SIMD_BITS == 512

struct F16x {
  __m512 v;
};
// Rows and vectors of the product micro-kernel: 16 accumulators hide 4 cycles of latency on two units.
constexpr int kTileRows = 4, kTileVectors = 4;
// Tokens that a scan takes at once: as many sums as hide the latency and fit the registers.
constexpr int kScanTokens = 4;

PLANISH_INLINE __mmask16 TailMask(int64_t n) { return static_cast<__mmask16>((1u << n) - 1); }
PLANISH_INLINE F16x Set(float x) { return {_mm512_set1_ps(x)}; }
PLANISH_INLINE F16x Load(const float* p) { return {_mm512_loadu_ps(p)}; }
PLANISH_INLINE void Store(F16x a, float* p) { _mm512_storeu_ps(p, a.v); }
// The first n lanes, 0 < n < 16; the other lanes are `fill`.
PLANISH_INLINE F16x LoadTail(const float* p, int64_t n, float fill) {
  return {_mm512_mask_loadu_ps(_mm512_set1_ps(fill), TailMask(n), p)};
}
PLANISH_INLINE void StoreTail(F16x a, float* p, int64_t n) { _mm512_mask_storeu_ps(p, TailMask(n), a.v); }
PLANISH_INLINE F16x Add(F16x a, F16x b) { return {_mm512_add_ps(a.v, b.v)}; }
PLANISH_INLINE F16x Sub(F16x a, F16x b) { return {_mm512_sub_ps(a.v, b.v)}; }
PLANISH_INLINE F16x Mul(F16x a, F16x b) { return {_mm512_mul_ps(a.v, b.v)}; }
PLANISH_INLINE F16x Div(F16x a, F16x b) { return {_mm512_div_ps(a.v, b.v)}; }
PLANISH_INLINE F16x Fma(F16x a, F16x b, F16x c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
PLANISH_INLINE F16x Max(F16x a, F16x b) { return {_mm512_max_ps(a.v, b.v)}; }
PLANISH_INLINE F16x Min(F16x a, F16x b) { return {_mm512_min_ps(a.v, b.v)}; }
PLANISH_INLINE F16x SelectLess(F16x a, F16x b, F16x x, F16x y) {
  return {_mm512_mask_blend_ps(_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ), y.v, x.v)};
}
PLANISH_INLINE F16x Abs(F16x a) { return {_mm512_andnot_ps(_mm512_set1_ps(-0.0f), a.v)}; }
PLANISH_INLINE F16x CopySign(F16x a, F16x s) {
  const __m512 sign = _mm512_set1_ps(-0.0f);
  return {_mm512_or_ps(_mm512_andnot_ps(sign, a.v), _mm512_and_ps(sign, s.v))};
}
PLANISH_INLINE F16x ShiftExponent(F16x x, F16x t) {
  return {_mm512_castsi512_ps(
      _mm512_add_epi32(_mm512_castps_si512(x.v), _mm512_slli_epi32(_mm512_castps_si512(t.v), 23)))};
}
PLANISH_INLINE __m128 Quarter(F16x a, int i) {
  return i == 0   ? _mm512_castps512_ps128(a.v)
         : i == 1 ? _mm512_extractf32x4_ps(a.v, 1)
         : i == 2 ? _mm512_extractf32x4_ps(a.v, 2)
                  : _mm512_extractf32x4_ps(a.v, 3);
}

#elif PLANISH_SIMD_BITS == 256

struct F16x {
  __m256 a, b;  // lanes 0..7, 8..15
};
constexpr int kTileRows = 4, kTileVectors = 1;  // 8 ymm accumulators
constexpr int kScanTokens = 2;

PLANISH_INLINE F16x Set(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
PLANISH_INLINE F16x Load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
PLANISH_INLINE void Store(F16x x, float* p) {
  _mm256_storeu_ps(p, x.a);
  _mm256_storeu_ps(p + 8, x.b);
}
PLANISH_INLINE F16x Add(F16x x, F16x y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
PLANISH_INLINE F16x Sub(F16x x, F16x y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
PLANISH_INLINE F16x Mul(F16x x, F16x y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
PLANISH_INLINE F16x Div(F16x x, F16x y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
PLANISH_INLINE F16x Fma(F16x x, F16x y, F16x z) {
  return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}
PLANISH_INLINE F16x Max(F16x x, F16x y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
PLANISH_INLINE F16x Min(F16x x, F16x y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
PLANISH_INLINE F16x SelectLess(F16x p, F16x q, F16x x, F16x y) {
  return {_mm256_blendv_ps(y.a, x.a, _mm256_cmp_ps(p.a, q.a, _CMP_LT_OQ)),
          _mm256_blendv_ps(y.b, x.b, _mm256_cmp_ps(p.b, q.b, _CMP_LT_OQ))};
}
PLANISH_INLINE F16x Abs(F16x x) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  return {_mm256_andnot_ps(sign, x.a), _mm256_andnot_ps(sign, x.b)};
}
PLANISH_INLINE F16x CopySign(F16x x, F16x s) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  return {_mm256_or_ps(_mm256_andnot_ps(sign, x.a), _mm256_and_ps(sign, s.a)),
          _mm256_or_ps(_mm256_andnot_ps(sign, x.b), _mm256_and_ps(sign, s.b))};
}
PLANISH_INLINE __m256 ShiftExponentHalf(__m256 x, __m256 t) {
  return _mm256_castsi256_ps(
      _mm256_add_epi32(_mm256_castps_si256(x), _mm256_slli_epi32(_mm256_castps_si256(t), 23)));
}
PLANISH_INLINE F16x ShiftExponent(F16x x, F16x t) {
  return {ShiftExponentHalf(x.a, t.a), ShiftExponentHalf(x.b, t.b)};
}
PLANISH_INLINE __m128 Quarter(F16x x, int i) {
  const __m256 half = i < 2 ? x.a : x.b;
  return (i & 1) == 0 ? _mm256_castps256_ps128(half) : _mm256_extractf128_ps(half, 1);
}

#elif PLANISH_SIMD_BITS == 128

struct F16x {
  __m128 v[4];
};
constexpr int kTileRows = 2, kTileVectors = 1;  // 8 xmm accumulators
constexpr int kScanTokens = 1;

#define PLANISH_EACH(expression)                   \
  F16x r;                                          \
  for (int i = 0; i < 4; ++i) r.v[i] = expression; \
  return r

PLANISH_INLINE F16x Set(float x) { PLANISH_EACH(_mm_set1_ps(x)); }
PLANISH_INLINE F16x Load(const float* p) { PLANISH_EACH(_mm_loadu_ps(p + 4 * i)); }
PLANISH_INLINE void Store(F16x a, float* p) {
  for (int i = 0; i < 4; ++i) _mm_storeu_ps(p + 4 * i, a.v[i]);
}
PLANISH_INLINE F16x Add(F16x a, F16x b) { PLANISH_EACH(_mm_add_ps(a.v[i], b.v[i])); }
PLANISH_INLINE F16x Sub(F16x a, F16x b) { PLANISH_EACH(_mm_sub_ps(a.v[i], b.v[i])); }
PLANISH_INLINE F16x Mul(F16x a, F16x b) { PLANISH_EACH(_mm_mul_ps(a.v[i], b.v[i])); }
PLANISH_INLINE F16x Div(F16x a, F16x b) { PLANISH_EACH(_mm_div_ps(a.v[i], b.v[i])); }
PLANISH_INLINE F16x Fma(F16x a, F16x b, F16x c) {
  PLANISH_EACH(_mm_add_ps(_mm_mul_ps(a.v[i], b.v[i]), c.v[i]));
}
PLANISH_INLINE F16x Max(F16x a, F16x b) { PLANISH_EACH(_mm_max_ps(a.v[i], b.v[i])); }
PLANISH_INLINE F16x Min(F16x a, F16x b) { PLANISH_EACH(_mm_min_ps(a.v[i], b.v[i])); }
PLANISH_INLINE F16x SelectLess(F16x a, F16x b, F16x x, F16x y) {
  PLANISH_EACH(_mm_blendv_ps(y.v[i], x.v[i], _mm_cmplt_ps(a.v[i], b.v[i])));
}
PLANISH_INLINE F16x Abs(F16x a) { PLANISH_EACH(_mm_andnot_ps(_mm_set1_ps(-0.0f), a.v[i])); }
PLANISH_INLINE F16x CopySign(F16x a, F16x s) {
  const __m128 sign = _mm_set1_ps(-0.0f);
  PLANISH_EACH(_mm_or_ps(_mm_andnot_ps(sign, a.v[i]), _mm_and_ps(sign, s.v[i])));
}
PLANISH_INLINE F16x ShiftExponent(F16x x, F16x t) {
  PLANISH_EACH(_mm_castsi128_ps(
      _mm_add_epi32(_mm_castps_si128(x.v[i]), _mm_slli_epi32(_mm_castps_si128(t.v[i]), 23))));
}
PLANISH_INLINE __m128 Quarter(F16x a, int i) { return a.v[i]; }

#undef PLANISH_EACH

#else  // scalar: the specification

struct F16x {
  float v[16];
};
constexpr int kTileRows = 1, kTileVectors = 1, kScanTokens = 1;

#define PLANISH_EACH(expression)                    \
  F16x r;                                           \
  for (int i = 0; i < 16; ++i) r.v[i] = expression; \
  return r

PLANISH_INLINE uint32_t Bits(float x) {
  uint32_t u;
  __builtin_memcpy(&u, &x, 4);
  return u;
}
PLANISH_INLINE float FromBits(uint32_t u) {
  float x;
  __builtin_memcpy(&x, &u, 4);
  return x;
}
PLANISH_INLINE F16x Set(float x) { PLANISH_EACH(x); }
PLANISH_INLINE F16x Load(const float* p) { PLANISH_EACH(p[i]); }
PLANISH_INLINE void Store(F16x a, float* p) {
  for (int i = 0; i < 16; ++i) p[i] = a.v[i];
}
PLANISH_INLINE F16x Add(F16x a, F16x b) { PLANISH_EACH(a.v[i] + b.v[i]); }
PLANISH_INLINE F16x Sub(F16x a, F16x b) { PLANISH_EACH(a.v[i] - b.v[i]); }
PLANISH_INLINE F16x Mul(F16x a, F16x b) { PLANISH_EACH(a.v[i] * b.v[i]); }
PLANISH_INLINE F16x Div(F16x a, F16x b) { PLANISH_EACH(a.v[i] / b.v[i]); }
PLANISH_INLINE F16x Fma(F16x a, F16x b, F16x c) { PLANISH_EACH(__builtin_fmaf(a.v[i], b.v[i], c.v[i])); }
PLANISH_INLINE F16x Max(F16x a, F16x b) { PLANISH_EACH(a.v[i] > b.v[i] ? a.v[i] : b.v[i]); }
PLANISH_INLINE F16x Min(F16x a, F16x b) { PLANISH_EACH(a.v[i] < b.v[i] ? a.v[i] : b.v[i]); }
PLANISH_INLINE F16x SelectLess(F16x a, F16x b, F16x x, F16x y) {
  PLANISH_EACH(a.v[i] < b.v[i] ? x.v[i] : y.v[i]);
}
PLANISH_INLINE F16x Abs(F16x a) { PLANISH_EACH(FromBits(Bits(a.v[i]) & 0x7fffffffu)); }
PLANISH_INLINE F16x CopySign(F16x a, F16x s) {
  PLANISH_EACH(FromBits((Bits(a.v[i]) & 0x7fffffffu) | (Bits(s.v[i]) & 0x80000000u)));
}
PLANISH_INLINE F16x ShiftExponent(F16x x, F16x t) {
  PLANISH_EACH(FromBits(Bits(x.v[i]) + (Bits(t.v[i]) << 23)));
}

#undef PLANISH_EACH

#endif

#if PLANISH_SIMD_BITS != 512
PLANISH_INLINE F16x LoadTail(const float* p, int64_t n, float fill) {
  float buffer[16];
  for (int i = 0; i < 16; ++i) buffer[i] = i < n ? p[i] : fill;
  return Load(buffer);
}
PLANISH_INLINE void StoreTail(F16x a, float* p, int64_t n) {
  float buffer[16];
  Store(a, buffer);
  for (int i = 0; i < n; ++i) p[i] = buffer[i];
}
#endif

// The join tree: lanes i and i + 8, then i and i + 4, then i and i + 2, then 0 and 1.
#if PLANISH_SIMD_BITS > 0
PLANISH_INLINE float JoinSum(F16x a) {
  const __m128 s =
      _mm_add_ps(_mm_add_ps(Quarter(a, 0), Quarter(a, 2)), _mm_add_ps(Quarter(a, 1), Quarter(a, 3)));
  const __m128 t = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(t, _mm_shuffle_ps(t, t, 1)));
}
PLANISH_INLINE float JoinMax(F16x a) {
  const __m128 s =
      _mm_max_ps(_mm_max_ps(Quarter(a, 0), Quarter(a, 2)), _mm_max_ps(Quarter(a, 1), Quarter(a, 3)));
  const __m128 t = _mm_max_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_max_ss(t, _mm_shuffle_ps(t, t, 1)));
}
#else
PLANISH_INLINE float JoinSum(F16x a) {
  for (int width = 8; width > 0; width /= 2) {
    for (int i = 0; i < width; ++i) a.v[i] = a.v[i] + a.v[i + width];
  }
  return a.v[0];
}
PLANISH_INLINE float JoinMax(F16x a) {
  for (int width = 8; width > 0; width /= 2) {
    for (int i = 0; i < width; ++i) a.v[i] = a.v[i] > a.v[i + width] ? a.v[i] : a.v[i + width];
  }
  return a.v[0];
}
#endif

// Transposes 4 rows of 4 floats: to[j * to_stride + i] = from[i * from_stride + j].
PLANISH_INLINE void Transpose4x4(const float* from, int64_t from_stride, float* to, int64_t to_stride) {
#if PLANISH_SIMD_BITS > 0
  __m128 r0 = _mm_loadu_ps(from), r1 = _mm_loadu_ps(from + from_stride);
  __m128 r2 = _mm_loadu_ps(from + 2 * from_stride), r3 = _mm_loadu_ps(from + 3 * from_stride);
  _MM_TRANSPOSE4_PS(r0, r1, r2, r3);
  _mm_storeu_ps(to, r0);
  _mm_storeu_ps(to + to_stride, r1);
  _mm_storeu_ps(to + 2 * to_stride, r2);
  _mm_storeu_ps(to + 3 * to_stride, r3);
#else
  for (int i = 0; i < 4; ++i) {
    for (int j = 0; j < 4; ++j) to[j * to_stride + i] = from[i * from_stride + j];
  }
#endif
}

}  // namespace
}  // namespace PLANISH_SIMD_NAMESPACE
}  // namespace planish

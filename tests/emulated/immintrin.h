// Stands in front of the compiler's <immintrin.h> for kernel files of instruction sets that a machine may
// lack: registers of 512 bits are arrays, and their intrinsics functions of instructions.cc that compute
// what Intel's Software Developer's Manual defines, one lane after the other. Only what the kernels use is
// here. 128 and 256 bits are the processor's own (AVX2, FMA, F16C).
#pragma once

// The parts of <immintrin.h> up to AVX2, which both compilers refuse to include alone.
#if defined(__clang__)
#define __IMMINTRIN_H
#else
#define _IMMINTRIN_H_INCLUDED
#endif
#include <nmmintrin.h>

#include <avxintrin.h>

#include <avx2intrin.h>

#include <f16cintrin.h>
#include <fmaintrin.h>
#include <stdint.h>

// Kernel bodies ask for it.
#define __AVX512F__ 1

struct alignas(64) __m512 {
  float lane[16];
};
struct alignas(64) __m512d {
  double lane[8];
};
struct alignas(64) __m512i {
  uint8_t byte[64];
};
struct alignas(64) __m512bh {
  uint16_t lane[32];
  __m512bh() = default;
  explicit __m512bh(const __m512i& bits) { __builtin_memcpy(lane, bits.byte, 64); }
};
using __mmask8 = uint8_t;
using __mmask16 = uint16_t;
using __mmask64 = uint64_t;

// ---- F: floats ----
__m512 _mm512_setzero_ps();
__m512 _mm512_set1_ps(float x);
__m512 _mm512_loadu_ps(const void* p);
void _mm512_storeu_ps(void* p, __m512 a);
__m512 _mm512_mask_loadu_ps(__m512 other, __mmask16 mask, const void* p);
__m512 _mm512_maskz_loadu_ps(__mmask16 mask, const void* p);
void _mm512_mask_storeu_ps(void* p, __mmask16 mask, __m512 a);
__m512 _mm512_add_ps(__m512 a, __m512 b);
__m512 _mm512_sub_ps(__m512 a, __m512 b);
__m512 _mm512_mul_ps(__m512 a, __m512 b);
__m512 _mm512_div_ps(__m512 a, __m512 b);
__m512 _mm512_fmadd_ps(__m512 a, __m512 b, __m512 c);
__m512 _mm512_fnmadd_ps(__m512 a, __m512 b, __m512 c);
__m512 _mm512_min_ps(__m512 a, __m512 b);
__m512 _mm512_max_ps(__m512 a, __m512 b);
__m512 _mm512_roundscale_ps(__m512 a, int how);
__mmask16 _mm512_cmp_ps_mask(__m512 a, __m512 b, int how);
__m512 _mm512_mask_blend_ps(__mmask16 mask, __m512 clear, __m512 set);
__m512 _mm512_unpacklo_ps(__m512 a, __m512 b);
__m512 _mm512_unpackhi_ps(__m512 a, __m512 b);
__m512 _mm512_shuffle_f32x4(__m512 a, __m512 b, int how);
__m128 _mm512_extractf32x4_ps(__m512 a, int quarter);
__m128 _mm512_castps512_ps128(__m512 a);
__m256 _mm512_castps512_ps256(__m512 a);
__m512 _mm512_cvtph_ps(__m256i a);
__m256i _mm512_cvtps_ph(__m512 a, int how);
__m512 _mm512_cvtepi32_ps(__m512i a);
__m512i _mm512_cvtps_epi32(__m512 a);
__m512 _mm512_i32gather_ps(__m512i index, const void* base, int scale);
__m512i _mm512_castps_si512(__m512 a);
__m512d _mm512_castps_pd(__m512 a);
__m512 _mm512_castsi512_ps(__m512i a);
__m512 _mm512_castpd_ps(__m512d a);

// ---- F: doubles ----
__m512d _mm512_setzero_pd();
__m512d _mm512_set1_pd(double x);
__m512d _mm512_add_pd(__m512d a, __m512d b);
__m512d _mm512_sub_pd(__m512d a, __m512d b);
__m512d _mm512_mul_pd(__m512d a, __m512d b);
__m512d _mm512_fmadd_pd(__m512d a, __m512d b, __m512d c);
__mmask8 _mm512_cmp_pd_mask(__m512d a, __m512d b, int how);
__m512d _mm512_maskz_mov_pd(__mmask8 mask, __m512d a);
__m512d _mm512_maskz_sub_pd(__mmask8 mask, __m512d a, __m512d b);
__m512d _mm512_unpacklo_pd(__m512d a, __m512d b);
__m512d _mm512_unpackhi_pd(__m512d a, __m512d b);
__m512d _mm512_cvtps_pd(__m256 a);
__m256d _mm512_castpd512_pd256(__m512d a);
__m256d _mm512_extractf64x4_pd(__m512d a, int half);
__m512i _mm512_castpd_si512(__m512d a);
__m512d _mm512_castsi512_pd(__m512i a);

// ---- F: integers ----
__m512i _mm512_setzero_si512();
__m512i _mm512_set1_epi8(char x);
__m512i _mm512_set1_epi16(short x);
__m512i _mm512_set1_epi32(int x);
__m512i _mm512_set1_epi64(long long x);
__m512i _mm512_loadu_si512(const void* p);
void _mm512_storeu_si512(void* p, __m512i a);
__m512i _mm512_maskz_loadu_epi32(__mmask16 mask, const void* p);
__m512i _mm512_add_epi32(__m512i a, __m512i b);
__m512i _mm512_sub_epi32(__m512i a, __m512i b);
__m512i _mm512_add_epi64(__m512i a, __m512i b);
__m512i _mm512_max_epi32(__m512i a, __m512i b);
__m512i _mm512_and_si512(__m512i a, __m512i b);
__m512i _mm512_or_si512(__m512i a, __m512i b);
__m512i _mm512_ternarylogic_epi32(__m512i a, __m512i b, __m512i c, int table);
__m512i _mm512_slli_epi32(__m512i a, unsigned count);
__m512i _mm512_srli_epi32(__m512i a, unsigned count);
__m512i _mm512_srai_epi32(__m512i a, unsigned count);
__m512i _mm512_srl_epi32(__m512i a, __m128i count);
__m512i _mm512_slli_epi64(__m512i a, unsigned count);
__m512i _mm512_unpacklo_epi32(__m512i a, __m512i b);
__m512i _mm512_unpackhi_epi32(__m512i a, __m512i b);
__m512i _mm512_unpacklo_epi64(__m512i a, __m512i b);
__m512i _mm512_unpackhi_epi64(__m512i a, __m512i b);
__m512i _mm512_shuffle_i32x4(__m512i a, __m512i b, int how);
__m512i _mm512_broadcast_i32x4(__m128i a);
__m512i _mm512_cvtepu8_epi32(__m128i a);
__m512i _mm512_cvtepu16_epi32(__m256i a);
__m512i _mm512_cvtepi16_epi32(__m256i a);
__m128i _mm512_cvtepi32_epi8(__m512i a);
__m256i _mm512_cvtepi32_epi16(__m512i a);
__m512i _mm512_castsi256_si512(__m256i a);
__m512i _mm512_inserti64x4(__m512i a, __m256i b, int half);

// ---- BW ----
__m512i _mm512_add_epi16(__m512i a, __m512i b);
__m512i _mm512_madd_epi16(__m512i a, __m512i b);
__m512i _mm512_maddubs_epi16(__m512i a, __m512i b);
__m512i _mm512_shuffle_epi8(__m512i a, __m512i control);
__mmask64 _mm512_cmpeq_epi8_mask(__m512i a, __m512i b);
__m512i _mm512_mask_blend_epi8(__mmask64 mask, __m512i clear, __m512i set);
__m512i _mm512_mask_blend_epi32(__mmask16 mask, __m512i clear, __m512i set);
__m512i _mm512_slli_epi16(__m512i a, unsigned count);
__m512i _mm512_srli_epi16(__m512i a, unsigned count);
__m512i _mm512_sll_epi16(__m512i a, __m128i count);

// ---- DQ ----
__m512 _mm512_and_ps(__m512 a, __m512 b);
__m512 _mm512_andnot_ps(__m512 a, __m512 b);
__m512 _mm512_or_ps(__m512 a, __m512 b);
__m512 _mm512_xor_ps(__m512 a, __m512 b);
__m256 _mm512_extractf32x8_ps(__m512 a, int half);

// ---- VL ----
__m256 _mm256_mask_loadu_ps(__m256 other, __mmask8 mask, const void* p);
__m256 _mm256_maskz_loadu_ps(__mmask8 mask, const void* p);

// ---- BF16 ----
__m512 _mm512_dpbf16_ps(__m512 sum, __m512bh a, __m512bh b);
__m256i _mm512_cvtneps_pbh(__m512 a);  // the compiler's own type for it converts to this one

// ---- AMX ----
// TDPBF16PS of whole tiles: c [16, 16] += a [16, 32 of bf16] b [16 pairs, 16].
void EmulatedTileProduct(const float* a, const float* b, float* c);

// ---- VNNI ----
__m512i _mm512_dpbusd_epi32(__m512i sum, __m512i a, __m512i b);

// Two registers of eight doubles are the 16 partial sums of divergence.cc, whose operations are
// repeated here one for one. About 30 vector operations for 8 columns and 64 bytes read: bound by the
// arithmetic, not by memory.
#if defined(__x86_64__)
// GCC 12 warns about the deliberately undefined vectors of its own header (GCC bug 105593).
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop

#include "math/divergence_isa.h"

namespace planish::divergence_avx512 {
namespace {

__m512d Exp(__m512d x) {
  const __m512d round = _mm512_set1_pd(0x1.8p52);
  const __m512d shifted = _mm512_fmadd_pd(x, _mm512_set1_pd(0x1.71547652b82fep0), round);
  const __m512d n = _mm512_sub_pd(shifted, round);
  const __m512d r = _mm512_fmadd_pd(n, _mm512_set1_pd(-0x1.62e42fefa39efp-1), x);
  __m512d y = _mm512_set1_pd(1.0 / 362880);
  y = _mm512_fmadd_pd(y, r, _mm512_set1_pd(1.0 / 40320));
  y = _mm512_fmadd_pd(y, r, _mm512_set1_pd(1.0 / 5040));
  y = _mm512_fmadd_pd(y, r, _mm512_set1_pd(1.0 / 720));
  y = _mm512_fmadd_pd(y, r, _mm512_set1_pd(1.0 / 120));
  y = _mm512_fmadd_pd(y, r, _mm512_set1_pd(1.0 / 24));
  y = _mm512_fmadd_pd(y, r, _mm512_set1_pd(1.0 / 6));
  y = _mm512_fmadd_pd(y, r, _mm512_set1_pd(0.5));
  y = _mm512_fmadd_pd(y, r, _mm512_set1_pd(1.0));
  y = _mm512_fmadd_pd(y, r, _mm512_set1_pd(1.0));
  const __m512i exponent = _mm512_add_epi64(_mm512_castpd_si512(shifted), _mm512_set1_epi64(1023));
  return _mm512_mul_pd(y, _mm512_castsi512_pd(_mm512_slli_epi64(exponent, 52)));
}

__m512d AddTerms(__m256 ref, __m256 other, __m512d sum) {
  const __m512d x = _mm512_cvtps_pd(ref);
  const __mmask8 keep = _mm512_cmp_pd_mask(x, _mm512_set1_pd(-700.0), _CMP_GE_OQ);
  // Masked inputs keep the arithmetic finite: p_ref and the difference both become 0.
  const __m512d p = _mm512_maskz_mov_pd(keep, Exp(_mm512_maskz_mov_pd(keep, x)));
  return _mm512_fmadd_pd(p, _mm512_maskz_sub_pd(keep, x, _mm512_cvtps_pd(other)), sum);
}

__m512d AddTail(const float* ref, const float* other, int64_t count, __m512d sum) {
  if (count <= 0) return sum;
  const __mmask8 mask = count >= 8 ? 0xff : (__mmask8)((1u << count) - 1);
  // Columns beyond the end get a ln p_ref below -700 and add nothing.
  return AddTerms(_mm256_mask_loadu_ps(_mm256_set1_ps(-1000.0f), mask, ref),
                  _mm256_maskz_loadu_ps(mask, other), sum);
}

}  // namespace

double KlRow(const float* ref, const float* other, int64_t cols) {
  __m512d low = _mm512_setzero_pd(), high = _mm512_setzero_pd();
  int64_t i = 0;
  for (; i + 16 <= cols; i += 16) {
    low = AddTerms(_mm256_loadu_ps(ref + i), _mm256_loadu_ps(other + i), low);
    high = AddTerms(_mm256_loadu_ps(ref + i + 8), _mm256_loadu_ps(other + i + 8), high);
  }
  if (i < cols) low = AddTail(ref + i, other + i, cols - i, low);
  if (i + 8 < cols) high = AddTail(ref + i + 8, other + i + 8, cols - i - 8, high);
  const __m512d eight = _mm512_add_pd(low, high);
  const __m256d four = _mm256_add_pd(_mm512_castpd512_pd256(eight), _mm512_extractf64x4_pd(eight, 1));
  const __m128d two = _mm_add_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));
  return _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)));
}

}  // namespace planish::divergence_avx512
#endif

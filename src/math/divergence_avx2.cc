// Four registers of four doubles are the 16 partial sums of divergence.cc, whose operations are
// repeated here one for one. About 30 vector operations for 4 columns and 32 bytes read: bound by the
// arithmetic, not by memory.
#if defined(__x86_64__)
#include <immintrin.h>

#include "math/divergence_isa.h"

namespace planish::divergence_avx2 {
namespace {

__m256d Exp(__m256d x) {
  const __m256d round = _mm256_set1_pd(0x1.8p52);
  const __m256d shifted = _mm256_fmadd_pd(x, _mm256_set1_pd(0x1.71547652b82fep0), round);
  const __m256d n = _mm256_sub_pd(shifted, round);
  const __m256d r = _mm256_fmadd_pd(n, _mm256_set1_pd(-0x1.62e42fefa39efp-1), x);
  __m256d y = _mm256_set1_pd(1.0 / 362880);
  y = _mm256_fmadd_pd(y, r, _mm256_set1_pd(1.0 / 40320));
  y = _mm256_fmadd_pd(y, r, _mm256_set1_pd(1.0 / 5040));
  y = _mm256_fmadd_pd(y, r, _mm256_set1_pd(1.0 / 720));
  y = _mm256_fmadd_pd(y, r, _mm256_set1_pd(1.0 / 120));
  y = _mm256_fmadd_pd(y, r, _mm256_set1_pd(1.0 / 24));
  y = _mm256_fmadd_pd(y, r, _mm256_set1_pd(1.0 / 6));
  y = _mm256_fmadd_pd(y, r, _mm256_set1_pd(0.5));
  y = _mm256_fmadd_pd(y, r, _mm256_set1_pd(1.0));
  y = _mm256_fmadd_pd(y, r, _mm256_set1_pd(1.0));
  const __m256i exponent = _mm256_add_epi64(_mm256_castpd_si256(shifted), _mm256_set1_epi64x(1023));
  return _mm256_mul_pd(y, _mm256_castsi256_pd(_mm256_slli_epi64(exponent, 52)));
}

__m256d AddTerms(const float* ref, const float* other, __m256d sum) {
  const __m256d x = _mm256_cvtps_pd(_mm_loadu_ps(ref));
  const __m256d keep = _mm256_cmp_pd(x, _mm256_set1_pd(-700.0), _CMP_GE_OQ);
  // Masked inputs keep the arithmetic finite: p_ref and the difference both become 0.
  const __m256d p = _mm256_and_pd(keep, Exp(_mm256_and_pd(keep, x)));
  const __m256d difference = _mm256_and_pd(keep, _mm256_sub_pd(x, _mm256_cvtps_pd(_mm_loadu_ps(other))));
  return _mm256_fmadd_pd(p, difference, sum);
}

}  // namespace

double KlRow(const float* ref, const float* other, int64_t cols) {
  __m256d sums[4] = {_mm256_setzero_pd(), _mm256_setzero_pd(), _mm256_setzero_pd(), _mm256_setzero_pd()};
  int64_t i = 0;
  for (; i + 16 <= cols; i += 16) {
    for (int k = 0; k < 4; ++k) sums[k] = AddTerms(ref + i + 4 * k, other + i + 4 * k, sums[k]);
  }
  if (i < cols) {
    float ref_tail[16], other_tail[16];
    for (int k = 0; k < 16; ++k) {
      ref_tail[k] = i + k < cols ? ref[i + k] : -1000.0f;  // below -700: adds nothing
      other_tail[k] = i + k < cols ? other[i + k] : 0.0f;
    }
    for (int k = 0; k < 4; ++k) sums[k] = AddTerms(ref_tail + 4 * k, other_tail + 4 * k, sums[k]);
  }
  const __m256d four = _mm256_add_pd(_mm256_add_pd(sums[0], sums[2]), _mm256_add_pd(sums[1], sums[3]));
  const __m128d two = _mm_add_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));
  return _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)));
}

}  // namespace planish::divergence_avx2
#endif

// What the kernels of bf16 pairs share: registers of 16 steps of k, each two elements in 32 bits, the earlier
// one low. Included by their files inside an anonymous namespace.
#pragma once

#include "math/gemm_vec512-inl.h"

struct Pairs512 : Vec512 {
  static constexpr int kStepElements = 2;

  static Reg Negate(Reg v) {
    return _mm512_xor_ps(v, _mm512_castsi512_ps(_mm512_set1_epi32(static_cast<int>(0x80008000u))));
  }

  // To nearest even, in the upper half of each lane; the lower is zero, NaN stays one. Integer instructions,
  // as those for bf16 take subnormal numbers for zeros.
  static __m512i Upper(Reg x) {
    const __m512i bits = _mm512_castps_si512(x);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i sum = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
    const __m512i kept = _mm512_and_si512(sum, _mm512_set1_epi32(static_cast<int>(0xffff0000u)));
    const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    return _mm512_castps_si512(_mm512_mask_blend_ps(nan, _mm512_castsi512_ps(kept),
                                                    _mm512_castsi512_ps(_mm512_set1_epi32(0x7fc00000))));
  }
  // Part 1 is what bf16 holds of the rest, which fp32 holds exactly.
  static __m512i Upper(Reg x, int part) {
    const __m512i first = Upper(x);
    return part == 0 ? first : Upper(_mm512_sub_ps(x, _mm512_castsi512_ps(first)));
  }

  // 32 elements that follow each other.
  template <Element kType>
  static Reg LoadPairs(const unsigned char* p, int part) {
    if constexpr (kType == Element::kBF16) return part == 0 ? _mm512_loadu_ps(p) : Zero();
    constexpr int kBytes = kType == Element::kF32 ? 4 : 2;
    const auto words = [=](const unsigned char* at) {
      return _mm512_cvtepi32_epi16(_mm512_srli_epi32(Upper(LoadElements<kType>(at), part), 16));
    };
    return _mm512_castsi512_ps(
        _mm512_inserti64x4(_mm512_castsi256_si512(words(p)), words(p + 16 * kBytes), 1));
  }
  // Of 16 columns the elements of two rows.
  static Reg JoinRows(Reg even, Reg odd, int part) {
    return _mm512_castsi512_ps(_mm512_or_si512(_mm512_srli_epi32(Upper(even, part), 16), Upper(odd, part)));
  }
};

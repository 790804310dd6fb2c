// The vector type of the kernels for 512-bit registers, included by their files inside an anonymous
// namespace.
#pragma once

struct Vec512 {
  static constexpr int kLanes = 16, kTileRows = 14, kTileRegs = 2, kPanelWidth = 16, kDotRegs = 4,
                       kDotRows = 4, kStepElements = 1;
  static constexpr bool kPadSteps = false;
  using Reg = __m512;

  static __mmask16 First(int n) {
    return n >= 16  ? static_cast<__mmask16>(0xffff)
           : n <= 0 ? static_cast<__mmask16>(0)
                    : static_cast<__mmask16>((1u << n) - 1);
  }
  static Reg Zero() { return _mm512_setzero_ps(); }
  static Reg Load(const float* p) { return _mm512_loadu_ps(p); }
  static void Store(float* p, Reg v) { _mm512_storeu_ps(p, v); }
  static Reg LoadFirst(const float* p, int n) { return _mm512_maskz_loadu_ps(First(n), p); }
  static void StoreFirst(float* p, Reg v, int n) { _mm512_mask_storeu_ps(p, First(n), v); }
  static Reg Broadcast(const float* p) { return _mm512_set1_ps(*p); }
  static Reg MulAdd(Reg a, Reg b, Reg c) { return _mm512_fmadd_ps(a, b, c); }
  static Reg Add(Reg a, Reg b) { return _mm512_add_ps(a, b); }
  static Reg Negate(Reg v) { return _mm512_xor_ps(v, _mm512_set1_ps(-0.0f)); }

  static float HalvingSum(Reg v) {
    const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
  }

  template <Element kType>
  static Reg LoadElements(const unsigned char* p) {
    if constexpr (kType == Element::kF32) return _mm512_loadu_ps(p);
    const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    if constexpr (kType == Element::kF16) return _mm512_cvtph_ps(half);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
  }

  static Reg PairLow(Reg a, Reg b) {
    return _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)));
  }
  static Reg PairHigh(Reg a, Reg b) {
    return _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)));
  }

  static void Transpose(Reg* r) {
    Reg t[16];
#pragma GCC unroll 8
    for (int i = 0; i < 16; i += 2) {
      t[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
      t[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
    }
    Reg u[16];  // quarter q of u[4 i + c]: column 4 q + c of rows 4 i to 4 i + 3
#pragma GCC unroll 4
    for (int i = 0; i < 16; i += 4) {
      u[i] = PairLow(t[i], t[i + 2]);
      u[i + 1] = PairHigh(t[i], t[i + 2]);
      u[i + 2] = PairLow(t[i + 1], t[i + 3]);
      u[i + 3] = PairHigh(t[i + 1], t[i + 3]);
    }
#pragma GCC unroll 4
    for (int c = 0; c < 4; ++c) {
      const Reg even0 = _mm512_shuffle_f32x4(u[c], u[4 + c], 0x88);
      const Reg even1 = _mm512_shuffle_f32x4(u[8 + c], u[12 + c], 0x88);
      const Reg odd0 = _mm512_shuffle_f32x4(u[c], u[4 + c], 0xdd);
      const Reg odd1 = _mm512_shuffle_f32x4(u[8 + c], u[12 + c], 0xdd);
      r[c] = _mm512_shuffle_f32x4(even0, even1, 0x88);
      r[4 + c] = _mm512_shuffle_f32x4(odd0, odd1, 0x88);
      r[8 + c] = _mm512_shuffle_f32x4(even0, even1, 0xdd);
      r[12 + c] = _mm512_shuffle_f32x4(odd0, odd1, 0xdd);
    }
  }
};

// The policy of packed_kernels-inl.h for 512-bit registers, a cache line of codes at a time and all 16 rows
// in a register, but for the dot products; included in the anonymous namespace of one *_avx512.cc file.

struct Avx512 {
  static constexpr int kLanes = 16, kWideBias = 0;
  using Codes = __m512i;
  using I = __m512i;
  using F = __m512;

  static PACKED_INLINE Codes LoadCodes(const unsigned char* p) { return _mm512_loadu_si512(p); }
  static PACKED_INLINE Codes Splat(int v) { return _mm512_set1_epi8(static_cast<char>(v)); }
  static PACKED_INLINE Codes And(Codes a, Codes b) { return _mm512_and_si512(a, b); }
  static PACKED_INLINE Codes Or(Codes a, Codes b) { return _mm512_or_si512(a, b); }
  // b in the rows of every four that the mask names, else a.
  template <int kMask>
  static PACKED_INLINE Codes PickRows(Codes a, Codes b) {
    return _mm512_mask_blend_epi32(kMask * 0x1111, a, b);
  }
  template <int kN>
  static PACKED_INLINE Codes ShiftRight(Codes v) {
    if constexpr (kN == 0) return v;
    return _mm512_srli_epi16(v, kN);
  }
  template <int kN>
  static PACKED_INLINE Codes ShiftLeft(Codes v) {
    return _mm512_slli_epi16(v, kN);
  }
  // Bits 0 and 1 of `low`, bit 2 of `high`.
  static PACKED_INLINE Codes Join3(Codes low, Codes high) {
    return And(_mm512_ternarylogic_epi32(Splat(3), low, high, 0xca), Splat(7));
  }
  static PACKED_INLINE Codes LoadTable(const unsigned char* p) {
    return _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static PACKED_INLINE Codes Lookup(Codes table, Codes code) { return _mm512_shuffle_epi8(table, code); }
  // b where the code is `place`, else a.
  static PACKED_INLINE Codes Replace(Codes code, int place, Codes b, Codes a) {
    return _mm512_mask_blend_epi8(_mm512_cmpeq_epi8_mask(code, Splat(place)), a, b);
  }

  static PACKED_INLINE I ZeroInt() { return _mm512_setzero_si512(); }
  static PACKED_INLINE I SplatInt(int v) { return _mm512_set1_epi32(v); }
  static PACKED_INLINE I AddInt(I a, I b) { return _mm512_add_epi32(a, b); }
  static PACKED_INLINE I SubInt(I a, I b) { return _mm512_sub_epi32(a, b); }
  static PACKED_INLINE I MaxInt(I a, I b) { return _mm512_max_epi32(a, b); }
  static PACKED_INLINE I LoadBytes(const unsigned char* p) {
    return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static PACKED_INLINE I NibbleOf(I v, int shift) {
    return _mm512_and_si512(_mm512_srl_epi32(v, _mm_cvtsi32_si128(shift)), SplatInt(15));
  }
  template <int kN>
  static PACKED_INLINE I ShiftLeftInt(I v) {
    return _mm512_slli_epi32(v, kN);
  }
  static PACKED_INLINE F FloatOfBits(I v) { return _mm512_castsi512_ps(v); }
  static PACKED_INLINE void StoreInt(int32_t* p, I v) { _mm512_storeu_si512(p, v); }

  static PACKED_INLINE F ZeroFloat() { return _mm512_setzero_ps(); }
  static PACKED_INLINE F LoadFloat(const float* p) { return _mm512_loadu_ps(p); }
  static PACKED_INLINE F LoadFloatBytes(const unsigned char* p) { return _mm512_loadu_ps(p); }
  static PACKED_INLINE F SplatFloat(const float* p) { return _mm512_set1_ps(*p); }
  static PACKED_INLINE void StoreFloat(float* p, F v) { _mm512_storeu_ps(p, v); }
  static PACKED_INLINE F ToFloat(I v) { return _mm512_cvtepi32_ps(v); }
  static PACKED_INLINE F MulFloat(F a, F b) { return _mm512_mul_ps(a, b); }
  static PACKED_INLINE F AddFloat(F a, F b) { return _mm512_add_ps(a, b); }
  static PACKED_INLINE F MulAdd(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  static PACKED_INLINE F LoadF16(const unsigned char* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  template <int kOdd>
  static PACKED_INLINE F LoadBF16(const unsigned char* p) {
    const __m512i pairs = _mm512_loadu_si512(p);
    if constexpr (kOdd == 0) return _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16));
    return _mm512_castsi512_ps(_mm512_and_si512(pairs, SplatInt(static_cast<int>(0xffff0000u))));
  }
  template <int kJ>
  static PACKED_INLINE F ByteToFloat(Codes w) {
    if constexpr (kJ == 3) return ToFloat(_mm512_srli_epi32(w, 24));
    return ToFloat(And(_mm512_srli_epi32(w, 8 * kJ), SplatInt(255)));
  }
  static PACKED_INLINE I AbsBits(F v) { return And(_mm512_castps_si512(v), SplatInt(0x7fffffff)); }
  static PACKED_INLINE I Round(F v) { return _mm512_cvtps_epi32(v); }
  static PACKED_INLINE void StoreBytes(signed char* p, I v) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(v));
  }
};

// The policy of packed_kernels-inl.h for 256-bit registers, eight rows at a time, but for the dot products;
// included in the anonymous namespace of one *_avx2.cc file.

PACKED_INLINE __m128i Load64(const unsigned char* p) {
  return _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
}

struct Avx2 {
  static constexpr int kLanes = 8, kWideBias = 0;
  using Codes = __m256i;
  using I = __m256i;
  using F = __m256;

  static PACKED_INLINE Codes LoadCodes(const unsigned char* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  }
  static PACKED_INLINE Codes Splat(int v) { return _mm256_set1_epi8(static_cast<char>(v)); }
  static PACKED_INLINE Codes And(Codes a, Codes b) { return _mm256_and_si256(a, b); }
  static PACKED_INLINE Codes Or(Codes a, Codes b) { return _mm256_or_si256(a, b); }
  // b in the rows of every four that the mask names, else a.
  template <int kMask>
  static PACKED_INLINE Codes PickRows(Codes a, Codes b) {
    return _mm256_blend_epi32(a, b, kMask * 17);
  }
  template <int kN>
  static PACKED_INLINE Codes ShiftRight(Codes v) {
    if constexpr (kN == 0) return v;
    return _mm256_srli_epi16(v, kN);
  }
  template <int kN>
  static PACKED_INLINE Codes ShiftLeft(Codes v) {
    return _mm256_slli_epi16(v, kN);
  }
  static PACKED_INLINE Codes Join3(Codes low, Codes high) {
    return _mm256_or_si256(And(low, Splat(3)), And(high, Splat(4)));
  }
  static PACKED_INLINE Codes LoadTable(const unsigned char* p) {
    return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static PACKED_INLINE Codes Lookup(Codes table, Codes code) { return _mm256_shuffle_epi8(table, code); }

  // b where the code is `place`, else a.
  static PACKED_INLINE Codes Replace(Codes code, int place, Codes b, Codes a) {
    return _mm256_blendv_epi8(a, b, _mm256_cmpeq_epi8(code, Splat(place)));
  }

  static PACKED_INLINE I ZeroInt() { return _mm256_setzero_si256(); }
  static PACKED_INLINE I SplatInt(int v) { return _mm256_set1_epi32(v); }
  static PACKED_INLINE I AddInt(I a, I b) { return _mm256_add_epi32(a, b); }
  static PACKED_INLINE I SubInt(I a, I b) { return _mm256_sub_epi32(a, b); }
  static PACKED_INLINE I MaxInt(I a, I b) { return _mm256_max_epi32(a, b); }
  static PACKED_INLINE I LoadBytes(const unsigned char* p) { return _mm256_cvtepu8_epi32(Load64(p)); }
  static PACKED_INLINE I NibbleOf(I v, int shift) {
    return _mm256_and_si256(_mm256_srl_epi32(v, _mm_cvtsi32_si128(shift)), SplatInt(15));
  }
  template <int kN>
  static PACKED_INLINE I ShiftLeftInt(I v) {
    return _mm256_slli_epi32(v, kN);
  }
  static PACKED_INLINE F FloatOfBits(I v) { return _mm256_castsi256_ps(v); }
  static PACKED_INLINE void StoreInt(int32_t* p, I v) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v);
  }

  static PACKED_INLINE F ZeroFloat() { return _mm256_setzero_ps(); }
  static PACKED_INLINE F LoadFloat(const float* p) { return _mm256_loadu_ps(p); }
  static PACKED_INLINE F LoadFloatBytes(const unsigned char* p) { return _mm256_castsi256_ps(LoadCodes(p)); }
  static PACKED_INLINE F SplatFloat(const float* p) { return _mm256_broadcast_ss(p); }
  static PACKED_INLINE void StoreFloat(float* p, F v) { _mm256_storeu_ps(p, v); }
  static PACKED_INLINE F ToFloat(I v) { return _mm256_cvtepi32_ps(v); }
  static PACKED_INLINE F MulFloat(F a, F b) { return _mm256_mul_ps(a, b); }
  static PACKED_INLINE F AddFloat(F a, F b) { return _mm256_add_ps(a, b); }
  static PACKED_INLINE F MulAdd(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
  static PACKED_INLINE F LoadF16(const unsigned char* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  template <int kOdd>
  static PACKED_INLINE F LoadBF16(const unsigned char* p) {
    const __m256i pairs = LoadCodes(p);
    if constexpr (kOdd == 0) return _mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16));
    return _mm256_castsi256_ps(And(pairs, SplatInt(static_cast<int>(0xffff0000u))));
  }
  template <int kJ>
  static PACKED_INLINE F ByteToFloat(Codes w) {
    if constexpr (kJ == 3) return ToFloat(_mm256_srli_epi32(w, 24));
    return ToFloat(And(_mm256_srli_epi32(w, 8 * kJ), SplatInt(255)));
  }
  static PACKED_INLINE I AbsBits(F v) { return And(_mm256_castps_si256(v), SplatInt(0x7fffffff)); }
  static PACKED_INLINE I Round(F v) { return _mm256_cvtps_epi32(v); }
  static PACKED_INLINE void StoreBytes(signed char* p, I v) {
    const __m128i halves = _mm_packs_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packs_epi16(halves, halves));
  }
  static PACKED_INLINE I FourInputs(const signed char* x) {
    int32_t four;
    __builtin_memcpy(&four, x, 4);
    return SplatInt(four);
  }
};

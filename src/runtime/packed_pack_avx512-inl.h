// Packing of codes with 512-bit registers, after packed_avx512-inl.h.

// Eight codes are `bits` bytes: one deposit spreads them over the bytes of a word.
void Unpack(const unsigned char* in, int64_t count, int bits, unsigned char* out) {
  const uint64_t mask = ((uint64_t{1} << bits) - 1) * 0x0101010101010101u;
  const int64_t bytes = (count * bits + 7) / 8;
  for (int64_t i = 0; i < count; i += 8) {
    const int64_t at = i / 8 * bits, left = bytes - at;
    uint64_t word = 0;
    if (left >= 8) {
      __builtin_memcpy(&word, in + at, 8);
    } else {
      for (int64_t b = 0; b < left; ++b) word |= static_cast<uint64_t>(in[at + b]) << (8 * b);
    }
    word = Deposit(word, mask);
    __builtin_memcpy(out + i, &word, 8);
  }
}

// r[c] afterwards holds dword c of rows 0 to 15.
PACKED_INLINE void Transpose(__m512i (&r)[16]) {
  __m512i t[16];
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
  }
  __m512i u[16];
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    u[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    u[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    u[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    u[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) {
    const __m512i even0 = _mm512_shuffle_i32x4(u[c], u[4 + c], 0x88);
    const __m512i even1 = _mm512_shuffle_i32x4(u[8 + c], u[12 + c], 0x88);
    const __m512i odd0 = _mm512_shuffle_i32x4(u[c], u[4 + c], 0xdd);
    const __m512i odd1 = _mm512_shuffle_i32x4(u[8 + c], u[12 + c], 0xdd);
    r[c] = _mm512_shuffle_i32x4(even0, even1, 0x88);
    r[4 + c] = _mm512_shuffle_i32x4(odd0, odd1, 0x88);
    r[8 + c] = _mm512_shuffle_i32x4(even0, even1, 0xdd);
    r[12 + c] = _mm512_shuffle_i32x4(odd0, odd1, 0xdd);
  }
}

PACKED_INLINE __m512i Bits(__m512i v, int mask) { return Avx512::And(v, Avx512::Splat(mask)); }
PACKED_INLINE __m512i Or(__m512i a, __m512i b) { return _mm512_or_si512(a, b); }
// Four registers of 2-bit codes in one.
PACKED_INLINE __m512i Quarter(const __m512i* z) {
  return Or(Or(Bits(z[0], 3), _mm512_slli_epi16(Bits(z[1], 3), 2)),
            Or(_mm512_slli_epi16(Bits(z[2], 3), 4), _mm512_slli_epi16(Bits(z[3], 3), 6)));
}
PACKED_INLINE __m512i TopBit(const __m512i* z, int i) {
  return _mm512_sll_epi16(Bits(_mm512_srli_epi16(z[i], 2), 1), _mm_cvtsi32_si128(i));
}

// 32 columns in z[0..7], one code a byte, as they lie in a tile. Returns the end.
PACKED_INLINE unsigned char* Store32(Kind kind, const __m512i* z, unsigned char* out) {
  const bool two = kind == Kind::kInt2 || kind == Kind::kTable2 || kind == Kind::kRows2;
  if (two || kind == Kind::kInt3 || kind == Kind::kTable3 || kind == Kind::kSets3 || kind == Kind::kRows3) {
    _mm512_storeu_si512(out, Quarter(z));
    _mm512_storeu_si512(out + 64, Quarter(z + 4));
    out += 128;
    if (two) return out;
    const __m512i low = Or(Or(TopBit(z, 0), TopBit(z, 1)), Or(TopBit(z, 2), TopBit(z, 3)));
    const __m512i high = Or(Or(TopBit(z, 4), TopBit(z, 5)), Or(TopBit(z, 6), TopBit(z, 7)));
    _mm512_storeu_si512(out, Or(low, high));
    return out + 64;
  }
  if (kind == Kind::kInt8) {
    for (int i = 0; i < 8; ++i) _mm512_storeu_si512(out + 64 * i, z[i]);
    return out + 512;
  }
  for (int i = 0; i < 4; ++i) {
    _mm512_storeu_si512(out + 64 * i, Or(z[2 * i], _mm512_slli_epi16(z[2 * i + 1], 4)));
  }
  return out + 256;
}

void Interleave(Kind kind, const unsigned char* codes, int64_t stride, int step, unsigned char* out) {
  for (int k = 0; k < step; k += 64) {
    const bool half = step - k < 64;
    const __mmask16 mask = half ? 0xff : 0xffff;
    __m512i z[16];
    for (int i = 0; i < 16; ++i) z[i] = _mm512_maskz_loadu_epi32(mask, codes + i * stride + k);
    Transpose(z);
    out = Store32(kind, z, out);
    if (!half) out = Store32(kind, z + 8, out);
  }
}

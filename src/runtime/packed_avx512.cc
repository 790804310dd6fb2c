// Packed kernels with 512-bit registers: a cache line of codes at a time, all 16 rows in a register. With
// VNNI and without (8-bit products are then widened in two steps).
#if defined(__GNUC__) && !defined(__clang__)
// GCC 12's own intrinsics read a register they call undefined (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>
#include <stddef.h>

#include "runtime/packed_kernels.h"

#define PACKED_INLINE inline __attribute__((always_inline))

namespace planish::packed {
namespace {

struct Avx512 {
  static constexpr int kLanes = 16, kWideBias = 0;
  using Codes = __m512i;
  using I = __m512i;
  using F = __m512;

  static PACKED_INLINE Codes LoadCodes(const unsigned char* p) { return _mm512_loadu_si512(p); }
  static PACKED_INLINE Codes Splat(int v) { return _mm512_set1_epi8(static_cast<char>(v)); }
  static PACKED_INLINE Codes And(Codes a, Codes b) { return _mm512_and_si512(a, b); }
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

struct Avx512Vnni : Avx512 {
  static constexpr bool kHasDot = true;
  // One instruction as assembly: the compiler would load four inputs to a register first, and spill.
  template <bool kWide>
  static PACKED_INLINE I Dot(I sum, Codes w, const signed char* x) {
    __asm__("vpdpbusd %2%{1to16%}, %1, %0"
            : "+v"(sum)
            : "v"(w), "m"(*reinterpret_cast<const int32_t(*)[1]>(x)));
    return sum;
  }
};

struct Avx512Plain : Avx512 {
  static constexpr bool kHasDot = false;
  static PACKED_INLINE I FourInputs(const signed char* x) {
    int32_t four;
    __builtin_memcpy(&four, x, 4);
    return SplatInt(four);
  }
  static PACKED_INLINE I MulPairs(Codes w, const signed char* x) {
    return _mm512_maddubs_epi16(w, FourInputs(x));
  }
  static PACKED_INLINE I AddHalves(I a, I b) { return _mm512_add_epi16(a, b); }
  static PACKED_INLINE I Widened(I halves) { return _mm512_madd_epi16(halves, _mm512_set1_epi16(1)); }
  // Pairs of 8-bit codes overflow 16 bits, so w = 2 (w >> 1) + (w & 1): 127 * 127 * 2 fits.
  static PACKED_INLINE I DotWide(I sum, Codes w, const signed char* x) {
    const I four = FourInputs(x);
    const I high = _mm512_maddubs_epi16(And(ShiftRight<1>(w), Splat(127)), four);
    const I low = _mm512_maddubs_epi16(And(w, Splat(1)), four);
    sum = AddInt(sum, _mm512_madd_epi16(high, _mm512_set1_epi16(2)));
    return AddInt(sum, _mm512_madd_epi16(low, _mm512_set1_epi16(1)));
  }
};

#include "runtime/packed_kernels-inl.h"

// Eight codes are `bits` bytes: one deposit spreads them over the bytes of a word.
PACKED_INLINE uint64_t Deposit(uint64_t value, uint64_t mask) {
  uint64_t result = 0;
  __asm__("pdep %2, %1, %0" : "=r"(result) : "r"(value), "r"(mask));
  return result;
}

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
  if (kind == Kind::kInt2 || kind == Kind::kInt3) {
    _mm512_storeu_si512(out, Quarter(z));
    _mm512_storeu_si512(out + 64, Quarter(z + 4));
    out += 128;
    if (kind == Kind::kInt2) return out;
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

}  // namespace

extern constinit const KernelSet kAvx512Kernels = MakeKernels<Avx512Plain>("avx512", Unpack, Interleave);
extern constinit const KernelSet kAvx512VnniKernels =
    MakeKernels<Avx512Vnni>("avx512-vnni", Unpack, Interleave);

}  // namespace planish::packed

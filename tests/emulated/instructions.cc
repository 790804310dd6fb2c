// The instructions of immintrin.h beside this file. Operations and their corner cases are those of the
// Software Developer's Manual, volume 2, and of the Intrinsics Guide; emulated_test.cc holds them to examples
// worked out by hand from there.
#include "immintrin.h"

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <type_traits>

#include "base/check.h"

namespace {

template <class T>
struct Lanes {
  static constexpr int kCount = 64 / static_cast<int>(sizeof(T));
  T v[kCount];
};

template <class T, class Register>
Lanes<T> As(const Register& a) {
  static_assert(sizeof(Register) == 64);
  Lanes<T> lanes;
  std::memcpy(lanes.v, &a, 64);
  return lanes;
}
template <class Register, class T>
Register To(const Lanes<T>& lanes) {
  Register a;
  std::memcpy(&a, lanes.v, sizeof(Register));  // a smaller one takes the first lanes
  return a;
}

template <class T, class Register, class F>
Register Map(const Register& a, const F& f) {
  Lanes<T> x = As<T>(a);
  for (T& lane : x.v) lane = f(lane);
  return To<Register>(x);
}
template <class T, class Register, class F>
Register Map(const Register& a, const Register& b, const F& f) {
  Lanes<T> x = As<T>(a);
  const Lanes<T> y = As<T>(b);
  for (int i = 0; i < Lanes<T>::kCount; ++i) x.v[i] = f(x.v[i], y.v[i]);
  return To<Register>(x);
}
template <class T, class Register, class F>
Register Map(const Register& a, const Register& b, const Register& c, const F& f) {
  Lanes<T> x = As<T>(a);
  const Lanes<T> y = As<T>(b), z = As<T>(c);
  for (int i = 0; i < Lanes<T>::kCount; ++i) x.v[i] = f(x.v[i], y.v[i], z.v[i]);
  return To<Register>(x);
}
template <class Register, class T>
Register Fill(T value) {
  Lanes<T> x;
  for (T& lane : x.v) lane = value;
  return To<Register>(x);
}
template <class T, class Register, class Mask>
Register Select(Mask mask, const Register& set, const Register& clear) {
  Lanes<T> x = As<T>(clear);
  const Lanes<T> y = As<T>(set);
  for (int i = 0; i < Lanes<T>::kCount; ++i) x.v[i] = (mask >> i) & 1 ? y.v[i] : x.v[i];
  return To<Register>(x);
}

// Masked loads read, and masked stores write, nothing where the mask is clear.
template <class T, class Register, class Mask>
Register MaskedLoad(const Register& other, Mask mask, const void* p) {
  constexpr int kCount = static_cast<int>(sizeof(Register) / sizeof(T));
  T x[kCount];
  std::memcpy(x, &other, sizeof(Register));
  for (int i = 0; i < kCount; ++i) {
    if ((mask >> i) & 1) std::memcpy(x + i, static_cast<const T*>(p) + i, sizeof(T));
  }
  Register a;
  std::memcpy(&a, x, sizeof(Register));
  return a;
}

// Within each 128 bits the low (first = 0) or high half of a and b, lane by lane.
template <class T, class Register>
Register Unpack(const Register& a, const Register& b, bool high) {
  constexpr int kQuarter = 16 / static_cast<int>(sizeof(T));
  const Lanes<T> x = As<T>(a), y = As<T>(b);
  Lanes<T> out;
  for (int i = 0; i < Lanes<T>::kCount; ++i) {
    const int from = i / kQuarter * kQuarter + (high ? kQuarter / 2 : 0) + i % kQuarter / 2;
    out.v[i] = i % 2 == 0 ? x.v[from] : y.v[from];
  }
  return To<Register>(out);
}

// Quarters 0 and 1 are quarters of a, 2 and 3 of b, as two bits of `how` each say.
template <class Register>
Register ShuffleQuarters(const Register& a, const Register& b, int how) {
  const Lanes<uint8_t> x = As<uint8_t>(a), y = As<uint8_t>(b);
  Lanes<uint8_t> out;
  for (int q = 0; q < 4; ++q) {
    const uint8_t* from = (q < 2 ? x.v : y.v) + 16 * ((how >> (2 * q)) & 3);
    std::memcpy(out.v + 16 * q, from, 16);
  }
  return To<Register>(out);
}

template <class Part, class Register>
Part Extract(const Register& a, int index) {
  constexpr int kParts = static_cast<int>(sizeof(Register) / sizeof(Part));
  PLANISH_CHECK(index >= 0 && index < kParts) << index;
  Part part;
  std::memcpy(&part, reinterpret_cast<const char*>(&a) + sizeof(Part) * static_cast<size_t>(index),
              sizeof(Part));
  return part;
}

template <class To512, class From>
To512 Bits(const From& a) {
  static_assert(sizeof(To512) == sizeof(From));
  To512 b;
  std::memcpy(&b, &a, sizeof(b));
  return b;
}

template <class To512, class Wide, class Narrow, class From>
To512 Widen(const From& a) {
  Narrow x[sizeof(From) / sizeof(Narrow)];
  std::memcpy(x, &a, sizeof(From));
  Lanes<Wide> out;
  static_assert(std::size(x) == static_cast<size_t>(Lanes<Wide>::kCount));
  for (int i = 0; i < Lanes<Wide>::kCount; ++i) out.v[i] = static_cast<Wide>(x[i]);
  return To<To512>(out);
}

template <class T>
bool Compare(T a, T b, int how) {
  switch (how) {
    case _CMP_LT_OQ:
      return a < b;
    case _CMP_GE_OQ:
      return a >= b;
    case _CMP_UNORD_Q:
      return a != a || b != b;
    default:
      PLANISH_CHECK(false) << "comparison " << how << " is not emulated";
      return false;
  }
}

// Counts beyond the lane leave zeros.
template <class T>
__m512i ShiftLeft(const __m512i& a, uint64_t count) {
  return Map<T>(a, [&](T x) { return count < 8 * sizeof(T) ? static_cast<T>(x << count) : T{0}; });
}
template <class T>
__m512i ShiftRight(const __m512i& a, uint64_t count) {
  return Map<T>(a, [&](T x) { return count < 8 * sizeof(T) ? static_cast<T>(x >> count) : T{0}; });
}
uint64_t CountOf(__m128i count) { return static_cast<uint64_t>(_mm_cvtsi128_si64(count)); }

int16_t Saturated(int x) { return static_cast<int16_t>(x < -32768 ? -32768 : x > 32767 ? 32767 : x); }

uint32_t BitsOf(float x) { return Bits<uint32_t>(x); }
float FloatOf(uint32_t bits) { return Bits<float>(bits); }
// Subnormal numbers become zeros of their sign.
float Flushed(float x) { return (BitsOf(x) & 0x7f800000u) == 0 ? FloatOf(BitsOf(x) & 0x80000000u) : x; }
float FromPair(uint16_t bf16) { return Flushed(FloatOf(static_cast<uint32_t>(bf16) << 16)); }

}  // namespace

__m512 _mm512_setzero_ps() { return Fill<__m512>(0.0f); }
__m512 _mm512_set1_ps(float x) { return Fill<__m512>(x); }
__m512 _mm512_loadu_ps(const void* p) { return MaskedLoad<float>(__m512{}, __mmask16{0xffff}, p); }
void _mm512_storeu_ps(void* p, __m512 a) { std::memcpy(p, &a, 64); }
__m512 _mm512_mask_loadu_ps(__m512 other, __mmask16 mask, const void* p) {
  return MaskedLoad<float>(other, mask, p);
}
__m512 _mm512_maskz_loadu_ps(__mmask16 mask, const void* p) { return MaskedLoad<float>(__m512{}, mask, p); }
void _mm512_mask_storeu_ps(void* p, __mmask16 mask, __m512 a) {
  for (int i = 0; i < 16; ++i) {
    if ((mask >> i) & 1) std::memcpy(static_cast<float*>(p) + i, &a.lane[i], 4);
  }
}
__m512 _mm512_add_ps(__m512 a, __m512 b) {
  return Map<float>(a, b, [](float x, float y) { return x + y; });
}
__m512 _mm512_sub_ps(__m512 a, __m512 b) {
  return Map<float>(a, b, [](float x, float y) { return x - y; });
}
__m512 _mm512_mul_ps(__m512 a, __m512 b) {
  return Map<float>(a, b, [](float x, float y) { return x * y; });
}
__m512 _mm512_div_ps(__m512 a, __m512 b) {
  return Map<float>(a, b, [](float x, float y) { return x / y; });
}
__m512 _mm512_fmadd_ps(__m512 a, __m512 b, __m512 c) {
  return Map<float>(a, b, c, [](float x, float y, float z) { return std::fma(x, y, z); });
}
__m512 _mm512_fnmadd_ps(__m512 a, __m512 b, __m512 c) {
  return Map<float>(a, b, c, [](float x, float y, float z) { return std::fma(-x, y, z); });
}
// The second operand when either is NaN or both are zeros.
__m512 _mm512_min_ps(__m512 a, __m512 b) {
  return Map<float>(a, b, [](float x, float y) { return x < y ? x : y; });
}
__m512 _mm512_max_ps(__m512 a, __m512 b) {
  return Map<float>(a, b, [](float x, float y) { return x > y ? x : y; });
}
__m512 _mm512_roundscale_ps(__m512 a, int how) {
  PLANISH_CHECK(how == (_MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)) << "rounding " << how;
  return Map<float>(a, [](float x) { return std::nearbyint(x); });
}
__mmask16 _mm512_cmp_ps_mask(__m512 a, __m512 b, int how) {
  unsigned mask = 0;
  for (int i = 0; i < 16; ++i) mask |= Compare(a.lane[i], b.lane[i], how) ? 1u << i : 0u;
  return static_cast<__mmask16>(mask);
}
__m512 _mm512_mask_blend_ps(__mmask16 mask, __m512 clear, __m512 set) {
  return Select<float>(mask, set, clear);
}
__m512 _mm512_unpacklo_ps(__m512 a, __m512 b) { return Unpack<float>(a, b, false); }
__m512 _mm512_unpackhi_ps(__m512 a, __m512 b) { return Unpack<float>(a, b, true); }
__m512 _mm512_shuffle_f32x4(__m512 a, __m512 b, int how) { return ShuffleQuarters(a, b, how); }
__m128 _mm512_extractf32x4_ps(__m512 a, int quarter) { return Extract<__m128>(a, quarter); }
__m128 _mm512_castps512_ps128(__m512 a) { return Extract<__m128>(a, 0); }
__m256 _mm512_castps512_ps256(__m512 a) { return Extract<__m256>(a, 0); }
__m512 _mm512_cvtph_ps(__m256i a) {
  const __m256 halves[2] = {_mm256_cvtph_ps(_mm256_castsi256_si128(a)),
                            _mm256_cvtph_ps(_mm256_extracti128_si256(a, 1))};
  return Bits<__m512>(halves);
}
__m256i _mm512_cvtps_ph(__m512 a, int how) {
  PLANISH_CHECK(how == (_MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)) << "rounding " << how;
  const __m128i halves[2] = {_mm256_cvtps_ph(Extract<__m256>(a, 0), _MM_FROUND_TO_NEAREST_INT),
                             _mm256_cvtps_ph(Extract<__m256>(a, 1), _MM_FROUND_TO_NEAREST_INT)};
  return Bits<__m256i>(halves);
}
__m512 _mm512_cvtepi32_ps(__m512i a) { return Widen<__m512, float, int32_t>(a); }
// To nearest even; what does not fit becomes the smallest number.
__m512i _mm512_cvtps_epi32(__m512 a) {
  Lanes<int32_t> out;
  for (int i = 0; i < 16; ++i) {
    const float x = std::nearbyint(a.lane[i]);
    out.v[i] = x >= -0x1p31f && x < 0x1p31f ? static_cast<int32_t>(x) : std::numeric_limits<int32_t>::min();
  }
  return To<__m512i>(out);
}
__m512 _mm512_i32gather_ps(__m512i index, const void* base, int scale) {
  const Lanes<int32_t> at = As<int32_t>(index);
  Lanes<float> out;
  for (int i = 0; i < 16; ++i) {
    std::memcpy(&out.v[i], static_cast<const char*>(base) + int64_t{at.v[i]} * scale, sizeof(float));
  }
  return To<__m512>(out);
}
__m512i _mm512_castps_si512(__m512 a) { return Bits<__m512i>(a); }
__m512d _mm512_castps_pd(__m512 a) { return Bits<__m512d>(a); }
__m512 _mm512_castsi512_ps(__m512i a) { return Bits<__m512>(a); }
__m512 _mm512_castpd_ps(__m512d a) { return Bits<__m512>(a); }

__m512d _mm512_setzero_pd() { return Fill<__m512d>(0.0); }
__m512d _mm512_set1_pd(double x) { return Fill<__m512d>(x); }
__m512d _mm512_add_pd(__m512d a, __m512d b) {
  return Map<double>(a, b, [](double x, double y) { return x + y; });
}
__m512d _mm512_sub_pd(__m512d a, __m512d b) {
  return Map<double>(a, b, [](double x, double y) { return x - y; });
}
__m512d _mm512_mul_pd(__m512d a, __m512d b) {
  return Map<double>(a, b, [](double x, double y) { return x * y; });
}
__m512d _mm512_fmadd_pd(__m512d a, __m512d b, __m512d c) {
  return Map<double>(a, b, c, [](double x, double y, double z) { return std::fma(x, y, z); });
}
__mmask8 _mm512_cmp_pd_mask(__m512d a, __m512d b, int how) {
  unsigned mask = 0;
  for (int i = 0; i < 8; ++i) mask |= Compare(a.lane[i], b.lane[i], how) ? 1u << i : 0u;
  return static_cast<__mmask8>(mask);
}
__m512d _mm512_maskz_mov_pd(__mmask8 mask, __m512d a) { return Select<double>(mask, a, __m512d{}); }
__m512d _mm512_maskz_sub_pd(__mmask8 mask, __m512d a, __m512d b) {
  return Select<double>(mask, _mm512_sub_pd(a, b), __m512d{});
}
__m512d _mm512_unpacklo_pd(__m512d a, __m512d b) { return Unpack<double>(a, b, false); }
__m512d _mm512_unpackhi_pd(__m512d a, __m512d b) { return Unpack<double>(a, b, true); }
__m512d _mm512_cvtps_pd(__m256 a) { return Widen<__m512d, double, float>(a); }
__m256d _mm512_castpd512_pd256(__m512d a) { return Extract<__m256d>(a, 0); }
__m256d _mm512_extractf64x4_pd(__m512d a, int half) { return Extract<__m256d>(a, half); }
__m512i _mm512_castpd_si512(__m512d a) { return Bits<__m512i>(a); }
__m512d _mm512_castsi512_pd(__m512i a) { return Bits<__m512d>(a); }

__m512i _mm512_setzero_si512() { return __m512i{}; }
__m512i _mm512_set1_epi8(char x) { return Fill<__m512i>(x); }
__m512i _mm512_set1_epi16(short x) { return Fill<__m512i>(x); }
__m512i _mm512_set1_epi32(int x) { return Fill<__m512i>(x); }
__m512i _mm512_set1_epi64(long long x) { return Fill<__m512i>(x); }
__m512i _mm512_loadu_si512(const void* p) {
  __m512i a;
  std::memcpy(&a, p, 64);
  return a;
}
void _mm512_storeu_si512(void* p, __m512i a) { std::memcpy(p, &a, 64); }
__m512i _mm512_maskz_loadu_epi32(__mmask16 mask, const void* p) {
  return MaskedLoad<int32_t>(__m512i{}, mask, p);
}
__m512i _mm512_add_epi32(__m512i a, __m512i b) {
  return Map<uint32_t>(a, b, [](uint32_t x, uint32_t y) { return x + y; });
}
__m512i _mm512_sub_epi32(__m512i a, __m512i b) {
  return Map<uint32_t>(a, b, [](uint32_t x, uint32_t y) { return x - y; });
}
__m512i _mm512_add_epi64(__m512i a, __m512i b) {
  return Map<uint64_t>(a, b, [](uint64_t x, uint64_t y) { return x + y; });
}
__m512i _mm512_max_epi32(__m512i a, __m512i b) {
  return Map<int32_t>(a, b, [](int32_t x, int32_t y) { return x > y ? x : y; });
}
__m512i _mm512_and_si512(__m512i a, __m512i b) {
  return Map<uint64_t>(a, b, [](uint64_t x, uint64_t y) { return x & y; });
}
__m512i _mm512_or_si512(__m512i a, __m512i b) {
  return Map<uint64_t>(a, b, [](uint64_t x, uint64_t y) { return x | y; });
}
// Bit 4 a + 2 b + c of the table.
__m512i _mm512_ternarylogic_epi32(__m512i a, __m512i b, __m512i c, int table) {
  return Map<uint64_t>(a, b, c, [&](uint64_t x, uint64_t y, uint64_t z) {
    uint64_t out = 0;
    for (int i = 0; i < 8; ++i) {
      if (((table >> i) & 1) == 0) continue;
      out |= (i & 4 ? x : ~x) & (i & 2 ? y : ~y) & (i & 1 ? z : ~z);
    }
    return out;
  });
}
__m512i _mm512_slli_epi32(__m512i a, unsigned count) { return ShiftLeft<uint32_t>(a, count); }
__m512i _mm512_srli_epi32(__m512i a, unsigned count) { return ShiftRight<uint32_t>(a, count); }
__m512i _mm512_srai_epi32(__m512i a, unsigned count) {
  return Map<int32_t>(a, [&](int32_t x) { return x >> (count < 32 ? count : 31); });
}
__m512i _mm512_srl_epi32(__m512i a, __m128i count) { return ShiftRight<uint32_t>(a, CountOf(count)); }
__m512i _mm512_slli_epi64(__m512i a, unsigned count) { return ShiftLeft<uint64_t>(a, count); }
__m512i _mm512_unpacklo_epi32(__m512i a, __m512i b) { return Unpack<uint32_t>(a, b, false); }
__m512i _mm512_unpackhi_epi32(__m512i a, __m512i b) { return Unpack<uint32_t>(a, b, true); }
__m512i _mm512_unpacklo_epi64(__m512i a, __m512i b) { return Unpack<uint64_t>(a, b, false); }
__m512i _mm512_unpackhi_epi64(__m512i a, __m512i b) { return Unpack<uint64_t>(a, b, true); }
__m512i _mm512_shuffle_i32x4(__m512i a, __m512i b, int how) { return ShuffleQuarters(a, b, how); }
__m512i _mm512_broadcast_i32x4(__m128i a) {
  const __m128i four[4] = {a, a, a, a};
  return Bits<__m512i>(four);
}
__m512i _mm512_cvtepu8_epi32(__m128i a) { return Widen<__m512i, uint32_t, uint8_t>(a); }
__m512i _mm512_cvtepu16_epi32(__m256i a) { return Widen<__m512i, uint32_t, uint16_t>(a); }
__m512i _mm512_cvtepi16_epi32(__m256i a) { return Widen<__m512i, int32_t, int16_t>(a); }
__m128i _mm512_cvtepi32_epi8(__m512i a) {
  uint8_t low[16];
  for (int i = 0; i < 16; ++i) low[i] = a.byte[4 * i];
  return Bits<__m128i>(low);
}

__m256i _mm512_cvtepi32_epi16(__m512i a) {
  uint16_t low[16];
  for (int i = 0; i < 16; ++i) std::memcpy(&low[i], a.byte + 4 * i, 2);
  return Bits<__m256i>(low);
}
__m512i _mm512_castsi256_si512(__m256i a) {
  __m512i out = {};
  std::memcpy(out.byte, &a, sizeof(a));
  return out;
}
__m512i _mm512_inserti64x4(__m512i a, __m256i b, int half) {
  std::memcpy(a.byte + 32 * half, &b, sizeof(b));
  return a;
}

__m512i _mm512_add_epi16(__m512i a, __m512i b) {
  return Map<uint16_t>(a, b, [](uint16_t x, uint16_t y) { return static_cast<uint16_t>(x + y); });
}
__m512i _mm512_madd_epi16(__m512i a, __m512i b) {
  const auto x = As<int16_t>(a), y = As<int16_t>(b);
  Lanes<uint32_t> out;
  for (int i = 0; i < 16; ++i) {
    out.v[i] = static_cast<uint32_t>(x.v[2 * i] * y.v[2 * i]) +
               static_cast<uint32_t>(x.v[2 * i + 1] * y.v[2 * i + 1]);
  }
  return To<__m512i>(out);
}
// a without sign, b with it.
__m512i _mm512_maddubs_epi16(__m512i a, __m512i b) {
  const auto x = As<uint8_t>(a);
  const auto y = As<int8_t>(b);
  Lanes<int16_t> out;
  for (int i = 0; i < 32; ++i) {
    out.v[i] = Saturated(x.v[2 * i] * y.v[2 * i] + x.v[2 * i + 1] * y.v[2 * i + 1]);
  }
  return To<__m512i>(out);
}
__m512i _mm512_shuffle_epi8(__m512i a, __m512i control) {
  __m512i out;
  for (int i = 0; i < 64; ++i) {
    const uint8_t c = control.byte[i];
    out.byte[i] = (c & 0x80) != 0 ? uint8_t{0} : a.byte[i / 16 * 16 + (c & 15)];
  }
  return out;
}
__mmask64 _mm512_cmpeq_epi8_mask(__m512i a, __m512i b) {
  __mmask64 mask = 0;
  for (int i = 0; i < 64; ++i) mask |= static_cast<__mmask64>(a.byte[i] == b.byte[i] ? 1 : 0) << i;
  return mask;
}
__m512i _mm512_mask_blend_epi8(__mmask64 mask, __m512i clear, __m512i set) {
  return Select<uint8_t>(mask, set, clear);
}
__m512i _mm512_mask_blend_epi32(__mmask16 mask, __m512i clear, __m512i set) {
  return Select<uint32_t>(mask, set, clear);
}
__m512i _mm512_slli_epi16(__m512i a, unsigned count) { return ShiftLeft<uint16_t>(a, count); }
__m512i _mm512_srli_epi16(__m512i a, unsigned count) { return ShiftRight<uint16_t>(a, count); }
__m512i _mm512_sll_epi16(__m512i a, __m128i count) { return ShiftLeft<uint16_t>(a, CountOf(count)); }

__m512 _mm512_and_ps(__m512 a, __m512 b) {
  return Map<uint32_t>(a, b, [](uint32_t x, uint32_t y) { return x & y; });
}
__m512 _mm512_andnot_ps(__m512 a, __m512 b) {
  return Map<uint32_t>(a, b, [](uint32_t x, uint32_t y) { return ~x & y; });
}
__m512 _mm512_or_ps(__m512 a, __m512 b) {
  return Map<uint32_t>(a, b, [](uint32_t x, uint32_t y) { return x | y; });
}
__m512 _mm512_xor_ps(__m512 a, __m512 b) {
  return Map<uint32_t>(a, b, [](uint32_t x, uint32_t y) { return x ^ y; });
}
__m256 _mm512_extractf32x8_ps(__m512 a, int half) { return Extract<__m256>(a, half); }

__m256 _mm256_mask_loadu_ps(__m256 other, __mmask8 mask, const void* p) {
  return MaskedLoad<float>(other, mask, p);
}
__m256 _mm256_maskz_loadu_ps(__mmask8 mask, const void* p) {
  return MaskedLoad<float>(_mm256_setzero_ps(), mask, p);
}

// The odd elements first; subnormal inputs count as zeros, subnormal results become zeros.
__m512 _mm512_dpbf16_ps(__m512 sum, __m512bh a, __m512bh b) {
  for (int i = 0; i < 16; ++i) {
    float s = Flushed(sum.lane[i]);
    for (const int j : {2 * i + 1, 2 * i}) s = Flushed(std::fma(FromPair(a.lane[j]), FromPair(b.lane[j]), s));
    sum.lane[i] = s;
  }
  return sum;
}
// To nearest even; NaN stays one (quiet), subnormal numbers become zeros.
__m256i _mm512_cvtneps_pbh(__m512 a) {
  uint16_t out[16];
  for (int i = 0; i < 16; ++i) {
    const uint32_t x = BitsOf(Flushed(a.lane[i]));
    const bool nan = (x & 0x7fffffffu) > 0x7f800000u;
    out[i] = static_cast<uint16_t>(nan ? (x >> 16) | 0x40 : (x + 0x7fffu + ((x >> 16) & 1)) >> 16);
  }
  return Bits<__m256i>(out);
}

// Products of the even and of the odd elements are summed apart, then both are added to c; subnormal numbers
// are zeros.
void EmulatedTileProduct(const float* a, const float* b, float* c) {
  const auto element = [](const float* at, int odd) {
    return FromPair(static_cast<uint16_t>(BitsOf(*at) >> (16 * odd)));
  };
  for (int i = 0; i < 16; ++i) {
    for (int j = 0; j < 16; ++j) {
      float sums[2] = {};
      for (int k = 0; k < 16; ++k) {
        for (const int odd : {0, 1}) {
          sums[odd] =
              Flushed(std::fma(element(a + i * 16 + k, odd), element(b + k * 16 + j, odd), sums[odd]));
        }
      }
      c[i * 16 + j] = Flushed(Flushed(c[i * 16 + j]) + Flushed(sums[0] + sums[1]));
    }
  }
}

// a without sign, b with it; the sum wraps.
__m512i _mm512_dpbusd_epi32(__m512i sum, __m512i a, __m512i b) {
  Lanes<uint32_t> out = As<uint32_t>(sum);
  const auto y = As<int8_t>(b);
  for (int i = 0; i < 64; ++i) out.v[i / 4] += static_cast<uint32_t>(a.byte[i] * y.v[i]);
  return To<__m512i>(out);
}

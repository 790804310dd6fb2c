// The emulated instructions against examples worked out by hand from their definitions in Intel's manual.
// Linked into every program of emulated kernels.
#include "immintrin.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <vector>

#include "base/cpu.h"

namespace planish {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN(), kInf = std::numeric_limits<float>::infinity();

template <class T>
std::vector<T> LanesOf(const void* a, size_t bytes = 64) {
  std::vector<T> out(bytes / sizeof(T));
  std::memcpy(out.data(), a, bytes);
  return out;
}
template <class T, class Register>
std::vector<T> LanesOf(const Register& a) {
  return LanesOf<T>(static_cast<const void*>(&a), sizeof(a));
}

// lane(i) in every lane.
template <class T>
__m512i Integers(const std::function<int64_t(int)>& lane) {
  __m512i a;
  for (int i = 0; i < static_cast<int>(64 / sizeof(T)); ++i) {
    const T value = static_cast<T>(lane(i));
    std::memcpy(a.byte + static_cast<size_t>(i) * sizeof(T), &value, sizeof(T));
  }
  return a;
}
__m512 Floats(const std::function<float(int)>& lane) {
  __m512 a;
  for (int i = 0; i < 16; ++i) a.lane[i] = lane(i);
  return a;
}
__m512 FirstFloats(const std::vector<float>& first) {
  return Floats(
      [&](int i) { return static_cast<size_t>(i) < first.size() ? first[static_cast<size_t>(i)] : 0.0f; });
}
__m512i Counting() {
  return Integers<uint8_t>([](int i) { return i; });
}

TEST(Emulated, PrintsWhatRunsHow) {
  if (!IsaSupported(Isa::kAvx512)) GTEST_SKIP() << "emulation runs on processors with AVX2";
  std::string features;
  for (const CpuFeature feature : kAllCpuFeatures) {
    if (CpuHas(feature)) features += " " + std::string(CpuFeatureName(feature));
  }
  fmt::print("emulated: avx512{}; natively: the sets before these\n", features);
  EXPECT_EQ(BestIsa(), Isa::kAvx512);
}

// SDM, PUNPCKLDQ and the like: within each 128 bits a0 b0 a1 b1 from the low halves, a2 b2 a3 b3 from the
// high.
TEST(Emulated, UnpacksWithinQuarters) {
  const __m512i a = Integers<int32_t>([](int i) { return i; });
  const __m512i b = Integers<int32_t>([](int i) { return 100 + i; });
  EXPECT_EQ(LanesOf<int32_t>(_mm512_unpacklo_epi32(a, b)),
            (std::vector<int32_t>{0, 100, 1, 101, 4, 104, 5, 105, 8, 108, 9, 109, 12, 112, 13, 113}));
  EXPECT_EQ(LanesOf<int32_t>(_mm512_unpackhi_epi32(a, b)),
            (std::vector<int32_t>{2, 102, 3, 103, 6, 106, 7, 107, 10, 110, 11, 111, 14, 114, 15, 115}));
  EXPECT_EQ(LanesOf<int32_t>(_mm512_unpacklo_epi64(a, b)),
            (std::vector<int32_t>{0, 1, 100, 101, 4, 5, 104, 105, 8, 9, 108, 109, 12, 13, 112, 113}));
  EXPECT_EQ(LanesOf<int32_t>(_mm512_unpackhi_epi64(a, b)),
            (std::vector<int32_t>{2, 3, 102, 103, 6, 7, 106, 107, 10, 11, 110, 111, 14, 15, 114, 115}));
  const auto same_ps = LanesOf<int32_t>(_mm512_unpacklo_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b)));
  EXPECT_EQ(same_ps, LanesOf<int32_t>(_mm512_unpacklo_epi32(a, b)));
  const auto same_pd = LanesOf<int32_t>(_mm512_unpackhi_pd(_mm512_castsi512_pd(a), _mm512_castsi512_pd(b)));
  EXPECT_EQ(same_pd, LanesOf<int32_t>(_mm512_unpackhi_epi64(a, b)));
}

// VSHUFI32X4: two quarters of the first source, then two of the second. 0xdd selects 1, 3, 1, 3; 0x1b 3, 2,
// 1, 0.
TEST(Emulated, ShufflesQuarters) {
  const __m512i a = Integers<int32_t>([](int i) { return i / 4; });
  const __m512i b = Integers<int32_t>([](int i) { return 10 + i / 4; });
  const auto firsts = [](const __m512i& x) {
    const auto all = LanesOf<int32_t>(x);
    return std::vector<int32_t>{all[0], all[4], all[8], all[12]};
  };
  EXPECT_EQ(firsts(_mm512_shuffle_i32x4(a, b, 0xdd)), (std::vector<int32_t>{1, 3, 11, 13}));
  EXPECT_EQ(firsts(_mm512_shuffle_i32x4(a, b, 0x88)), (std::vector<int32_t>{0, 2, 10, 12}));
  EXPECT_EQ(firsts(_mm512_shuffle_i32x4(a, b, 0x1b)), (std::vector<int32_t>{3, 2, 11, 10}));
}

// VPSHUFB: zero where the control's top bit is set, else the byte of the same 128 bits that its low four say.
TEST(Emulated, ShufflesBytesWithinQuarters) {
  const __m512i control = Integers<uint8_t>([](int i) {
    return i % 16 == 0 ? 0x83 : i % 16 == 1 ? 0x7f : 3;
  });
  const auto out = LanesOf<uint8_t>(_mm512_shuffle_epi8(Counting(), control));
  for (size_t i = 0; i < 64; ++i) {
    EXPECT_EQ(out[i], i % 16 == 0 ? 0 : i / 16 * 16 + (i % 16 == 1 ? 15 : 3)) << i;
  }
}

// VPTERNLOGD: bit 4 a + 2 b + c of the table. 0xca is a ? b : c, 0x96 the exclusive or of three, 0xe8
// majority.
TEST(Emulated, LooksUpThreeBits) {
  const __m512i a = _mm512_set1_epi32(0xf0), b = _mm512_set1_epi32(0xcc), c = _mm512_set1_epi32(0xaa);
  for (const int table : {0xca, 0x96, 0xe8, 0x01, 0x80}) {
    const auto out = LanesOf<int32_t>(_mm512_ternarylogic_epi32(a, b, c, table));
    EXPECT_EQ(out[0] & 0xff, table);  // the eight bits of the operands are the eight cases in order
    EXPECT_EQ(out[15], out[0]);
  }
}

// VPMADDUBSW saturates, VPMADDWD and VPDPBUSD wrap.
TEST(Emulated, DotsOfBytes) {
  const __m512i ones = _mm512_set1_epi8(-1), low = _mm512_set1_epi8(-128), high = _mm512_set1_epi8(127);
  EXPECT_EQ(LanesOf<int16_t>(_mm512_maddubs_epi16(ones, low))[5], -32768);  // 2 * 255 * -128 = -65280
  EXPECT_EQ(LanesOf<int16_t>(_mm512_maddubs_epi16(ones, high))[5], 32767);  // 2 * 255 * 127 = 64770
  EXPECT_EQ(LanesOf<int16_t>(_mm512_maddubs_epi16(_mm512_set1_epi8(100), high))[31], 25400);
  const __m512i least = _mm512_set1_epi16(-32768);
  EXPECT_EQ(LanesOf<int32_t>(_mm512_madd_epi16(least, least))[3], std::numeric_limits<int32_t>::min());
  EXPECT_EQ(LanesOf<int32_t>(
                _mm512_madd_epi16(Integers<int16_t>([](int i) { return i; }), _mm512_set1_epi16(-2)))[4],
            -2 * (8 + 9));
  // 0, 1, 2, 3 times 127 and -128 by turns, twice wrapping from the largest number.
  const __m512i x = Integers<int8_t>([](int i) { return i % 2 == 0 ? 127 : -128; });
  EXPECT_EQ(LanesOf<int32_t>(_mm512_dpbusd_epi32(_mm512_set1_epi32(1000), Counting(), x))[0],
            1000 + 0 * 127 - 1 * 128 + 2 * 127 - 3 * 128);
  EXPECT_EQ(LanesOf<int32_t>(_mm512_dpbusd_epi32(_mm512_set1_epi32(1000), ones, x))[15], 1000 + 2 * 255 * -1);
  EXPECT_EQ(LanesOf<int32_t>(
                _mm512_dpbusd_epi32(_mm512_set1_epi32(std::numeric_limits<int32_t>::max()), ones, high))[7],
            std::numeric_limits<int32_t>::min() + 4 * 255 * 127 - 1);
}

// Counts of the lane's width and more leave zeros, but for arithmetic shifts, which leave the sign.
TEST(Emulated, Shifts) {
  const __m512i a = _mm512_set1_epi32(static_cast<int>(0x80018003u));
  const auto first = [](const __m512i& x) { return LanesOf<uint32_t>(x)[9]; };
  EXPECT_EQ(first(_mm512_slli_epi16(a, 1)), 0x00020006u);
  EXPECT_EQ(first(_mm512_srli_epi16(a, 1)), 0x40004001u);
  EXPECT_EQ(first(_mm512_slli_epi16(a, 16)), 0u);
  EXPECT_EQ(first(_mm512_sll_epi16(a, _mm_cvtsi32_si128(2))), 0x0004000cu);
  EXPECT_EQ(first(_mm512_slli_epi32(a, 16)), 0x80030000u);
  EXPECT_EQ(first(_mm512_srli_epi32(a, 24)), 0x80u);
  EXPECT_EQ(first(_mm512_srai_epi32(a, 24)), 0xffffff80u);
  EXPECT_EQ(first(_mm512_srai_epi32(a, 40)), 0xffffffffu);
  EXPECT_EQ(first(_mm512_srl_epi32(a, _mm_cvtsi32_si128(4))), 0x08001800u);
  EXPECT_EQ(first(_mm512_srl_epi32(a, _mm_cvtsi32_si128(32))), 0u);
  EXPECT_EQ(LanesOf<uint64_t>(_mm512_slli_epi64(_mm512_set1_epi64(3), 52))[7], uint64_t{3} << 52);
}

TEST(Emulated, WidensAndNarrows) {
  const __m512i bytes = Integers<uint8_t>([](int i) { return 250 + i; });
  const __m128i quarter = _mm512_cvtepi32_epi8(Integers<int32_t>([](int i) { return -1000 * i; }));
  EXPECT_EQ(LanesOf<int8_t>(quarter)[3], static_cast<int8_t>(-3000));
  __m128i sixteen;
  std::memcpy(&sixteen, &bytes, 16);
  EXPECT_EQ(LanesOf<int32_t>(_mm512_cvtepu8_epi32(sixteen))[5], 255);
  EXPECT_EQ(LanesOf<int32_t>(_mm512_cvtepu8_epi32(sixteen))[6], 0);
  const __m512i words = Integers<int16_t>([](int i) { return -i; });
  __m256i half;
  std::memcpy(&half, &words, 32);
  EXPECT_EQ(LanesOf<int32_t>(_mm512_cvtepi16_epi32(half))[15], -15);
  EXPECT_EQ(LanesOf<int32_t>(_mm512_cvtepu16_epi32(half))[15], 65536 - 15);
  EXPECT_EQ(LanesOf<uint8_t>(_mm512_broadcast_i32x4(sixteen))[63], 250 + 15 - 256 + 0);
}

// VMINPS and VMAXPS return the second source when either is NaN or both are zeros.
TEST(Emulated, MinimaAndMaxima) {
  const __m512 a = FirstFloats({1, kNan, 2, 0.0f, -0.0f, kInf}),
               b = FirstFloats({2, 5, kNan, -0.0f, 0.0f, 1});
  const auto least = LanesOf<float>(_mm512_min_ps(a, b)), most = LanesOf<float>(_mm512_max_ps(a, b));
  EXPECT_EQ(least[0], 1);
  EXPECT_EQ(most[0], 2);
  for (const auto& out : {least, most}) {
    EXPECT_EQ(out[1], 5);
    EXPECT_TRUE(std::isnan(out[2]));
    EXPECT_TRUE(std::signbit(out[3]));
    EXPECT_FALSE(std::signbit(out[4]));
  }
  EXPECT_EQ(least[5], 1);
  EXPECT_EQ(most[5], kInf);
}

TEST(Emulated, RoundsAndConverts) {
  const __m512 x = FirstFloats({0.5f, 1.5f, -2.5f, 3e9f, -3e9f, kNan, -0.4f});
  EXPECT_EQ((std::vector<int32_t>{0, 2, -2, INT32_MIN, INT32_MIN, INT32_MIN, 0}), [&] {
    auto all = LanesOf<int32_t>(_mm512_cvtps_epi32(x));
    all.resize(7);
    return all;
  }());
  const float table[] = {10, 11, 12, 13};
  const __m512i places = _mm512_cvtps_epi32(FirstFloats({2, 0, -1}));
  const auto taken = LanesOf<float>(_mm512_i32gather_ps(places, table + 1, 4));
  EXPECT_EQ((std::vector<float>(taken.begin(), taken.begin() + 4)), (std::vector<float>{13, 11, 10, 11}));
  const auto rounded = LanesOf<float>(_mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  EXPECT_EQ(rounded[1], 2);
  EXPECT_EQ(rounded[2], -2);
  EXPECT_TRUE(std::signbit(rounded[6]) && rounded[6] == 0);
  // fp16: 1 + 2^-11 is halfway between neighbors, 65520 the first that rounds to infinity.
  const __m512 y = FirstFloats({1 + 0x1p-11f, 1 + 0x3p-11f, 65519, 65520, 0x1p-25f, 0x1.8p-25f});
  const __m512 half = _mm512_cvtph_ps(_mm512_cvtps_ph(y, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  const auto h = LanesOf<float>(half);
  EXPECT_EQ((std::vector<float>(h.begin(), h.begin() + 6)),
            (std::vector<float>{1, 1 + 0x1p-9f, 65504, kInf, 0, 0x1p-24f}));
}

TEST(Emulated, MasksReadAndWriteNothingElse) {
  std::vector<float> values(4);
  for (int i = 0; i < 4; ++i) values[static_cast<size_t>(i)] = static_cast<float>(i + 1);
  // The first twelve lanes would lie before the array.
  const __m512 tail = _mm512_maskz_loadu_ps(0xf000, values.data() - 12);
  EXPECT_EQ(LanesOf<float>(tail)[11], 0);
  EXPECT_EQ(LanesOf<float>(tail)[15], 4);
  const __m512 head = _mm512_mask_loadu_ps(_mm512_set1_ps(9), 0x5, values.data());
  EXPECT_EQ((std::vector<float>{1, 9, 3, 9}),
            (std::vector<float>{head.lane[0], head.lane[1], head.lane[2], head.lane[3]}));
  _mm512_mask_storeu_ps(values.data(), 0xa, _mm512_set1_ps(7));
  EXPECT_EQ(values, (std::vector<float>{1, 7, 3, 7}));
  const auto ints = LanesOf<float>(_mm512_maskz_loadu_epi32(0x2, values.data()));
  EXPECT_EQ((std::vector<float>(ints.begin(), ints.begin() + 3)), (std::vector<float>{0, 7, 0}));
  const __m512 less = FirstFloats({1, 2, kNan}), more = FirstFloats({2, 2, 2});
  EXPECT_EQ(_mm512_cmp_ps_mask(less, more, _CMP_LT_OQ), 0x1);
  EXPECT_EQ(_mm512_cmp_ps_mask(FirstFloats({1, kNan, kInf}), FirstFloats({kNan, 1, 1}), _CMP_UNORD_Q), 0x3);
  EXPECT_EQ(_mm512_mask_blend_ps(0x1, less, more).lane[0], 2);
  EXPECT_EQ(_mm512_mask_blend_ps(0x1, less, more).lane[1], 2);
  EXPECT_TRUE(std::isnan(_mm512_mask_blend_ps(0x1, less, more).lane[2]));
  const __m512d d = _mm512_set1_pd(-700);
  EXPECT_EQ(_mm512_cmp_pd_mask(d, _mm512_set1_pd(-700), _CMP_GE_OQ), 0xff);
  EXPECT_EQ(_mm512_maskz_sub_pd(0x1, d, _mm512_set1_pd(1)).lane[0], -701);
  EXPECT_EQ(_mm512_maskz_sub_pd(0x1, d, _mm512_set1_pd(1)).lane[1], 0);
}

TEST(Emulated, ComparesAndBlendsBytes) {
  const __m512i a = Counting(), b = _mm512_set1_epi8(63);
  EXPECT_EQ(_mm512_cmpeq_epi8_mask(a, b), uint64_t{1} << 63);
  EXPECT_EQ(_mm512_cmpeq_epi8_mask(a, _mm512_set1_epi8(0)), 1u);
  const auto out = LanesOf<uint8_t>(_mm512_mask_blend_epi8((uint64_t{1} << 40) | 1, a, b));
  EXPECT_EQ(out[0], 63);
  EXPECT_EQ(out[1], 1);
  EXPECT_EQ(out[40], 63);
  EXPECT_EQ(out[41], 41);
  const auto words = LanesOf<uint8_t>(_mm512_mask_blend_epi32(0x8002, a, b));
  EXPECT_EQ(words[3], 3);
  EXPECT_EQ(words[4], 63);
  EXPECT_EQ(words[7], 63);
  EXPECT_EQ(words[8], 8);
  EXPECT_EQ(words[60], 63);
}

// Fused: one rounding of a b + c. (1 + 2^-12)^2 - 1 keeps its 2^-24, which a rounded product loses.
TEST(Emulated, FusesProducts) {
  const __m512 a = _mm512_set1_ps(1 + 0x1p-12f);
  EXPECT_EQ(_mm512_fmadd_ps(a, a, _mm512_set1_ps(-1)).lane[3], 0x1p-11f + 0x1p-24f);
  EXPECT_EQ(_mm512_fnmadd_ps(a, a, _mm512_set1_ps(1)).lane[3], -0x1p-11f - 0x1p-24f);
  const __m512d b = _mm512_set1_pd(1 + 0x1p-27);
  EXPECT_EQ(_mm512_fmadd_pd(b, b, _mm512_set1_pd(-1)).lane[7], 0x1p-26 + 0x1p-54);
}

// SDM, VDPBF16PS: fused, the odd element first; subnormal inputs and results are zeros.
TEST(Emulated, DotsOfBf16) {
  const auto pairs = [](uint16_t even, uint16_t odd) {
    return static_cast<__m512bh>(_mm512_set1_epi32(static_cast<int>(uint32_t{odd} << 16 | even)));
  };
  constexpr uint16_t kOne = 0x3f80, kTwo = 0x4000, kHuge = 0x7f00, kTiny = 0x0040;  // 2^127; 2^-127
  const auto dot = [](float sum, __m512bh a, __m512bh b) {
    return _mm512_dpbf16_ps(_mm512_set1_ps(sum), a, b).lane[15];
  };
  EXPECT_EQ(dot(10, pairs(kOne, kTwo), pairs(kTwo, kTwo)), 16);
  // In the other order the sum would be infinite before the large negative product comes.
  EXPECT_EQ(dot(0x1p127f, pairs(kHuge, 0xff00), pairs(kOne, kOne)), 0x1p127f);
  EXPECT_EQ(dot(0, pairs(kTiny, 0), pairs(kHuge, 0)), 0);
  EXPECT_EQ(dot(0x1p-130f, pairs(0, 0), pairs(0, 0)), 0);
}

// VCVTNEPS2BF16: to nearest even, NaN stays one, subnormal numbers become zeros.
TEST(Emulated, RoundsToBf16) {
  const __m512 x =
      FirstFloats({1 + 0x1p-8f, 1 + 0x3p-8f, 1 + 0x1.02p-8f, -0x1.fffffep127f, kNan, 0x1p-130f, kInf});
  const auto out = LanesOf<uint16_t>(_mm512_cvtneps_pbh(x));
  EXPECT_EQ((std::vector<uint16_t>(out.begin(), out.begin() + 4)),
            (std::vector<uint16_t>{0x3f80, 0x3f82, 0x3f81, 0xff80}));
  EXPECT_EQ(out[4] & 0x7fc0, 0x7fc0);
  EXPECT_EQ(out[5], 0);
  EXPECT_EQ(out[6], 0x7f80);
}

TEST(Emulated, NarrowsAndJoinsWords) {
  const __m256i low = _mm512_cvtepi32_epi16(Integers<int32_t>([](int i) { return 0x10000 * i + 7 * i; }));
  const __m256i high = _mm512_cvtepi32_epi16(Integers<int32_t>([](int i) { return -i; }));
  const auto out = LanesOf<int16_t>(_mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1));
  EXPECT_EQ(out[15], 7 * 15);
  EXPECT_EQ(out[16], 0);
  EXPECT_EQ(out[31], -15);
}

// TDPBF16PS: even and odd products in sums of their own, joined before they are added to C.
TEST(Emulated, MultipliesTilesOfBf16) {
  const auto pair = [](uint16_t even, uint16_t odd) {
    return std::bit_cast<float>(static_cast<uint32_t>(even) | (static_cast<uint32_t>(odd) << 16));
  };
  constexpr uint16_t kOne = 0x3f80, kTwo = 0x4000, kThree = 0x4040, kHuge = 0x7f00, kTiny = 0x0040;
  float a[256] = {}, b[256] = {}, c[256] = {};
  a[0] = pair(kOne, kTwo);  // row 0: 1, 2 in the first pair, 3 in the last
  a[15] = pair(kThree, 0);
  b[0] = pair(kTwo, kThree);            // column 0: 2, 3; then 1
  b[15 * 16] = pair(kOne, kHuge);       // its odd element meets a zero
  b[5] = pair(kTiny, kOne);             // column 5: a subnormal number counts as zero
  a[16 * 16 - 1 - 15] = pair(kTwo, 0);  // row 15
  c[0] = 100;
  c[15 * 16 + 5] = 0x1p-130f;
  EmulatedTileProduct(a, b, c);
  EXPECT_EQ(c[0], 100 + 1 * 2 + 2 * 3 + 3 * 1);
  EXPECT_EQ(c[5], 2);
  EXPECT_EQ(c[15 * 16], 4);
  EXPECT_EQ(c[15 * 16 + 5], 0);
  EXPECT_EQ(c[16], 0);
  // 2^127 + 2^127 is infinite among the even ones, and one odd product of -2^127 does not bring it back.
  float d[256] = {}, e[256] = {}, f[256] = {};
  d[0] = pair(kHuge, 0xff00);
  d[1] = pair(kHuge, 0);
  e[0] = pair(kOne, kOne);
  e[16] = pair(kOne, 0);
  EmulatedTileProduct(d, e, f);
  EXPECT_EQ(f[0], kInf);
}

TEST(Emulated, TakesParts) {
  const __m512 a = Floats([](int i) { return static_cast<float>(i); });
  EXPECT_EQ(LanesOf<float>(_mm512_extractf32x4_ps(a, 2)), (std::vector<float>{8, 9, 10, 11}));
  EXPECT_EQ(LanesOf<float>(_mm512_extractf32x8_ps(a, 1)), (std::vector<float>{8, 9, 10, 11, 12, 13, 14, 15}));
  EXPECT_EQ(LanesOf<float>(_mm512_castps512_ps128(a)), (std::vector<float>{0, 1, 2, 3}));
  const __m512d d = _mm512_cvtps_pd(_mm512_extractf32x8_ps(a, 1));
  EXPECT_EQ(LanesOf<double>(_mm512_extractf64x4_pd(d, 1)), (std::vector<double>{12, 13, 14, 15}));
  EXPECT_EQ(LanesOf<double>(_mm512_castpd512_pd256(d)), (std::vector<double>{8, 9, 10, 11}));
  const __m512 negative = _mm512_set1_ps(-1), sign = _mm512_set1_ps(-0.0f);
  EXPECT_EQ(_mm512_andnot_ps(sign, negative).lane[0], 1);
  EXPECT_EQ(_mm512_xor_ps(sign, negative).lane[0], 1);
  EXPECT_EQ(_mm512_or_ps(sign, _mm512_set1_ps(1)).lane[0], -1);
  EXPECT_TRUE(std::signbit(_mm512_and_ps(sign, negative).lane[0]));
}

}  // namespace
}  // namespace planish

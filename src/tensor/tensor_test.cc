// Element types against their definitions, buffers, matrices and views.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "base/random.h"
#include "tensor/buffer.h"
#include "tensor/dtype.h"
#include "tensor/view.h"

namespace planish {
namespace {

constexpr uint32_t kAllPatterns = 1u << 16;

// The value that the fields of a small IEEE-like format stand for: sign, `exponent_bits`, the rest fraction.
double Decode(uint32_t bits, int exponent_bits) {
  const int fraction_bits = 15 - exponent_bits;
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const int exponent = static_cast<int>(bits >> fraction_bits & ((1u << exponent_bits) - 1));
  const double fraction = bits & ((1u << fraction_bits) - 1);
  const double sign = (bits >> 15) != 0 ? -1.0 : 1.0;
  if (exponent == (1 << exponent_bits) - 1) return fraction == 0 ? sign * INFINITY : std::nan("");
  if (exponent == 0) return sign * std::ldexp(fraction, 1 - bias - fraction_bits);
  return sign * std::ldexp(fraction + std::ldexp(1.0, fraction_bits), exponent - bias - fraction_bits);
}

constexpr int kF16Exponent = 5, kBF16Exponent = 8;

TEST(DTypeTest, EveryF16PatternDecodesAndRoundTrips) {
  for (uint32_t bits = 0; bits < kAllPatterns; ++bits) {
    const F16 half{static_cast<uint16_t>(bits)};
    const double expected = Decode(bits, kF16Exponent);
    const float value = ToFloat(half);
    ASSERT_EQ(std::isnan(value), std::isnan(expected)) << bits;
    if (std::isnan(expected)) {
      ASSERT_TRUE(std::isnan(ToFloat(ToF16(value)))) << bits;
      continue;
    }
    ASSERT_EQ(static_cast<double>(value), expected) << bits;
    ASSERT_EQ(std::signbit(value), (bits >> 15) != 0) << bits;  // tells -0 from 0
    ASSERT_EQ(ToF16(value).bits, bits);
  }
}

TEST(DTypeTest, EveryBF16PatternDecodesAndRoundTrips) {
  for (uint32_t bits = 0; bits < kAllPatterns; ++bits) {
    const BF16 brain{static_cast<uint16_t>(bits)};
    const double expected = Decode(bits, kBF16Exponent);
    const float value = ToFloat(brain);
    ASSERT_EQ(std::isnan(value), std::isnan(expected)) << bits;
    if (std::isnan(expected)) {
      ASSERT_TRUE(std::isnan(ToFloat(ToBF16(value)))) << bits;
      continue;
    }
    ASSERT_EQ(static_cast<double>(value), expected) << bits;
    ASSERT_EQ(std::signbit(value), (bits >> 15) != 0) << bits;
    ASSERT_EQ(ToBF16(value).bits, bits);
  }
}

// Rounding at every boundary between neighbors: the middle goes to the even pattern, the next floats on
// either side to the nearer neighbor. Past the largest finite value the next pattern is infinity, whose
// place in this order is one step above.
template <typename T>
void CheckBoundaries(T (*round)(float), int exponent_bits, uint32_t infinity) {
  const double step = Decode(infinity - 1, exponent_bits) - Decode(infinity - 2, exponent_bits);
  for (uint32_t low = 0; low < infinity; ++low) {
    const uint32_t high = low + 1;
    const double a = Decode(low, exponent_bits),
                 b = high == infinity ? a + step : Decode(high, exponent_bits);
    const double exact = (a + b) / 2;
    const auto middle = static_cast<float>(exact);
    if (static_cast<double>(middle) != exact) continue;  // bfloat16 subnormals: no float in the middle
    for (const float sign : {1.0f, -1.0f}) {
      const uint32_t sign_bit = sign < 0 ? 0x8000u : 0u;
      const uint32_t even = low % 2 == 0 ? low : high;
      ASSERT_EQ(round(sign * middle).bits, even | sign_bit) << low;
      ASSERT_EQ(round(sign * std::nextafter(middle, 0.0f)).bits, low | sign_bit) << low;
      ASSERT_EQ(round(sign * std::nextafter(middle, INFINITY)).bits, high | sign_bit) << low;
    }
  }
}

TEST(DTypeTest, F16RoundsToNearestEven) { CheckBoundaries<F16>(ToF16, kF16Exponent, 0x7c00); }
TEST(DTypeTest, BF16RoundsToNearestEven) { CheckBoundaries<BF16>(ToBF16, kBF16Exponent, 0x7f80); }

TEST(DTypeTest, KnownValuesAndExtremes) {
  EXPECT_EQ(ToF16(65504.0f).bits, 0x7bff);
  EXPECT_EQ(ToF16(65519.996f).bits, 0x7bff);
  EXPECT_EQ(ToF16(65520.0f).bits, 0x7c00);
  EXPECT_EQ(ToF16(std::numeric_limits<float>::max()).bits, 0x7c00);
  EXPECT_EQ(ToF16(-INFINITY).bits, 0xfc00);
  EXPECT_EQ(ToF16(0x1p-24f).bits, 0x0001);
  EXPECT_EQ(ToF16(0x1p-25f).bits, 0x0000);
  EXPECT_EQ(ToF16(0x1.000002p-25f).bits, 0x0001);
  EXPECT_EQ(ToF16(std::numeric_limits<float>::denorm_min()).bits, 0x0000);
  EXPECT_EQ(ToF16(-0.0f).bits, 0x8000);
  EXPECT_EQ(ToF16(0x1.ffcp-15f).bits, 0x03ff + 1u);  // rounds up out of the subnormals
  EXPECT_EQ(ToBF16(1.0f).bits, 0x3f80);
  EXPECT_EQ(ToBF16(std::numeric_limits<float>::max()).bits, 0x7f80);
  EXPECT_EQ(ToBF16(-INFINITY).bits, 0xff80);
  EXPECT_EQ(ToBF16(std::numeric_limits<float>::denorm_min()).bits, 0x0000);
}

TEST(DTypeTest, NaNsKeepTheirKindForEveryPayloadBit) {
  for (int bit = 0; bit < 23; ++bit) {
    for (const uint32_t sign : {0u, 0x80000000u}) {
      const float nan = std::bit_cast<float>(sign | 0x7f800000u | 1u << bit);
      EXPECT_TRUE(std::isnan(ToFloat(ToF16(nan)))) << bit;
      EXPECT_TRUE(std::isnan(ToFloat(ToBF16(nan)))) << bit;
      EXPECT_EQ(ToBF16(nan).bits >> 15, sign >> 31);
      EXPECT_EQ(ToF16(nan).bits >> 15, sign >> 31);
    }
  }
  EXPECT_TRUE(std::isnan(ToFloat(ToBF16(std::bit_cast<float>(0x7fffffffu)))));  // must not wrap to -0
}

TEST(DTypeTest, NamesAndBitsFollowTheFormat) {
  const struct {
    DType type;
    const char* name;
    int bits;
  } table[] = {
      {DType::kF64, "F64", 64},
      {DType::kF32, "F32", 32},
      {DType::kF16, "F16", 16},
      {DType::kBF16, "BF16", 16},
      {DType::kI64, "I64", 64},
      {DType::kU64, "U64", 64},
      {DType::kI32, "I32", 32},
      {DType::kU32, "U32", 32},
      {DType::kI16, "I16", 16},
      {DType::kU16, "U16", 16},
      {DType::kI8, "I8", 8},
      {DType::kU8, "U8", 8},
      {DType::kBool, "BOOL", 8},
      {DType::kF8E4M3, "F8_E4M3", 8},
      {DType::kF8E5M2, "F8_E5M2", 8},
      {DType::kF8E8M0, "F8_E8M0", 8},
      {DType::kF8E4M3FNUZ, "F8_E4M3FNUZ", 8},
      {DType::kF8E5M2FNUZ, "F8_E5M2FNUZ", 8},
      {DType::kF6E2M3, "F6_E2M3", 6},
      {DType::kF6E3M2, "F6_E3M2", 6},
      {DType::kF4, "F4", 4},
      {DType::kC64, "C64", 64},
  };
  ASSERT_EQ(std::size(table), static_cast<size_t>(kNumDTypes));
  for (const auto& row : table) {
    EXPECT_EQ(DTypeName(row.type), row.name);
    EXPECT_EQ(DTypeBits(row.type), row.bits) << row.name;
    EXPECT_EQ(ParseDType(row.name), row.type) << row.name;
  }
  EXPECT_EQ(ParseDType("F33"), std::nullopt);
  EXPECT_EQ(ParseDType("bf16"), std::nullopt);
  EXPECT_EQ(ParseDType(""), std::nullopt);
}

TEST(BufferTest, AlignmentByBothSizes) {
  const Buffer small(1), large(size_t{5} << 20), empty(0);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(small.data()) % 64, 0u);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(large.data()) % (2 << 20), 0u);
  EXPECT_EQ(large.bytes().size(), size_t{5} << 20);
  EXPECT_TRUE(empty.bytes().empty());
  EXPECT_THROW(Buffer(SIZE_MAX - 5), std::bad_alloc);
}

TEST(BufferTest, MovedFromArraysAreEmptyAndUsable) {
  Array<int> a(100, 7);
  Array<int> b = std::move(a);
  EXPECT_EQ(b[99], 7);
  EXPECT_TRUE(a.empty());  // NOLINT: the state after a move is what is tested
  a.Resize(50);
  for (int i = 0; i < 50; ++i) a[i] = i;
  EXPECT_EQ(a[49], 49);
  EXPECT_EQ(b[49], 7);
  b = std::move(a);
  EXPECT_EQ(b.size(), 50);
  EXPECT_EQ(b[49], 49);
  EXPECT_EQ(a.begin(), a.end());  // NOLINT
}

TEST(BufferTest, ResizeReusesMemoryThatIsLargeEnough) {
  Array<double> a(100);
  const double* before = a.data();
  a.Resize(10);
  a.Resize(100);
  EXPECT_EQ(a.data(), before);
  EXPECT_EQ(a.size(), 100);
}

TEST(ViewTest, RowsAndColumnsOfAMatrix) {
  Mat<float> m(3, 4);
  for (int64_t i = 0; i < 3; ++i) {
    for (int64_t j = 0; j < 4; ++j) m(i, j) = static_cast<float>(10 * i + j);
  }
  const MatView<const float> view = m;
  EXPECT_EQ(view(2, 3), 23.0f);
  const auto part = view.Rows(1, 2).Cols(2, 2);
  EXPECT_EQ(part.rows, 2);
  EXPECT_EQ(part.cols, 2);
  EXPECT_EQ(part.stride, 4);
  EXPECT_EQ(part(0, 0), 12.0f);
  EXPECT_EQ(part.row(1)[1], 23.0f);
  m.Fill(1.0f);
  EXPECT_EQ(part(1, 1), 1.0f);
  const WeightView weights = Weights(part);
  EXPECT_EQ(weights.type, DType::kF32);
  EXPECT_EQ(weights.stride, 4);
}

TEST(ViewTest, TensorSizes) {
  EXPECT_EQ((TensorView{nullptr, DType::kF32, {}}).NumBytes(), 4);
  EXPECT_EQ((TensorView{nullptr, DType::kBF16, {3, 5}}).NumBytes(), 30);
  EXPECT_EQ((TensorView{nullptr, DType::kF64, {3, 0, 5}}).bytes().size(), 0u);
  EXPECT_EQ((TensorView{nullptr, DType::kF4, {6}}).NumBytes(), 3);
  EXPECT_EQ((TensorView{nullptr, DType::kF6E2M3, {4, 2}}).NumBytes(), 6);
}

TEST(ViewTest, ElementsLoadFromAnyAddress) {
  std::vector<std::byte> memory(64);
  for (size_t shift = 0; shift < 4; ++shift) {
    const float f = -1.625f;  // exact in all three types
    const uint16_t half = 0xbe80, brain = 0xbfd0;
    std::memcpy(memory.data() + shift + 4, &f, 4);
    EXPECT_EQ(LoadElement(memory.data() + shift, DType::kF32, 1), f);
    std::memcpy(memory.data() + shift + 6, &half, 2);
    EXPECT_EQ(LoadElement(memory.data() + shift, DType::kF16, 3), f);
    std::memcpy(memory.data() + shift + 6, &brain, 2);
    EXPECT_EQ(LoadElement(memory.data() + shift, DType::kBF16, 3), f);
  }
}

}  // namespace
}  // namespace planish

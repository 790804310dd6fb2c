// Block codecs against the vectors of the format's page, and those of the IQ types from the reference
// implementation in Python (gguf.quants).
#include <gtest/gtest.h>

#include <cmath>

#include "base/random.h"
#include "grids/gguf_decode.h"
#include "grids/gguf_encode.h"
#include "grids/grid.h"
#include "tensor/dtype.h"

namespace planish {
namespace {

using enum GgufType;

struct DecodeCase {
  GgufType type;
  float values[5];  // v[0], v[1], v[17], v[n / 2 + 3], v[n - 1]
  double sum, weighted_sum;
};

constexpr DecodeCase kDecodeCases[] = {
    {kQ4_0, {7, 4, -3, 1, 7}, -7, -25},
    {kQ4_1, {9.5, 6.5, 9.5, 13.5, 2.5}, 259, 4336},
    {kQ5_0, {3, 0, -3, 0, 6}, 29, 69},
    {kQ5_1, {29.5, 10.5, 16.5, 4.5, 26.5}, 519, 8198},
    {kQ8_0, {63, 92, 44, 102, -62}, 16, -4336},
    {kQ2_K, {5, 10, 3, -7, 18.5}, 2106, 274768},
    {kQ3_K, {-11, 22, -4, 0, -63}, 180, 56062},
    {kQ4_K, {262.5, 91.5, 91.5, 177, 154.5}, 70936, 9538808},
    {kQ5_K, {1174.5, 91.5, 91.5, 177, 714.5}, 149464, 19856520},
    {kQ6_K, {649, -118, -60, 1660, 720}, 1212, -500168},
    {kIQ4_NL, {113, 53, -35, 13, 113}, -53, 464},
    {kIQ4_XS, {1725, 625, -3175, 1421, 105}, -15937, -840576},
    {kTQ1_0, {-1, -1, 1, -1, 0}, 2, 1180},
    {kTQ2_0, {0, 1, 1, -1, -1}, 123, 15618},
    {kMXFP4, {1, -6, 1.5, 6, -3}, 10.5, 261},
    {kNVFP4, {-0.5, 4, -2, 0, -0.01171875}, 12.4736328125, 84.1845703125},
    {kQ1_0, {1, 1, -1, -1, 1}, 10, 600},
    {kQ2_0, {2, 2, -1, -1, 2}, 38, 1247},
    {kIQ2_XXS, {-3.125, -1.0, -1.0, 65.625, 69.875}, 1530.75, 268721.0},
    {kIQ2_XS, {96.875, -96.875, 15.0, -21.875, -9.0}, -151.375, -45788.875},
    {kIQ2_S, {-80.625, -15.0, 13.0, -71.875, 7.0}, 52.125, 22856.25},
    {kIQ3_XXS, {-189.0, -135.0, -297.0, -273.0, 5.0}, -4773.5, -542228.0},
    {kIQ3_S, {-45.0, -135.0, 75.0, 45.0, -11.0}, -2452.0, -473088.0},
    {kIQ1_S, {-1.875, 13.125, 13.125, -1.625, -3.375}, -48.0, 2487.0},
    {kIQ1_M, {12.375, 12.375, 14.625, 2.625, 0.125}, -7.0, -8335.0},
};

// b[i] = (29 i + 5) mod 256, d = 1, m or dmin = 0.5.
std::vector<std::byte> VectorBlock(GgufType type) {
  std::vector<std::byte> b(static_cast<size_t>(InfoOf(type).bytes));
  for (size_t i = 0; i < b.size(); ++i) b[i] = static_cast<std::byte>(29 * i + 5);
  const auto half = [&](size_t at, float value) {
    const F16 bits = ToF16(value);
    std::memcpy(b.data() + at, &bits, 2);
  };
  const auto bytes = [&](std::initializer_list<int> values) {
    size_t at = 0;
    for (int value : values) b[at++] = static_cast<std::byte>(value);
  };
  switch (type) {
    case kQ4_1:
    case kQ5_1:
    case kQ4_K:
    case kQ5_K:
      half(2, 0.5f);
      break;
    case kQ2_K:
      half(82, 0.5f);
      break;
    default:
      break;
  }
  switch (type) {
    case kQ2_K:
      half(80, 1);
      break;
    case kQ3_K:
      half(108, 1);
      break;
    case kQ6_K:
      half(208, 1);
      break;
    case kTQ1_0:
      half(52, 1);
      break;
    case kTQ2_0:
      half(64, 1);
      break;
    case kMXFP4:
      bytes({127});
      break;
    case kNVFP4:
      bytes({0x38, 0x30, 0x40, 0x01});
      break;
    case kIQ1_M:  // d in the top nibbles of four words
      for (int i = 0; i < 4; ++i) {
        const int nibbles[] = {0, 0, 0xc, 3};
        std::byte& high = b[static_cast<size_t>(49 + 2 * i)];
        high = (high & std::byte{15}) | static_cast<std::byte>(nibbles[i] << 4);
      }
      break;
    default:
      half(0, 1);
  }
  return b;
}

TEST(GgufDecode, VectorsOfTheFormat) {
  size_t decoding = 0;
  for (const auto& info : AllGgufTypes()) decoding += info.decodes;
  EXPECT_EQ(decoding, std::size(kDecodeCases));
  for (const auto& c : kDecodeCases) {
    const auto n = InfoOf(c.type).block;
    std::vector<float> v(static_cast<size_t>(n));
    DecodeBlocks(c.type, VectorBlock(c.type).data(), 1, v.data());
    const int64_t at[5] = {0, 1, 17, n / 2 + 3, n - 1};
    double sum = 0, weighted = 0;
    for (int i = 0; i < 5; ++i)
      EXPECT_EQ(v[static_cast<size_t>(at[i])], c.values[i]) << InfoOf(c.type).name << at[i];
    for (int64_t i = 0; i < n; ++i) {
      sum += v[static_cast<size_t>(i)];
      weighted += static_cast<double>(i + 1) * v[static_cast<size_t>(i)];
    }
    EXPECT_DOUBLE_EQ(sum, c.sum) << InfoOf(c.type).name;
    EXPECT_DOUBLE_EQ(weighted, c.weighted_sum) << InfoOf(c.type).name;
  }
}

TEST(GgufDecode, PartsOfRowsAreTheWholeRow) {
  for (const auto& c : kDecodeCases) {
    const auto block = VectorBlock(c.type);
    std::vector<std::byte> row;
    for (int i = 0; i < 3; ++i) row.insert(row.end(), block.begin(), block.end());
    const int64_t n = 3 * InfoOf(c.type).block;
    std::vector<float> whole(static_cast<size_t>(n)), part(static_cast<size_t>(n));
    DecodeBlocks(c.type, row.data(), 3, whole.data());
    for (int64_t col : {int64_t{0}, int64_t{5}, n / 3, n / 3 + 1, n - 1}) {
      for (int64_t count : {int64_t{1}, int64_t{7}, n / 3, n - col}) {
        if (col + count > n) continue;
        DecodeBlockRow(c.type, row.data(), col, count, part.data());
        for (int64_t i = 0; i < count; ++i) {
          ASSERT_EQ(part[static_cast<size_t>(i)], whole[static_cast<size_t>(col + i)])
              << InfoOf(c.type).name << " " << col << " " << count;
        }
      }
    }
  }
}

class GgufEncode : public testing::Test {
 protected:
  GgufEncode() {
    context_.pool = &pool_;
    context_.isa = BestIsa();
  }
  std::vector<std::byte> Encode(GgufType type, MatView<const float> w,
                                std::span<const float> importance = {}) {
    std::vector<std::byte> out(static_cast<size_t>(w.rows * GgufRowBytes(type, w.cols)));
    EncodeBlocks(context_, type, w, importance, out.data());
    return out;
  }
  // sum of importance times squared error.
  double Loss(GgufType type, MatView<const float> w, std::span<const std::byte> blocks,
              std::span<const float> importance) {
    std::vector<float> y(static_cast<size_t>(w.cols));
    double loss = 0;
    for (int64_t i = 0; i < w.rows; ++i) {
      DecodeBlockRow(type, blocks.data() + i * GgufRowBytes(type, w.cols), 0, w.cols, y.data());
      for (int64_t j = 0; j < w.cols; ++j) {
        const double d = static_cast<double>(y[static_cast<size_t>(j)]) - static_cast<double>(w(i, j));
        loss += d * d * (importance.empty() ? 1.0 : static_cast<double>(importance[static_cast<size_t>(j)]));
      }
    }
    return loss;
  }
  ThreadPool pool_{2};
  Context context_;
};

constexpr GgufType kEncoded[] = {kQ4_0, kQ4_1, kQ5_0, kQ5_1, kQ8_0,   kQ2_K,
                                 kQ3_K, kQ4_K, kQ5_K, kQ6_K, kIQ4_NL, kIQ4_XS};

TEST_F(GgufEncode, ErrorsOfTheReference) {
  struct Case {
    GgufType type;
    double relative;    // of the reference encoder
    const char* first;  // bytes; "" where they need not be the same
  };
  constexpr Case kCases[] = {{kQ4_0, 0.066836, "\x40\x36\xf2\x58\xbe\x13\x79\xdf"},
                             {kQ4_1, 0.065630, "\x89\x36\x40\xc2\xf2\x57\xbd\x13"},
                             {kQ5_0, 0.031663, "\x40\x32\xb4\xb4\xa5\x25\xf4\xbf"},
                             {kQ5_1, 0.029350, "\x53\x32\x40\xc2\xb4\xb4\xa5\x25"},
                             {kQ8_0, 0.004017, "\x4d\x26\x9d\xfb\x59\xb6\x14\x72"},
                             {kQ2_K, 0.253147, ""},
                             {kQ3_K, 0.131897, ""},
                             {kQ4_K, 0.059769, ""},
                             {kQ5_K, 0.028631, ""},
                             {kQ6_K, 0.013862, ""},
                             {kIQ4_NL, 0.072057, ""},
                             {kIQ4_XS, 0.070254, ""}};
  Mat<float> x(1, 256);
  double energy = 0;
  for (int i = 0; i < 256; ++i) {
    x(0, i) = static_cast<float>((37 * i + 11) % 101 - 50) / 16;
    energy += static_cast<double>(x(0, i)) * static_cast<double>(x(0, i));
  }
  for (const auto& c : kCases) {
    const auto bytes = Encode(c.type, x);
    const double relative = std::sqrt(Loss(c.type, x, bytes, {}) / energy);
    EXPECT_LE(relative, c.relative + 6e-7) << InfoOf(c.type).name;
    if (c.first[0] != 0) {
      EXPECT_EQ(std::memcmp(bytes.data(), c.first, 8), 0) << InfoOf(c.type).name;
    }
    std::printf("%s: relative error %.6f, reference %.6f\n", InfoOf(c.type).name, relative, c.relative);
  }
}

Mat<float> Normal(int64_t rows, int64_t cols, float scale, uint64_t seed) {
  Mat<float> w(rows, cols);
  const Random random(seed);
  for (int64_t i = 0; i < rows * cols; ++i) {
    w.data()[i] = scale * static_cast<float>(random.Normal(static_cast<uint64_t>(i)));
  }
  return w;
}

TEST_F(GgufEncode, ImportanceLowersTheWeightedLoss) {
  const Mat<float> w = Normal(8, 512, 0.02f, 1);
  std::vector<float> importance(512);
  for (size_t j = 0; j < 512; ++j) {
    importance[j] = std::exp(2 * static_cast<float>(Random(7).Normal(j)));
  }
  for (GgufType type : kEncoded) {
    const double plain = Loss(type, w, Encode(type, w), importance);
    const double weighted = Loss(type, w, Encode(type, w, importance), importance);
    if (type == kQ8_0) {
      EXPECT_EQ(weighted, plain);
    } else {
      EXPECT_LT(weighted, 0.97 * plain) << InfoOf(type).name;
    }
  }
}

// More bits, less error, with importance and without; of two types of one size the one with searched
// sub-blocks or a table of its own. Q4_K's sub-blocks fitted by importance beat the range of 32 weights with
// fp16 scales and whole zeros, which take half a bit more.
TEST_F(GgufEncode, ErrorFallsWithBits) {
  const Mat<float> w = Normal(8, 512, 0.02f, 11);
  std::vector<float> importance(512);
  for (size_t j = 0; j < 512; ++j) importance[j] = std::exp(static_cast<float>(Random(12).Normal(j)));
  for (const std::vector<float>& h : {std::vector<float>(), importance}) {
    const auto loss = [&](GgufType type) { return Loss(type, w, Encode(type, w, h), h); };
    const GgufType falling[][2] = {{kQ2_K, kQ3_K}, {kQ3_K, kIQ4_XS}, {kIQ4_XS, kQ5_0}, {kQ4_K, kQ5_K},
                                   {kQ5_K, kQ6_K}, {kQ6_K, kQ8_0},   {kQ4_0, kQ4_1},   {kQ4_1, kQ5_0},
                                   {kQ5_0, kQ5_1}, {kQ4_0, kQ4_K},   {kQ4_0, kIQ4_NL}};
    for (const auto& [fewer, more] : falling) {
      EXPECT_LT(loss(more), loss(fewer)) << InfoOf(more).name << " " << InfoOf(fewer).name;
    }
    GridMatrix range = FitGrid(context_, w, {}, {.bits = 4, .group = 32}, ClipSearch::kMinMax);
    EncodeAll(context_, w, range);
    Mat<float> w_hat(8, 512);
    Decode(range, w_hat);
    double of_range = 0;
    for (int64_t k = 0; k < 8 * 512; ++k) {
      const double d = double{w.data()[k]} - w_hat.data()[k];
      of_range += d * d * (h.empty() ? 1.0 : double{h[static_cast<size_t>(k % 512)]});
    }
    EXPECT_LT(loss(kQ4_K), of_range);
  }
}

// An importance of ones asks the old types for a search; the others search without any too.
TEST_F(GgufEncode, ImportanceOfOnesIsASearch) {
  const Mat<float> w = Normal(8, 512, 0.02f, 13);
  const std::vector<float> ones(512, 1.0f);
  for (GgufType type : kEncoded) {
    const auto none = Encode(type, w), searched = Encode(type, w, ones);
    const bool plain = type == kQ4_0 || type == kQ4_1 || type == kQ5_0 || type == kQ5_1;
    EXPECT_EQ(none == searched, !plain) << InfoOf(type).name;
    EXPECT_LE(Loss(type, w, searched, {}), Loss(type, w, none, {})) << InfoOf(type).name;
  }
}

TEST_F(GgufEncode, SameBytesOnEverySetAndAnyThreads) {
  const Mat<float> w = Normal(5, 768, 0.1f, 3);
  std::vector<float> importance(768);
  for (size_t j = 0; j < 768; ++j) importance[j] = static_cast<float>(Random(9).Uniform(j));
  for (GgufType type : kEncoded) {
    context_.isa = Isa::kScalar;
    const auto expected = Encode(type, w, importance);
    for (Isa isa : kAllIsas) {
      if (!IsaSupported(isa)) continue;
      for (int threads : {1, 3}) {
        ThreadPool pool(threads);
        context_.isa = isa;
        context_.pool = &pool;
        EXPECT_EQ(Encode(type, w, importance), expected) << InfoOf(type).name << IsaName(isa) << threads;
      }
    }
    context_.pool = &pool_;
  }
}

TEST_F(GgufEncode, ExtremeRowsStayFinite) {
  for (GgufType type : kEncoded) {
    for (float value : {0.0f, 1.0f, -1.0f, 1e-7f, 1e-30f, -3e38f, 60000.0f}) {
      Mat<float> w(3, 256);
      for (int64_t i = 0; i < 256; ++i) {
        w(0, i) = value;
        w(1, i) = i == 100 ? value : 0.0f;
        w(2, i) = i % 2 == 0 ? value : -value;
      }
      for (const std::vector<float>& importance : {std::vector<float>(), std::vector<float>(256, 0.0f)}) {
        const auto bytes = Encode(type, w, importance);
        std::vector<float> y(256);
        for (int64_t i = 0; i < 3; ++i) {
          DecodeBlockRow(type, bytes.data() + i * GgufRowBytes(type, 256), 0, 256, y.data());
          for (int64_t j = 0; j < 256; ++j) {
            ASSERT_TRUE(std::isfinite(y[static_cast<size_t>(j)])) << InfoOf(type).name << " " << value;
            if (std::fabs(value) <= 60000.0f && std::fabs(value) >= 1.0f && importance.empty()) {
              EXPECT_NEAR(y[static_cast<size_t>(j)], w(i, j), 0.35 * static_cast<double>(std::fabs(value)))
                  << InfoOf(type).name << " row " << i;
            }
          }
        }
      }
    }
  }
}

TEST(GgufTypes, NamesAndNumbers) {
  EXPECT_EQ(ParseGgufType("q4_k"), kQ4_K);
  EXPECT_EQ(ParseGgufType("IQ2_XXS"), kIQ2_XXS);
  EXPECT_EQ(ParseGgufType("q4"), std::nullopt);
  EXPECT_EQ(FindGgufType(4), nullptr);
  EXPECT_TRUE(IsRemovedGgufType(4));
  EXPECT_EQ(FindGgufType(-1), nullptr);
  EXPECT_EQ(GgufRowBytes(kQ6_K, 512), 420);
}

}  // namespace
}  // namespace planish

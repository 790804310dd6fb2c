#include "layer/nested.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <tuple>

#include "grids/grids_test_util.h"

namespace planish {
namespace {

class NestedTest : public ::testing::Test {
 protected:
  Matrix Coded8(const GridSpec& grid) {
    GridMatrix m = FitGrid(context_, w_, {}, grid, ClipSearch::kWeighted);
    EncodeAll(context_, w_, m);
    return PackCodes(m);
  }
  double Error(const Matrix& matrix) const {
    const Mat<float> w_hat = Reconstruct(matrix);
    double sum = 0;
    for (int64_t k = 0; k < 16 * 256; ++k) sum += std::pow(double{w_.data()[k]} - w_hat.data()[k], 2);
    return sum;
  }

  ThreadPool pool_{2};
  Context context_ = OnPool(pool_);
  Mat<float> w_ = RandomWeights(16, 256, 9);
};

// Codes 0 to 255 by hand: ties to even, the top clamps, and the decoded value is off by at most half a step.
TEST_F(NestedTest, SecondRoundingByHand) {
  GridMatrix wide;
  wide.grid = {.bits = 8, .group = 0};
  wide.codes.Resize(1, 256);
  for (int k = 0; k < 256; ++k) wide.codes(0, k) = static_cast<uint8_t>(k);
  wide.scales.Resize(1, 1);
  wide.zeros.Resize(1, 1);
  wide.scales(0, 0) = 0.5f;
  wide.zeros(0, 0) = 77;
  for (const int bits : {2, 3, 4, 6}) {
    int changed = 0;
    const GridMatrix m =
        UnpackCodes(ReadAtBits(context_, PackCodes(wide), bits, NestedRule::kDoubleRounding, changed));
    EXPECT_EQ(changed, 1);
    const int step = 1 << (8 - bits), top = (1 << bits) - 1;
    EXPECT_EQ(m.scales(0, 0), 0.5f * static_cast<float>(step));
    EXPECT_EQ(m.zeros(0, 0) * static_cast<float>(step), 77.0f);
    Mat<float> read(1, 256);
    Decode(m, read);
    double drift = 0;
    for (int k = 0; k < 256; ++k) {
      const int floor = k / step, rest = k % step;
      const int up = 2 * rest > step || (2 * rest == step && floor % 2 == 1);
      EXPECT_EQ(m.codes(0, k), std::min(floor + up, top)) << bits << " " << k;
      const float error = read(0, k) - 0.5f * static_cast<float>(k - 77);
      if (floor + up <= top) {
        EXPECT_LE(std::fabs(error), 0.25f * static_cast<float>(step));
        drift += error;
      }
    }
    // Ties up and down are as many but for the one at the clamped end.
    EXPECT_LE(std::fabs(drift), 0.25 * step * step);
  }
}

// The mean squared error beside that of cutting the low bits off, over codes that no clamp touches: rounding
// makes it 2.3 times less where two bits go, near four times where four or six do. 127 of signed 8 bits, here
// 255, is 15.94 of 4 bits and clamps to 15, 15 steps away.
TEST_F(NestedTest, SecondRoundingBesideCuttingBitsOff) {
  GridMatrix wide;
  wide.grid = {.bits = 8, .group = 0, .symmetric = true};
  wide.codes.Resize(1, 256);
  std::iota(wide.codes.data(), wide.codes.data() + 256, 0);
  wide.scales.Resize(1, 1);
  wide.zeros.Resize(1, 1);
  wide.scales(0, 0) = 1;
  wide.zeros(0, 0) = 128;
  for (const auto& [bits, low, high] : {std::tuple{6, 2.2, 2.4}, {4, 3.6, 4.0}, {2, 3.6, 4.0}}) {
    int changed = 0;
    const Mat<float> read =
        Reconstruct(ReadAtBits(context_, PackCodes(wide), bits, NestedRule::kDoubleRounding, changed));
    const int step = 1 << (8 - bits);
    double rounded = 0, cut = 0;
    for (int k = 0; k < 256 - step; ++k) {
      rounded += std::pow(read(0, k) - static_cast<float>(k - 128), 2);
      cut += std::pow(k % step, 2);
    }
    EXPECT_GT(cut / rounded, low) << bits;
    EXPECT_LT(cut / rounded, high) << bits;
    if (bits == 4) {
      EXPECT_EQ(read(0, 255), 127.0f - 15);
    }
  }
}

// Reading takes nothing from what is stored: after 8, 2 and 8 bits it is the same, and 4 bits at 4 are the
// same.
TEST_F(NestedTest, WhatIsStoredIsNotTouched) {
  for (const NestedRule rule : {NestedRule::kDoubleRounding, NestedRule::kRefit}) {
    const Matrix stored = Coded8({.bits = 8, .group = 64});
    const GridMatrix before = UnpackCodes(stored);
    int changed = 0;
    const Matrix two = ReadAtBits(context_, stored, 2, rule, changed);
    EXPECT_EQ(UnpackCodes(two).grid.bits, 2);
    const GridMatrix after = UnpackCodes(stored);
    EXPECT_EQ(after.grid, before.grid);
    EXPECT_TRUE(std::equal(before.codes.data(), before.codes.data() + 16 * 256, after.codes.data()));
    EXPECT_TRUE(std::equal(before.scales.data(), before.scales.data() + 16 * 4, after.scales.data()));
    EXPECT_TRUE(std::equal(before.zeros.data(), before.zeros.data() + 16 * 4, after.zeros.data()));
    const Matrix four = Coded8({.bits = 4, .group = 64});
    const GridMatrix same = UnpackCodes(ReadAtBits(context_, four, 4, rule, changed)), of = UnpackCodes(four);
    EXPECT_EQ(same.grid, of.grid);
    EXPECT_TRUE(std::equal(of.codes.data(), of.codes.data() + 16 * 256, same.codes.data()));
    EXPECT_EQ(changed, 1);
  }
}

TEST_F(NestedTest, FewerBitsAreWorseAndRefitIsBetterWhereClampingHurts) {
  for (const bool symmetric : {false, true}) {
    const Matrix stored = Coded8({.bits = 8, .group = 64, .symmetric = symmetric});
    double last = Error(stored);
    for (const int bits : {6, 4, 3, 2}) {
      int changed = 0;
      const double rounded = Error(ReadAtBits(context_, stored, bits, NestedRule::kDoubleRounding, changed));
      const double fitted = Error(ReadAtBits(context_, stored, bits, NestedRule::kRefit, changed));
      EXPECT_EQ(changed, 2);
      EXPECT_GT(rounded, last);
      EXPECT_LT(fitted, rounded) << bits;
      last = rounded;
      // Nesting costs something beside a grid fitted to the weights themselves.
      GridMatrix direct =
          FitGrid(context_, w_, {},
                  {.bits = bits, .group = 64, .symmetric = symmetric, .zero_bits = symmetric ? 0 : 8},
                  ClipSearch::kWeighted);
      EncodeAll(context_, w_, direct);
      EXPECT_GE(fitted, 0.99 * Error(PackCodes(direct))) << bits;
    }
  }
}

TEST_F(NestedTest, OtherPartsStay) {
  const Matrix stored = Coded8({.bits = 4, .group = 64});
  const Matrix dense = DenseMatrix(w_.view(), DType::kBF16);
  int changed = 0;
  EXPECT_EQ(Describe(ReadAtBits(context_, stored, 4, NestedRule::kRefit, changed)), Describe(stored));
  EXPECT_EQ(Describe(ReadAtBits(context_, dense, 4, NestedRule::kRefit, changed)), "bf16");
  EXPECT_EQ(changed, 0);
  const Matrix sum{16, 256, SumPart{{Coded8({.bits = 8, .group = 32, .scale = ScaleKind::kSteps}), dense}}};
  EXPECT_EQ(Describe(ReadAtBits(context_, sum, 3, NestedRule::kDoubleRounding, changed)),
            "int3 g32 s8 z8 + bf16");
  EXPECT_EQ(changed, 1);
}

}  // namespace
}  // namespace planish

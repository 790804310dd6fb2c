// Grids of levels, second-level scales and fine zeros.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/random.h"
#include "grids/grid.h"

namespace planish {
namespace {

Context OnPool(ThreadPool& pool, Isa isa = BestIsa()) {
  Context context;
  context.pool = &pool;
  context.isa = isa;
  return context;
}

Mat<float> RandomWeights(int64_t rows, int64_t cols, uint64_t seed) {
  Mat<float> w(rows, cols);
  const Random random(seed);
  for (int64_t i = 0; i < rows * cols; ++i) w.data()[i] = 0.02f * static_cast<float>(random.Normal(i));
  return w;
}

double Error(const Context& context, const Mat<float>& w, GridMatrix& m) {
  EncodeAll(context, w, m);
  Mat<float> w_hat(w.rows(), w.cols());
  Decode(m, w_hat);
  double sum = 0;
  for (int64_t k = 0; k < w.rows() * w.cols(); ++k) {
    sum += std::pow(static_cast<double>(w.data()[k]) - w_hat.data()[k], 2);
  }
  return sum;
}

std::vector<float> Levels(const char* name, int set = 0) {
  const Mat<float> levels = FixedLevels(*FindGrid(name));
  return {levels.row(set), levels.row(set) + levels.cols()};
}

TEST(GridLevels, ValuesOfTheFormats) {
  // OCP microscaling: magnitudes of E2M1, largest values of the others.
  EXPECT_EQ(Levels("e2m1"),
            (std::vector<float>{-6, -4, -3, -2, -1.5f, -1, -0.5f, 0, 0.5f, 1, 1.5f, 2, 3, 4, 6, 6}));
  EXPECT_EQ(Levels("e2m3").back(), 7.5f);
  EXPECT_EQ(Levels("e3m2").back(), 28.0f);
  EXPECT_EQ(Levels("e4m3").back(), 448.0f);
  EXPECT_EQ(Levels("e5m2").back(), 57344.0f);
  // NF4 as published, in fp16.
  const float nf4[] = {-1.0f,        -0.69619280f, -0.52507305f, -0.39491749f, -0.28444138f, -0.18477343f,
                       -0.09105004f, 0.0f,         0.07958030f,  0.16093020f,  0.24611230f,  0.33791524f,
                       0.44070983f,  0.56261700f,  0.72295684f,  1.0f};
  const std::vector<float> levels = Levels("nf4");
  for (int k = 0; k < 16; ++k) EXPECT_NEAR(levels[k], nf4[k], 4e-4) << k;
  // RF8: 1, 1 1/16, 1 1/8, 1 1/4, 1 1/2 times powers of two.
  const std::vector<float> rf8 = Levels("rf8");
  const auto one = std::find(rf8.begin(), rf8.end(), 1.0f);
  EXPECT_EQ((std::vector<float>(one, one + 6)), (std::vector<float>{1, 1.0625f, 1.125f, 1.25f, 1.5f, 2}));
  EXPECT_EQ(Levels("bitmod3", 3), (std::vector<float>{-6, -4, -2, -1, 0, 1, 2, 4}));
}

// One bit of exponent is a uniform grid; every format decodes in ascending order.
TEST(GridLevels, AscendingAndEncodeInvertsDecode) {
  for (const NamedGrid& named : NamedGrids()) {
    if (named.grid.Uniform()) continue;
    const Mat<float> sets = FixedLevels(named.grid);
    for (int64_t set = 0; set < sets.rows(); ++set) {
      for (int k = 0; k < named.grid.NumLevels(); ++k) {
        if (k > 0) {
          EXPECT_LE(sets(set, k - 1), sets(set, k)) << named.name;
        }
        const uint8_t code =
            EncodeNearest(sets(set, k) * 0.25f, 0.25f, sets.row(set), named.grid.NumLevels());
        EXPECT_EQ(sets(set, code), sets(set, k)) << named.name << " " << k;
      }
    }
  }
  EXPECT_EQ(Levels("e1m2"), (std::vector<float>{-3.5f, -3, -2.5f, -2, -1.5f, -1, -0.5f, 0, 0.5f, 1, 1.5f, 2,
                                                2.5f, 3, 3.5f, 3.5f}));
}

// Searched scales never lose to the rule; a BitMoD group never to the base format with one value less.
TEST(GridLevels, SearchIsNeverWorseThanTheRule) {
  ThreadPool pool(2);
  const Context context = OnPool(pool);
  const Mat<float> w = RandomWeights(70, 128, 5);
  for (const NamedGrid& named : NamedGrids()) {
    GridSpec grid = named.grid;
    if (grid.scale == ScaleKind::kHalf) grid.group = 32;
    GridMatrix rule = FitGrid(context, w, {}, grid, ClipSearch::kMinMax);
    GridMatrix found = FitGrid(context, w, {}, grid, ClipSearch::kWeighted);
    EXPECT_LE(Error(context, w, found), Error(context, w, rule) * (1 + 1e-5)) << named.name;
  }
  const auto error = [&](const char* name, int64_t group) {
    GridSpec grid = *FindGrid(name);
    if (grid.scale == ScaleKind::kHalf) grid.group = group;
    GridMatrix m = FitGrid(context, w, {}, grid, ClipSearch::kWeighted);
    return Error(context, w, m);
  };
  EXPECT_LT(error("bitmod4", 128), error("e2m1", 128));
  EXPECT_LT(error("nvfp4", 0), error("mxfp4", 0));
}

// A block times 2^n has the same codes and 4^n times the error.
TEST(GridLevels, MxFollowsPowersOfTwo) {
  ThreadPool pool(1);
  const Context context = OnPool(pool);
  Mat<float> w = RandomWeights(8, 64, 9);
  GridMatrix a = FitGrid(context, w, {}, *FindGrid("mxfp4"), ClipSearch::kWeighted);
  const double before = Error(context, w, a);
  for (int64_t k = 0; k < 8 * 64; ++k) w.data()[k] *= 8;
  GridMatrix b = FitGrid(context, w, {}, *FindGrid("mxfp4"), ClipSearch::kWeighted);
  EXPECT_DOUBLE_EQ(Error(context, w, b), 64 * before);
  EXPECT_TRUE(std::equal(a.codes.data(), a.codes.data() + 8 * 64, b.codes.data()));
}

TEST(GridScales, StepsAreWholeAndZerosAreMultiples) {
  ThreadPool pool(2);
  const Context context = OnPool(pool);
  const Mat<float> w = RandomWeights(66, 128, 12);
  double plain = 0;
  for (const int zero_bits : {2, 8}) {
    const GridSpec grid{
        .bits = 2, .group = 32, .scale = ScaleKind::kSteps, .scale_bits = 6, .zero_bits = zero_bits};
    GridMatrix m = FitGrid(context, w, {}, grid, ClipSearch::kWeighted);
    for (int64_t i = 0; i < 66; ++i) {
      for (int64_t g = 0; g < 4; ++g) {
        const double steps = m.scales(i, g) / m.units[i], zero = m.zeros(i, g) / grid.ZeroStep();
        EXPECT_EQ(steps, std::round(steps));
        EXPECT_TRUE(steps >= 1 && steps <= 63) << steps;
        EXPECT_EQ(zero, std::round(zero));
        EXPECT_TRUE(zero >= 0 && m.zeros(i, g) <= 3) << zero;
      }
    }
    // 256 bits of codes a row; 264 groups; 2 bytes of unit a row.
    EXPECT_EQ(m.StoredBytes(), 66 * 32 + 264 * 6 / 8 + 264 * zero_bits / 8 + 66 * 2);
    const double error = Error(context, w, m);
    if (zero_bits == 2) plain = error;
    if (zero_bits == 8) {
      EXPECT_LT(error, 0.97 * plain);
    }
  }
}

TEST(GridLevels, SameBitsOnEveryInstructionSet) {
  const Mat<float> w = RandomWeights(131, 70, 11);
  ThreadPool one(1), three(3);
  for (const char* name : {"nf4", "bitmod3", "mxfp4", "nvfp4", "e4m3"}) {
    GridSpec grid = *FindGrid(name);
    if (grid.scale == ScaleKind::kHalf) grid.scale = ScaleKind::kSteps;
    const GridMatrix expected = FitGrid(OnPool(one, Isa::kScalar), w, {}, grid, ClipSearch::kWeighted);
    for (const Isa isa : kAllIsas) {
      if (!IsaSupported(isa)) continue;
      const GridMatrix m = FitGrid(OnPool(three, isa), w, {}, grid, ClipSearch::kWeighted);
      const int64_t groups = 131 * m.scales.cols();
      EXPECT_TRUE(std::equal(m.scales.data(), m.scales.data() + groups, expected.scales.data())) << name;
    }
  }
}

}  // namespace
}  // namespace planish

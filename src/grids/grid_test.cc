#include "grids/grid.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "grids/grids_test_util.h"

namespace planish {
namespace {

std::vector<float> RandomImportance(int64_t cols, uint64_t seed) {
  std::vector<float> h(cols);
  const Random random(seed);
  for (int64_t j = 0; j < cols; ++j) h[j] = static_cast<float>(std::exp(2.0 * random.Normal(j)));
  return h;
}

// sum_j h_j (w_j - q_j)^2 of nearest rounding of the whole matrix, in double.
double WeightedError(const Mat<float>& w, const std::vector<float>& h, const IntegerMatrix& m) {
  const int64_t size = m.grid.GroupSize(w.cols());
  double sum = 0;
  for (int64_t i = 0; i < w.rows(); ++i) {
    for (int64_t j = 0; j < w.cols(); ++j) {
      const float s = m.scales(i, j / size);
      const int z = m.zeros(i, j / size);
      const double q = static_cast<double>(EncodeNearest(w(i, j), s, z, (1 << m.grid.bits) - 1) - z) * s;
      sum += (h.empty() ? 1.0 : h[j]) * (w(i, j) - q) * (w(i, j) - q);
    }
  }
  return sum;
}

TEST(IntegerGrid, MinMaxByHand) {
  ThreadPool pool(1);
  Mat<float> w(2, 6);
  // Groups of 4 and 2 columns. Row 0: range [-1, 2] -> scale 1, zero 1; all positive, so the range is
  // [0, 3] -> scale 1, zero 0. Row 1: all negative, [-6, 0] -> scale 2, zero 3; all zeros -> scale 1.
  const float values[] = {-1, 0, 1, 2, 0.5f, 3, -6, -2, -1, -4, 0, 0};
  std::copy_n(values, 12, w.data());
  const IntegerMatrix m = FitGrid(OnPool(pool), w, {}, {.bits = 2, .group = 4}, ClipSearch::kMinMax);
  ASSERT_EQ(m.scales.cols(), 2);
  EXPECT_EQ(m.scales(0, 0), 1.0f);
  EXPECT_EQ(m.zeros(0, 0), 1);
  EXPECT_EQ(m.scales(0, 1), 1.0f);
  EXPECT_EQ(m.zeros(0, 1), 0);
  EXPECT_EQ(m.scales(1, 0), 2.0f);
  EXPECT_EQ(m.zeros(1, 0), 3);
  EXPECT_EQ(m.scales(1, 1), 1.0f);

  // Symmetric: [-1.5, 1.5] over 3 steps -> scale 1, zero 2.
  Mat<float> v(1, 2);
  v(0, 0) = -1.5f;
  v(0, 1) = 0.75f;
  const IntegerMatrix symmetric =
      FitGrid(OnPool(pool), v, {}, {.bits = 2, .group = 0, .symmetric = true}, ClipSearch::kMinMax);
  EXPECT_EQ(symmetric.scales(0, 0), 1.0f);
  EXPECT_EQ(symmetric.zeros(0, 0), 2);
}

TEST(IntegerGrid, EncodeNearestRoundsHalfToEvenAndClamps) {
  EXPECT_EQ(EncodeNearest(0.5f, 1.0f, 1, 3), 1);
  EXPECT_EQ(EncodeNearest(1.5f, 1.0f, 1, 3), 3);
  EXPECT_EQ(EncodeNearest(-0.5f, 1.0f, 1, 3), 1);
  EXPECT_EQ(EncodeNearest(-9.0f, 1.0f, 1, 3), 0);
  EXPECT_EQ(EncodeNearest(9.0f, 1.0f, 1, 3), 3);
  EXPECT_EQ(EncodeNearest(3e38f, 0x1p-24f, 100, 255), 255);
}

TEST(IntegerGrid, DecodeIsTheDefinition) {
  IntegerMatrix m;
  m.grid = {.bits = 4, .group = 3};
  m.codes.Resize(1, 5);
  m.scales.Resize(1, 2);
  m.zeros.Resize(1, 2);
  const uint8_t codes[] = {0, 7, 15, 8, 9};
  std::copy_n(codes, 5, m.codes.data());
  m.scales(0, 0) = 0.5f;
  m.scales(0, 1) = 0.25f;
  m.zeros(0, 0) = 7;
  m.zeros(0, 1) = 8;
  const float expected[] = {-3.5f, 0.0f, 4.0f, 0.0f, 0.25f};
  Mat<float> all(1, 5);
  Decode(m, all);
  for (int64_t j = 0; j < 5; ++j) EXPECT_EQ(all(0, j), expected[j]) << j;
  for (int64_t col = 0; col < 5; ++col) {
    for (int64_t count = 0; col + count <= 5; ++count) {
      float part[5];
      DecodeRow(m, 0, col, count, part);
      for (int64_t j = 0; j < count; ++j) EXPECT_EQ(part[j], expected[col + j]) << col << "+" << j;
    }
  }
}

TEST(IntegerGrid, StoredBytesByHand) {
  IntegerMatrix m;
  m.codes.Resize(3, 10);
  // 3 bits: 30 bits -> 4 bytes a row; 3 groups: 6 bytes of scales a row; 27 bits of zeros -> 4 bytes in all.
  m.grid = {.bits = 3, .group = 4};
  EXPECT_EQ(m.StoredBytes(), 3 * (4 + 6) + 4);
  m.grid.symmetric = true;
  EXPECT_EQ(m.StoredBytes(), 3 * (4 + 6));
  m.grid = {.bits = 8, .group = 0};
  EXPECT_EQ(m.StoredBytes(), 3 * (10 + 2) + 3);
}

TEST(IntegerGrid, ScalesAreHalfPrecisionAndInRange) {
  ThreadPool pool(2);
  for (const float magnitude : {1e-30f, 1e-6f, 1.0f, 1e6f, 1e38f}) {
    Mat<float> w = RandomWeights(5, 40, 3);
    for (int64_t i = 0; i < 200; ++i) w.data()[i] *= magnitude;
    for (const ClipSearch search : {ClipSearch::kMinMax, ClipSearch::kWeighted}) {
      const IntegerMatrix m = FitGrid(OnPool(pool), w, {}, {.bits = 3, .group = 16}, search);
      for (int64_t g = 0; g < 15; ++g) {
        const float s = m.scales.data()[g];
        EXPECT_GT(s, 0.0f);
        EXPECT_LE(s, 65504.0f);
        EXPECT_EQ(ToFloat(ToF16(s)), s);
        EXPECT_LT(m.zeros.data()[g], 8);
      }
    }
  }
}

TEST(IntegerGrid, SearchIsNeverWorseThanMinMax) {
  ThreadPool pool(2);
  const Mat<float> w = RandomWeights(70, 100, 5);
  const std::vector<float> h = RandomImportance(100, 6);
  for (const bool symmetric : {false, true}) {
    for (int bits = 2; bits <= 8; ++bits) {
      for (const int64_t group : {16, 32, 0}) {
        const IntegerGrid grid{.bits = bits, .group = group, .symmetric = symmetric};
        const IntegerMatrix a = FitGrid(OnPool(pool), w, h, grid, ClipSearch::kMinMax);
        const IntegerMatrix b = FitGrid(OnPool(pool), w, h, grid, ClipSearch::kWeighted);
        // Group by group: judged in fp32, hence the tolerance.
        const int64_t size = grid.GroupSize(100);
        for (int64_t i = 0; i < w.rows(); ++i) {
          for (int64_t begin = 0; begin < 100; begin += size) {
            const int64_t cols = std::min(size, 100 - begin);
            Mat<float> part(1, cols);
            std::copy_n(w.row(i) + begin, cols, part.data());
            const std::vector<float> weights(h.begin() + begin, h.begin() + begin + cols);
            const auto error = [&](const IntegerMatrix& m) {
              IntegerMatrix one;
              one.grid = {.bits = bits, .group = 0, .symmetric = symmetric};
              one.scales.Resize(1, 1);
              one.zeros.Resize(1, 1);
              one.scales(0, 0) = m.scales(i, begin / size);
              one.zeros(0, 0) = m.zeros(i, begin / size);
              return WeightedError(part, weights, one);
            };
            EXPECT_LE(error(b), error(a) * (1 + 1e-5)) << bits << " " << group << " row " << i;
            if (symmetric) {
              EXPECT_EQ(b.zeros(i, begin / size), 1 << (bits - 1));
            }
          }
        }
      }
    }
  }
}

// Against the usual search: both ends of the range shrunk by one factor, 80 steps of 1 %.
TEST(IntegerGrid, SearchBeatsOneParameterShrink) {
  ThreadPool pool(2);
  const int64_t rows = 64, cols = 128;
  const Mat<float> w = RandomWeights(rows, cols, 7);
  const std::vector<float> h = RandomImportance(cols, 8);
  for (const int bits : {2, 3, 4}) {
    const IntegerGrid grid{.bits = bits, .group = 0};
    const IntegerMatrix found = FitGrid(OnPool(pool), w, h, grid, ClipSearch::kWeighted);
    IntegerMatrix one = FitGrid(OnPool(pool), w, h, grid, ClipSearch::kMinMax);
    const int max_code = (1 << bits) - 1;
    for (int64_t i = 0; i < rows; ++i) {
      const float low = std::min(0.0f, *std::min_element(w.row(i), w.row(i) + cols));
      const float high = std::max(0.0f, *std::max_element(w.row(i), w.row(i) + cols));
      Mat<float> row(1, cols);
      std::copy_n(w.row(i), cols, row.data());
      double best = INFINITY;
      for (int k = 0; k < 80; ++k) {
        const float p = 1.0f - 0.01f * static_cast<float>(k);
        IntegerMatrix m;
        m.grid = grid;
        m.scales.Resize(1, 1);
        m.zeros.Resize(1, 1);
        m.scales(0, 0) = ToFloat(ToF16(p * (high - low) / static_cast<float>(max_code)));
        m.zeros(0, 0) =
            static_cast<uint8_t>(std::clamp<float>(std::nearbyint(-p * low / m.scales(0, 0)), 0, max_code));
        const double error = WeightedError(row, h, m);
        if (error >= best) continue;
        best = error;
        one.scales(i, 0) = m.scales(0, 0);
        one.zeros(i, 0) = m.zeros(0, 0);
      }
    }
    EXPECT_LT(WeightedError(w, h, found), 0.98 * WeightedError(w, h, one)) << bits;
  }
}

TEST(IntegerGrid, WeightsOnAGridAreRecovered) {
  ThreadPool pool(2);
  for (const bool symmetric : {false, true}) {
    for (int bits = 2; bits <= 8; ++bits) {
      const int max_code = (1 << bits) - 1, zero = symmetric ? 1 << (bits - 1) : max_code / 3;
      const float scale = 0x1.8p-6f;
      Mat<float> w(3, 2 * (max_code + 1));
      for (int64_t i = 0; i < w.rows(); ++i) {
        for (int64_t j = 0; j < w.cols(); ++j) {
          w(i, j) = static_cast<float>((j * 5 + i) % (max_code + 1) - zero) * scale;
        }
      }
      const IntegerGrid grid{.bits = bits, .group = 0, .symmetric = symmetric};
      const IntegerMatrix m = FitGrid(OnPool(pool), w, {}, grid, ClipSearch::kWeighted);
      // Symmetric min-max spans 2 amax and never starts on the grid; its search ends within a step of fp16.
      const double power = scale * scale * static_cast<double>(w.rows() * w.cols());
      EXPECT_LE(WeightedError(w, {}, m), symmetric ? 1e-3 * power : 0.0) << bits << symmetric;
    }
  }
}

TEST(IntegerGrid, SameBitsOnEveryInstructionSetAndThreadCount) {
  const Mat<float> w = RandomWeights(131, 90, 11);
  const std::vector<float> h = RandomImportance(90, 12);
  for (const bool symmetric : {false, true}) {
    for (const int bits : {2, 4, 8}) {
      const IntegerGrid grid{.bits = bits, .group = 32, .symmetric = symmetric};
      ThreadPool one(1);
      const IntegerMatrix expected = FitGrid(OnPool(one, Isa::kScalar), w, h, grid, ClipSearch::kWeighted);
      for (const Isa isa : kAllIsas) {
        if (!IsaSupported(isa)) continue;
        for (const int threads : {1, 2, 3, 5}) {
          ThreadPool pool(threads);
          const IntegerMatrix m = FitGrid(OnPool(pool, isa), w, h, grid, ClipSearch::kWeighted);
          for (int64_t k = 0; k < 131 * 3; ++k) {
            ASSERT_EQ(m.scales.data()[k], expected.scales.data()[k]) << IsaName(isa) << " " << bits;
            ASSERT_EQ(m.zeros.data()[k], expected.zeros.data()[k]) << IsaName(isa) << " " << bits;
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace planish

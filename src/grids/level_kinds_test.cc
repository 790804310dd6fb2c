// What the papers say of their grids: BitMoD, RF8, power functions, k-means, minifloats alone and in blocks.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <numeric>
#include <string>
#include <vector>

#include "formats/checkpoint.h"
#include "grids/grid.h"
#include "grids/grids_test_util.h"
#include "grids/tables.h"

namespace planish {
namespace {

// Values of a deviation of 0.02 whose tails are those of x |x|^(power - 1), x normal.
Mat<float> HeavyWeights(int64_t rows, int64_t cols, double power, uint64_t seed) {
  Mat<float> w = RandomWeights(rows, cols, seed);
  for (int64_t k = 0; k < rows * cols; ++k) {
    const double x = w.data()[k] / 0.02;
    w.data()[k] = static_cast<float>(0.02 * std::copysign(std::pow(std::fabs(x), power), x));
  }
  return w;
}

// The first 64 rows of a matrix of the demo model.
Mat<float> TrainedWeights(const std::string& name) {
  const auto checkpoint = Checkpoint::Open(PLANISH_SOURCE_DIR "/models/demo");
  EXPECT_TRUE(checkpoint.ok());
  const auto tensor = checkpoint->Get(name);
  EXPECT_TRUE(tensor.ok());
  Mat<float> w(64, tensor->shape[1]);
  for (int64_t k = 0; k < 64 * w.cols(); ++k) w.data()[k] = LoadElement(tensor->data, tensor->type, k);
  return w;
}

class LevelKinds : public ::testing::Test {
 protected:
  GridMatrix Fit(const Mat<float>& w, GridSpec grid, int64_t group, ClipSearch search) {
    if (grid.scale == ScaleKind::kHalf) grid.group = group;
    GridMatrix m = FitGrid(context_, w, {}, grid, search);
    EncodeAll(context_, w, m);
    return m;
  }
  GridMatrix Rule(const Mat<float>& w, const char* name, int64_t group = 128) {
    return Fit(w, *FindGrid(name), group, ClipSearch::kMinMax);
  }
  // Squared errors of [rows, groups of `group`], in double.
  static std::vector<double> Errors(const Mat<float>& w, const GridMatrix& m, int64_t group) {
    Mat<float> w_hat(w.rows(), w.cols());
    Decode(m, w_hat);
    const int64_t groups = (w.cols() + group - 1) / group;
    std::vector<double> errors(static_cast<size_t>(w.rows() * groups));
    for (int64_t i = 0; i < w.rows(); ++i) {
      for (int64_t j = 0; j < w.cols(); ++j) {
        errors[static_cast<size_t>(i * groups + j / group)] += std::pow(double{w(i, j)} - w_hat(i, j), 2);
      }
    }
    return errors;
  }
  static double Total(const Mat<float>& w, const GridMatrix& m) {
    const std::vector<double> errors = Errors(w, m, w.cols());
    return std::accumulate(errors.begin(), errors.end(), 0.0);
  }

  ThreadPool pool_{2};
  Context context_ = OnPool(pool_);
};

// Without search a group's scale maps its largest magnitude to the set's largest, so that the two sets with a
// value inside the range hold the base format's values at its scale: no group loses to it.
TEST_F(LevelKinds, NoBitModGroupIsWorseThanItsBase) {
  const struct {
    const char *bitmod, *base;
    float scale;  // of the base's values to the set's
  } pairs[] = {{"bitmod3", "e2m0", 1}, {"bitmod4", "e2m1", 2}};
  for (const auto& pair : pairs) {
    const Mat<float> base = FixedLevels(*FindGrid(pair.base)), sets = FixedLevels(*FindGrid(pair.bitmod));
    for (int set = 0; set < 4; ++set) {  // the base and one value more
      const float* end = sets.row(set) + sets.cols();
      for (int k = 0; k < base.cols(); ++k) {
        EXPECT_NE(std::find(sets.row(set), end, base(0, k) * pair.scale), end);
      }
    }
    for (const double power : {1.0, 2.0}) {
      const Mat<float> w = HeavyWeights(60, 256, power, 21);
      const auto errors = Errors(w, Rule(w, pair.bitmod, 64), 64),
                 of_base = Errors(w, Rule(w, pair.base, 64), 64);
      int better = 0;
      for (size_t g = 0; g < errors.size(); ++g) {
        EXPECT_LE(errors[g], of_base[g] * (1 + 1e-6)) << pair.bitmod << " " << g;
        better += errors[g] < of_base[g];
      }
      EXPECT_GT(better, 200) << pair.bitmod;  // of 240
    }
  }
}

TEST_F(LevelKinds, ANegatedGroupTakesTheOtherSign) {
  const Mat<float> w = RandomWeights(40, 256, 22);
  Mat<float> negated(40, 256);
  for (int64_t k = 0; k < 40 * 256; ++k) negated.data()[k] = -w.data()[k];
  for (const char* name : {"bitmod3", "bitmod4"}) {
    for (const ClipSearch search : {ClipSearch::kMinMax, ClipSearch::kWeighted}) {
      const GridMatrix a = Fit(w, *FindGrid(name), 64, search), b = Fit(negated, *FindGrid(name), 64, search);
      Mat<float> x(40, 256), y(40, 256);
      Decode(a, x);
      Decode(b, y);
      int unused = 0;  // special values: where two sets are alike, the first is taken
      for (int64_t k = 0; k < 40 * 4; ++k) {
        if (a.sets.data()[k] == b.sets.data()[k] && a.sets.data()[k] == 0) {
          ++unused;
        } else {
          EXPECT_EQ(a.sets.data()[k] ^ 1, b.sets.data()[k]) << name;
        }
      }
      EXPECT_LT(unused, 40) << name;
      for (int64_t k = 0; k < 40 * 256; ++k) ASSERT_EQ(x.data()[k], -y.data()[k]) << name;
      EXPECT_EQ(Total(w, a), Total(negated, b));
    }
  }
}

TEST_F(LevelKinds, BitModGroupsOfZerosAndOnTheGridAreExact) {
  for (const char* name : {"bitmod3", "bitmod4"}) {
    const Mat<float> sets = FixedLevels(*FindGrid(name));
    Mat<float> w(5, 32);  // a row of zeros, then one of each set
    w.Fill(0.0f);
    for (int64_t set = 0; set < 4; ++set) {
      for (int64_t j = 0; j < 32; ++j) w(set + 1, j) = sets(set, j % sets.cols()) * 0x1.4p-7f;
    }
    for (const ClipSearch search : {ClipSearch::kMinMax, ClipSearch::kWeighted}) {
      const GridMatrix m = Fit(w, *FindGrid(name), 0, search);
      EXPECT_EQ(Total(w, m), 0.0) << name;
      for (uint8_t set = 0; set < 4; ++set) EXPECT_EQ(m.sets(set + 1, 0), set);
    }
  }
}

// Which special values 2,048 groups of 128 use.
TEST_F(LevelKinds, UseOfBitModsSets) {
  const auto shares = [&](const char* name, double power) {
    const Mat<float> w = HeavyWeights(512, 512, power, 23);
    const GridMatrix m = Rule(w, name);
    const float specials[2][4] = {{3, -3, 6, -6}, {10, -10, 16, -16}};
    double share[4] = {};
    for (int64_t g = 0; g < 2048; ++g) {
      const int set = m.sets.data()[g];
      const uint8_t* codes = m.codes.row(g / 4) + g % 4 * 128;
      const bool used = std::any_of(codes, codes + 128, [&](uint8_t code) {
        return m.levels(set, code) == specials[m.grid.bits - 3][set];
      });
      share[set] += used ? 1.0 / 2048 : 0.0;
    }
    for (const double s : share) EXPECT_GT(s, 0.01) << name;
    EXPECT_NEAR(share[0], share[1], 0.04) << name;
    EXPECT_NEAR(share[2], share[3], 0.04) << name;
    return (share[2] + share[3]) / (share[0] + share[1]);  // beyond the range over inside it
  };
  const double three = shares("bitmod3", 1.0), four = shares("bitmod4", 1.0);
  EXPECT_GT(three, 1.0);
  EXPECT_LT(four, 1.0);
  EXPECT_GT(shares("bitmod3", 1.5), three);
  EXPECT_GT(shares("bitmod4", 1.5), four);
}

TEST_F(LevelKinds, BitModBesideIntegersAndItsBase) {
  const auto errors = [&](double power, const char* bitmod, const char* integer, const char* base) {
    const Mat<float> w = HeavyWeights(128, 512, power, 24);
    return std::vector<double>{Total(w, Rule(w, bitmod)), Total(w, Rule(w, integer)),
                               Total(w, Rule(w, base))};
  };
  const auto three = errors(1.0, "bitmod3", "int3", "e2m0"), four = errors(1.0, "bitmod4", "int4", "e2m1");
  EXPECT_LT(three[0], 0.9 * three[1]);
  EXPECT_LT(three[1], three[2]);
  EXPECT_LT(four[0], four[1]);
  EXPECT_LT(four[1], four[2]);
  const auto heavy3 = errors(1.5, "bitmod3", "int3", "e2m0"), heavy4 = errors(1.5, "bitmod4", "int4", "e2m1");
  EXPECT_LT(heavy3[0] / heavy3[1], three[0] / three[1]);
  EXPECT_LT(heavy4[0] / heavy4[1], four[0] / four[1]);
  EXPECT_LT(heavy3[0], heavy3[2]);
  EXPECT_LT(heavy4[0], heavy4[2]);
}

// RF8's widest gap, 1.5 to 2, is 0.25 / 1.75 of its middle; E4M3's, of a normal number, 1 / 17. In the upper
// half of an octave E4M3 is always as near, and just above a power of two RF8.
TEST_F(LevelKinds, RelativeErrorsOfRf8) {
  const GridSpec rf8 = *FindGrid("rf8"), e4m3 = *FindGrid("e4m3");
  const Mat<float> residual = FixedLevels(rf8), floats = FixedLevels(e4m3);
  double most = 0, most_float = 0, upper = 0, upper_float = 0, lower = 0, lower_float = 0;
  for (int octave = -5; octave < 6; ++octave) {
    for (int k = 0; k < 512; ++k) {
      const double mantissa = 1 + (k + 0.5) / 512;
      const auto x = static_cast<float>(std::ldexp(mantissa, octave));
      const float near = NearestLevel(rf8, residual, x);
      EXPECT_EQ(NearestLevel(rf8, residual, near), near);
      EXPECT_EQ(NearestLevel(rf8, residual, -x), -near);
      const double error = std::fabs(near - x) / x,
                   of_float = std::fabs(NearestLevel(e4m3, floats, x) - x) / x;
      most = std::max(most, error);
      most_float = std::max(most_float, of_float);
      if (mantissa > 1.5) upper += error, upper_float += of_float;
      if (mantissa < 1.0625) lower += error, lower_float += of_float;
    }
  }
  EXPECT_LE(most, 0.25 / 1.75);
  EXPECT_GT(most, 0.99 * 0.25 / 1.75);
  EXPECT_LE(most_float, 1.0 / 17);
  EXPECT_LT(upper_float, 0.5 * upper);
  EXPECT_LT(lower, 0.75 * lower_float);
}

// An exponent of one is symmetric rounding to whole steps, for every width.
TEST_F(LevelKinds, PowerOfExponentOneIsUniform) {
  for (int bits = 3; bits <= 8; ++bits) {
    const GridSpec grid = *FindGrid("power" + std::to_string(bits));
    const int top = (1 << (bits - 1)) - 1;
    const std::vector<float> levels = PowerLevels(bits, 1.0);
    ASSERT_EQ(static_cast<int>(levels.size()), 2 * top + 1);
    float mids[256];
    Midpoints(grid, levels.data(), 2 * top + 1, mids);
    const Random random(31);
    for (uint64_t k = 0; k < 300; ++k) {
      const auto w = static_cast<float>(2.2 * random.Uniform(k) - 1.1);
      const double code = std::clamp(std::nearbyint(double{w} * top), -double(top), double(top));
      EXPECT_EQ(EncodeNearest(w, mids, 2 * top + 1), code + top) << bits << " " << w;
    }
    for (const double a : {0.2, 0.5, 1.0}) {  // strictly ascending before they become fp16
      const std::vector<float> power = PowerLevels(bits, a);
      for (size_t i = 1; i < power.size(); ++i) EXPECT_LT(power[i - 1], power[i]);
      EXPECT_EQ(power.back(), 1.0f);
    }
  }
}

// The error over the exponent falls, then rises, with its least below one; what the search finds is near it.
TEST_F(LevelKinds, ErrorOverThePowerHasOneMinimum) {
  const Mat<float> normal = RandomWeights(64, 256, 32);
  Mat<float> laplace(64, 256);
  const Random random(33);
  for (uint64_t k = 0; k < 64 * 256; ++k) {
    const double u = random.Uniform(k) - 0.5;
    laplace.data()[k] = static_cast<float>(-0.02 * std::copysign(std::log(1 - 2 * std::fabs(u)), u));
  }
  const Mat<float> trained = TrainedWeights("model.layers.2.mlp.up_proj.weight");
  for (const Mat<float>* w : std::initializer_list<const Mat<float>*>{&normal, &laplace, &trained}) {
    const GridSpec grid{.bits = 4, .group = 0, .levels = LevelKind::kPower};
    // Rows scaled by their largest magnitude, nearest level.
    const auto error = [&](double a) {
      const std::vector<float> levels = PowerLevels(4, a);
      float mids[16];
      Midpoints(grid, levels.data(), 15, mids);
      double sum = 0;
      for (int64_t i = 0; i < w->rows(); ++i) {
        float top = 0;
        for (int64_t j = 0; j < w->cols(); ++j) top = std::max(top, std::fabs((*w)(i, j)));
        for (int64_t j = 0; j < w->cols(); ++j) {
          const float x = (*w)(i, j) / top;
          sum += std::pow(double{top} * (levels[EncodeNearest(x, mids, 15)] - x), 2);
        }
      }
      return sum;
    };
    std::vector<double> curve;
    for (int k = 0; k <= 16; ++k) curve.push_back(error(0.2 + 0.05 * k));
    const auto least = std::min_element(curve.begin(), curve.end());
    EXPECT_TRUE(std::is_sorted(curve.begin(), least + 1, std::greater()));
    EXPECT_TRUE(std::is_sorted(least, curve.end()));
    EXPECT_LT(*least, curve.back());
    const GridMatrix found = Fit(*w, grid, 0, ClipSearch::kMinMax);
    EXPECT_LT(Total(*w, found), 1.01 * *least);
  }
}

// The exact programme never loses to Lloyd's iteration, wherever that starts: from evenly spaced levels
// between the ends (round to nearest's grid, which it therefore beats too) or from values drawn at random.
TEST_F(LevelKinds, TablesAreNotWorseThanLloydOrTheIntegersOfARow) {
  for (uint64_t seed = 1; seed <= 8; ++seed) {
    const Random random(seed);
    std::vector<WeightedValue> values;
    for (uint64_t k = 0; k < 256; ++k) {
      values.push_back(
          {static_cast<float>(random.Normal(k)), static_cast<float>(std::exp(2 * random.Normal(1000 + k)))});
    }
    const auto [low, high] = std::minmax_element(
        values.begin(), values.end(), [](const auto& a, const auto& b) { return a.value < b.value; });
    for (const int bits : {2, 3, 4}) {
      const int count = 1 << bits;
      const double best = TableError(values, KMeansLevels(values, count));
      for (int start = 0; start < 4; ++start) {
        std::vector<float> table(static_cast<size_t>(count));
        for (int i = 0; i < count; ++i) {
          table[i] = start == 0
                         ? low->value + (high->value - low->value) * static_cast<float>(i) / (count - 1)
                         : values[random.Below(5000 + 16 * start + i, 256)].value;
        }
        if (start == 0) {
          EXPECT_LT(best, 0.9 * TableError(values, table)) << bits;
        }
        for (int round = 0; round < 50; ++round) {
          std::vector<double> sum(table.size()), weight(table.size());
          for (const WeightedValue& v : values) {
            const auto near = std::min_element(table.begin(), table.end(), [&](float a, float b) {
              return std::fabs(a - v.value) < std::fabs(b - v.value);
            });
            sum[near - table.begin()] += double{v.weight} * v.value;
            weight[near - table.begin()] += v.weight;
          }
          for (int i = 0; i < count; ++i) {
            if (weight[i] > 0) table[i] = static_cast<float>(sum[i] / weight[i]);
          }
        }
        EXPECT_LE(best, TableError(values, table) * (1 + 1e-6)) << bits << " " << start;
      }
      std::vector<WeightedValue> even = values, fives = values;
      for (size_t k = 0; k < values.size(); ++k) even[k].weight = 1, fives[k].weight = 5;
      const auto plain = KMeansLevels(even, count), scaled = KMeansLevels(fives, count);
      for (int i = 0; i < count; ++i) EXPECT_NEAR(plain[i], scaled[i], 1e-6);
    }
  }
}

// Of blocks: zeros decode to zero, no scale is above FP8's largest, searched scales never lose to the rule's.
TEST_F(LevelKinds, BlocksOfZerosAndScalesInRange) {
  Mat<float> w = HeavyWeights(12, 128, 2.0, 41);
  for (int64_t j = 32; j < 64; ++j) w(0, j) = 0;
  for (int64_t j = 0; j < 128; ++j) w(1, j) = 0;
  for (int64_t j = 0; j < 32; ++j) w(2, j) *= 1e-8f;  // far below the tensor's largest
  for (const char* name : {"mxfp4", "mxfp6", "mxfp6_e3m2", "mxfp8", "mxfp8_e5m2", "nvfp4"}) {
    const GridSpec grid = *FindGrid(name);
    const GridMatrix rule = Fit(w, grid, 0, ClipSearch::kMinMax),
                     found = Fit(w, grid, 0, ClipSearch::kWeighted);
    for (const GridMatrix* m : {&rule, &found}) {
      Mat<float> w_hat(12, 128);
      Decode(*m, w_hat);
      for (int64_t j = 32; j < 64; ++j) EXPECT_EQ(w_hat(0, j), 0.0f) << name;
      for (int64_t j = 0; j < 128; ++j) EXPECT_EQ(w_hat(1, j), 0.0f) << name;
      for (int64_t j = 0; j < 32; ++j) EXPECT_LT(std::fabs(w_hat(2, j)), 1e-3f) << name;
      for (int64_t k = 0; k < 12 * 128; ++k) ASSERT_TRUE(std::isfinite(w_hat.data()[k])) << name;
      for (int64_t k = 0; k < 12 * m->scales.cols(); ++k) {
        const float s = m->scales.data()[k];
        EXPECT_GT(s, 0.0f) << name;
        if (grid.scale == ScaleKind::kE4M3) {
          EXPECT_LE(s / m->units[0], 448.0f);
          int exponent;
          EXPECT_EQ(std::frexp(m->units[0], &exponent), 0.5f);  // a power of two
        }
      }
    }
    const auto a = Errors(w, found, grid.group), b = Errors(w, rule, grid.group);
    for (size_t g = 0; g < a.size(); ++g) EXPECT_LE(a[g], b[g] * (1 + 1e-6)) << name << " " << g;
  }
}

// The unit of FP8 scales is the least power of two that has room for the largest weight, 6 times 448 times
// it; one that is made for a larger weight of another matrix has room for that. By hand: 1 / 2688 lies
// between 2^-12 and 2^-11, and 2688 needs exactly 1.
TEST_F(LevelKinds, UnitsOfFp8ArePowersOfTwo) {
  const GridSpec grid = *FindGrid("nvfp4");
  const std::pair<float, float> cases[] = {{1.0f, 0x1p-11f}, {2688.0f, 1.0f}, {2689.0f, 2.0f},
                                           {1344.0f, 0.5f},  {0.0f, 1.0f},    {1e-30f, 0x1p-111f}};
  for (const auto& [largest, unit] : cases) {
    Mat<float> w(1, 16);
    w.Fill(0.0f);
    w(0, 3) = -largest;
    const float expected = unit < 0x1p-100f ? 1.0f : unit;  // too small to tell from zeros
    EXPECT_EQ(FitGrid(context_, w, {}, grid, ClipSearch::kMinMax).units, std::vector<float>{expected});
  }
  Mat<float> w(1, 16);
  w.Fill(1.0f);
  EXPECT_EQ(FitGrid(context_, w, {}, grid, ClipSearch::kMinMax, 5.0f).units, std::vector<float>{0x1p-9f});
}

// 4.5 bits of NVFP4 beat 4.25 of MXFP4, and three bits of mantissa two where all weights are of one size, on
// normal weights and on trained ones; FP8 is far above 4-bit integers.
TEST_F(LevelKinds, FloatsBesideEachOther) {
  const Mat<float> normal = RandomWeights(64, 256, 42);
  const Mat<float> trained = TrainedWeights("model.layers.3.mlp.down_proj.weight");
  for (const Mat<float>* w : {&normal, &trained}) {
    for (const ClipSearch search : {ClipSearch::kMinMax, ClipSearch::kWeighted}) {
      const auto error = [&](const char* name) { return Total(*w, Fit(*w, *FindGrid(name), 128, search)); };
      EXPECT_LT(error("nvfp4"), error("mxfp4"));
      EXPECT_LT(error("e4m3"), 0.5 * error("e5m2"));
      EXPECT_LT(error("mxfp8"), 0.5 * error("mxfp8_e5m2"));
      EXPECT_LT(error("e4m3"), 0.1 * error("int4"));  // 10 dB and more
    }
  }
}

}  // namespace
}  // namespace planish

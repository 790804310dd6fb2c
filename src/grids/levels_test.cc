// Grids of levels, second-level scales and fine zeros.
#include <gtest/gtest.h>
#include <bit>

#include <algorithm>
#include <cmath>
#include <vector>

#include "grids/grid.h"
#include "grids/grids_test_util.h"
#include "grids/level_guide.h"
#include "grids/tables.h"

namespace planish {
namespace {

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

// x of ExMy: 2^(E - bias) (1 + M / 2^y), with E = 0 for 2^(1 - bias) M / 2^y; RNE of its mantissa by the
// closed form of the card. In double.
struct Minifloat {
  int exponent, mantissa, bias;
  double top;
  double Round(double t) const {
    const double m = std::fabs(t);
    const int e = m > 0 ? std::max(std::ilogb(m), 1 - bias) : 1 - bias;
    const double step = std::ldexp(1.0, e - mantissa);
    return std::copysign(std::min(step * std::nearbyint(m / step), top), t);
  }
};

// Every ExMy of 3 to 8 bits with exponents that fp16 levels hold has its name, its values are those of the
// definition, all different, and the nearest one by midpoints is the one by rounding the mantissa; ties go to
// even codes, which is what rounding the mantissa to even says where there is one.
TEST(GridLevels, EveryMinifloatByItsDefinition) {
  int count = 0;
  for (int exponent = 1; exponent <= 5; ++exponent) {
    for (int mantissa = 0; mantissa <= 7 - exponent; ++mantissa) {
      if (exponent + mantissa < 2) continue;
      const std::string name = "e" + std::to_string(exponent) + "m" + std::to_string(mantissa);
      SCOPED_TRACE(name);
      const auto grid = FindGrid(name);
      ASSERT_TRUE(grid.has_value());
      EXPECT_EQ(grid->bits, 1 + exponent + mantissa);
      EXPECT_EQ(LevelsName(*grid), name);
      ++count;
      const int bias = exponent == 5 && mantissa < 2 ? 23 : (1 << (exponent - 1)) - 1;
      const int reserved = name == "e4m3" ? 1 : name == "e5m2" ? 4 : 0;  // NaN; infinity and NaNs
      std::vector<float> expected = {0.0f};
      for (int code = 1; code < (1 << (exponent + mantissa)) - reserved; ++code) {
        const int e = code >> mantissa, m = code % (1 << mantissa);
        const double fraction = std::ldexp(m, -mantissa);
        const double value = e == 0 ? std::ldexp(fraction, 1 - bias) : std::ldexp(1 + fraction, e - bias);
        expected.push_back(static_cast<float>(value));
        expected.push_back(static_cast<float>(-value));
      }
      std::sort(expected.begin(), expected.end());
      const size_t different = expected.size();
      expected.resize(size_t{1} << grid->bits, expected.back());
      const std::vector<float> levels = Levels(name.c_str());
      EXPECT_EQ(levels, expected);
      for (size_t k = 1; k < different; ++k) EXPECT_LT(levels[k - 1], levels[k]);

      float mids[256];
      Midpoints(*grid, levels.data(), grid->NumLevels(), mids);
      const Minifloat format{exponent, mantissa, bias, levels.back()};
      const auto nearest = [&](float x) { return levels[EncodeNearest(x, mids, grid->NumLevels())]; };
      const Random random(static_cast<uint64_t>(grid->bits));
      for (uint64_t k = 0; k < 400; ++k) {  // of all magnitudes, beyond the largest too
        const double octaves = std::min(24.0, 1.0 + (1 << exponent));
        const auto x = static_cast<float>((random.Uniform(2 * k) - 0.5) * 2.5 * format.top *
                                          std::exp2(-octaves * random.Uniform(2 * k + 1)));
        EXPECT_EQ(nearest(x), static_cast<float>(format.Round(x))) << x;
      }
      for (size_t k = 1; k < different; ++k) {
        const float tie = 0.5f * (levels[k - 1] + levels[k]);
        const bool even = (k - different / 2) % 2 == 0;  // codes count magnitudes from the zero in the middle
        EXPECT_EQ(nearest(tie), levels[even ? k : k - 1]) << tie;
        if (mantissa > 0) {
          EXPECT_EQ(nearest(tie), static_cast<float>(format.Round(tie))) << tie;
        }
      }
    }
  }
  EXPECT_EQ(count, 2 + 3 + 4 + 5 + 5 + 5);
  for (const char* none : {"e6m0", "e6m1", "e7m0", "e0m3", "e1m7"}) EXPECT_FALSE(FindGrid(none)) << none;
  EXPECT_EQ(CheckGrid({.bits = 8, .levels = LevelKind::kMinifloat, .exponent_bits = 6}),
            "bits of a minifloat's exponent: expected 1 to 5, found 6");
  EXPECT_EQ(CheckGrid({.bits = 4, .levels = LevelKind::kMinifloat, .exponent_bits = 4}),
            "bits of a minifloat's exponent: expected 1 to 3, found 4");
}

// One bit of exponent is a uniform grid; every format decodes in ascending order.
TEST(GridLevels, AscendingAndEncodeInvertsDecode) {
  for (const NamedGrid& named : NamedGrids()) {
    if (named.grid.Uniform() || named.grid.Learned() || named.grid.InBlocks()) continue;
    const Mat<float> sets = FixedLevels(named.grid);
    for (int64_t set = 0; set < sets.rows(); ++set) {
      for (int k = 0; k < named.grid.NumLevels(); ++k) {
        if (k > 0) {
          EXPECT_LE(sets(set, k - 1), sets(set, k)) << named.name;
        }
        float mids[256];
        Midpoints(named.grid, sets.row(set), named.grid.NumLevels(), mids);
        const uint8_t code = EncodeNearest(sets(set, k), mids, named.grid.NumLevels());
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
    if (named.grid.InBlocks()) continue;
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

// The card of minifloats: a value just between two codes gets the even one; of other grids the lower.
TEST(GridLevels, TiesOfMinifloatsGoToEvenCodes) {
  const auto nearest = [](const char* name, float x) {
    const GridSpec grid = *FindGrid(name);
    return NearestLevel(grid, FixedLevels(grid), x);
  };
  // E2M1 magnitudes 0 0.5 1 1.5 2 3 4 6 have codes 0 to 7.
  const float magnitudes[] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
  for (int k = 1; k < 8; ++k) {
    const float tie = 0.5f * (magnitudes[k - 1] + magnitudes[k]);
    EXPECT_EQ(nearest("e2m1", tie), magnitudes[k % 2 == 0 ? k : k - 1]) << tie;
    EXPECT_EQ(nearest("e2m1", -tie), -magnitudes[k % 2 == 0 ? k : k - 1]) << tie;
    EXPECT_EQ(nearest("e2m1", std::nextafter(tie, 0.0f)), magnitudes[k - 1]);
    EXPECT_EQ(nearest("e2m1", std::nextafter(tie, 8.0f)), magnitudes[k]);
  }
  EXPECT_EQ(nearest("bitmod3", 1.5f), 1.0f);
  EXPECT_EQ(nearest("bitmod3", -1.5f), -2.0f);
}

// All ways to cut ten sorted values into three intervals, each at its mean.
TEST(Tables, KMeansIsTheBestOfAllPartitions) {
  for (uint64_t seed = 1; seed < 20; ++seed) {
    const Random random(seed);
    std::vector<WeightedValue> values;
    for (uint64_t i = 0; i < 10; ++i) {
      values.push_back({static_cast<float>(random.Normal(i)), static_cast<float>(random.Uniform(100 + i))});
    }
    std::vector<WeightedValue> sorted = values;
    std::sort(sorted.begin(), sorted.end(), [](const auto& a, const auto& b) { return a.value < b.value; });
    const auto mean = [&](size_t begin, size_t end) {
      double w = 0, x = 0;
      for (size_t i = begin; i < end; ++i) {
        w += sorted[i].weight;
        x += static_cast<double>(sorted[i].weight) * sorted[i].value;
      }
      return static_cast<float>(x / w);
    };
    double best = INFINITY;
    for (size_t a = 1; a < 9; ++a) {
      for (size_t b = a + 1; b < 10; ++b) {
        best = std::min(best, TableError(values, {mean(0, a), mean(a, b), mean(b, 10)}));
      }
    }
    EXPECT_NEAR(TableError(values, KMeansLevels(values, 3)), best, 1e-6 * best) << seed;
  }
}

// The least error of `count` intervals of sorted values, by trying every border of every cluster.
double LeastError(std::vector<WeightedValue> values, int count) {
  std::sort(values.begin(), values.end(), [](const auto& a, const auto& b) { return a.value < b.value; });
  const auto n = static_cast<int>(values.size());
  std::vector<double> least(n + 1, INFINITY);
  least[0] = 0;
  for (int k = 0; k < count; ++k) {
    std::vector<double> next(n + 1, INFINITY);
    for (int i = 0; i < n; ++i) {
      // Welford's update of the spread of [i, j).
      double w = 0, mean = 0, spread = 0;
      for (int j = i; j < n; ++j) {
        const double off = values[j].value - mean;
        w += values[j].weight;
        mean += off * values[j].weight / w;
        spread += values[j].weight * off * (values[j].value - mean);
        next[j + 1] = std::min(next[j + 1], least[i] + spread);
      }
    }
    least = next;
  }
  return least[n];
}

TEST(Tables, KMeansIsAsGoodAsTryingEveryBorder) {
  for (const int n : {1, 2, 3, 5, 8, 9, 16, 17, 31, 64, 100, 257, 900}) {
    const Random random(static_cast<uint64_t>(n));
    std::vector<WeightedValue> values;
    for (uint64_t i = 0; i < static_cast<uint64_t>(n); ++i) {
      // Weights of very different sizes, among them some that are nothing beside the others, and ties.
      const auto weight =
          static_cast<float>(std::exp(3 * random.Normal(i)) * (random.Below(i, 9) == 0 ? 1e-25 : 1));
      values.push_back({static_cast<float>(std::round(random.Normal(1000 + i) * 64) / 64), weight});
    }
    for (const int count : {2, 4, 8, 16}) {
      const std::vector<float> expected = KMeansLevels(values, count);
      EXPECT_TRUE(std::is_sorted(expected.begin(), expected.end()));
      const double best = LeastError(values, count);
      EXPECT_LE(TableError(values, expected), best * (1 + 1e-5) + 1e-9) << n << " " << count;
    }
  }
}

TEST(Tables, FewValuesAreExactAndNoWeightsAreOnes) {
  const std::vector<float> table = KMeansLevels({{2, 1}, {-1, 3}, {2, 5}, {0.5f, 0}}, 4);
  EXPECT_EQ(table, (std::vector<float>{-1, 2, 2, 2}));
  EXPECT_EQ(KMeansLevels({{1, 0}, {3, 0}, {11, 0}}, 2), (std::vector<float>{2, 11}));
}

// The guide's code and `steps` more hold the nearest level, whatever the scale and wherever the number lies:
// at midpoints and next to them, far outside, not a number.
TEST(LevelGuide, HoldsTheNearestOfManyLevels) {
  int guided = 0;
  const Random random(3);
  for (const NamedGrid& named : NamedGrids()) {
    const GridSpec& grid = named.grid;
    if (grid.Uniform() || grid.InBlocks() || grid.NumSets() > 1 || grid.levels == LevelKind::kTable) continue;
    const Mat<float> levels =
        grid.levels == LevelKind::kPower
            ? [&] {
                const std::vector<float> power = StoredLevels(PowerLevels(grid.bits, 0.6), grid.bits);
                Mat<float> m(1, grid.NumLevels());
                std::copy(power.begin(), power.end(), m.data());
                return m;
              }()
            : FixedLevels(grid);
    const auto count = static_cast<int>(levels.cols());
    const LevelGuide guide({levels.data(), static_cast<size_t>(count)});
    const GuideView view = guide.view();
    if (count <= 32) {
      EXPECT_EQ(view.start, nullptr) << named.name;
      continue;
    }
    ASSERT_NE(view.start, nullptr) << named.name;
    ++guided;
    EXPECT_LE(view.steps, 2) << named.name;
    for (const float scale : {1.0f, 0.37f, 1e-6f, 0x1p-24f, 3e4f}) {
      std::vector<float> values(static_cast<size_t>(count)), mids(static_cast<size_t>(count));
      for (int k = 0; k < count; ++k) values[static_cast<size_t>(k)] = levels(0, k) * scale;
      Midpoints(grid, values.data(), count, mids.data());
      std::vector<float> numbers = {0.0f, -0.0f, 1e30f, -1e30f, INFINITY, -INFINITY, 1e-40f, -1e-40f};
      for (size_t k = 1; k < mids.size(); ++k) {
        for (const float to : {-INFINITY, INFINITY}) numbers.push_back(std::nextafter(mids[k], to));
        numbers.push_back(mids[k]);
        numbers.push_back(values[k]);
        numbers.push_back(values[k] * static_cast<float>(1 + 0.01 * random.Normal(k)));
      }
      for (const float x : numbers) {
        int code = 0;
        for (int k = 1; k < count; ++k) code += mids[static_cast<size_t>(k)] < x ? 1 : 0;
        const auto first = static_cast<int>(view.start[std::bit_cast<uint32_t>(x / scale) >> view.shift]);
        EXPECT_LE(first, code) << named.name << " " << x << " / " << scale;
        const bool above = mids[static_cast<size_t>(count) - 1] < x;
        EXPECT_LE(above ? view.distinct - 1 : code, first + view.steps)
            << named.name << " " << x << " / " << scale;
        EXPECT_EQ(above ? count - 1 : code, code);
        EXPECT_LT(above ? 0 : code, view.distinct);
      }
    }
    EXPECT_EQ(view.start[0x7fc00000u >> view.shift], 0.0f);
  }
  EXPECT_GE(guided, 5);
}

// The card of NUPES: an exponent of one is the uniform symmetric grid, levels ascend, the ends are exact, and
// the best exponent of normal weights is below one.
TEST(Tables, PowerGrid) {
  EXPECT_EQ(PowerLevels(3, 1.0), (std::vector<float>{-1, -2.0f / 3, -1.0f / 3, 0, 1.0f / 3, 2.0f / 3, 1}));
  EXPECT_EQ(PowerLevels(3, 0.5)[1], static_cast<float>(-4.0 / 9));
  ThreadPool pool(2);
  const Context context = OnPool(pool);
  const Mat<float> w = RandomWeights(64, 256, 4);
  for (const char* name : {"power3", "power4"}) {
    GridMatrix power = FitGrid(context, w, {}, *FindGrid(name), ClipSearch::kWeighted);
    const int top = (1 << (power.grid.bits - 1)) - 1;
    for (int k = 1; k <= 2 * top; ++k) EXPECT_LT(power.levels(0, k - 1), power.levels(0, k));
    EXPECT_EQ(power.levels(0, 0), -1.0f);
    EXPECT_EQ(power.levels(0, 2 * top), 1.0f);
    EXPECT_GT(power.levels(0, top + 1) * static_cast<float>(top), 0.0f);
    EXPECT_LT(power.levels(0, top + 1) * static_cast<float>(top), 1.0f);  // a < 1: finer near zero
    EXPECT_EQ(power.StoredBytes(), 64 * 256 * power.grid.bits / 8 + 64 * 2 * 2 + 2 * (1 << power.grid.bits));
    // k-means knows no constraint of form.
    GridSpec table = *FindGrid(power.grid.bits == 3 ? "table3" : "table4");
    GridMatrix means = FitGrid(context, w, {}, table, ClipSearch::kWeighted);
    EXPECT_LT(Error(context, w, means), Error(context, w, power)) << name;
  }
}

// A table for each row or group beats any fixed grid without scales of its own, and the finer the better;
// with scales, one table of the tensor beats uniform symmetric levels. Bytes are counted by hand.
TEST(Tables, ScopesBytesAndErrors) {
  ThreadPool pool(2);
  const Context context = OnPool(pool);
  const Mat<float> w = RandomWeights(40, 256, 8);
  const auto fit = [&](GridSpec grid) { return FitGrid(context, w, {}, grid, ClipSearch::kWeighted); };
  GridSpec grid{.bits = 3,
                .group = 0,
                .levels = LevelKind::kTable,
                .scale = ScaleKind::kNone,
                .tables = TableScope::kRow};
  GridMatrix row = fit(grid);
  EXPECT_EQ(row.StoredBytes(), 40 * 256 * 3 / 8 + 40 * 8 * 2);
  grid.group = 64;
  grid.tables = TableScope::kGroup;
  GridMatrix each = fit(grid);
  EXPECT_EQ(each.StoredBytes(), 40 * 256 * 3 / 8 + 40 * 4 * 8 * 2);
  GridMatrix tensor = fit({.bits = 3, .group = 64, .levels = LevelKind::kTable});
  EXPECT_EQ(tensor.StoredBytes(), 40 * 256 * 3 / 8 + 40 * 4 * 2 + 8 * 2);
  GridMatrix uniform = fit({.bits = 3, .group = 64, .symmetric = true});
  GridMatrix uniform_row = fit({.bits = 3, .group = 0});
  EXPECT_LT(Error(context, w, each), Error(context, w, row));
  EXPECT_LT(Error(context, w, row), Error(context, w, uniform_row));
  EXPECT_LT(Error(context, w, tensor), Error(context, w, uniform));
  for (const float s : {each.scales(3, 2), row.scales(7, 0)}) EXPECT_EQ(s, 1.0f);
}

TEST(Tables, WrongCombinationsAreNamed) {
  GridSpec grid = *FindGrid("table4");
  EXPECT_EQ(CheckGrid(grid), "");
  grid.scale = ScaleKind::kNone;
  EXPECT_EQ(CheckGrid(grid), "tables: a group's own has no scale, the tensor's needs them");
  grid.tables = TableScope::kGroup;
  EXPECT_EQ(CheckGrid(grid), "");
  grid.bits = 5;
  EXPECT_EQ(CheckGrid(grid), "bits of a table: expected 2 to 4, found 5");
  grid = *FindGrid("nf4");
  grid.tables = TableScope::kRow;
  EXPECT_EQ(CheckGrid(grid),
            "tables: only grids table2 to table4 have one for each row or group, or no scales");
}

}  // namespace
}  // namespace planish

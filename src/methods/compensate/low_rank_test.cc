#include "methods/compensate/low_rank.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "base/random.h"
#include "math/factor.h"
#include "math/gemm.h"

namespace planish {
namespace {

Mat<float> Uniform(int64_t rows, int64_t cols, uint64_t seed, double half_width = 0.5) {
  const Random random(seed);
  Mat<float> m(rows, cols);
  for (int64_t i = 0; i < rows * cols; ++i)
    m.data()[i] = static_cast<float>((2 * random.Uniform(static_cast<uint64_t>(i)) - 1) * half_width);
  return m;
}

// X [tokens, n]: `depth` independent sources of falling strength, mixed, so neighbors correlate; for
// depth < n the moment is singular.
Mat<float> Inputs(int64_t tokens, int64_t n, int64_t depth, uint64_t seed) {
  const Mat<float> sources = Uniform(tokens, depth, seed), mix = Uniform(depth, n, seed + 1);
  Mat<float> x(tokens, n);
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t j = 0; j < n; ++j) {
      double sum = 0;
      for (int64_t k = 0; k < depth; ++k)
        sum +=
            sources(t, k) * mix(k, j) * std::pow(1e-2, static_cast<double>(k) / static_cast<double>(depth));
      x(t, j) = static_cast<float>(sum);
    }
  }
  return x;
}

// X^T X / tokens, summed in double, rounded to fp32.
Mat<float> Moment(const Mat<float>& x) {
  Mat<float> h(x.cols(), x.cols());
  for (int64_t i = 0; i < x.cols(); ++i) {
    for (int64_t j = 0; j <= i; ++j) {
      double sum = 0;
      for (int64_t t = 0; t < x.rows(); ++t) sum += static_cast<double>(x(t, i)) * x(t, j);
      h(i, j) = h(j, i) = static_cast<float>(sum / static_cast<double>(x.rows()));
    }
  }
  return h;
}

Mat<double> Product(const Mat<float>& b, const Mat<float>& a) {
  Mat<double> ba(b.rows(), a.cols());
  for (int64_t i = 0; i < b.rows(); ++i) {
    for (int64_t j = 0; j < a.cols(); ++j) {
      double sum = 0;
      for (int64_t k = 0; k < b.cols(); ++k) sum += static_cast<double>(b(i, k)) * a(k, j);
      ba(i, j) = sum;
    }
  }
  return ba;
}

// tr((E - BA) H (E - BA)^T) by definition; an empty h is the identity.
double Loss(const Mat<float>& e, const Mat<double>& ba, MatView<const float> h) {
  double loss = 0;
  std::vector<double> d(static_cast<size_t>(e.cols()));
  for (int64_t i = 0; i < e.rows(); ++i) {
    for (int64_t j = 0; j < e.cols(); ++j) d[j] = e(i, j) - ba(i, j);
    for (int64_t j = 0; j < e.cols(); ++j) {
      double row = h.data == nullptr ? d[j] : 0;
      if (h.data != nullptr)
        for (int64_t k = 0; k < e.cols(); ++k) row += h(j, k) * d[k];
      loss += d[j] * row;
    }
  }
  return loss;
}

double Loss(const Mat<float>& e, const LowRankPath& path, MatView<const float> h) {
  return Loss(e, Product(path.b, path.a), h);
}

// M = E H E^T in double by definition.
Mat<double> ErrorMoment(const Mat<float>& e, MatView<const float> h) {
  Mat<double> eh(e.rows(), e.cols()), m(e.rows(), e.rows());
  for (int64_t i = 0; i < e.rows(); ++i) {
    for (int64_t j = 0; j < e.cols(); ++j) {
      double sum = h.data == nullptr ? e(i, j) : 0;
      if (h.data != nullptr)
        for (int64_t k = 0; k < e.cols(); ++k) sum += static_cast<double>(e(i, k)) * h(k, j);
      eh(i, j) = sum;
    }
  }
  for (int64_t i = 0; i < e.rows(); ++i) {
    for (int64_t j = 0; j < e.rows(); ++j) {
      double sum = 0;
      for (int64_t k = 0; k < e.cols(); ++k) sum += eh(i, k) * e(j, k);
      m(i, j) = sum;
    }
  }
  return m;
}

struct Reference {
  std::vector<double> values;
  Mat<double> vectors;
};

Reference Spectrum(const Mat<float>& e, MatView<const float> h) {
  Reference r{std::vector<double>(static_cast<size_t>(e.rows())), Mat<double>(e.rows(), e.rows())};
  EXPECT_TRUE(SymmetricEigen(ErrorMoment(e, h), r.values, r.vectors).ok());
  return r;
}

double SumFrom(const std::vector<double>& values, int64_t first) {
  double sum = 0;
  for (size_t i = static_cast<size_t>(first); i < values.size(); ++i) sum += std::max(0.0, values[i]);
  return sum;
}

bool AllFinite(const Mat<float>& m) {
  for (int64_t i = 0; i < m.rows() * m.cols(); ++i)
    if (!std::isfinite(m.data()[i])) return false;
  return true;
}

class LowRank : public testing::Test {
 protected:
  LowRankPath Fit(const Mat<float>& e, MatView<const float> h, int64_t rank, bool exact) {
    LowRankOptions options;
    options.rank = rank;
    options.exact = exact;
    auto path = FitLowRank(context_, e, h, options);
    EXPECT_TRUE(path.ok()) << path.error().message;
    return std::move(path).value();
  }
  ThreadPool pool_{2};
  Context context_{&pool_};
};

TEST_F(LowRank, HandCheckedRankOne) {
  // E = diag(3, 1), H = diag(1, 16): M = diag(9, 16), so rank 1 takes the second row although it is smaller.
  Mat<float> e(2, 2), h(2, 2);
  e.Fill(0), h.Fill(0);
  e(0, 0) = 3, e(1, 1) = 1, h(0, 0) = 1, h(1, 1) = 16;
  const LowRankPath path = Fit(e, h, 1, true);
  EXPECT_DOUBLE_EQ(path.loss_before, 25);
  EXPECT_DOUBLE_EQ(path.energy_captured, 16);
  EXPECT_DOUBLE_EQ(path.loss_after, 9);
  EXPECT_FLOAT_EQ(path.b(0, 0), 0);
  EXPECT_FLOAT_EQ(path.b(1, 0), 2);    // sqrt(sigma) = sqrt(4)
  EXPECT_FLOAT_EQ(path.a(0, 1), 0.5);  // u^T E / sqrt(sigma)
}

TEST_F(LowRank, LossIsTheSumOfTrailingEnergiesAndFallsWithRank) {
  for (auto [out, in] : {std::pair<int64_t, int64_t>{96, 80}, {80, 96}, {150, 40}}) {
    const Mat<float> e = Uniform(out, in, 1, 0.01);
    const Mat<float> h = Moment(Inputs(400, in, in, 2));
    const Reference reference = Spectrum(e, h);
    for (bool exact : {true, false}) {
      double last = Loss(e, Product(Mat<float>(out, 0), Mat<float>(0, in)), h);
      const double before = last;
      for (int64_t rank : {1, 2, 4, 16, 32}) {
        const LowRankPath path = Fit(e, h, rank, exact);
        const double loss = Loss(e, path, h), trailing = SumFrom(reference.values, rank);
        EXPECT_NEAR(path.loss_before, before, 1e-5 * before);
        EXPECT_NEAR(path.loss_after, loss, 1e-5 * before);
        if (exact) {
          EXPECT_NEAR(loss, trailing, 1e-4 * trailing) << rank;
        } else {  // the iteration stops at a captured energy, so that is what it promises
          EXPECT_GE(before - loss, 0.9995 * (before - trailing)) << rank;
        }
        EXPECT_LE(loss, last);
        last = loss;
      }
    }
  }
}

TEST_F(LowRank, FullRankReproducesTheWeight) {
  for (auto [out, in] : {std::pair<int64_t, int64_t>{48, 64}, {64, 48}}) {
    const Mat<float> e = Uniform(out, in, 3, 0.02);
    const Mat<float> h = Moment(Inputs(300, in, in, 4));
    for (MatView<const float> weight : {h.view(), MatView<const float>()}) {
      const LowRankPath path = Fit(e, weight, 1000, true);
      EXPECT_EQ(path.b.cols(), 48);
      const Mat<double> ba = Product(path.b, path.a);
      for (int64_t i = 0; i < out; ++i)
        for (int64_t j = 0; j < in; ++j) ASSERT_NEAR(ba(i, j), e(i, j), 1e-5 * 0.02);
    }
  }
}

TEST_F(LowRank, RoutesOverInputsAndOverOutputsAgree) {
  // in < out takes the input side; the output side is computed here. The spaces meet at a clear gap, so
  // what is left is the rounding of the factors to fp32: below 1e-6 of the norm.
  const int64_t out = 120, in = 50, rank = 10;
  const Mat<float> e = Uniform(out, in, 5);
  for (int64_t depth : {50, 30}) {
    const Mat<float> h = Moment(Inputs(300, in, depth, 6));
    const LowRankPath path = Fit(e, h, rank, true);
    const Reference reference = Spectrum(e, h);
    const Mat<double> ba = Product(path.b, path.a);
    double difference = 0, norm = 0;
    std::vector<double> ue(static_cast<size_t>(in));
    Mat<double> expected(out, in);
    expected.Fill(0);
    for (int64_t r = 0; r < rank; ++r) {
      for (int64_t j = 0; j < in; ++j) {
        ue[j] = 0;
        for (int64_t i = 0; i < out; ++i) ue[j] += reference.vectors(r, i) * e(i, j);
      }
      for (int64_t i = 0; i < out; ++i)
        for (int64_t j = 0; j < in; ++j) expected(i, j) += reference.vectors(r, i) * ue[j];
    }
    for (int64_t i = 0; i < out * in; ++i) {
      difference += std::pow(ba.data()[i] - expected.data()[i], 2);
      norm += std::pow(expected.data()[i], 2);
    }
    EXPECT_LT(std::sqrt(difference / norm), 1e-6) << depth;
    for (int64_t r = 0; r < rank; ++r) {
      double length = 0;
      for (int64_t i = 0; i < out; ++i) length += std::pow(path.b(i, r), 2);
      EXPECT_NEAR(length, std::sqrt(reference.values[r]), 1e-5 * length);  // |b|^2 = sigma
    }
  }
}

TEST_F(LowRank, BeatsPlainAndDiagonallyScaledDecompositions) {
  const int64_t out = 90, in = 70;
  const Mat<float> e = Uniform(out, in, 7, 0.03);
  const Mat<float> x = Inputs(500, in, in, 8);
  const Mat<float> h = Moment(x);
  // S = diag(mean |x|): the decomposition of E S, with S taken out of A again.
  std::vector<double> s(static_cast<size_t>(in), 0);
  for (int64_t t = 0; t < x.rows(); ++t)
    for (int64_t j = 0; j < in; ++j) s[j] += std::abs(x(t, j)) / static_cast<double>(x.rows());
  Mat<float> scaled(out, in);
  for (int64_t i = 0; i < out; ++i)
    for (int64_t j = 0; j < in; ++j) scaled(i, j) = static_cast<float>(e(i, j) * s[j]);
  for (int64_t rank : {2, 8, 24}) {
    for (bool exact : {true, false}) {
      const double eora = Loss(e, Fit(e, h, rank, exact), h);
      EXPECT_LT(eora, Loss(e, Fit(e, {}, rank, true), h));
      LowRankPath diagonal = Fit(scaled, {}, rank, true);
      for (int64_t r = 0; r < rank; ++r)
        for (int64_t j = 0; j < in; ++j) diagonal.a(r, j) = static_cast<float>(diagonal.a(r, j) / s[j]);
      EXPECT_LT(eora, Loss(e, diagonal, h));
    }
  }
}

TEST_F(LowRank, IdentityMomentIsThePlainDecomposition) {
  const Mat<float> e = Uniform(100, 130, 9);
  Mat<float> h(130, 130);
  h.Fill(0);
  for (int64_t i = 0; i < 130; ++i) h(i, i) = 3;
  for (bool exact : {true, false}) {
    const double eora = Loss(e, Fit(e, h, 12, exact), {}), lorc = Loss(e, Fit(e, {}, 12, exact), {});
    EXPECT_NEAR(eora, lorc, 1e-4 * lorc);
    EXPECT_LE(lorc, Loss(e, Product(Mat<float>(100, 0), Mat<float>(0, 130)), {}));
  }
}

TEST_F(LowRank, SingularMomentsLeaveNoLossAtTheirRank) {
  for (auto [out, in] : {std::pair<int64_t, int64_t>{100, 60}, {60, 100}}) {
    const Mat<float> e = Uniform(out, in, 11);
    const Mat<float> h = Moment(Inputs(200, in, 9, 12));
    const double before = Loss(e, Product(Mat<float>(out, 0), Mat<float>(0, in)), h);
    for (bool exact : {true, false}) {
      for (int64_t rank : {9, 20}) {
        const LowRankPath path = Fit(e, h, rank, exact);
        EXPECT_LT(std::abs(Loss(e, path, h)), 1e-6 * before) << rank << exact;
        EXPECT_TRUE(AllFinite(path.a) && AllFinite(path.b));
        EXPECT_GE(path.b.cols(), 9);
      }
    }
  }
}

TEST_F(LowRank, SlightlyNegativeEigenvaluesAreHarmless) {
  const Mat<float> e = Uniform(80, 40, 13);
  Mat<float> h = Moment(Inputs(200, 40, 6, 14));
  for (int64_t i = 0; i < 40; ++i) h(i, i) -= 1e-6f * h(0, 0);
  const double before = Loss(e, Product(Mat<float>(80, 0), Mat<float>(0, 40)), h);
  for (bool exact : {true, false}) {
    const LowRankPath path = Fit(e, h, 30, exact);
    EXPECT_TRUE(AllFinite(path.a) && AllFinite(path.b));
    EXPECT_LT(Loss(e, path, h), 1e-4 * before);
  }
}

TEST_F(LowRank, ZeroErrorsAndZeroMomentsGiveNoPath) {
  Mat<float> zero(30, 20), h(20, 20);
  zero.Fill(0), h.Fill(0);
  const LowRankPath path = Fit(zero, {}, 8, false);
  EXPECT_EQ(path.b.rows(), 30);
  EXPECT_EQ(path.b.cols(), 0);
  EXPECT_EQ(path.a.rows(), 0);
  EXPECT_EQ(path.a.cols(), 20);
  EXPECT_EQ(path.loss_before, 0);
  EXPECT_EQ(Fit(Uniform(30, 20, 1), h, 8, true).b.cols(), 0);
  const LowRankPath none = Fit(Uniform(30, 20, 1), {}, 0, true);
  EXPECT_EQ(none.b.cols(), 0);
  EXPECT_EQ(none.loss_after, none.loss_before);
  EXPECT_GT(none.loss_before, 0);
}

TEST_F(LowRank, TinyErrorsAndHugeInputsKeepTheirDirections) {
  const Mat<float> e = Uniform(200, 60, 15), h = Moment(Inputs(200, 60, 60, 16));
  Mat<float> tiny(200, 60), huge(60, 60);
  for (int64_t i = 0; i < 200 * 60; ++i) tiny.data()[i] = e.data()[i] * 0x1p-80f;
  for (int64_t i = 0; i < 60 * 60; ++i) huge.data()[i] = h.data()[i] * 0x1p70f;
  const LowRankPath plain = Fit(e, h, 5, false), scaled = Fit(tiny, huge, 5, false);
  EXPECT_DOUBLE_EQ(scaled.energy_captured, plain.energy_captured * 0x1p-90);
  EXPECT_DOUBLE_EQ(scaled.loss_before, plain.loss_before * 0x1p-90);
  const Mat<double> a = Product(plain.b, plain.a), b = Product(scaled.b, scaled.a);
  for (int64_t i = 0; i < 200 * 60; ++i) ASSERT_NEAR(b.data()[i] * 0x1p80, a.data()[i], 1e-5);
}

TEST_F(LowRank, WhiteNoiseHasLittleToGive) {
  const int64_t n = 1024;
  const Mat<float> e = Uniform(n, n, 17);
  context_.isa = BestIsa();
  for (auto [rank, stated] : {std::pair<int64_t, double>{8, 0.030}, {32, 0.112}}) {
    const double edge = 2 / std::sqrt(n), bound = static_cast<double>(rank) * edge * edge;
    const LowRankPath path = Fit(e, {}, rank, false);
    const double fraction = path.energy_captured / path.energy_total;
    EXPECT_LE(fraction, bound);
    EXPECT_GE(fraction, 0.9 * stated);
  }
}

TEST_F(LowRank, SameBytesForAnyNumberOfThreads) {
  const Mat<float> e = Uniform(200, 150, 18), h = Moment(Inputs(300, 150, 150, 19));
  for (bool exact : {true, false}) {
    const LowRankPath first = Fit(e, h, 16, exact);
    for (int threads : {1, 3}) {
      ThreadPool pool(threads);
      LowRankOptions options;
      options.rank = 16;
      options.exact = exact;
      const auto path = FitLowRank(Context{&pool}, e, h, options);
      ASSERT_TRUE(path.ok());
      EXPECT_EQ(std::memcmp((*path).a.data(), first.a.data(), 16 * 150 * 4), 0);
      EXPECT_EQ(std::memcmp((*path).b.data(), first.b.data(), 16 * 200 * 4), 0);
      EXPECT_EQ((*path).loss_after, first.loss_after);
    }
  }
}

TEST_F(LowRank, EnergiesAreTheSpectrum) {
  const Mat<float> e = Uniform(180, 90, 20), h = Moment(Inputs(300, 90, 90, 21));
  const Reference reference = Spectrum(e, h);
  for (bool exact : {true, false}) {
    LowRankOptions options;
    options.exact = exact;
    const auto energies = PathEnergies(context_, e, h, 40, options);
    ASSERT_TRUE(energies.ok());
    ASSERT_EQ((*energies).size(), 40u);
    for (int64_t i = 0; i < 40; ++i)
      EXPECT_NEAR((*energies)[i], reference.values[i], (exact ? 1e-9 : 3e-3) * reference.values[i]) << i;
  }
}

TEST_F(LowRank, KnownEnergyIsTakenAndBadNumbersAreNamed) {
  Mat<float> e = Uniform(40, 30, 22);
  LowRankOptions options;
  options.rank = 4;
  options.known_energy = 1e6;
  const auto path = FitLowRank(context_, e, {}, options);
  ASSERT_TRUE(path.ok());
  EXPECT_EQ((*path).loss_before, 1e6);
  options.rank = -1;
  EXPECT_FALSE(FitLowRank(context_, e, {}, options).ok());
  options.rank = 4;
  e(3, 5) = std::numeric_limits<float>::infinity();
  const auto bad = FitLowRank(context_, e, {}, options);
  ASSERT_FALSE(bad.ok());
  EXPECT_EQ(bad.error().code, Code::kInput);
  EXPECT_NE(bad.error().message.find("weight error: element (3, 5) is inf"), std::string::npos)
      << bad.error().message;
}

TEST(AllocateRanks, TakesTheBestEnergyPerByteFirst) {
  // Steps of 2 ranks: 10 and 4 at 2 bytes; 12 and 3 at 4 bytes. Per byte: 5, 2 and 3, 0.75.
  const std::vector<RankCandidate> layers = {{{6, 4, 3, 1}, 1}, {{8, 4, 2, 1}, 2}};
  EXPECT_EQ(AllocateRanks(layers, 0, 2), (std::vector<int64_t>{0, 0}));
  EXPECT_EQ(AllocateRanks(layers, 2, 2), (std::vector<int64_t>{2, 0}));
  EXPECT_EQ(AllocateRanks(layers, 6, 2), (std::vector<int64_t>{2, 2}));
  EXPECT_EQ(AllocateRanks(layers, 8, 2), (std::vector<int64_t>{4, 2}));
  EXPECT_EQ(AllocateRanks(layers, 5, 2), (std::vector<int64_t>{4, 0}));  // the wide step does not fit
  EXPECT_EQ(AllocateRanks(layers, 1e9, 8), (std::vector<int64_t>{4, 4}));
}

TEST(AllocateRanks, TiesGoToTheFirstAndZeroGainsAreNotBought) {
  const std::vector<RankCandidate> layers = {{{1, 1, 0, 0}, 4}, {{1, 1}, 4}, {{}, 1}};
  EXPECT_EQ(AllocateRanks(layers, 4, 1), (std::vector<int64_t>{1, 0, 0}));
  EXPECT_EQ(AllocateRanks(layers, 12, 1), (std::vector<int64_t>{2, 1, 0}));
  EXPECT_EQ(AllocateRanks(layers, 1e9, 1), (std::vector<int64_t>{2, 2, 0}));
}

TEST(AllocateRanks, NoOtherRanksCaptureMoreOnConcaveCurves) {
  const Random random(23);
  for (uint64_t trial = 0; trial < 20; ++trial) {
    std::vector<RankCandidate> layers(3);
    for (size_t l = 0; l < 3; ++l) {
      double energy = 1 + random.Uniform(trial * 100 + l);
      for (uint64_t i = 0; i < 6; ++i)
        layers[l].energies.push_back(energy *= random.Uniform(trial * 100 + 10 * (l + 1) + i));
      layers[l].bytes_per_rank = 1;
    }
    const auto captured = [&](const std::vector<int64_t>& ranks) {
      double sum = 0;
      for (size_t l = 0; l < 3; ++l)
        for (int64_t i = 0; i < ranks[l]; ++i) sum += layers[l].energies[i];
      return sum;
    };
    double best = 0;
    for (int64_t a = 0; a <= 6; ++a)
      for (int64_t b = 0; b <= 6; ++b)
        for (int64_t c = 0; c <= 6; ++c)
          if (a + b + c <= 8) best = std::max(best, captured({a, b, c}));
    EXPECT_DOUBLE_EQ(captured(AllocateRanks(layers, 8, 1)), best);
  }
}

}  // namespace
}  // namespace planish

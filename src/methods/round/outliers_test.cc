#include "methods/round/outliers.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "grids/grids_test_util.h"
#include "methods/compensate/bias_stage.h"
#include "methods/options.h"
#include "methods/round/round_stages.h"

namespace planish {
namespace {

// Weights with a few large ones, and the second moment of correlated inputs whose mean is not zero.
class OutliersTest : public ::testing::Test {
 protected:
  static constexpr int64_t kRows = 24, kCols = 64, kTokens = 400;
  OutliersTest() : w_(RandomWeights(kRows, kCols, 3)), h_(kCols, kCols), mean_(kCols, 0.0f) {
    const Random random(5);
    for (uint64_t k = 0; k < 20; ++k) {
      w_.data()[random.Below(k, kRows * kCols)] = k % 2 == 0 ? 0.3f : -0.25f;
    }
    const Mat<float> x = Inputs(1000);
    h_.Fill(0);
    for (int64_t t = 0; t < kTokens; ++t) {
      for (int64_t i = 0; i < kCols; ++i) {
        mean_[i] += x(t, i) / kTokens;
        for (int64_t j = 0; j < kCols; ++j) h_(i, j) += x(t, i) * x(t, j) / kTokens;
      }
    }
  }

  // [tokens, columns] of one distribution, whatever numbers they are drawn with.
  static Mat<float> Inputs(uint64_t next) {
    const Random random(5);
    Mat<float> x(kTokens, kCols);
    for (int64_t t = 0; t < kTokens; ++t) {
      const double common = random.Normal(next++);
      for (int64_t j = 0; j < kCols; ++j) {
        x(t, j) = static_cast<float>(random.Normal(next++) + common * std::cos(j) + 0.8 * std::sin(j));
      }
    }
    return x;
  }

  LayerSolution Solve(const SolveStage& stage, const std::map<std::string, OptionValue>& given,
                      LayerSolution solution = {}) {
    auto options = ResolveOptions(stage, given);
    EXPECT_TRUE(options.ok()) << options.error().message;
    LayerProblem problem{"w", w_, h_, nullptr, mean_, {}};
    std::optional<SiteFactor> site;
    if (stage.needs_factor) {
      auto factor =
          FactorSite(context_, h_, GridOfOptions(*options, kCols).group, stage.factor_options(*options));
      EXPECT_TRUE(factor.ok());
      site = std::move(*factor);
      problem.factor = &*site;
    }
    const Status solved = stage.solve(context_, {&problem, 1}, {&*options, 1}, {&solution, 1});
    EXPECT_TRUE(solved.ok()) << solved.error().message;
    return solution;
  }
  static std::map<std::string, OptionValue> Sparse(double percent, const char* by = "sensitivity") {
    std::map<std::string, OptionValue> given = {
        {"bits", int64_t{3}}, {"group", int64_t{0}}, {"sparse", percent}};
    if (percent > 0) given["sparse_by"] = std::string(by);  // says nothing without outliers
    return given;
  }

  ThreadPool pool_{2};
  Context context_ = OnPool(pool_);
  Mat<float> w_, h_;
  std::vector<float> mean_;
};

TEST_F(OutliersTest, TheLargestByMagnitudeOrSensitivity) {
  Mat<float> w(2, 3);
  const float values[] = {1, -5, 2, 4, -4, 0};
  std::copy_n(values, 6, w.data());
  const auto places = [&](std::span<const float> h, double fraction) {
    std::vector<int64_t> found;
    for (const SparseEntry& e : ChooseOutliers(w, h, fraction)) {
      EXPECT_EQ(e.value, w(e.row, e.col));
      found.push_back(e.row * 3 + e.col);
    }
    return found;
  };
  EXPECT_EQ(places({}, 0.34), (std::vector<int64_t>{1, 3}));  // of two fours the first
  const float h[] = {1, 0, 9};
  EXPECT_EQ(places(h, 0.34), (std::vector<int64_t>{2, 3}));
  EXPECT_TRUE(places({}, 0).empty());
  EXPECT_EQ(places({}, 1).size(), 6u);
}

TEST_F(OutliersTest, LossFallsWithTheShareAndBytesAreExact) {
  for (const SolveStage* stage : {&RtnStage(), &GptqStage()}) {
    for (const char* by : {"magnitude", "sensitivity"}) {
      double last = INFINITY;
      for (const double percent : {0.0, 0.5, 1.5, 4.0}) {
        const LayerSolution s = Solve(*stage, Sparse(percent, by));
        EXPECT_LT(s.steps.back().loss, last) << stage->name << " " << by << " " << percent;
        last = s.steps.back().loss;
        EXPECT_NEAR(last, LayerLoss(context_, w_, Reconstruct(s.matrix), h_), 1e-4 * last);
        const int64_t n = std::llround(percent / 100 * kRows * kCols);
        const int64_t codes = kRows * kCols * 3 / 8 + kRows * 2 + kRows * 3 / 8;
        EXPECT_EQ(StoredBytes(s.matrix), codes + (n > 0 ? 4 * n + 2 * kRows : 0));
      }
    }
  }
}

// What a grid says of zero, which int1 and tables do not have, is taken off the values.
TEST_F(OutliersTest, EntriesReproduceTheirWeights) {
  for (const char* grid : {"int3", "int1", "table3", "nf3"}) {
    std::map<std::string, OptionValue> given = {
        {"grid", std::string(grid)}, {"group", int64_t{0}}, {"sparse", 2.0}};
    const LayerSolution s = Solve(RtnStage(), given);
    const Mat<float> w_hat = Reconstruct(s.matrix);
    // Of the stored value, which what the grid says of zero may make larger than the weight.
    for (const SparseEntry& e : ChooseOutliers(w_, {}, 0.005)) {
      EXPECT_NEAR(w_hat(e.row, e.col), w_(e.row, e.col), 2 * std::fabs(w_(e.row, e.col)) * 0x1p-11) << grid;
    }
  }
}

// A channel that is always zero holds no outliers, however large its weights.
TEST_F(OutliersTest, NoneOfDeadInputs) {
  for (int64_t j = 0; j < kCols; ++j) h_(7, j) = h_(j, 7) = 0;
  auto given = Sparse(2.0, "magnitude");
  const double before = Solve(GptqStage(), given).steps.back().loss;
  for (int64_t i = 0; i < kRows; ++i) w_(i, 7) = 100;
  EXPECT_EQ(Solve(GptqStage(), given).steps.back().loss, before);  // products with zeros
}

// At the best values the gradient of the damped loss at every outlier vanishes, but for what fp16, half a
// unit of 2^-11 of each value of the row, moves it by.
TEST_F(OutliersTest, RefitIsStationary) {
  auto site = FactorSite(context_, h_, 0, {});
  ASSERT_TRUE(site.ok());
  auto outliers = ChooseOutliers(w_, site->diag, 0.02);
  Mat<float> rest(kRows, kCols);
  std::copy_n(w_.data(), kRows * kCols, rest.data());
  for (const SparseEntry& e : outliers) rest(e.row, e.col) = 0;
  const auto rounded = RoundWithFeedback(context_, rest, *site, {.bits = 2, .group = 0}, {});
  ASSERT_TRUE(rounded.ok());
  const auto before = outliers;
  Mat<float> e(kRows, kCols);
  const auto gradient = [&](const std::vector<SparseEntry>& entries) {
    Decode(rounded->matrix, e);
    for (int64_t k = 0; k < kRows * kCols; ++k) e.data()[k] = w_.data()[k] - e.data()[k];
    for (const SparseEntry& s : entries) e(s.row, s.col) -= s.value;
    double sum = 0;
    for (const SparseEntry& s : entries) {
      double g = site->lambda * e(s.row, s.col);
      for (int64_t j = 0; j < kCols; ++j) g += double{e(s.row, j)} * h_(j, s.col);
      sum += g * g;
    }
    return std::sqrt(sum);
  };
  const double unfit = gradient(before);
  const double loss = RefitOutliers(context_, w_, rounded->matrix, *site, h_, outliers);
  double rounding = 0;
  for (const SparseEntry& a : outliers) {
    double moved = 0;
    for (const SparseEntry& b : outliers) {
      if (a.row != b.row) continue;
      const double h = h_(a.col, b.col) + (a.col == b.col ? site->lambda : 0.0);
      moved += std::fabs(h * b.value) * 0x1p-11;
    }
    rounding += moved * moved;
  }
  EXPECT_LT(gradient(outliers), std::sqrt(rounding));
  EXPECT_LT(std::sqrt(rounding), 0.2 * unfit);
  Mat<float> w_hat(kRows, kCols);
  Decode(rounded->matrix, w_hat);
  for (const SparseEntry& s : outliers) w_hat(s.row, s.col) += s.value;
  EXPECT_NEAR(loss, LayerLoss(context_, w_, w_hat, h_), 1e-5 * loss);
}

// Tables under feedback: never worse than nearest rounding to the same tables, better than integers of as
// many bits at 3 bits a row.
TEST_F(OutliersTest, TablesUnderFeedback) {
  for (const char* tables : {"tensor", "row", "group"}) {
    const std::map<std::string, OptionValue> given = {
        {"grid", std::string("table3")}, {"group", int64_t{32}}, {"tables", std::string(tables)}};
    const LayerSolution s = Solve(GptqStage(), given);
    EXPECT_LT(s.steps.back().loss, 0.9 * s.loss_nearest) << tables;
    EXPECT_NEAR(s.steps.back().loss, LayerLoss(context_, w_, Reconstruct(s.matrix), h_),
                1e-3 * s.steps.back().loss);
  }
  const LayerSolution row = Solve(
      GptqStage(), {{"grid", std::string("table3")}, {"group", int64_t{0}}, {"tables", std::string("row")}});
  EXPECT_EQ(std::get<Coded>(row.matrix.body).grid.scale, ScaleKind::kNone);
  EXPECT_LT(row.steps.back().loss, Solve(GptqStage(), Sparse(0)).steps.back().loss);
}

// The bias takes the mean error away: the loss that is left is that under the covariance, up to fp16, and an
// input of zero mean leaves nothing to take.
TEST_F(OutliersTest, BiasTakesTheMeanError) {
  LayerSolution s = Solve(RtnStage(), Sparse(0));
  const double before = s.steps.back().loss;
  const Mat<float> w_hat = Reconstruct(s.matrix);
  s = Solve(BiasStage(), {}, std::move(s));
  ASSERT_EQ(static_cast<int64_t>(s.bias.size()), kRows);
  double taken = 0;
  for (int64_t r = 0; r < kRows; ++r) {
    double mean_error = 0;
    for (int64_t j = 0; j < kCols; ++j) mean_error += (double{w_(r, j)} - w_hat(r, j)) * mean_[j];
    EXPECT_NEAR(s.bias[r], mean_error, std::fabs(mean_error) * 0x1p-11 + 0x1p-25);
    taken += mean_error * mean_error;
  }
  EXPECT_NEAR(s.steps.back().loss, before - taken, 1e-5 * before);
  EXPECT_LT(s.steps.back().loss, 0.95 * before);
  mean_.assign(kCols, 0.0f);
  s = Solve(BiasStage(), {}, Solve(RtnStage(), Sparse(0)));
  EXPECT_EQ(s.bias, std::vector<float>(kRows, 0.0f));
  EXPECT_NEAR(s.steps.back().loss, before, 1e-9 * before);
}

// On tokens that had no part in it the bias still lowers the error of the outputs, by nearly as much.
TEST_F(OutliersTest, BiasLowersTheErrorOfOtherTokens) {
  const LayerSolution rounded = Solve(RtnStage(), Sparse(0));
  const Mat<float> w_hat = Reconstruct(rounded.matrix);
  const LayerSolution tuned = Solve(BiasStage(), {}, rounded);
  const auto error = [&](const Mat<float>& x, bool bias) {
    double sum = 0;
    for (int64_t t = 0; t < kTokens; ++t) {
      for (int64_t r = 0; r < kRows; ++r) {
        double y = bias ? -double{tuned.bias[r]} : 0.0;
        for (int64_t j = 0; j < kCols; ++j) y += (double{w_(r, j)} - w_hat(r, j)) * x(t, j);
        sum += y * y / kTokens;
      }
    }
    return sum;
  };
  const Mat<float> seen = Inputs(1000), other = Inputs(100000);
  EXPECT_NEAR(error(seen, false), rounded.steps.back().loss, 1e-4 * rounded.steps.back().loss);
  EXPECT_NEAR(error(seen, true), tuned.steps.back().loss, 1e-3 * tuned.steps.back().loss);
  const double gain = error(seen, false) - error(seen, true),
               held_out = error(other, false) - error(other, true);
  EXPECT_GT(gain, 0);
  EXPECT_GT(held_out, 0.7 * gain);
}

}  // namespace
}  // namespace planish

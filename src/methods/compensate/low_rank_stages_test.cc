#include "methods/compensate/low_rank_stages.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "methods/options.h"

namespace planish {
namespace {

using ::testing::HasSubstr;

// One linear [4, 6] of ones, coded as zeros: the error is ones, of rank 1.
class LowRankStageTest : public ::testing::Test {
 protected:
  LowRankStageTest() : w_(4, 6), h_(6, 6) {
    w_.Fill(1);
    h_.Fill(0);
    for (int64_t i = 0; i < 6; ++i) h_(i, i) = 1;
  }

  Status Solve(const SolveStage& stage, int64_t factor_bits, LayerSolution& solution) {
    Mat<float> zeros(4, 6);
    zeros.Fill(0);
    solution.matrix = DenseMatrix(zeros.view(), DType::kF16);
    solution.steps.push_back({"rtn", 24, ""});
    auto options =
        ResolveOptions(stage, {{"rank", int64_t{1}}, {"factor_bits", factor_bits}, {"exact", true}});
    if (!options.ok()) return options.error();
    const LayerProblem problem{"a.weight", w_, h_};
    return stage.solve({.pool = &pool_}, {&problem, 1}, {&*options, 1}, {&solution, 1});
  }

  ThreadPool pool_{1};
  Mat<float> w_, h_;
};

TEST_F(LowRankStageTest, EveryWidthOfFactorsRestoresAnErrorOfRankOne) {
  for (const SolveStage* stage : {&EoraStage(), &LorcStage()}) {
    for (const int64_t bits : {4, 5, 6, 7, 8, 16}) {
      LayerSolution solution;
      const Status solved = Solve(*stage, bits, solution);
      ASSERT_TRUE(solved.ok()) << solved.error().message;
      const Mat<float> w = Reconstruct(solution.matrix);
      // Equal elements of a row sit on a code; the scales' fp16 leaves 2^-11 in each of the two factors.
      for (int64_t i = 0; i < 24; ++i) EXPECT_NEAR(w.data()[i], 1, 0x1p-9) << stage->name << " " << bits;
      EXPECT_LT(solution.steps.back().loss, 1e-3) << stage->name << " " << bits;
    }
  }
}

TEST_F(LowRankStageTest, WidthsThatCannotBeStoredAreRefused) {
  for (const int64_t bits : {9, 12, 15}) {
    const auto options = ResolveOptions(EoraStage(), {{"factor_bits", bits}});
    ASSERT_FALSE(options.ok());
    EXPECT_EQ(options.error().code, Code::kInput);
    EXPECT_THAT(options.error().message, HasSubstr("expected one of '4', '5', '6', '7', '8' and '16'"));
  }
}

}  // namespace
}  // namespace planish

// Routing by hand and against direct loops; gathering and combining.
#include "math/experts.h"

#include <gtest/gtest.h>

#include <cmath>

#include "math/nn_test_util.h"

namespace planish {
namespace {

using namespace nn_test;  // NOLINT: the helpers of this folder's tests

Mat<float> RouteOf(const RouteShape& shape, MatView<const float> logits) {
  ThreadPool pool(2);
  Context context;
  context.pool = &pool;
  Mat<float> routing(logits.rows, logits.cols);
  Route(context, shape, logits, routing);
  return routing;
}

TEST(Route, ByHand) {
  // exp: 1, 2, 4, 1 of 8.
  std::vector<float> logits = {0, std::log(2.0f), std::log(4.0f), 0};
  const MatView<const float> view(logits.data(), 1, 4);
  const Mat<float> two = RouteOf({.experts = 4, .chosen = 2}, view);
  EXPECT_EQ(two(0, 0), 0);
  EXPECT_NEAR(two(0, 1), 0.25, 1e-6);
  EXPECT_NEAR(two(0, 2), 0.5, 1e-6);
  EXPECT_EQ(two(0, 3), 0);
  const Mat<float> normalized = RouteOf({.experts = 4, .chosen = 2, .normalize = true, .scale = 3}, view);
  EXPECT_NEAR(normalized(0, 1), 1, 1e-6);
  EXPECT_NEAR(normalized(0, 2), 2, 1e-6);
  // The group of the last two has the best score; the first group is closed although 1 is second best.
  const Mat<float> grouped = RouteOf({.experts = 4, .chosen = 2, .groups = 2, .open_groups = 1}, view);
  EXPECT_EQ(grouped(0, 1), 0);
  EXPECT_NEAR(grouped(0, 2), 0.5, 1e-6);
  EXPECT_NEAR(grouped(0, 3), 0.125, 1e-6);
  const Mat<float> sigmoid = RouteOf({.experts = 4, .chosen = 1, .score = ScoreFunction::kSigmoid}, view);
  EXPECT_NEAR(sigmoid(0, 2), 0.8, 1e-6);
}

TEST(Route, EqualScoresGoToTheLowerIndex) {
  const std::vector<float> logits(6, 1.5f);
  const Mat<float> routing = RouteOf({.experts = 6, .chosen = 2}, {logits.data(), 1, 6});
  for (int64_t e = 0; e < 6; ++e) EXPECT_NEAR(routing(0, e), e < 2 ? 1.0 / 6 : 0, 1e-7) << e;
}

TEST(Experts, GatherAndCombineUndoEachOther) {
  ThreadPool pool(3);
  Context context;
  context.pool = &pool;
  constexpr int64_t kRows = 57, kWidth = 37, kExperts = 5;
  const Mat<float> x = RandomMat(kRows, kWidth, 1), logits = RandomMat(kRows, kExperts, 2);
  const Mat<float> routing = RouteOf({.experts = kExperts, .chosen = 2, .normalize = true}, logits);
  std::vector<Mat<float>> outputs;
  std::vector<MatView<const float>> views;
  int64_t total = 0;
  for (int64_t e = 0; e < kExperts; ++e) {
    const auto rows = RowsOfExpert(routing, e);
    total += static_cast<int64_t>(rows.size());
    outputs.emplace_back(static_cast<int64_t>(rows.size()), kWidth);
    GatherRows(context, x, rows, outputs.back());
    for (size_t i = 0; i < rows.size(); ++i) {
      EXPECT_NE(routing(rows[i], e), 0);
      EXPECT_EQ(outputs.back()(static_cast<int64_t>(i), 3), x(rows[i], 3));
    }
  }
  EXPECT_EQ(total, 2 * kRows);
  for (const auto& output : outputs) views.push_back(output.view());
  Mat<float> y(kRows, kWidth);
  CombineExperts(context, routing, views, y);  // weights sum to 1, so the rows come back
  for (int64_t i = 0; i < kRows; ++i) {
    for (int64_t j = 0; j < kWidth; ++j) EXPECT_NEAR(y(i, j), x(i, j), 1e-6) << i << ", " << j;
  }
}

}  // namespace
}  // namespace planish

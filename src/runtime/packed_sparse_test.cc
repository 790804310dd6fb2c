// Sparse parts beside codes are packed as the outliers they are.
#include <gtest/gtest.h>

#include "runtime/packed_test_util.h"

namespace planish {
namespace {

using test::Must;
using test::Pack;

TEST(PackedSparse, SameBytesAsGivenOutliers) {
  ThreadPool pool(2);
  const Context context{.pool = &pool};
  const Matrix codes = test::RandomCoded(35, 96, {4, 32, false}, 0.02, 2);
  const Matrix path = test::SumOf(codes, DenseMatrix(test::RandomMat(35, 3, 0.1, 1), DType::kF16),
                                  DenseMatrix(test::RandomMat(3, 96, 0.1, 2), DType::kF16));
  const Matrix sparse =
      SparseMatrix(35, 96, std::vector<SparseEntry>{{15, 0, -1}, {16, 0, 0.5f}, {16, 1, 2}, {34, 69, 7}});
  const std::vector<PackedOutlier> outliers = {{15, 0, -1}, {16, 0, 0.5f}, {16, 1, 2}, {34, 69, 7}};
  for (const Matrix& base : {codes, path}) {
    const Matrix sum{35, 96, SumPart{{base, sparse}}};
    const PackPlan plan = Must(PlanPackedLinear({"w", sum, {}}));
    EXPECT_EQ(plan.shape.num_outliers, 4);
    const Buffer found = Pack(context, plan);
    const Buffer expected = Pack(context, Must(PlanPackedLinear({"w", base, {}}, {.outliers = outliers})));
    ASSERT_EQ(found.size(), expected.size());
    EXPECT_EQ(std::memcmp(found.data(), expected.data(), found.size()), 0);
  }
}

// What no kernel knows is decoded whole, outliers included, and says so.
TEST(PackedSparse, OtherSumsAreDecoded) {
  const Matrix dense = DenseMatrix(test::RandomMat(4, 64, 0.1, 1), DType::kF16);
  const Matrix sparse = SparseMatrix(4, 64, std::vector<SparseEntry>{{1, 3, 2}});
  for (const Matrix& sum :
       {Matrix{4, 64, SumPart{{dense, sparse}}},
        Matrix{4, 64, SumPart{{test::RandomCoded(4, 64, {4, 32, false}, 1, 2), sparse, sparse}}}}) {
    const PackPlan plan = Must(PlanPackedLinear({"w", sum, {}}));
    EXPECT_EQ(plan.shape.num_outliers, 0);
    EXPECT_EQ(plan.shape.kind, PackedKind::kBF16);
    EXPECT_NE(plan.note.find("packed as bf16 from decoded rows"), std::string::npos) << plan.note;
  }
}

}  // namespace
}  // namespace planish

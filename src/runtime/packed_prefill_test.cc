// Many tokens at once against the same tokens in eights: the same bits.
#include "runtime/packed_prefill.h"

#include <gmock/gmock.h>

#include <limits>

#include "model/model_test_util.h"
#include "runtime/packed_test_util.h"

namespace planish {
namespace {

using test::Must;
using test::RandomMat;
using testing::HasSubstr;

class PackedPrefillTest : public testing::Test {
 protected:
  // A layer of `bits` with a path of `rank` (0: none).
  void Make(int bits, int64_t rows, int64_t cols, int64_t rank) {
    Matrix w = test::RandomCoded(rows, cols, {bits, 32, false}, 0.02, 1);
    if (rank > 0) {
      w = test::SumOf(std::move(w), test::RandomCoded(rows, rank, {8, 32, true}, 0.02, 2),
                      test::RandomCoded(rank, cols, {8, 32, true}, 0.02, 3));
    }
    linear_ = {.name = "w", .w = std::move(w)};
    bytes_ = test::Pack(context_, Must(PlanPackedLinear(linear_)));
    layer_.emplace(Must(PackedLinear::FromBytes(bytes_.bytes())));
  }
  Mat<float> InEights(const packed::KernelSet& kernels, const Mat<float>& x) {
    Mat<float> y(x.rows(), layer_->rows());
    QuantizedInput input, path;
    for (int64_t at = 0; at < x.rows(); at += packed::kMaxTokens) {
      const int64_t count = std::min<int64_t>(packed::kMaxTokens, x.rows() - at);
      input.Set(kernels, x.view().Rows(at, count), layer_->InputFormFor({}));
      if (layer_->v() != nullptr) {
        Mat<float> t(count, layer_->v()->rows());
        MultiplyTiles(kernels, *layer_->v(), input, nullptr, 0, layer_->v()->tiles(), t.view());
        path.Set(kernels, t.view(), LowRankForm({}));
      }
      MultiplyTiles(kernels, *layer_, input, layer_->v() == nullptr ? nullptr : &path, 0, layer_->tiles(),
                    y.view().Rows(at, count));
    }
    return y;
  }

  test::TestContext test_;
  Context& context_ = test_.context;
  Linear linear_;
  Buffer bytes_;
  std::optional<PackedLinear> layer_;
};

TEST_F(PackedPrefillTest, BitsOfMultiplyTiles) {
  PackedPrefill prefill;
  for (const packed::KernelSet* kernels : SupportedPackedKernels()) {
    for (const int bits : {2, 3, 4, 8}) {
      for (const int64_t rank : {0, 24}) {
        SCOPED_TRACE(testing::Message() << kernels->name << ", " << bits << " bits, rank " << rank);
        Make(bits, 150, 96, rank);
        for (const int64_t tokens : {9, 16, 141}) {
          const Mat<float> x = RandomMat(tokens, 96, 1, 7);
          const Mat<float> expected = InEights(*kernels, x);
          for (const int threads : {1, 3}) {
            ThreadPool pool(threads);
            Mat<float> y(tokens, 150);
            const Status done =
                prefill.Multiply({&pool, BestIsa()}, *kernels, *layer_, x.view(), y.view(), {}, "w");
            ASSERT_TRUE(done.ok());
            EXPECT_TRUE(test::SameBits(y, expected)) << tokens << " tokens, " << threads << " threads";
          }
        }
      }
    }
  }
}

TEST_F(PackedPrefillTest, SaysWhereInputsAreNotFinite) {
  Make(4, 40, 64, 0);
  Mat<float> x = RandomMat(20, 64, 1, 7), y(20, 40);
  x(17, 63) = std::numeric_limits<float>::infinity();
  PackedPrefill prefill;
  const Status done = prefill.Multiply(context_, SelectPackedKernels(BestIsa()), *layer_, x.view(), y.view(),
                                       {}, "model: q_proj");
  ASSERT_FALSE(done.ok());
  EXPECT_THAT(done.error().message, HasSubstr("model: q_proj: the activations are not finite"));
}

}  // namespace
}  // namespace planish

// Rounding with feedback in the block types of GGUF.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "base/random.h"
#include "grids/gguf_decode.h"
#include "grids/gguf_encode.h"
#include "methods/options.h"
#include "methods/round/feedback.h"
#include "methods/stage.h"

namespace planish {
namespace {

using ::testing::HasSubstr;

std::vector<const char*> BlockNames() {
  std::vector<const char*> names;
  for (const NamedGrid& named : NamedGrids()) {
    if (named.grid.InBlocks()) names.push_back(named.name);
  }
  EXPECT_EQ(names.size(), 12u);
  return names;
}

Mat<float> BlockWeights(int64_t rows, int64_t cols) {
  Mat<float> w(rows, cols);
  const Random random(1);
  for (int64_t i = 0; i < rows * cols; ++i) w.data()[i] = 0.02f * static_cast<float>(random.Normal(i));
  return w;
}

// Neighbors alike and scales uneven: H_ij = s_i s_j 0.8^|i - j|, positive definite.
Mat<float> NeighborHessian(int64_t n) {
  Mat<float> h(n, n);
  const auto s = [](int64_t i) { return std::exp(std::sin(static_cast<double>(i))); };
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      h(i, j) = static_cast<float>(s(i) * s(j) * std::pow(0.8, std::abs(i - j)));
    }
  }
  return h;
}

class BlocksTest : public testing::Test {
 protected:
  BlocksTest() : pool_(2) { context_.pool = &pool_; }

  Rounded Feedback(const Context& context, const GridSpec& grid, const FeedbackOptions& options) {
    auto site = FactorSite(context, h_, grid.group, options);
    EXPECT_TRUE(site.ok());
    lambda_ = site->lambda;
    auto rounded = RoundWithFeedback(context, w_, *site, grid, options);
    EXPECT_TRUE(rounded.ok()) << rounded.error().message;
    return std::move(*rounded);
  }
  // tr(E (H + ridge) E^T) of the stored bytes.
  double LossOf(const GridSpec& grid, const Buffer& blocks, double ridge = 0) {
    Mat<float> w_hat(w_.rows(), w_.cols()), h(h_.rows(), h_.cols());
    const int64_t row_bytes = GgufRowBytes(grid.block_type, w_.cols());
    EXPECT_EQ(static_cast<int64_t>(blocks.size()), w_.rows() * row_bytes);
    for (int64_t i = 0; i < w_.rows(); ++i) {
      DecodeBlockRow(grid.block_type, blocks.data() + i * row_bytes, 0, w_.cols(), w_hat.row(i));
    }
    for (int64_t i = 0; i < h.rows(); ++i) {
      std::copy_n(h_.row(i), h.cols(), h.row(i));
      h(i, i) += static_cast<float>(ridge);
    }
    return LayerLoss(context_, w_, w_hat, h);
  }

  ThreadPool pool_;
  Context context_{.isa = BestIsa()};
  Mat<float> w_ = BlockWeights(70, 512), h_ = NeighborHessian(512);
  double lambda_ = 0;
};

// The reported loss is that of the bytes; feedback beats the nearest codes, and the refit never loses.
TEST_F(BlocksTest, LossesAreThoseOfTheStoredBytes) {
  for (const char* name : BlockNames()) {
    const GridSpec grid = *FindGrid(name);
    const auto nearest = RoundToNearest(context_, w_, h_, grid, ClipSearch::kWeighted);
    ASSERT_TRUE(nearest.ok()) << nearest.error().message;
    EXPECT_NEAR(nearest->loss, LossOf(grid, nearest->blocks), 1e-4 * nearest->loss);
    for (const bool dynamic : {false, true}) {
      SCOPED_TRACE(std::string(name) + (dynamic ? " dynamic" : ""));
      double before = 1e300;
      for (const int rounds : {0, 2}) {
        const FeedbackOptions options{.refit_rounds = rounds, .dynamic_groups = dynamic};
        const Rounded rounded = Feedback(context_, grid, options);
        EXPECT_NEAR(rounded.loss, LossOf(grid, rounded.blocks), 1e-3 * rounded.loss);
        // The encoder's Q8_0 rounds under the scale before it became a half, as the reference does.
        EXPECT_NEAR(rounded.loss_nearest, nearest->loss, 1e-2 * nearest->loss);
        EXPECT_LT(rounded.loss, 0.9 * nearest->loss);
        const double damped = LossOf(grid, rounded.blocks, lambda_);
        EXPECT_LE(damped, before * (1 + 1e-5));
        before = damped;
      }
    }
  }
}

// Nothing to feed back: the bytes are those of the importance-weighted encoder.
TEST_F(BlocksTest, DiagonalHessianGivesTheEncodersBytes) {
  std::vector<float> diag(512);
  for (int64_t i = 0; i < 512; ++i) {
    for (int64_t j = 0; j < 512; ++j) h_(i, j) *= i == j ? 1.0f : 0.0f;
    diag[static_cast<size_t>(i)] = h_(i, i);
  }
  for (const char* name : BlockNames()) {
    if (std::string_view(name) == "q8_0") continue;  // rounds under the scale before it became a half
    const GridSpec grid = *FindGrid(name);
    const Rounded rounded =
        Feedback(context_, grid, {.damping = 0, .refit_rounds = 0, .dynamic_groups = false});
    Buffer expected(rounded.blocks.size());
    EncodeBlocks(context_, grid.block_type, w_, diag, expected.data());
    int64_t different = 0;
    for (size_t i = 0; i < expected.size(); ++i) different += expected.data()[i] != rounded.blocks.data()[i];
    // Halfway cases may fall to the other side: one divides by the scale, the other multiplies by 1 / scale.
    EXPECT_LE(different, static_cast<int64_t>(expected.size()) / 1000) << name;
    EXPECT_NEAR(LossOf(grid, rounded.blocks), LossOf(grid, expected), 1e-5 * rounded.loss) << name;
  }
}

TEST_F(BlocksTest, SameBytesOnEveryInstructionSetAndThreadCount) {
  for (const char* name : {"q2_k", "q4_k", "iq4_xs", "q5_1"}) {
    const GridSpec grid = *FindGrid(name);
    const FeedbackOptions options{.refit_rounds = 1, .dynamic_groups = true};
    ThreadPool one(1);
    Context scalar;
    scalar.pool = &one;
    scalar.isa = Isa::kScalar;
    const Rounded expected = Feedback(scalar, grid, options);
    for (const Isa isa : {Isa::kAvx2, Isa::kAvx512}) {
      if (!IsaSupported(isa)) continue;
      for (const int threads : {1, 3}) {
        ThreadPool pool(threads);
        Context context;
        context.pool = &pool;
        context.isa = isa;
        const Rounded rounded = Feedback(context, grid, options);
        EXPECT_TRUE(std::ranges::equal(rounded.blocks.bytes(), expected.blocks.bytes())) << name;
        EXPECT_EQ(rounded.loss, expected.loss) << name;
      }
    }
  }
}

// Inputs that are always zero, rows of zeros, and a block of zeros.
TEST_F(BlocksTest, ZerosStayFinite) {
  for (int64_t j = 0; j < 512; ++j) {
    w_(3, j) = 0;
    if (j >= 256) w_(4, j) = 0;
    h_(7, j) = h_(j, 7) = 0;
  }
  for (const char* name : BlockNames()) {
    const GridSpec grid = *FindGrid(name);
    const Rounded rounded = Feedback(context_, grid, {.refit_rounds = 1, .dynamic_groups = true});
    std::vector<float> row(512);
    const int64_t row_bytes = GgufRowBytes(grid.block_type, 512);
    DecodeBlockRow(grid.block_type, rounded.blocks.data() + 3 * row_bytes, 0, 512, row.data());
    for (const float x : row) ASSERT_EQ(x, 0) << name;
    EXPECT_TRUE(std::isfinite(LossOf(grid, rounded.blocks))) << name;
  }
}

TEST_F(BlocksTest, RowsThatNoBlockFits) {
  w_ = BlockWeights(3, 40);
  h_ = NeighborHessian(40);
  const GridSpec grid = FitToRows(*FindGrid("q4_k"), 40);
  const auto site = FactorSite(context_, h_, grid.group, {});
  const auto rounded = RoundWithFeedback(context_, w_, *site, grid, {});
  ASSERT_FALSE(rounded.ok());
  EXPECT_THAT(rounded.error().message, HasSubstr("rows of 40 values are a multiple of no block"));
  EXPECT_FALSE(RoundToNearest(context_, w_, h_, grid, ClipSearch::kWeighted).ok());
}

// The unit of FP8 scales is one for the linears of a site: that of the largest weight, without what is kept
// apart and what no input reaches.
TEST_F(BlocksTest, LinearsOfASiteShareTheUnitOfFp8Scales) {
  for (const char* method : {"rtn", "gptq"}) {
    for (const double sparse : {0.0, 0.1}) {
      const SolveStage& stage = *FindStage(method);
      const auto options = ResolveOptions(stage, {{"grid", std::string("nvfp4")}, {"sparse", sparse}});
      const auto other = ResolveOptions(stage, {{"bits", int64_t{4}}});
      ASSERT_TRUE(options.ok() && other.ok());
      Mat<float> small = BlockWeights(32, 512), wide = BlockWeights(64, 512);
      for (int64_t k = 0; k < 32 * 512; ++k) small.data()[k] *= 0.02f;
      for (int64_t k = 0; k < 64 * 512; ++k) wide.data()[k] *= 100;
      small(3, 77) = 5;  // the outlier
      const auto site = FactorSite(context_, h_, 16, {});
      ASSERT_TRUE(site.ok());
      const SiteFactor* factor = stage.needs_factor ? &*site : nullptr;
      const std::vector<LayerProblem> problems = {
          {"w", w_, h_, factor}, {"small", small, h_, factor}, {"wide", wide, h_, factor}};
      const std::vector<Options> all = {*options, *options, *other};
      std::vector<LayerSolution> solutions(3);
      ASSERT_TRUE(stage.solve(context_, problems, all, solutions).ok());
      const auto unit_of = [&](size_t k) {
        const Matrix& m = solutions[k].matrix;
        return UnpackCodes(sparse > 0 ? std::get<SumPart>(m.body).terms.front() : m).units.front();
      };
      EXPECT_EQ(unit_of(0), unit_of(1)) << method;
      // A tenth of a percent leaves most of what is above three standard deviations of 0.02.
      const float largest = sparse > 0 ? LargestMagnitude(w_) : 5.0f;
      EXPECT_LE(sparse > 0 ? 0.06f : largest, unit_of(0) * 2688) << method;
      EXPECT_GT(largest, unit_of(0) * 1344) << method;
    }
  }
}

TEST(GridOptions, WhatAGridDoesNotHaveIsAnError) {
  const auto text = [](const char* s) { return OptionValue(std::string(s)); };
  const struct {
    std::map<std::string, OptionValue> given;
    const char* message;  // null: accepted
  } cases[] = {
      {{{"grid", text("q4_k")}}, nullptr},
      {{{"grid", text("q4_k")}, {"group", int64_t{64}}},
       "option 'group': 64 does not go with grid 'q4_k', a block type with groups and scales of its own; "
       "leave "
       "it at 128"},
      {{{"grid", text("iq4_nl")}, {"scale_bits", int64_t{6}}}, "option 'scale_bits': 6"},
      {{{"grid", text("q2_k")}, {"zero_bits", int64_t{4}}}, "option 'zero_bits': 4"},
      {{{"grid", text("q2_k")}, {"bits", int64_t{3}}}, "option 'bits': 3"},
      {{{"grid", text("q8_0")}, {"symmetric", true}}, "option 'symmetric': true"},
      {{{"grid", text("q8_0")}, {"search", text("minmax")}}, "option 'search': \"minmax\""},
      {{{"grid", text("mxfp4")}, {"group", int64_t{16}}}, "option 'group': 16 does not go with grid 'mxfp4'"},
      {{{"grid", text("nvfp4")}, {"scale_bits", int64_t{8}}}, "option 'scale_bits': 8"},
      {{{"grid", text("nf4")}, {"group", int64_t{32}}, {"scale_bits", int64_t{6}}}, nullptr},
      {{{"grid", text("nf4")}, {"zero_bits", int64_t{6}}}, "option 'zero_bits': 6"},
      {{{"grid", text("table3")}, {"tables", text("row")}, {"search", text("minmax")}}, nullptr},
      {{{"grid", text("table3")}, {"tables", text("row")}, {"group", int64_t{0}}, {"search", text("minmax")}},
       "option 'search': \"minmax\" does not go with grid 'table3', whose own tables have no scales"},
      {{{"grid", text("table3")}, {"tables", text("group")}, {"search", text("minmax")}}, "option 'search'"},
      {{{"bits", int64_t{4}}, {"zero_bits", int64_t{3}}},
       "option 'zero_bits': 3 bits do not reach every code of 4 bits, expected 0 or 4 to 8"},
      {{{"bits", int64_t{4}}, {"zero_bits", int64_t{6}}, {"symmetric", true}}, "option 'zero_bits': 6"},
      {{{"bits", int64_t{2}}, {"zero_bits", int64_t{6}}, {"group", int64_t{0}}}, nullptr},
  };
  for (const char* method : {"rtn", "gptq"}) {
    for (const auto& c : cases) {
      const auto options = ResolveOptions(*FindStage(method), c.given);
      EXPECT_EQ(options.ok(), c.message == nullptr);
      if (!options.ok() && c.message != nullptr) {
        EXPECT_THAT(options.error().message, HasSubstr(c.message));
      }
    }
  }
}

TEST(GridOptions, PolishIsAPartOfRefit) {
  const auto message = [](int64_t refit, bool polish) {
    const auto options = ResolveOptions(*FindStage("gptq"), {{"refit", refit}, {"polish", polish}});
    return options.ok() ? std::string("accepted") : options.error().message;
  };
  EXPECT_EQ(message(0, true), "accepted");
  EXPECT_EQ(message(1, false), "accepted");
  EXPECT_EQ(message(0, false),
            "option 'polish': false says nothing without rounds of 'refit'; leave it at true");
}

TEST(GridOptions, BlocksGiveWayToOnesThatFit) {
  const auto options = ResolveOptions(*FindStage("gptq"), {{"grid", std::string("q4_k")}});
  ASSERT_TRUE(options.ok());
  EXPECT_EQ(GridOfOptions(*options, 512).block_type, GgufType::kQ4_K);
  EXPECT_EQ(GridOfOptions(*options, 704).block_type, GgufType::kQ5_0);
  EXPECT_EQ(GridOfOptions(*options, 704).group, 32);
  EXPECT_EQ(GridBytes(GridOfOptions(*options, 704), 10, 704), 10 * 22 * 22);
}

}  // namespace
}  // namespace planish

#include "pipeline/compare_grids.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "base/file.h"
#include "calibrate/token_windows.h"
#include "formats/tokenizer.h"
#include "methods/options.h"
#include "methods/round/round_stages.h"
#include "pipeline/calibrate_model.h"

namespace planish {
namespace {

using ::testing::HasSubstr;

TEST(CompareGrids, TextsOfGridsReadBack) {
  for (const GridChoice& choice : AllGridChoices()) {
    EXPECT_EQ(CheckGrid(choice.grid), "") << choice.name;
    const auto back = ParseGridChoice(choice.name + (choice.grid.group == 0 ? " g0" : ""));
    ASSERT_TRUE(back.ok()) << back.error().message;
    EXPECT_EQ(back->grid, choice.grid) << choice.name;
  }
  const auto fine = ParseGridChoice("int3 s6 g48 z7");
  ASSERT_TRUE(fine.ok());
  EXPECT_EQ(fine->name, "int3 g48 s6 z7");
}

TEST(CompareGrids, MistakesInTextsAreNamed) {
  const auto message = [](const char* text) { return ParseGridChoice(text).error().message; };
  EXPECT_THAT(message("itn4"), HasSubstr("grid 'itn4': no such number format; did you mean 'int"));
  EXPECT_THAT(message("int4 q3"), HasSubstr("'q3': expected gN (group)"));
  EXPECT_THAT(message("int4 g"), HasSubstr("'g': expected gN"));
  EXPECT_THAT(message("int4 g99999999999999999999"), HasSubstr("expected gN"));
  EXPECT_THAT(message("int4 s9"), HasSubstr("scale_bits: expected 4 to 8, found 9"));
  EXPECT_THAT(message("mxfp4 g64"), HasSubstr("mxfp4 fixes its groups and scales"));
  EXPECT_THAT(message("nf4 row"), HasSubstr("tables: only grids table2 to table4"));
  EXPECT_THAT(message(""), HasSubstr("no such number format"));
  EXPECT_THAT(message("nf4 z8"), HasSubstr("grid 'nf4 z8': zN says nothing here: the grid has no zeros"));
  EXPECT_THAT(message("nf4 sym"), HasSubstr("sym says nothing here: the grid has no zeros"));
  EXPECT_THAT(message("int1 sym"), HasSubstr("int1 is symmetric"));
  EXPECT_THAT(message("int4 sym z6"),
              HasSubstr("zN says nothing here: a symmetric grid has no stored zeros"));
  EXPECT_THAT(message("table3 row g0 s6"),
              HasSubstr("sN says nothing here: tables of their own have no scales"));
  EXPECT_THAT(message("table3 each s6 g64"), HasSubstr("sN says nothing here"));
  EXPECT_THAT(message("int4 g64 g32"),
              HasSubstr("grid 'int4 g64 g32': 'g32': another part says this already"));
  EXPECT_THAT(message("int4 sym g64 sym"), HasSubstr("'sym': another part says this already"));
  EXPECT_THAT(message("int4 s5 z6 s5"), HasSubstr("'s5': another part"));
  EXPECT_THAT(message("int4 z5 z6"), HasSubstr("'z6': another part"));
  EXPECT_THAT(message("table4 row each"), HasSubstr("'each': another part"));
  EXPECT_THAT(message("table4 each g0"),
              HasSubstr("grid 'table4 each g0': g0 is the whole row; say row, or each with a group size"));
}

TEST(CompareGrids, TableMarksWhatNothingBeats) {
  const std::string table = GridTable({{"a", 3, 2, 1}, {"b", 4, 1, 0.5}, {"c", 4.5, 1, 0.6}});
  EXPECT_EQ(table,
            "grid                         bits      nearest         loss   ratio\n"
            "c                          4.5000   1.0000e+00   6.0000e-01   0.600\n"
            "b                          4.0000   1.0000e+00   5.0000e-01   0.500 *\n"
            "a                          3.0000   2.0000e+00   1.0000e+00   0.500 *\n");
}

// The demo model, whose rows are 256 long but for those of down_proj, 704.
class CompareGridsDemo : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    const std::string folder = PLANISH_SOURCE_DIR "/models/demo";
    const auto text = ReadTextFile(PLANISH_SOURCE_DIR "/models/text/sample.txt");
    const auto tokenizer = Tokenizer::Load(folder);
    auto model = LoadModel(folder);
    ASSERT_TRUE(text.ok() && tokenizer.ok() && model.ok());
    const auto tokens = (*tokenizer)->Encode(*text);
    ASSERT_TRUE(tokens.ok());
    const auto set = CalibrationSet::Make(*ChooseWindows(*tokens, 8, 64, 0));
    ThreadPool pool(2);
    auto statistics = CalibrateModel({.pool = &pool, .isa = BestIsa()}, *model, set, "", int64_t{1} << 30);
    ASSERT_TRUE(statistics.ok()) << statistics.error().message;
    model_ = std::move(*model);
    statistics_ = std::move(*statistics);
  }
  static void TearDownTestSuite() {
    model_ = {};
    statistics_ = {};
  }
  std::vector<GridResult> Compare(const std::vector<std::string>& texts, int refit) {
    std::vector<GridChoice> choices;
    for (const std::string& text : texts) {
      auto choice = ParseGridChoice(text);
      EXPECT_TRUE(choice.ok()) << text;
      choices.push_back(*choice);
    }
    FeedbackOptions options{.damping = 0.01, .refit_rounds = refit, .dynamic_groups = false};
    auto results = CompareGrids(context_, model_, statistics_, choices, LayerChoice::kSample, options);
    EXPECT_TRUE(results.ok()) << results.error().message;
    return std::move(*results);
  }

  ThreadPool pool_{2};
  Context context_{.pool = &pool_, .isa = BestIsa()};
  static inline Model model_;
  static inline StatisticsFile statistics_;
};

// 4 matrices of 256 columns in attention, 2 in the network, one of 704: bits by hand.
TEST_F(CompareGridsDemo, BitsAreExactAndLossesBelowNearest) {
  double narrow = 0, wide = 0, rows_narrow = 0, rows_wide = 0, linears = 0;
  for (size_t i = 0; i < model_.linears.size(); ++i) {
    const LinearSlot& slot = model_.program.linears[i];
    if (slot.weight.find("model.layers.2.") == std::string::npos) continue;
    const bool is_wide = slot.in == 704;
    (is_wide ? wide : narrow) += static_cast<double>(slot.in * slot.out);
    (is_wide ? rows_wide : rows_narrow) += static_cast<double>(slot.out);
    ++linears;
  }
  ASSERT_EQ(linears, 7);
  const double all = narrow + wide, rows = rows_narrow + rows_wide;
  const std::vector<std::string> texts = {"int2 g64", "int2 g64 s6 z6", "table3 row g0",
                                          "nvfp4",    "q2_k",           "bitmod3 g64"};
  const double bits[] = {2 + 18.0 / 64,
                         2 + 12.0 / 64 + 16 * rows / all,
                         3 + 16 * 8 * rows / all,
                         4.5 + (32 + 16 * 16) * linears / all,
                         (2.625 * narrow + 4.5 * wide) / all,
                         3 + 18.0 / 64 + 16 * 4 * 8 * linears / all};
  const std::vector<GridResult> results = Compare(texts, 0);
  ASSERT_EQ(results.size(), texts.size());
  for (size_t i = 0; i < texts.size(); ++i) {
    const GridResult& r = results[i];
    SCOPED_TRACE(texts[i]);
    EXPECT_EQ(r.layers, 7);
    EXPECT_NEAR(r.bits, bits[i], 8 * linears / all);  // a run of zeros or sets ends in a whole byte
    EXPECT_GT(r.loss, 0);
    EXPECT_LT(r.loss, r.nearest);
    EXPECT_LT(r.nearest, 1);
    EXPECT_EQ(r.SubstitutesText(), r.name == "q2_k" ? "iq4_nl in 1 of 7 layers" : "");
  }
  const OrderedJson json = GridResultsJson(results);
  EXPECT_EQ(json[0]["substitutes"], OrderedJson::object());
  EXPECT_EQ(json[4]["substitutes"], OrderedJson({{"iq4_nl", 1}}));
  EXPECT_EQ(json[4]["layers"], 7);
  EXPECT_THAT(GridTable(results), testing::ContainsRegex("\nq2_k .* iq4_nl in 1 of 7 layers\n"));
}

// A layer whose output is always zero is in no mean.
TEST_F(CompareGridsDemo, LayersWithoutOutputAreLeftOut) {
  const std::vector<Linear> before = model_.linears;
  auto linear = std::ranges::find_if(
      model_.linears, [](const Linear& l) { return l.name == "model.layers.2.self_attn.v_proj.weight"; });
  ASSERT_NE(linear, model_.linears.end());
  const GridResult all = Compare({"int4 g64"}, 0).front();
  const Mat<float> w = Reconstruct(linear->w);
  Mat<float> zeros(w.rows(), w.cols());
  zeros.Fill(0.0f);
  linear->w = DenseMatrix(zeros, DType::kBF16);
  const GridResult fewer = Compare({"int4 g64"}, 0).front();
  EXPECT_EQ(fewer.layers, 6);
  // The mean of seven is that of six and of the one alone.
  const Mat<float> h = statistics_.sites.at("model.layers.2.self_attn.q_proj.weight").MeanSquare();
  const GridSpec grid = ParseGridChoice("int4 g64")->grid;
  const auto rounded = RoundToNearest(context_, w, h, grid, ClipSearch::kWeighted);
  ASSERT_TRUE(rounded.ok());
  const double own = rounded->loss / LayerLoss(context_, w, zeros, h);
  EXPECT_NEAR(7 * all.nearest, 6 * fewer.nearest + own, 1e-3 * all.nearest);
  for (Linear& l : model_.linears) {
    Mat<float> none(l.w.rows, l.w.cols);
    none.Fill(0.0f);
    l.w = DenseMatrix(none, DType::kBF16);
  }
  const std::vector<GridChoice> choices = {*ParseGridChoice("int4 g64")};
  const auto nothing = CompareGrids(context_, model_, statistics_, choices, LayerChoice::kSample, {});
  ASSERT_FALSE(nothing.ok());
  EXPECT_EQ(nothing.error().message, "grids: the output of every layer is zero on this text");
  model_.linears = before;
}

// Refit gains on trained layers, most at two bits.
TEST_F(CompareGridsDemo, RefitGainsMostAtTwoBits) {
  const std::vector<std::string> texts = {"int2 g64", "int4 g64"};
  const auto without = Compare(texts, 0), with = Compare(texts, 1);
  EXPECT_LT(with[0].loss, 0.9 * without[0].loss);
  EXPECT_LT(with[1].loss, without[1].loss);
  EXPECT_LT(with[0].loss / without[0].loss, with[1].loss / without[1].loss);
}

// SqueezeLLM end to end: at equal bytes tables weighted by the inputs, with outliers apart, lose less than
// plain ones, which lose less than round to nearest.
TEST_F(CompareGridsDemo, WeightedTablesAndOutliersBeatPlainTablesAndIntegers) {
  double squeezed = 0, tables = 0, plain = 0, nearest = 0, nearest_of_plain = 0;
  for (const Site& site : BlockSites(model_.program, 3)) {
    const Mat<float> h = statistics_.sites.at(site.name).MeanSquare();
    const Mat<float> w = Reconstruct(model_.linears[static_cast<size_t>(site.linears.back())].w);
    Mat<float> w_hat(w.rows(), w.cols());
    w_hat.Fill(0.0f);
    const double energy = LayerLoss(context_, w, w_hat, h);
    const auto rtn = [&](std::map<std::string, OptionValue> given, int64_t& bytes) {
      const auto options = ResolveOptions(RtnStage(), given);
      EXPECT_TRUE(options.ok());
      const LayerProblem problem{"w", w, h};
      LayerSolution solution;
      EXPECT_TRUE(RtnStage().solve(context_, {&problem, 1}, {&*options, 1}, {&solution, 1}).ok());
      bytes = StoredBytes(solution.matrix);
      return LayerLoss(context_, w, Reconstruct(solution.matrix), h) / energy;
    };
    const std::map<std::string, OptionValue> row = {
        {"grid", std::string("table3")}, {"group", int64_t{0}}, {"tables", std::string("row")}};
    auto sparse = row;
    sparse["sparse"] = 0.45;
    int64_t with_outliers = 0, with_tables = 0, of_integers = 0;
    squeezed += rtn(sparse, with_outliers);
    tables += rtn(row, with_tables);
    GridMatrix even = FitGrid(context_, w, {}, ParseGridChoice("table3 row g0")->grid, ClipSearch::kWeighted);
    EncodeAll(context_, w, even);
    Decode(even, w_hat);
    plain += LayerLoss(context_, w, w_hat, h) / energy;
    // Integers of the range of a group, as few columns as do not take more bytes.
    const auto integers = [&](int64_t most) {
      int64_t group = 8;
      while (GridBytes({.bits = 3, .group = group}, w.rows(), w.cols()) > most) ++group;
      return rtn({{"bits", int64_t{3}}, {"group", group}, {"search", std::string("minmax")}}, of_integers);
    };
    nearest += integers(with_outliers);
    nearest_of_plain += integers(even.StoredBytes());
    EXPECT_EQ(with_tables, even.StoredBytes());
  }
  EXPECT_LT(squeezed, tables);
  EXPECT_LT(tables, plain);
  EXPECT_LT(plain, nearest_of_plain);
  EXPECT_LT(squeezed, nearest);
}

}  // namespace
}  // namespace planish

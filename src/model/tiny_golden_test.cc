// Random tiny models of every family against golden.json of their folders; models/tiny/README.md there states
// what each is for, and the tolerances used here.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "model/family_models.h"
#include "model/model_test_util.h"

namespace planish {
namespace {

using test::MaxAbs;
using test::MeanLoss;
using test::ModelFolder;
using test::OnePass;
using test::ReadJson;
using test::TestContext;
using test::Total;

class TinyGolden : public testing::TestWithParam<test::FamilyModel> {
 protected:
  void SetUp() override {
    const std::string folder = ModelFolder(GetParam().folder);
    golden_ = ReadJson(folder + "/golden.json");
    auto model = LoadModel(folder);
    ASSERT_TRUE(model.ok()) << model.error().message;
    model_ = std::move(model).value();
  }
  std::vector<int32_t> Ids(size_t sequence) const {
    return golden_["input_ids"][sequence].get<std::vector<int32_t>>();
  }
  Json golden_;
  Model model_;
};

TEST_P(TinyGolden, LogitsAndLoss) {
  TestContext run;
  for (size_t s = 0; s < golden_["input_ids"].size(); ++s) {
    SCOPED_TRACE(fmt::format("{}, sequence {}", GetParam().folder, s));
    const auto ids = Ids(s);
    const Mat<float> logits = OnePass(run.context, model_, ids);
    const double absmax = golden_["logits_absmax"][s].get<double>();
    EXPECT_NEAR(MaxAbs(logits), absmax, GetParam().logits * absmax);
    const auto last = golden_["logits_last"][s].get<std::vector<double>>();
    ASSERT_EQ(static_cast<int64_t>(last.size()), logits.cols());
    for (size_t j = 0; j < last.size(); ++j) {
      EXPECT_NEAR(logits(logits.rows() - 1, static_cast<int64_t>(j)), last[j], GetParam().logits * absmax)
          << j;
    }
    const double loss = golden_["loss"][s].get<double>();
    EXPECT_NEAR(MeanLoss(logits, ids), loss, 1e-5 * loss);
    EXPECT_NEAR(Total(logits), golden_["logits_sum"][s].get<double>(),
                1e-6 * absmax * static_cast<double>(logits.rows() * logits.cols()));
    const auto argmax = golden_["argmax_last32"][s].get<std::vector<int64_t>>();
    ASSERT_EQ(argmax.size(), 32u);
    for (size_t i = 0; i < argmax.size(); ++i) {
      const int64_t row = logits.rows() - 32 + static_cast<int64_t>(i);
      EXPECT_EQ(ArgMax({logits.row(row), static_cast<size_t>(logits.cols())}), argmax[i]) << row;
    }
  }
}

// Tokens that every expert of every layer served, in one pass over sequence 0.
std::map<std::string, std::vector<int64_t>> RouterCounts(const Context& context, const Model& model,
                                                         std::span<const int32_t> ids) {
  std::map<std::string, std::vector<int64_t>> counts;
  Executor executor(model);
  DenseCache cache(model.program.cache_layers, 1, static_cast<int64_t>(ids.size()));
  const Batch batch = Batch::Of(ids);
  Mat<float> hidden;
  const auto& blocks = model.program.blocks;
  for (size_t b = 0; b + 1 < blocks.size(); ++b) {
    Values values(blocks[b].values.size());
    if (blocks[b].input >= 0) values[static_cast<size_t>(blocks[b].input)] = std::move(hidden);
    for (int i = 0; i < static_cast<int>(blocks[b].ops.size()); ++i) {
      const Op& op = blocks[b].ops[static_cast<size_t>(i)];
      EXPECT_TRUE(executor.RunOps(context, blocks[b], i, i + 1, batch, cache, values).ok());
      if (!std::holds_alternative<GatherOp>(op.body)) continue;
      counts[std::to_string(b - 1)].push_back(values[static_cast<size_t>(op.output)].rows());
    }
    hidden = std::move(values[static_cast<size_t>(blocks[b].output)]);
  }
  return counts;
}

TEST_P(TinyGolden, RouterCounts) {
  TestContext run;
  const auto expected = golden_.contains("router_counts")
                            ? golden_["router_counts"].get<std::map<std::string, std::vector<int64_t>>>()
                            : std::map<std::string, std::vector<int64_t>>();
  EXPECT_EQ(RouterCounts(run.context, model_, Ids(0)), expected);
}

// The whole prefix again for every token, as the goldens were made.
TEST_P(TinyGolden, Greedy) {
  TestContext run;
  for (size_t s = 0; s < golden_["greedy"].size(); ++s) {
    const auto ids = Ids(s);
    std::vector<int32_t> text(ids.begin(), ids.begin() + golden_["greedy_prompt_tokens"].get<int>());
    for (const auto& next : golden_["greedy"][s]) {
      const Mat<float> step = OnePass(run.context, model_, text);
      const auto best = ArgMax({step.row(step.rows() - 1), static_cast<size_t>(step.cols())});
      EXPECT_EQ(best, next.get<int64_t>()) << GetParam().folder << ", sequence " << s;
      text.push_back(next.get<int32_t>());
    }
  }
}

// Token by token from the cache gives what one pass gives. Lengths that change the rotation are left out:
// there one pass is the definition and a cache is not the same.
TEST_P(TinyGolden, StepsAgreeWithOnePass) {
  TestContext run(BestIsa(), Profile::kFast, 1);
  const bool by_length = !model_.program.ropes.empty() && model_.program.ropes.front().longer_than > 0;
  auto ids = Ids(0);
  ids.resize(std::min<size_t>(ids.size(), by_length ? 48 : 64));
  const Mat<float> one = OnePass(run.context, model_, ids),
                   steps = test::StepByStep(run.context, model_, ids);
  EXPECT_LE(test::MaxDifference(one, 0, steps), 1e-5 * MaxAbs(one));
}

TEST_P(TinyGolden, SameBytesForAnyNumberOfThreads) {
  TestContext one(BestIsa(), Profile::kFast, 1), three(BestIsa(), Profile::kFast, 3);
  const auto ids = Ids(1);
  const Mat<float> a = OnePass(one.context, model_, ids), b = OnePass(three.context, model_, ids);
  EXPECT_EQ(std::memcmp(a.data(), b.data(), static_cast<size_t>(a.rows() * a.cols()) * sizeof(float)), 0);
}

INSTANTIATE_TEST_SUITE_P(Families, TinyGolden,
                         testing::ValuesIn(test::FamilyModels([](const test::FamilyModel& model) {
                           return std::string_view(model.folder).starts_with("tiny/");
                         })),
                         [](const auto& tested) { return test::NameOf(tested.param); });

}  // namespace
}  // namespace planish

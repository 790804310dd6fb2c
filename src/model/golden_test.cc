// Models against golden.json of their folders: outputs of an independent implementation in fp32, see
// models/README.md there for what must match and how well.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "formats/tokenizer.h"
#include "model/model_test_util.h"

namespace planish {
namespace {

using test::AllRows;
using test::MaxAbs;
using test::MaxDifference;
using test::MeanLoss;
using test::ModelFolder;
using test::OnePass;
using test::ReadJson;
using test::StepByStep;
using test::TestContext;
using test::Total;

// Ways to the same logits differ only in the order of fp32 sums.
constexpr double kSameLogits = 1e-4;

struct Golden {
  explicit Golden(const std::string& name) : json(ReadJson(ModelFolder(name) + "/golden.json")) {
    auto loaded = LoadModel(ModelFolder(name));
    EXPECT_TRUE(loaded.ok()) << (loaded.ok() ? "" : loaded.error().message);
    if (loaded.ok()) model = std::move(loaded).value();
  }
  std::vector<int32_t> Ids(size_t sequence) const {
    return json["sequences"][sequence]["ids"].get<std::vector<int32_t>>();
  }
  Json json;
  Model model;
};

// The largest logit must be the golden id's, or within 1e-4 of it.
void ExpectArgMax(const float* row, int64_t vocab, int32_t golden, const std::string& where) {
  const int64_t best = ArgMax({row, static_cast<size_t>(vocab)});
  EXPECT_LE(row[best] - row[golden], 1e-4) << where << ": " << best << " instead of " << golden;
}

void ExpectGoldenLogits(const Json& golden, const Mat<float>& logits, std::span<const int32_t> ids) {
  EXPECT_NEAR(MeanLoss(logits, ids), golden["nll"].get<double>(), 1e-4);
  const auto last = golden["last_logits"].get<std::vector<float>>();
  ASSERT_EQ(last.size(), 64u);
  for (size_t j = 0; j < last.size(); ++j)
    EXPECT_NEAR(logits(logits.rows() - 1, static_cast<int64_t>(j)), last[j], 2e-3) << j;
  const auto argmax = golden["argmax_last32"].get<std::vector<int32_t>>();
  ASSERT_EQ(argmax.size(), 32u);
  for (size_t i = 0; i < argmax.size(); ++i) {
    const int64_t row = logits.rows() - 32 + static_cast<int64_t>(i);
    ExpectArgMax(logits.row(row), logits.cols(), argmax[i], fmt::format("position {}", row));
  }
  // Rounding moves a logit by some 1e-6 of the largest; were all moved the same way, the sum would be off
  // by that times their number. models/tiny/README.md states the same bound.
  const double tolerance = 1e-6 * MaxAbs(logits) * static_cast<double>(logits.rows() * logits.cols());
  EXPECT_NEAR(Total(logits), golden["logit_sum"].get<double>(), tolerance);
}

// Sequence b in two runs, the second of them in one batch with all of sequence a.
void ExpectRaggedBatchAgrees(const Context& context, const Model& model, std::span<const int32_t> a,
                             std::span<const int32_t> b, const Mat<float>& logits_a,
                             const Mat<float>& logits_b) {
  constexpr int64_t kPrefix = 56;
  const auto rows_a = static_cast<int64_t>(a.size()), rows_b = static_cast<int64_t>(b.size());
  DenseCache cache(model.program.cache_layers, 2, std::max(rows_a, rows_b));
  Executor executor(model);
  Mat<float> prefix, logits;
  ASSERT_TRUE(
      Forward(context, model, executor, Batch::Of(b.first(kPrefix), 1), AllRows(kPrefix), cache, prefix)
          .ok());
  EXPECT_LE(MaxDifference(logits_b, 0, prefix), kSameLogits);
  Batch batch = Batch::Of(a, 0);
  batch.Add(b.subspan(kPrefix), 1, kPrefix);
  ASSERT_TRUE(Forward(context, model, executor, batch, AllRows(batch.rows()), cache, logits).ok());
  EXPECT_LE(MaxDifference(logits_a, 0, logits.view().Rows(0, rows_a)), kSameLogits);
  EXPECT_LE(MaxDifference(logits_b, kPrefix, logits.view().Rows(rows_a, rows_b - kPrefix)), kSameLogits);
}

void ExpectTokenIds(const std::string& name) {
  const Json json = ReadJson(ModelFolder(name) + "/golden.json");
  const auto tokenizer = Tokenizer::Load(ModelFolder(name));
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.error().message;
  ASSERT_EQ(json["tokenization"].size(), 15u);
  for (const Json& entry : json["tokenization"]) {
    const auto ids = (*tokenizer)->Encode(entry["text"].get<std::string>());
    ASSERT_TRUE(ids.ok()) << ids.error().message;
    EXPECT_EQ(*ids, entry["ids"].get<std::vector<int32_t>>()) << entry["text"];
    EXPECT_EQ((*tokenizer)->Decode(*ids), entry["decoded"].get<std::string>());
  }
  for (const Json& entry : json["generation"]) {
    const auto ids = (*tokenizer)->Encode(entry["prompt"].get<std::string>());
    ASSERT_TRUE(ids.ok()) << ids.error().message;
    EXPECT_EQ(*ids, entry["prompt_ids"].get<std::vector<int32_t>>()) << entry["prompt"];
    EXPECT_EQ((*tokenizer)->Decode(entry["greedy_ids"].get<std::vector<int32_t>>()),
              entry["text"].get<std::string>());
  }
}

// `steps`: how many of the sequences also go through the cache token by token.
void ExpectSequences(const std::string& name, size_t steps) {
  const Golden golden(name);
  TestContext run, single(BestIsa(), Profile::kFast, 1);  // steps of one token gain nothing from threads
  ASSERT_EQ(golden.json["sequences"].size(), 4u);
  std::vector<Mat<float>> logits;
  for (size_t s = 0; s < 4; ++s) {
    SCOPED_TRACE(fmt::format("{}, sequence {}", name, s));
    const auto ids = golden.Ids(s);
    logits.push_back(OnePass(run.context, golden.model, ids));
    ExpectGoldenLogits(golden.json["sequences"][s], logits.back(), ids);
    if (s >= steps) continue;
    const Mat<float> stepped = StepByStep(single.context, golden.model, ids);
    EXPECT_LE(MaxDifference(logits.back(), 0, stepped), kSameLogits);
    ExpectGoldenLogits(golden.json["sequences"][s], stepped, ids);
  }
  ExpectRaggedBatchAgrees(run.context, golden.model, golden.Ids(0), golden.Ids(1), logits[0], logits[1]);
}

// All prompts of golden.json side by side, each with a slot: one token of each a step.
void ExpectGreedyInBatch(const Context& context, const Golden& golden) {
  const Json& generation = golden.json["generation"];
  const auto count = static_cast<int64_t>(generation.size());
  DenseCache cache(golden.model.program.cache_layers, static_cast<int>(count), 256);
  Executor executor(golden.model);
  Mat<float> logits;
  Batch batch;
  std::vector<int64_t> last, lengths;
  for (int64_t i = 0; i < count; ++i) {
    const auto prompt = generation[static_cast<size_t>(i)]["prompt_ids"].get<std::vector<int32_t>>();
    batch.Add(prompt, static_cast<int32_t>(i), 0);
    last.push_back(batch.rows() - 1);
    lengths.push_back(static_cast<int64_t>(prompt.size()));
  }
  for (size_t step = 0; step < 32; ++step) {
    ASSERT_TRUE(Forward(context, golden.model, executor, batch, last, cache, logits).ok());
    batch = {};
    for (int64_t i = 0; i < count; ++i) {
      const auto id = generation[static_cast<size_t>(i)]["greedy_ids"][step].get<int32_t>();
      ExpectArgMax(logits.row(i), logits.cols(), id, fmt::format("prompt {}, step {}", i, step));
      batch.Add({&id, 1}, static_cast<int32_t>(i), lengths[static_cast<size_t>(i)]++);
      last[static_cast<size_t>(i)] = i;
    }
  }
}

void ExpectGreedy(const std::string& name) {
  const Golden golden(name);
  TestContext run, single(BestIsa(), Profile::kFast, 1);
  for (const Json& entry : golden.json["generation"]) {
    SCOPED_TRACE(fmt::format("{}: {}", name, entry["prompt"].get<std::string>()));
    auto ids = entry["prompt_ids"].get<std::vector<int32_t>>();
    const auto greedy = entry["greedy_ids"].get<std::vector<int32_t>>();
    ASSERT_EQ(greedy.size(), 32u);
    const auto prompt = static_cast<int64_t>(ids.size());
    ids.insert(ids.end(), greedy.begin(), greedy.end());
    const Mat<float> logits = OnePass(run.context, golden.model, ids);
    const Mat<float> stepped = StepByStep(single.context, golden.model, ids);
    for (size_t i = 0; i < greedy.size(); ++i) {
      const int64_t row = prompt + static_cast<int64_t>(i) - 1;
      ExpectArgMax(logits.row(row), logits.cols(), greedy[i], fmt::format("one pass, step {}", i));
      ExpectArgMax(stepped.row(row), stepped.cols(), greedy[i], fmt::format("by steps, step {}", i));
    }
  }
  ExpectGreedyInBatch(single.context, golden);
}

class GoldenTest : public testing::TestWithParam<const char*> {};

TEST_P(GoldenTest, Tokenizes) { ExpectTokenIds(GetParam()); }
TEST_P(GoldenTest, Sequences) { ExpectSequences(GetParam(), 1); }
TEST_P(GoldenTest, GreedyContinuations) { ExpectGreedy(GetParam()); }
TEST_P(GoldenTest, SlowEverySequenceByStep) { ExpectSequences(GetParam(), 4); }

INSTANTIATE_TEST_SUITE_P(Models, GoldenTest,
                         testing::Values("demo", "mistral", "qwen2", "qwen3", "gemma3", "opt", "gpt2", "moe"),
                         [](const auto& tested) { return std::string(tested.param); });

TEST(GoldenOfRef, Tokenizes) { ExpectTokenIds("ref"); }

TEST(GoldenOfRef, FirstSequence) {
  const Golden golden("ref");
  TestContext run;
  const auto ids = golden.Ids(0);
  ExpectGoldenLogits(golden.json["sequences"][0], OnePass(run.context, golden.model, ids), ids);
}

TEST(GoldenOfRef, SlowSequences) { ExpectSequences("ref", 4); }
TEST(GoldenOfRef, SlowGreedyContinuations) { ExpectGreedy("ref"); }

}  // namespace
}  // namespace planish

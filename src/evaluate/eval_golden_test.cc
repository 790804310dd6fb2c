// The evaluator on trained models against eval-golden.json: numbers of an independent implementation, with
// the tolerances that file states.
#include <gtest/gtest.h>

#include <cmath>

#include "base/file.h"
#include "base/json.h"
#include "evaluate/damage.h"
#include "evaluate/model_source.h"
#include "formats/tokenizer.h"

namespace planish {
namespace {

const char kModels[] = PLANISH_SHARED_DIR "/models/";

class EvalGolden : public testing::Test {
 protected:
  void SetUp() override {
    auto text = ReadTextFile(PLANISH_SHARED_DIR "/data/text/wikitext2-raw-test.txt");
    auto golden = ReadTextFile(std::string(kModels) + "eval-golden.json");
    auto tokenizer = Tokenizer::Load(std::string(kModels) + "demo");
    ASSERT_TRUE(text.ok() && golden.ok() && tokenizer.ok());
    text_ = *text;
    golden_ = *ParseJson(*golden);
    tokens_ = *(*tokenizer)->Encode(text_);
    tokenizer_ = *tokenizer;
    context_.pool = &pool_;
    context_.isa = BestIsa();
  }
  std::unique_ptr<Model> Load(const std::string& name) {
    auto model = LoadModel(kModels + name);
    EXPECT_TRUE(model.ok()) << model.error().message;
    return std::make_unique<Model>(std::move(model).value());
  }
  DamageReport Judge(const Model& model, const Model* reference, const std::vector<int32_t>& tokens,
                     const EvalOptions& options) {
    ModelSource source(model, options.context);
    std::unique_ptr<ModelSource> against;
    if (reference != nullptr) against = std::make_unique<ModelSource>(*reference, options.context);
    LogitSource* judged = &source;
    auto reports = Evaluate(context_, tokens, {&judged, 1}, against.get(), options);
    EXPECT_TRUE(reports.ok()) << reports.error().message;
    return reports->front();
  }
  ThreadPool pool_{2};
  Context context_;
  std::string text_;
  Json golden_;
  std::vector<int32_t> tokens_;
  std::shared_ptr<const Tokenizer> tokenizer_;
};

void ExpectRelative(double value, const Json& golden, double tolerance) {
  EXPECT_NEAR(value, golden.get<double>(), tolerance * std::abs(golden.get<double>()));
}

TEST_F(EvalGolden, ScreenPerplexityOfDemo) {
  const auto model = Load("demo");
  const DamageReport report = Judge(*model, nullptr, tokens_, {.set = EvalSet::kScreen});
  const Json& golden = golden_["demo"]["screen"];
  EXPECT_EQ(report.tokens, golden["scored"].get<int64_t>());
  ExpectRelative(report.perplexity, golden["perplexity"], 1e-4);
}

TEST_F(EvalGolden, StridedPerplexityOfDemo) {
  const Json& golden = golden_["demo"]["stride"];
  const auto characters = golden["characters"].get<int64_t>();
  size_t end = 0;  // the first `characters` code points
  for (int64_t seen = 0; end < text_.size(); ++end) {
    if ((static_cast<unsigned char>(text_[end]) & 0xc0) != 0x80 && seen++ == characters) break;
  }
  const auto ids = tokenizer_->Encode(text_.substr(0, end));
  ASSERT_TRUE(ids.ok());
  ASSERT_EQ(static_cast<int64_t>(ids->size()), golden["tokens_total"].get<int64_t>());
  const auto model = Load("demo");
  const DamageReport report = Judge(*model, nullptr, *ids, {.context = 512, .stride = 256});
  EXPECT_EQ(report.tokens, golden["scored"].get<int64_t>());
  ExpectRelative(report.perplexity, golden["perplexity"], 1e-4);
}

TEST_F(EvalGolden, DivergenceOfMistralFromDemo) {
  const auto reference = Load("demo"), other = Load("mistral");
  const DamageReport report = Judge(*other, reference.get(), tokens_, {.set = EvalSet::kScreen});
  const Json& golden = golden_["kl_demo_mistral"]["screen"];
  EXPECT_EQ(report.tokens, golden["positions"].get<int64_t>());
  ExpectRelative(*report.kl, golden["mean"], 1e-4);
  ExpectRelative(*report.kl_median, golden["median"], 1e-4);
  ExpectRelative(*report.kl_p99, golden["p99"], 1e-4);
  ExpectRelative(*report.kl_max, golden["max"], 1e-3);
  const auto positions = golden["positions"].get<double>();
  EXPECT_NEAR(*report.top1 * positions, golden["top1_same"].get<double>(), 2.0 + 1e-6);
  ExpectRelative(*report.dp_mean, golden["dp_mean"], 1e-4);
  ExpectRelative(*report.dp_rms, golden["dp_rms"], 1e-4);
  ExpectRelative(report.perplexity, golden["mistral_perplexity"], 1e-4);
}

TEST_F(EvalGolden, SlowFullPerplexityOfDemo) {
  const auto model = Load("demo");
  ExpectRelative(Judge(*model, nullptr, tokens_, {}).perplexity, golden_["demo"]["full"]["perplexity"], 1e-4);
}

TEST_F(EvalGolden, SlowScreenPerplexityOfRef) {
  const auto model = Load("ref");
  ExpectRelative(Judge(*model, nullptr, tokens_, {.set = EvalSet::kScreen}).perplexity,
                 golden_["ref"]["screen"]["perplexity"], 1e-4);
}

}  // namespace
}  // namespace planish

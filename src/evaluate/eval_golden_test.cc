// The evaluator over real models against models/eval-golden.json: figures of an independent implementation,
// whose 'note' has the definitions and the tolerances used here.
#include <gtest/gtest.h>

#include "evaluate/damage.h"
#include "evaluate/model_source.h"
#include "formats/text.h"
#include "formats/tokenizer.h"
#include "model/model_test_util.h"

namespace planish {
namespace {

using test::ModelFolder;
using test::ReadJson;
using test::TestContext;

std::string TestText() {
  auto text = LoadText(PLANISH_SHARED_DIR "/data/text/wikitext2-raw-test.txt");
  EXPECT_TRUE(text.ok()) << (text.ok() ? "" : text.error().message);
  return text.ok() ? *text : "";
}

std::vector<int32_t> Tokenize(const std::string& text) {
  const auto tokenizer = Tokenizer::Load(ModelFolder("demo"));
  EXPECT_TRUE(tokenizer.ok());
  const auto ids = (*tokenizer)->Encode(text);
  EXPECT_TRUE(ids.ok());
  return *ids;
}

// The first `count` code points.
std::string FirstCharacters(const std::string& text, int64_t count) {
  size_t end = 0;
  for (; end < text.size(); ++end) {
    const bool starts = (static_cast<unsigned char>(text[end]) & 0xc0) != 0x80;
    if (starts && count-- == 0) break;
  }
  return text.substr(0, end);
}

DamageReport Judge(const std::string& name, const std::string& reference, std::span<const int32_t> tokens,
                   const EvalOptions& options) {
  const TestContext run(BestIsa(), Profile::kFast, 0);
  const auto model = LoadModel(ModelFolder(name));
  EXPECT_TRUE(model.ok()) << (model.ok() ? "" : model.error().message);
  ModelSource source(*model, options.context);
  LogitSource* const models[] = {&source};
  std::optional<Model> reference_model;
  std::optional<ModelSource> reference_source;
  if (!reference.empty()) {
    reference_model = LoadModel(ModelFolder(reference)).value();
    reference_source.emplace(*reference_model, options.context);
  }
  auto reports =
      Evaluate(run.context, tokens, models, reference_source ? &*reference_source : nullptr, options);
  EXPECT_TRUE(reports.ok()) << (reports.ok() ? "" : reports.error().message);
  return reports.ok() ? reports->front() : DamageReport();
}

void ExpectRelative(double found, double golden, double tolerance) {
  EXPECT_NEAR(found / golden, 1, tolerance) << found << " instead of " << golden;
}

void ExpectPerplexity(const std::string& name, const char* set, const EvalOptions& options) {
  const Json golden = ReadJson(ModelFolder("eval-golden.json"))[name][set];
  std::string text = TestText();
  if (golden.contains("characters")) text = FirstCharacters(text, golden["characters"].get<int64_t>());
  const DamageReport report = Judge(name, "", Tokenize(text), options);
  EXPECT_EQ(report.tokens, golden["scored"].get<int64_t>());
  ExpectRelative(report.perplexity, golden["perplexity"].get<double>(), 1e-4);
}

TEST(EvalGoldenTest, TokensOfTheText) {
  const Json golden = ReadJson(ModelFolder("eval-golden.json"))["text"];
  const auto ids = Tokenize(TestText());
  ASSERT_EQ(ids.size(), golden["tokens_total"].get<size_t>());
  EXPECT_EQ(std::accumulate(ids.begin(), ids.end(), int64_t{0}), golden["ids_sum"].get<int64_t>());
  const auto first = golden["first_ids"].get<std::vector<int32_t>>();
  EXPECT_TRUE(std::equal(first.begin(), first.end(), ids.begin()));
  const auto last = golden["last_ids"].get<std::vector<int32_t>>();
  EXPECT_TRUE(std::equal(last.rbegin(), last.rend(), ids.rbegin()));
}

TEST(EvalGoldenTest, StrideOfDemo) { ExpectPerplexity("demo", "stride", {.context = 512, .stride = 256}); }

// The divergence of mistral from demo; on the way, the perplexities of both.
TEST(EvalGoldenTest, ScreenOfDemoAndMistral) {
  const Json golden = ReadJson(ModelFolder("eval-golden.json"));
  const Json& kl = golden["kl_demo_mistral"]["screen"];
  const DamageReport r = Judge("mistral", "demo", Tokenize(TestText()), {.set = EvalSet::kScreen});
  ASSERT_TRUE(r.kl && r.kl_median && r.kl_p99 && r.kl_max && r.top1 && r.dp_mean && r.dp_rms);
  const auto positions = kl["positions"].get<int64_t>();
  EXPECT_EQ(r.tokens, positions);
  ExpectRelative(r.perplexity, kl["mistral_perplexity"].get<double>(), 1e-4);
  ExpectRelative(r.reference_perplexity.value(), golden["demo"]["screen"]["perplexity"].get<double>(), 1e-4);
  ExpectRelative(*r.kl, kl["mean"].get<double>(), 1e-4);
  // Quantiles are averages of two positions at most: the bound of a single position's divergence holds.
  ExpectRelative(*r.kl_median, kl["median"].get<double>(), 1e-3);
  ExpectRelative(*r.kl_p99, kl["p99"].get<double>(), 1e-3);
  ExpectRelative(*r.kl_max, kl["max"].get<double>(), 1e-3);
  EXPECT_NEAR(*r.top1 * static_cast<double>(positions), kl["top1_same"].get<double>(), 2.001);
  // A probability moves by less than the 1e-4 by which losses may, and errors of both signs average out.
  EXPECT_NEAR(*r.dp_mean, kl["dp_mean"].get<double>(), 1e-5);
  ExpectRelative(*r.dp_rms, kl["dp_rms"].get<double>(), 1e-4);
}

TEST(EvalGoldenTest, SlowScreenOfRef) { ExpectPerplexity("ref", "screen", {.set = EvalSet::kScreen}); }

TEST(EvalGoldenTest, SlowFullTextOfDemo) { ExpectPerplexity("demo", "full", {}); }

}  // namespace
}  // namespace planish

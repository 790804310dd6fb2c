#include "evaluate/damage.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "base/random.h"

namespace planish {
namespace {

using testing::AllOf;
using testing::HasSubstr;

constexpr int64_t kVocab = 50;

// Logits of a made-up model: they depend on the last token, the position and (a little, by `damage`) on
// the model.
double SyntheticLogit(double damage, int32_t id, size_t position, int64_t column) {
  const auto index = static_cast<uint64_t>(id) * 1000003 + position * 1009 + static_cast<uint64_t>(column);
  return 2.5 * Random(7).Normal(index) + damage * Random(8).Normal(index);
}

class Synthetic : public LogitSource {
 public:
  explicit Synthetic(double damage, int64_t vocab = kVocab) : damage_(damage), vocab_(vocab) {}
  int64_t vocab_size() const override { return vocab_; }
  Status Logits(const Context&, std::span<const int32_t> ids, MatView<float> logits) override {
    ++calls;
    if (calls == fail_at_call) return FailureError("no memory");
    last_ids.assign(ids.begin(), ids.end());
    for (size_t i = 0; i < ids.size(); ++i) {
      for (int64_t v = 0; v < vocab_; ++v) {
        logits(static_cast<int64_t>(i), v) = static_cast<float>(SyntheticLogit(damage_, ids[i], i, v));
      }
    }
    if (calls == bad_call) logits(bad_row, 3) = bad_value;
    return {};
  }
  int calls = 0, fail_at_call = -1, bad_call = -1;
  int64_t bad_row = 0;
  float bad_value = std::numeric_limits<float>::quiet_NaN();
  std::vector<int32_t> last_ids;

 private:
  double damage_;
  int64_t vocab_;
};

// The same logits at every position.
class Constant : public LogitSource {
 public:
  explicit Constant(std::vector<float> logits) : logits_(std::move(logits)) {}
  int64_t vocab_size() const override { return static_cast<int64_t>(logits_.size()); }
  Status Logits(const Context&, std::span<const int32_t> ids, MatView<float> logits) override {
    for (size_t i = 0; i < ids.size(); ++i) {
      std::copy(logits_.begin(), logits_.end(), logits.row(static_cast<int64_t>(i)));
    }
    return {};
  }

 private:
  std::vector<float> logits_;
};

std::vector<int32_t> RandomText(int64_t n) {
  std::vector<int32_t> out;
  for (int64_t i = 0; i < n; ++i) {
    out.push_back(static_cast<int32_t>(Random(9).Below(static_cast<uint64_t>(i), kVocab)));
  }
  return out;
}

struct Direct {
  int64_t tokens = 0;
  double nll = 0, ref_nll = 0, kl = 0, dp = 0, dp_squared = 0;
  int64_t agreed = 0;
  std::vector<double> kls;
};

struct DirectRow {
  std::vector<double> log_probs;
  int64_t top = 0;
};

DirectRow MakeRow(double damage, int32_t id, size_t position) {
  DirectRow row;
  double sum = 0;
  for (int64_t v = 0; v < kVocab; ++v) {
    row.log_probs.push_back(SyntheticLogit(damage, id, position, v));
    sum += std::exp(row.log_probs.back());
  }
  row.top = std::max_element(row.log_probs.begin(), row.log_probs.end()) - row.log_probs.begin();
  for (double& x : row.log_probs) x -= std::log(sum);
  return row;
}

// Straight from the definition, in doubles, for scored tokens at (window start, text position).
Direct DirectDamage(const std::vector<int32_t>& text, const std::vector<std::pair<size_t, size_t>>& scored,
                    double damage, size_t bos) {
  Direct out;
  for (const auto& [start, position] : scored) {
    const size_t row = position - 1 - start + bos;
    const DirectRow ref = MakeRow(0, text[position - 1], row);
    const DirectRow model = MakeRow(damage, text[position - 1], row);
    const auto truth = static_cast<size_t>(text[position]);
    double kl = 0;
    for (size_t v = 0; v < kVocab; ++v)
      kl += std::exp(ref.log_probs[v]) * (ref.log_probs[v] - model.log_probs[v]);
    const double dp = std::exp(model.log_probs[truth]) - std::exp(ref.log_probs[truth]);
    out.tokens += 1;
    out.nll -= model.log_probs[truth];
    out.ref_nll -= ref.log_probs[truth];
    out.kl += kl;
    out.kls.push_back(kl);
    out.dp += dp;
    out.dp_squared += dp * dp;
    out.agreed += model.top == ref.top ? 1 : 0;
  }
  std::sort(out.kls.begin(), out.kls.end());
  return out;
}

void ExpectClose(const DamageReport& report, const Direct& direct) {
  const auto n = static_cast<double>(direct.tokens);
  // fp32 logits below 16 and their log-softmax are good to about 2e-6 absolute.
  constexpr double kLog = 4e-6;
  EXPECT_EQ(report.tokens, direct.tokens);
  EXPECT_NEAR(std::log(report.perplexity), direct.nll / n, kLog);
  EXPECT_NEAR(std::log(*report.reference_perplexity), direct.ref_nll / n, kLog);
  EXPECT_NEAR(*report.kl, direct.kl / n, kLog);
  EXPECT_NEAR(*report.kl_max, direct.kls.back(), kLog);
  EXPECT_NEAR(*report.kl_median, LinearQuantile(direct.kls, 0.5), kLog);
  EXPECT_NEAR(*report.kl_p99, LinearQuantile(direct.kls, 0.99), kLog);
  EXPECT_DOUBLE_EQ(*report.top1, static_cast<double>(direct.agreed) / n);
  EXPECT_NEAR(*report.dp_mean, direct.dp / n, kLog);
  EXPECT_NEAR(*report.dp_rms, std::sqrt(direct.dp_squared / n), kLog);
}

class EvaluateTest : public testing::Test {
 protected:
  Result<std::vector<DamageReport>> Run(std::vector<LogitSource*> models, LogitSource* reference,
                                        const EvalOptions& options) {
    return Evaluate(context_, text_, models, reference, options);
  }
  ThreadPool pool_{2};
  Context context_{.pool = &pool_, .isa = BestIsa()};
  std::vector<int32_t> text_ = RandomText(101);
};

TEST_F(EvaluateTest, MatchesTheDefinition) {
  Synthetic reference(0), small(0.05), large(1.0);
  const auto reports = Run({&small, &large}, &reference, {.context = 20});
  ASSERT_TRUE(reports.ok()) << reports.error().message;
  // Five windows of 20; the 101st token stands alone and is left out.
  std::vector<std::pair<size_t, size_t>> scored;
  for (size_t position = 0; position < 100; ++position) {
    if (position % 20 != 0) scored.emplace_back(position / 20 * 20, position);
  }
  ASSERT_EQ(reports->size(), 2u);
  ExpectClose((*reports)[0], DirectDamage(text_, scored, 0.05, 0));
  ExpectClose((*reports)[1], DirectDamage(text_, scored, 1.0, 0));
  EXPECT_EQ(reference.calls, 5);  // once for both models
  EXPECT_EQ((*reports)[0].isa, IsaName(BestIsa()));
  EXPECT_EQ((*reports)[0].profile, "fast");
}

TEST_F(EvaluateTest, StrideAndBosMatchTheDefinition) {
  Synthetic reference(0), model(0.3);
  const auto reports = Run({&model}, &reference, {.context = 20, .stride = 8, .bos = 5});
  ASSERT_TRUE(reports.ok()) << reports.error().message;
  std::vector<std::pair<size_t, size_t>> scored;
  for (size_t position = 1; position < 101; ++position) {
    // The first window that holds it: starts at multiples of 8, 20 tokens.
    scored.emplace_back(position < 20 ? 0 : (position - 20) / 8 * 8 + 8, position);
  }
  ExpectClose((*reports)[0], DirectDamage(text_, scored, 0.3, 1));
  EXPECT_EQ(model.last_ids.size(), 101u - 88 + 1);
  EXPECT_EQ(model.last_ids[0], 5);
  EXPECT_EQ(model.last_ids[1], text_[88]);
}

TEST_F(EvaluateTest, IntervalsComeFromWindowMeans) {
  Synthetic reference(0), model(0.3);
  const auto whole = Run({&model}, &reference, {.context = 50, .max_tokens = 100});
  ASSERT_TRUE(whole.ok());
  // Each half alone gives a window mean; two means m1, m2 have the interval mean -/+ t(1) |m1 - m2| / 2.
  const std::vector<int32_t> text = text_;
  std::vector<double> nll, kl;
  for (ptrdiff_t start : {0, 50}) {
    text_.assign(text.begin() + start, text.begin() + start + 50);
    const auto half = Run({&model}, &reference, {.context = 50});
    ASSERT_TRUE(half.ok());
    EXPECT_FALSE((*half)[0].perplexity_ci95);
    EXPECT_FALSE((*half)[0].kl_ci95);
    nll.push_back(std::log((*half)[0].perplexity));
    kl.push_back(*(*half)[0].kl);
  }
  const DamageReport& report = (*whole)[0];
  EXPECT_EQ(report.tokens, 98);
  constexpr double kT = 12.706204736174705;
  EXPECT_NEAR(std::log((*report.perplexity_ci95)[1]),
              (nll[0] + nll[1]) / 2 + kT * std::abs(nll[0] - nll[1]) / 2, 1e-9);
  EXPECT_NEAR(std::log((*report.perplexity_ci95)[0]),
              (nll[0] + nll[1]) / 2 - kT * std::abs(nll[0] - nll[1]) / 2, 1e-9);
  EXPECT_NEAR((*report.kl_ci95)[0], (kl[0] + kl[1]) / 2 - kT * std::abs(kl[0] - kl[1]) / 2, 1e-9);
  EXPECT_NEAR((*report.kl_ci95)[1], (kl[0] + kl[1]) / 2 + kT * std::abs(kl[0] - kl[1]) / 2, 1e-9);
}

TEST_F(EvaluateTest, TheSameModelHasNoDamage) {
  Synthetic reference(0), model(0);
  const auto reports = Run({&model}, &reference, {.context = 16});
  ASSERT_TRUE(reports.ok());
  const DamageReport& r = (*reports)[0];
  EXPECT_EQ(*r.kl, 0);
  EXPECT_EQ(*r.kl_max, 0);
  EXPECT_EQ(*r.top1, 1);
  EXPECT_EQ(*r.dp_mean, 0);
  EXPECT_EQ(*r.dp_rms, 0);
  EXPECT_EQ(r.perplexity, *r.reference_perplexity);
}

TEST_F(EvaluateTest, TiesGoToTheLowestToken) {
  for (int32_t& id : text_) id %= 4;
  Constant reference({0, 2, 2, 1});
  Constant first({0, 3, 1, 3}), second({0, 1, 3, 3});
  const auto reports = Run({&first, &second}, &reference, {.context = 16});
  ASSERT_TRUE(reports.ok());
  EXPECT_EQ(*(*reports)[0].top1, 1);  // 1 and 1
  EXPECT_EQ(*(*reports)[1].top1, 0);  // 1 and 2
}

TEST_F(EvaluateTest, UniformModelHasThePerplexityOfItsVocabulary) {
  Constant uniform(std::vector<float>(kVocab, -3.0f));
  const auto reports = Run({&uniform}, nullptr, {.context = 16});
  ASSERT_TRUE(reports.ok());
  EXPECT_NEAR((*reports)[0].perplexity, kVocab, 1e-4);
  EXPECT_FALSE((*reports)[0].kl || (*reports)[0].kl_ci95 || (*reports)[0].top1 ||
               (*reports)[0].reference_perplexity);
}

TEST_F(EvaluateTest, SameForAnyNumberOfThreads) {
  Synthetic reference(0), model(0.2);
  std::vector<std::string> texts;
  for (int threads : {1, 2, 7}) {
    ThreadPool pool(threads);
    context_.pool = &pool;
    auto reports = Run({&model}, &reference, {.context = 30});
    ASSERT_TRUE(reports.ok());
    (*reports)[0].seconds = 0;
    texts.push_back(DumpJson(ReportJson((*reports)[0])));
  }
  context_.pool = &pool_;
  EXPECT_EQ(texts[0], texts[1]);
  EXPECT_EQ(texts[0], texts[2]);
}

TEST_F(EvaluateTest, ScreenTakesThirtyTwoWindows) {
  text_ = RandomText(400);
  Synthetic model(0);
  const auto reports = Run({&model}, nullptr, {.context = 4, .set = EvalSet::kScreen});
  ASSERT_TRUE(reports.ok());
  EXPECT_EQ(model.calls, 32);
  EXPECT_EQ((*reports)[0].tokens, 32 * 3);
}

class CountingProgress : public ProgressSink {
 public:
  void Update(const std::string&, double done, double total, const std::string& unit) override {
    EXPECT_GT(done, last_done);
    EXPECT_EQ(unit, "tokens");
    last_done = done;
    last_total = total;
    if (cancel != nullptr && done >= 60) cancel->store(true);
  }
  void Note(const std::string&) override {}
  double last_done = 0, last_total = 0;
  std::atomic<bool>* cancel = nullptr;
};

TEST_F(EvaluateTest, ProgressCountsTokensAndCancelStops) {
  Synthetic reference(0), model(0.1);
  CountingProgress progress;
  context_.progress = &progress;
  ASSERT_TRUE(Run({&model}, &reference, {.context = 20}).ok());
  EXPECT_EQ(progress.last_done, 200);  // five windows of 20 tokens through two models
  EXPECT_EQ(progress.last_total, 200);

  std::atomic<bool> cancel = false;
  progress.last_done = 0;
  progress.cancel = &cancel;
  context_.cancel = &cancel;
  model.calls = 0;
  const auto reports = Run({&model}, &reference, {.context = 20});
  ASSERT_FALSE(reports.ok());
  EXPECT_EQ(reports.error().code, Code::kInterrupted);
  EXPECT_EQ(model.calls, 1);  // stopped after the reference's second window
}

TEST_F(EvaluateTest, RefusesWrongInput) {
  Synthetic reference(0), model(0), narrow(0, 40);
  const auto message = [&](std::vector<LogitSource*> models, LogitSource* ref, const EvalOptions& options) {
    const auto reports = Run(std::move(models), ref, options);
    EXPECT_FALSE(reports.ok());
    EXPECT_EQ(reports.error().code, Code::kInput);
    return reports.error().message;
  };
  EXPECT_THAT(message({&model, &narrow}, &reference, {}),
              AllOf(HasSubstr("model 2 of 2"), HasSubstr("40 tokens, the reference has 50")));
  text_[17] = 45;
  std::replace_if(
      text_.begin(), text_.begin() + 17, [](int32_t id) { return id >= 40; }, 0);
  EXPECT_THAT(message({&narrow}, nullptr, {}), HasSubstr("token 45 at position 17"));
  EXPECT_THAT(message({&model}, &reference, {.bos = 50}), HasSubstr("reference: BOS token 50"));
  EXPECT_THAT(message({&model}, nullptr, {.bos = -1}), HasSubstr("model 1 of 1: BOS token -1"));
  EXPECT_THAT(message({&model}, nullptr, {.max_tokens = -2}), HasSubstr("max_tokens -2"));
  EXPECT_THAT(message({&model}, nullptr, {.max_tokens = 1}), HasSubstr("text of 1 tokens"));
  EXPECT_THAT(message({&model}, nullptr, {.context = 1}), HasSubstr("context of 1"));
  text_[3] = -1;
  EXPECT_THAT(message({&model}, nullptr, {}), HasSubstr("token -1 at position 3"));
}

TEST_F(EvaluateTest, NamesTheSourceOfBadLogits) {
  const auto message = [&](std::vector<LogitSource*> models, LogitSource* ref) {
    const auto reports = Run(std::move(models), ref, {.context = 20});
    EXPECT_FALSE(reports.ok());
    EXPECT_EQ(reports.error().code, Code::kFailure);
    return reports.error().message;
  };
  {
    Synthetic reference(0), good(0.1), bad(0.2);
    bad.bad_call = 3;
    bad.bad_row = 6;  // scores the window's eighth token
    EXPECT_THAT(message({&good, &bad}, &reference),
                AllOf(HasSubstr("model 2 of 2: window 2 (tokens 40 to 59): position 47"),
                      HasSubstr("token 3 is nan")));
  }
  {
    Synthetic reference(0), good(0.1);
    reference.bad_call = 1;
    reference.bad_value = -std::numeric_limits<float>::infinity();
    EXPECT_THAT(message({&good}, &reference),
                HasSubstr("reference: window 0 (tokens 0 to 19): position 1: the logit"));
  }
  {
    Synthetic good(0.1);
    good.fail_at_call = 2;
    EXPECT_EQ(message({&good}, nullptr), "model 1 of 1: window 1 (tokens 20 to 39): no memory");
  }
  {
    // Finite logits whose difference is not.
    std::vector<float> logits(kVocab, -3e38f);
    logits[0] = 3e38f;
    std::fill(text_.begin(), text_.end(), 0);
    Constant uniform(std::vector<float>(kVocab, 0.0f)), extreme(logits);
    EXPECT_THAT(message({&extreme}, &uniform), HasSubstr("the divergence is inf"));
    text_[1] = 1;
    EXPECT_THAT(message({&extreme}, nullptr), HasSubstr("position 1: ln p of the true token is -inf"));
  }
}

TEST(DamageReport, JsonAndTable) {
  DamageReport r{.tokens = 7, .perplexity = 5.5, .perplexity_ci95 = Interval{5, 6}, .seconds = 1.5};
  r.profile = "fast";
  r.isa = "avx2";
  r.precision = "fp32";
  EXPECT_EQ(
      DumpJson(ReportJson(r)),
      R"({"tokens":7,"perplexity":5.5,"perplexity_ci95":[5.0,6.0],"reference_perplexity":null,"kl":null,)"
      R"("kl_ci95":null,"kl_median":null,"kl_p99":null,"kl_max":null,"top1":null,"dp_mean":null,"dp_rms":null,)"
      R"("bytes":null,"bits_per_weight":null,"linear_bits_per_weight":null,"seconds":1.5,"profile":"fast",)"
      R"("isa":"avx2","precision":"fp32"})");
  r.perplexity = std::numeric_limits<double>::infinity();
  EXPECT_TRUE(ReportJson(r)["perplexity"].is_null());
  r.perplexity = 5.5;
  r.top1 = 0.9871;
  r.bytes = 45600000;
  r.kl = 0.01234;
  const std::string table = ReportTable(std::vector{r, r}, std::vector<std::string>{"a", "longer name"});
  EXPECT_THAT(table, AllOf(HasSubstr("5.5000 +-0.5"), HasSubstr("98.71 %"), HasSubstr("45.6 MB"),
                           HasSubstr("0.01234"), HasSubstr("\nlonger name  "), HasSubstr("7 scored tokens")));
}

}  // namespace
}  // namespace planish

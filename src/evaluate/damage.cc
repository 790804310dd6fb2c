#include "evaluate/damage.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>

#include "base/check.h"
#include "math/divergence.h"
#include "math/nn.h"

namespace planish {

LogitSource::~LogitSource() = default;

namespace {

using Clock = std::chrono::steady_clock;

double Mean(double sum, int64_t count) { return sum / static_cast<double>(count); }

// The scored positions of one window under one source; memory is reused from window to window.
struct Scores {
  Mat<float> logits;               // [BOS and window, vocab]; the scored rows become log-probabilities
  MatView<const float> log_probs;  // the scored rows
  std::vector<int64_t> top;        // their largest logit
  std::vector<double> true_log_prob;
};

// Sums of one source over the windows so far.
struct Totals {
  std::vector<double> window_nll, window_kl;
  std::vector<double> kl;  // every position
  double dp = 0, dp_squared = 0;
  int64_t agreed = 0;
  double seconds = 0;
};

class Run {
 public:
  Run(const Context& context, std::span<const int32_t> tokens, const EvalOptions& options,
      std::vector<Window> windows, size_t num_models, bool has_reference)
      : context_(context),
        tokens_(tokens),
        options_(options),
        windows_(std::move(windows)),
        num_models_(num_models),
        has_reference_(has_reference) {
    for (const Window& window : windows_) {
      counts_.push_back(window.num_scored());
      num_scored_ += window.num_scored();
      tokens_to_run_ += window.length * static_cast<int64_t>(num_models + (has_reference ? 1 : 0));
    }
  }

  Result<std::vector<DamageReport>> Judge(std::span<LogitSource* const> models, LogitSource* reference);

 private:
  std::string SourceName(const LogitSource* reference, size_t model) const {
    return reference != nullptr ? "reference" : fmt::format("model {} of {}", model + 1, num_models_);
  }
  std::string Place(size_t w) const {
    return fmt::format("window {} (tokens {} to {})", w, windows_[w].start, windows_[w].end() - 1);
  }
  Status Score(LogitSource& source, size_t w, Scores& scores, Totals& totals);
  Status CheckFinite(size_t w, MatView<const float> rows) const;
  Status Compare(size_t w, const Scores& ref, const Scores& scores, Totals& totals);
  DamageReport Report(Totals& totals, const std::optional<Totals>& reference) const;
  void Advance(int64_t tokens) {
    tokens_run_ += tokens;
    if (context_.progress == nullptr) return;
    context_.progress->Update("evaluate", static_cast<double>(tokens_run_),
                              static_cast<double>(tokens_to_run_), "tokens");
  }

  const Context& context_;
  std::span<const int32_t> tokens_;
  const EvalOptions& options_;
  std::vector<Window> windows_;
  size_t num_models_;
  bool has_reference_;
  std::vector<int64_t> counts_;  // scored positions of each window
  int64_t num_scored_ = 0, tokens_to_run_ = 0, tokens_run_ = 0;
  std::vector<int32_t> ids_;
};

Status Run::CheckFinite(size_t w, MatView<const float> rows) const {
  std::vector<int64_t> bad(static_cast<size_t>(rows.rows));
  context_.pool->ParallelFor(rows.rows, [&](int64_t i) {
    bad[static_cast<size_t>(i)] = FindNonFinite({rows.row(i), static_cast<size_t>(rows.cols)});
  });
  for (int64_t i = 0; i < rows.rows; ++i) {
    const int64_t column = bad[static_cast<size_t>(i)];
    if (column < 0) continue;
    return FailureError(
        fmt::format("{}: position {}: the logit of token {} is {}, expected a finite number (weights that "
                    "are not finite, or "
                    "an overflow on the way: check the model's tensors)",
                    Place(w), windows_[w].first_scored + i, column, rows(i, column)));
  }
  return {};
}

// Runs one window through `source` and adds its -ln p.
Status Run::Score(LogitSource& source, size_t w, Scores& scores, Totals& totals) {
  const Window& window = windows_[w];
  ids_.clear();
  if (options_.bos) ids_.push_back(*options_.bos);
  const auto first = tokens_.begin() + window.start;
  ids_.insert(ids_.end(), first, first + window.length);

  const auto num_ids = static_cast<int64_t>(ids_.size());
  scores.logits.Resize(num_ids, source.vocab_size());
  const Status run = source.Logits(context_, ids_, scores.logits);
  if (!run.ok()) return run.error().At(Place(w));

  // Row i scores the token after ids_[i]: the last row is nobody's, and the row before a scored token
  // is the first of interest.
  const int64_t num_scored = window.num_scored();
  const MatView<float> rows = scores.logits.view().Rows(num_ids - 1 - num_scored, num_scored);
  PLANISH_RETURN_IF_ERROR(CheckFinite(w, rows));
  // Before the softmax, whose rounding could make ties.
  scores.top.resize(static_cast<size_t>(num_scored));
  context_.pool->ParallelFor(num_scored, [&](int64_t i) {
    scores.top[static_cast<size_t>(i)] = ArgMax({rows.row(i), static_cast<size_t>(rows.cols)});
  });
  LogSoftmax(context_, rows);
  scores.log_probs = rows;

  scores.true_log_prob.resize(static_cast<size_t>(num_scored));
  double nll = 0;
  for (int64_t i = 0; i < num_scored; ++i) {
    const auto log_prob = static_cast<double>(rows(i, tokens_[static_cast<size_t>(window.first_scored + i)]));
    if (!std::isfinite(log_prob)) {
      return FailureError(
          fmt::format("{}: position {}: ln p of the true token is {}: the logits span more than fp32 holds",
                      Place(w), window.first_scored + i, log_prob));
    }
    scores.true_log_prob[static_cast<size_t>(i)] = log_prob;
    nll -= log_prob;
  }
  totals.window_nll.push_back(nll);
  return {};
}

// Adds the window's differences between a model and the reference.
Status Run::Compare(size_t w, const Scores& ref, const Scores& scores, Totals& totals) {
  const auto num_scored = static_cast<size_t>(windows_[w].num_scored());
  const size_t before = totals.kl.size();
  totals.kl.resize(before + num_scored);
  const std::span<double> kl = std::span(totals.kl).subspan(before);
  KlRows(context_, ref.log_probs, scores.log_probs, kl);
  double kl_sum = 0, dp_sum = 0, dp_squared = 0;
  for (size_t i = 0; i < num_scored; ++i) {
    if (!std::isfinite(kl[i])) {
      return FailureError(
          fmt::format("{}: position {}: the divergence is {}: the logits span more than fp32 holds", Place(w),
                      windows_[w].first_scored + static_cast<int64_t>(i), kl[i]));
    }
    kl_sum += kl[i];
    const double dp = std::exp(scores.true_log_prob[i]) - std::exp(ref.true_log_prob[i]);
    dp_sum += dp;
    dp_squared += dp * dp;
    totals.agreed += scores.top[i] == ref.top[i] ? 1 : 0;
  }
  totals.window_kl.push_back(kl_sum);
  totals.dp += dp_sum;
  totals.dp_squared += dp_squared;
  return {};
}

DamageReport Run::Report(Totals& totals, const std::optional<Totals>& reference) const {
  DamageReport report;
  report.tokens = num_scored_;
  const MeanWithInterval nll = MeanOverWindows(totals.window_nll, counts_);
  report.perplexity = std::exp(nll.mean);
  if (nll.ci95) report.perplexity_ci95 = {std::exp((*nll.ci95)[0]), std::exp((*nll.ci95)[1])};
  if (reference) {
    report.reference_perplexity = std::exp(MeanOverWindows(reference->window_nll, counts_).mean);
    const MeanWithInterval kl = MeanOverWindows(totals.window_kl, counts_);
    report.kl = kl.mean;
    report.kl_ci95 = kl.ci95;
    std::sort(totals.kl.begin(), totals.kl.end());
    report.kl_median = LinearQuantile(totals.kl, 0.5);
    report.kl_p99 = LinearQuantile(totals.kl, 0.99);
    report.kl_max = totals.kl.back();
    report.top1 = Mean(static_cast<double>(totals.agreed), num_scored_);
    report.dp_mean = Mean(totals.dp, num_scored_);
    report.dp_rms = std::sqrt(Mean(totals.dp_squared, num_scored_));
  }
  report.seconds = totals.seconds;
  report.profile = ProfileName(context_.profile);
  report.precision = PrecisionName(context_.precision);
  report.isa = IsaName(context_.isa);
  return report;
}

Result<std::vector<DamageReport>> Run::Judge(std::span<LogitSource* const> models, LogitSource* reference) {
  std::vector<Totals> totals(models.size());
  std::optional<Totals> reference_totals;
  if (reference != nullptr) reference_totals.emplace();
  Scores reference_scores, scores;
  for (size_t w = 0; w < windows_.size(); ++w) {
    if (reference != nullptr) {
      PLANISH_RETURN_IF_ERROR(context_.CheckCancelled());
      const Status status = Score(*reference, w, reference_scores, *reference_totals);
      if (!status.ok()) return status.error().At(SourceName(reference, 0));
      Advance(windows_[w].length);
    }
    for (size_t m = 0; m < models.size(); ++m) {
      PLANISH_RETURN_IF_ERROR(context_.CheckCancelled());
      const Clock::time_point start = Clock::now();
      Status status = Score(*models[m], w, scores, totals[m]);
      if (status.ok() && has_reference_) status = Compare(w, reference_scores, scores, totals[m]);
      if (!status.ok()) return status.error().At(SourceName(nullptr, m));
      totals[m].seconds += std::chrono::duration<double>(Clock::now() - start).count();
      Advance(windows_[w].length);
    }
  }
  std::vector<DamageReport> reports;
  for (Totals& t : totals) reports.push_back(Report(t, reference_totals));
  return reports;
}

Status CheckVocabulary(const std::string& name, int64_t vocab_size, std::span<const int32_t> tokens,
                       std::optional<int32_t> bos) {
  if (bos && (*bos < 0 || *bos >= vocab_size)) {
    return InputError(
        fmt::format("{}: BOS token {} is outside its vocabulary of {} tokens", name, *bos, vocab_size));
  }
  const auto outside =
      std::find_if(tokens.begin(), tokens.end(), [&](int32_t id) { return id < 0 || id >= vocab_size; });
  if (outside == tokens.end()) return {};
  return InputError(
      fmt::format("{}: token {} at position {} of the text is outside its vocabulary of {} tokens "
                  "(was the text tokenized with another model's tokenizer?)",
                  name, *outside, outside - tokens.begin(), vocab_size));
}

}  // namespace

Result<std::vector<DamageReport>> Evaluate(const Context& context, std::span<const int32_t> tokens,
                                           std::span<LogitSource* const> models, LogitSource* reference,
                                           const EvalOptions& options) {
  if (options.max_tokens < 0) {
    return InputError(
        fmt::format("max_tokens {}: expected a count, or 0 for the whole text", options.max_tokens));
  }
  if (options.max_tokens > 0 && options.max_tokens < static_cast<int64_t>(tokens.size())) {
    tokens = tokens.first(static_cast<size_t>(options.max_tokens));
  }
  PLANISH_TRY(std::vector<Window> windows,
              MakeWindows(static_cast<int64_t>(tokens.size()), options.context, options.stride, options.set));
  if (reference != nullptr) {
    PLANISH_RETURN_IF_ERROR(CheckVocabulary("reference", reference->vocab_size(), tokens, options.bos));
  }
  for (size_t m = 0; m < models.size(); ++m) {
    const std::string name = fmt::format("model {} of {}", m + 1, models.size());
    PLANISH_CHECK(models[m] != nullptr) << name;
    const int64_t vocab_size = models[m]->vocab_size();
    if (reference != nullptr && vocab_size != reference->vocab_size()) {
      return InputError(
          fmt::format("{}: vocabulary of {} tokens, the reference has {}: only models with the same "
                      "tokenizer can be compared",
                      name, vocab_size, reference->vocab_size()));
    }
    PLANISH_RETURN_IF_ERROR(CheckVocabulary(name, vocab_size, tokens, options.bos));
  }
  Run run(context, tokens, options, std::move(windows), models.size(), reference != nullptr);
  return run.Judge(models, reference);
}

}  // namespace planish

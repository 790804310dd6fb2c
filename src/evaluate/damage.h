// The evaluator's definition: what perplexity, divergence and agreement of a model mean here,
// whatever computes its logits.
//
// The text is tokenized as one string without special tokens and cut into windows (windows.h); each
// is run alone, after a BOS token if one is asked for. A window's first text token is never scored as
// long as windows do not overlap, also when BOS stands before it: the same positions count for models
// with and without BOS. Logits are fp32, the log-softmax is fp32 with the maximum subtracted; sums
// are fp64, over the positions of a window in order, then over windows in order.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/context.h"
#include "base/json.h"
#include "base/result.h"
#include "evaluate/statistics.h"
#include "evaluate/windows.h"
#include "tensor/view.h"

namespace planish {

// Something that yields next-token logits: a model in any format on any device.
class LogitSource {
 public:
  virtual ~LogitSource();
  virtual int64_t vocab_size() const = 0;
  // Runs ids as one sequence from position 0 with an empty cache; row i of logits [ids.size(), vocab]
  // becomes the scores of the token after ids[i]. The view may be strided; every row is written.
  virtual Status Logits(const Context& context, std::span<const int32_t> ids, MatView<float> logits) = 0;
};

struct EvalOptions {
  int64_t context = 1024;      // text tokens a window; BOS comes on top
  int64_t stride = 0;          // 0: context
  std::optional<int32_t> bos;  // put before each window
  EvalSet set = EvalSet::kFull;
  int64_t max_tokens = 0;  // only the text's first tokens count; 0: all
};

// What one model does to a text, and, with a reference, how far it is from that. Intervals are 95 %,
// Student's over window means (statistics.h). Absent: no reference, fewer than two windows, or (the
// sizes) not filled in by the caller, who knows the model's file.
struct DamageReport {
  int64_t tokens = 0;                       // scored positions
  double perplexity = 0;                    // exp(mean of -ln p(true token))
  std::optional<Interval> perplexity_ci95;  // exp of the interval of the mean of -ln p
  std::optional<double> reference_perplexity;
  std::optional<double> kl;  // mean over positions of KL(reference || model), nats
  std::optional<Interval> kl_ci95;
  std::optional<double> kl_median, kl_p99, kl_max;  // over positions
  std::optional<double> top1;                       // share of positions with the same largest logit
  std::optional<double> dp_mean, dp_rms;            // of p(true) - p_ref(true)
  std::optional<int64_t> bytes;
  std::optional<double> bits_per_weight, linear_bits_per_weight;
  double seconds = 0;  // wall clock, of this model's logits and their comparison
  std::string profile, isa, precision;
};

// Judges all models on the same windows; the reference (may be null) runs once for all of them.
// Memory: one window's logits, [context + 1, vocab] fp32, twice when there is a reference.
// Progress counts tokens run through a model. The cancel flag is polled before each model's window.
// Errors: input - options MakeWindows refuses, a negative max_tokens, a token or BOS outside a
// vocabulary, a model whose vocabulary is not the reference's; failure - a logit that is NaN or
// infinite, a log-probability that overflows fp32 (both with model, window and position); and whatever
// Logits returns, with model and window in front.
Result<std::vector<DamageReport>> Evaluate(const Context& context, std::span<const int32_t> tokens,
                                           std::span<LogitSource* const> models, LogitSource* reference,
                                           const EvalOptions& options);

// Every field under its own name, in the order of the struct; null where absent or not finite.
OrderedJson ReportJson(const DamageReport& report);

// Plain text for people: a line a model under a heading; names[i] belongs to reports[i].
std::string ReportTable(std::span<const DamageReport> reports, std::span<const std::string> names);

}  // namespace planish

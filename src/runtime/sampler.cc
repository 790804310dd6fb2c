#include "runtime/sampler.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace planish {
namespace {

// Keeps draws apart from other uses of the same seed.
constexpr uint64_t kStream = 0x73616d706c6572;  // "sampler"

Error OutOfRange(const char* name, double found, const char* expected) {
  return InputError(fmt::format("sampling option {}: found {}, expected {}", name, found, expected));
}

}  // namespace

Result<Sampler> Sampler::Create(const SamplingOptions& o) {
  // Written so that NaN fails.
  if (!(o.repetition_penalty > 0 && std::isfinite(o.repetition_penalty))) {
    return OutOfRange("repetition_penalty", o.repetition_penalty, "a number above 0 (1: no penalty)");
  }
  if (!(o.temperature >= 0 && std::isfinite(o.temperature))) {
    return OutOfRange("temperature", o.temperature, "a number from 0 (0: always the likeliest token)");
  }
  if (o.top_k < 0) return OutOfRange("top_k", o.top_k, "a count (0: all tokens)");
  if (!(o.top_p > 0 && o.top_p <= 1))
    return OutOfRange("top_p", o.top_p, "a share above 0 up to 1 (1: all tokens)");
  if (!(o.min_p >= 0 && o.min_p <= 1))
    return OutOfRange("min_p", o.min_p, "a share from 0 to 1 (0: all tokens)");
  return Sampler(o);
}

Sampler::Sampler(const SamplingOptions& options) : options_(options), random_(options.seed, kStream) {}

// Fills candidates_ with the tokens that are not forbidden, ascending by id, penalty applied.
Status Sampler::LoadCandidates(std::span<const float> logits, std::span<const int32_t> history) {
  candidates_.resize(logits.size());
  for (size_t i = 0; i < logits.size(); ++i) {
    if (std::isnan(logits[i]) || logits[i] == HUGE_VALF) {
      return FailureError(
          fmt::format("logit of token {} is {}, expected a number or -inf (weights that are not "
                      "finite, or an overflow on the way: check the model's tensors)",
                      i, logits[i]));
    }
    candidates_[i] = {static_cast<int32_t>(i), static_cast<double>(logits[i])};
  }
  if (options_.repetition_penalty != 1) {
    for (int32_t id : history) {
      if (id < 0 || static_cast<size_t>(id) >= logits.size()) continue;
      // From the logit, not the candidate: a token seen twice is not punished twice.
      const auto logit = static_cast<double>(logits[static_cast<size_t>(id)]);
      candidates_[static_cast<size_t>(id)].value =
          logit > 0 ? logit / options_.repetition_penalty : logit * options_.repetition_penalty;
    }
  }
  std::erase_if(candidates_, [](const Candidate& c) { return c.value == -HUGE_VAL; });
  if (candidates_.empty()) {
    return FailureError(fmt::format("none of {} tokens is allowed: every logit is -inf", logits.size()));
  }
  return {};
}

void Sampler::KeepTopK() {
  const auto k = static_cast<size_t>(options_.top_k);
  if (k == 0 || k >= candidates_.size()) return;
  std::nth_element(candidates_.begin(), candidates_.begin() + static_cast<ptrdiff_t>(k), candidates_.end(),
                   [](const Candidate& a, const Candidate& b) {
                     return a.value != b.value ? a.value > b.value : a.id < b.id;
                   });
  candidates_.resize(k);
  // Sums over candidates must not depend on how nth_element left them.
  std::sort(candidates_.begin(), candidates_.end(),
            [](const Candidate& a, const Candidate& b) { return a.id < b.id; });
}

void Sampler::KeepTopP() {
  if (options_.top_p == 1) return;
  double total = 0;
  for (const Candidate& c : candidates_) total += c.value;
  std::stable_sort(candidates_.begin(), candidates_.end(),
                   [](const Candidate& a, const Candidate& b) { return a.value > b.value; });
  double sum = 0;
  size_t keep = 0;
  while (keep < candidates_.size() && sum < options_.top_p * total) sum += candidates_[keep++].value;
  candidates_.resize(std::max<size_t>(keep, 1));
  std::sort(candidates_.begin(), candidates_.end(),
            [](const Candidate& a, const Candidate& b) { return a.id < b.id; });
}

// Inverts the cumulative distribution over ascending ids.
int32_t Sampler::Draw(uint64_t step) {
  double total = 0;
  for (const Candidate& c : candidates_) total += c.value;
  const double target = random_.Uniform(step) * total;
  double sum = 0;
  int32_t last = candidates_.front().id;
  for (const Candidate& c : candidates_) {
    if (c.value == 0) continue;  // underflowed: never drawn
    sum += c.value;
    last = c.id;
    if (target < sum) break;
  }
  return last;
}

Result<int32_t> Sampler::Next(std::span<const float> logits, std::span<const int32_t> history,
                              uint64_t step) {
  PLANISH_RETURN_IF_ERROR(LoadCandidates(logits, history));
  // The first of the largest: the lowest id.
  const Candidate top =
      *std::max_element(candidates_.begin(), candidates_.end(),
                        [](const Candidate& a, const Candidate& b) { return a.value < b.value; });
  if (options_.temperature == 0) return top.id;
  KeepTopK();
  for (Candidate& c : candidates_) c.value = std::exp((c.value - top.value) / options_.temperature);
  KeepTopP();
  // Relative to the likeliest, whose value is 1.
  std::erase_if(candidates_, [&](const Candidate& c) { return c.value < options_.min_p; });
  return Draw(step);
}

}  // namespace planish

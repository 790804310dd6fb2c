#include "runtime/sampler.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "math/nn.h"

namespace planish {
namespace {

// Logits of a block, whose largest is kept.
constexpr size_t kBlock = 256;
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

// The logits, or a copy in which those of the history are punished.
std::span<const float> Sampler::Penalized(std::span<const float> logits, std::span<const int32_t> history) {
  if (options_.repetition_penalty == 1 || history.empty()) return logits;
  penalized_.assign(logits.begin(), logits.end());
  const auto penalty = static_cast<float>(options_.repetition_penalty);
  for (const int32_t id : history) {
    if (id < 0 || static_cast<size_t>(id) >= logits.size()) continue;
    // From the logit, not the copy: a token seen twice is not punished twice.
    const float logit = logits[static_cast<size_t>(id)];
    penalized_[static_cast<size_t>(id)] = logit > 0 ? logit / penalty : logit * penalty;
  }
  return penalized_;
}

// The largest of each block; checks every logit on the way.
Status Sampler::ScanBlocks(std::span<const float> logits) {
  block_max_.resize((logits.size() + kBlock - 1) / kBlock);
  for (size_t b = 0; b < block_max_.size(); ++b) {
    const auto block = logits.subspan(b * kBlock, std::min(kBlock, logits.size() - b * kBlock));
    // Without branches, so that it becomes vector code; `bad` sees NaN and +infinity.
    float largest = -HUGE_VALF;
    int bad = 0;
    for (const float x : block) {
      largest = x > largest ? x : largest;
      bad |= !(x < HUGE_VALF);
    }
    block_max_[b] = largest;
    if (bad == 0) continue;
    const auto at = std::find_if(block.begin(), block.end(), [](float x) { return !(x < HUGE_VALF); });
    return FailureError(
        fmt::format("logit of token {} is {}, expected a number or -inf (weights that are not "
                    "finite, or an overflow on the way: check the model's tensors)",
                    b * kBlock + static_cast<size_t>(at - block.begin()), *at));
  }
  return {};
}

// The first of the largest: the lowest id.
Sampler::Candidate Sampler::Largest(std::span<const float> logits) const {
  const auto block =
      static_cast<size_t>(std::max_element(block_max_.begin(), block_max_.end()) - block_max_.begin());
  const float largest = block_max_[block];
  const auto begin = logits.begin() + static_cast<ptrdiff_t>(block * kBlock);
  return {static_cast<int32_t>(std::find(begin, logits.end(), largest) - logits.begin()), largest};
}

// The k largest, ascending by id: a heap with the worst on top, blocks that cannot change it left out.
void Sampler::CollectTopK(std::span<const float> logits) {
  const auto k = static_cast<size_t>(options_.top_k);
  const auto better = [](const Candidate& a, const Candidate& b) {
    return a.value != b.value ? a.value > b.value : a.id < b.id;
  };
  candidates_.clear();
  for (size_t b = 0; b < block_max_.size(); ++b) {
    if (candidates_.size() == k && block_max_[b] <= candidates_.front().value) continue;
    const size_t end = std::min(logits.size(), (b + 1) * kBlock);
    for (size_t i = b * kBlock; i < end; ++i) {
      const Candidate candidate{static_cast<int32_t>(i), logits[i]};
      if (candidate.value == -HUGE_VALF) continue;
      if (candidates_.size() == k) {
        if (!better(candidate, candidates_.front())) continue;
        std::pop_heap(candidates_.begin(), candidates_.end(), better);
        candidates_.back() = candidate;
      } else {
        candidates_.push_back(candidate);
      }
      std::push_heap(candidates_.begin(), candidates_.end(), better);
    }
  }
  std::sort(candidates_.begin(), candidates_.end(),
            [](const Candidate& a, const Candidate& b) { return a.id < b.id; });
}

void Sampler::CollectAll(std::span<const float> logits) {
  candidates_.clear();
  for (size_t i = 0; i < logits.size(); ++i) {
    if (logits[i] != -HUGE_VALF) candidates_.push_back({static_cast<int32_t>(i), logits[i]});
  }
}

// Logits to probabilities relative to the likeliest token's.
void Sampler::Weigh(const Context& context, float largest) {
  const auto temperature = static_cast<float>(options_.temperature);
  exponents_.resize(candidates_.size());
  for (size_t i = 0; i < candidates_.size(); ++i)
    exponents_[i] = (candidates_[i].value - largest) / temperature;
  Exp(context, exponents_, exponents_);
  for (size_t i = 0; i < candidates_.size(); ++i) candidates_[i].value = exponents_[i];
}

// The likeliest whose share reaches p. Sorted in runs of doubling length: as a rule few tokens hold it.
void Sampler::KeepTopP() {
  double total = 0;
  for (const Candidate& c : candidates_) total += c.value;
  const auto likelier = [](const Candidate& a, const Candidate& b) {
    return a.value != b.value ? a.value > b.value : a.id < b.id;
  };
  double sum = 0;
  size_t keep = 0, sorted = 0;
  for (size_t run = 64; keep < candidates_.size() && sum < options_.top_p * total; run *= 2) {
    const size_t end = std::min(candidates_.size(), sorted + run);
    std::partial_sort(candidates_.begin() + static_cast<ptrdiff_t>(sorted),
                      candidates_.begin() + static_cast<ptrdiff_t>(end), candidates_.end(), likelier);
    sorted = end;
    while (keep < sorted && sum < options_.top_p * total) sum += candidates_[keep++].value;
  }
  candidates_.resize(std::max<size_t>(keep, 1));
  std::sort(candidates_.begin(), candidates_.end(),
            [](const Candidate& a, const Candidate& b) { return a.id < b.id; });
}

// Inverts the cumulative distribution over ascending ids.
int32_t Sampler::Draw(uint64_t step) const {
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

Result<int32_t> Sampler::Next(const Context& context, std::span<const float> raw_logits,
                              std::span<const int32_t> history, uint64_t step) {
  const std::span<const float> logits = Penalized(raw_logits, history);
  PLANISH_RETURN_IF_ERROR(ScanBlocks(logits));
  const Candidate top = logits.empty() ? Candidate{0, -HUGE_VALF} : Largest(logits);
  if (top.value == -HUGE_VALF) {
    return FailureError(fmt::format("none of {} tokens is allowed: every logit is -inf", logits.size()));
  }
  if (options_.temperature == 0) return top.id;
  if (options_.top_k > 0 && static_cast<size_t>(options_.top_k) < logits.size()) {
    CollectTopK(logits);
  } else {
    CollectAll(logits);
  }
  Weigh(context, top.value);
  if (options_.top_p < 1) KeepTopP();
  // Relative to the likeliest, whose value is 1.
  if (options_.min_p > 0) {
    std::erase_if(candidates_, [&](const Candidate& c) { return c.value < options_.min_p; });
  }
  return Draw(step);
}

}  // namespace planish

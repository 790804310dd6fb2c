// Chooses the next token from logits.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/context.h"
#include "base/random.h"
#include "base/result.h"

namespace planish {

// The repetition penalty is applied first, then the others in this order; the defaults sample from the
// model's own distribution.
struct SamplingOptions {
  double temperature = 1;  // >= 0: logits are divided by it; 0: always the largest logit
  int top_k = 0;           // keep the k largest; 0: all
  double top_p = 1;        // (0, 1]: keep the fewest of the largest whose share of what top_k left is >= p
  double min_p = 0;        // [0, 1]: keep tokens at least min_p times as likely as the likeliest
  double repetition_penalty = 1;  // > 0: logits of tokens seen are divided by it if positive, else multiplied
  uint64_t seed = 0;
};

// Equal logits rank by token id, the lower first. The token of a step depends only on options, logits,
// history and the step's number, not on earlier calls (random.h), so a generation repeats, and can be
// taken up in the middle. Keeps scratch memory: one thread at a time.
//
// The logits are read once, in blocks whose largest decides whether a block is looked at again: greedy and
// top_k cost about as much as reading them. Probabilities are fp32; tokens below 1e-38 of the likeliest are
// never drawn.
class Sampler {
 public:
  // Errors (input): an option outside the range above, or not a number.
  static Result<Sampler> Create(const SamplingOptions& options);

  // logits [vocab]; -infinity forbids a token. `history` holds the tokens the repetition penalty is
  // about (each counts once); ids outside the vocabulary are ignored.
  // Errors (failure): no logits, one that is NaN or +infinity, all forbidden.
  Result<int32_t> Next(const Context& context, std::span<const float> logits,
                       std::span<const int32_t> history, uint64_t step);

 private:
  explicit Sampler(const SamplingOptions& options);
  struct Candidate {
    int32_t id;
    float value;  // logit, then probability relative to the largest
  };
  std::span<const float> Penalized(std::span<const float> logits, std::span<const int32_t> history);
  Status ScanBlocks(std::span<const float> logits);
  Candidate Largest(std::span<const float> logits) const;
  void CollectTopK(std::span<const float> logits);
  void CollectAll(std::span<const float> logits);
  void Weigh(const Context& context, float largest);
  void KeepTopP();
  int32_t Draw(uint64_t step) const;

  SamplingOptions options_;
  Random random_;
  std::vector<float> penalized_, block_max_, exponents_;
  std::vector<Candidate> candidates_;
};

}  // namespace planish

// Token by token: prompt in one forward pass, then one token at a time from the cache.
#pragma once

#include <functional>
#include <vector>

#include "runtime/runner.h"
#include "runtime/sampler.h"

namespace planish {

struct GenerateOptions {
  int64_t max_tokens = 128;
  int64_t context = 0;  // cache positions of the runner
  SamplingOptions sampling;
  bool stop_at_eos = true;
  std::vector<int32_t> stop_ids;  // more ends than the model's own; they count as eos
  int64_t kept = 0;               // tokens of the prompt that slot 0 already holds; less than all
  uint64_t first_step = 0;        // the sampler's number of the first new token
};

struct GenerateResult {
  std::vector<int32_t> ids;  // new ones only
  bool hit_eos = false;      // the end token itself is not among the ids
  bool hit_context = false;  // stopped because the cache is full
  bool interrupted = false;  // by the context's cancel flag
  int64_t cached = 0;        // tokens of prompt and ids, from the first, that slot 0 now holds
  double prompt_seconds = 0, decode_seconds = 0;
};

// Cache positions for a prompt and max_tokens: what they need, at most the model's maximum.
int64_t ContextFor(const Program& program, int64_t prompt_tokens, int64_t max_tokens);

// Calls on_token for each new id; returning false stops. A cancelled context stops cleanly with what
// was made so far. The runner's slot 0 starts anew. Errors: an empty prompt, one longer than the context.
Result<GenerateResult> Generate(const Context& context, const Program& program, Runner& runner,
                                std::span<const int32_t> prompt, const GenerateOptions& options,
                                const std::function<bool(int32_t)>& on_token);

// How many tokens of `prompt` need not be run again when slot 0 holds `cached`: the common prefix, less than
// the whole prompt, or 0 where the cache cannot go back that far (sliding windows, state-space layers) or the
// rotation changes on the way (longrope).
int64_t ReusablePrefix(const Program& program, std::span<const int32_t> cached,
                       std::span<const int32_t> prompt);

}  // namespace planish

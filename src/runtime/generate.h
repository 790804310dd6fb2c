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
};

struct GenerateResult {
  std::vector<int32_t> ids;  // new ones only
  bool hit_eos = false;      // the end token itself is not among the ids
  bool hit_context = false;  // stopped because the cache is full
  double prompt_seconds = 0, decode_seconds = 0;
};

// Cache positions for a prompt and max_tokens: what they need, at most the model's maximum.
int64_t ContextFor(const Program& program, int64_t prompt_tokens, int64_t max_tokens);

// Calls on_token for each new id; returning false stops. A cancelled context stops cleanly with what
// was made so far. The runner's slot 0 starts anew. Errors: an empty prompt, one longer than the context.
Result<GenerateResult> Generate(const Context& context, const Program& program, Runner& runner,
                                std::span<const int32_t> prompt, const GenerateOptions& options,
                                const std::function<bool(int32_t)>& on_token);

}  // namespace planish

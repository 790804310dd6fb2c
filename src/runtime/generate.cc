#include "runtime/generate.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "model/rope.h"

namespace planish {
namespace {

double SecondsSince(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

int64_t ContextFor(const Program& program, int64_t prompt_tokens, int64_t max_tokens) {
  return std::min(program.max_positions, prompt_tokens + max_tokens);
}

Result<GenerateResult> Generate(const Context& context, const Program& program, Runner& runner,
                                std::span<const int32_t> prompt, const GenerateOptions& options,
                                const std::function<bool(int32_t)>& on_token) {
  if (prompt.empty()) return InputError("the prompt has no tokens; give some text, or --bos");
  const auto prompt_size = static_cast<int64_t>(prompt.size());
  const int64_t capacity = options.context;
  if (prompt_size > capacity) {
    return InputError(fmt::format("the prompt has {} tokens, the context holds {}", prompt_size, capacity));
  }
  PLANISH_TRY(Sampler sampler, Sampler::Create(options.sampling));
  std::vector<int32_t> history(prompt.begin(), prompt.end());
  GenerateResult result;
  Mat<float> logits;
  Batch batch = Batch::Of(prompt);
  int64_t last_row = prompt_size - 1;
  auto start = std::chrono::steady_clock::now();
  while (static_cast<int64_t>(result.ids.size()) < options.max_tokens) {
    const Status done = runner.Forward(context, batch, {&last_row, 1}, logits);
    if (!done.ok()) {
      if (done.error().code == Code::kInterrupted) break;
      return done.error();
    }
    PLANISH_TRY(const int32_t id, sampler.Next(context, {logits.row(0), static_cast<size_t>(logits.cols())},
                                               history, static_cast<uint64_t>(result.ids.size())));
    if (result.ids.empty()) {
      result.prompt_seconds = SecondsSince(start);
      start = std::chrono::steady_clock::now();
    }
    if (options.stop_at_eos && std::ranges::find(program.eos_ids, id) != program.eos_ids.end()) {
      result.hit_eos = true;
      break;
    }
    result.ids.push_back(id);
    history.push_back(id);
    if (!on_token(id)) break;
    const int64_t position = static_cast<int64_t>(history.size()) - 1;
    if (position >= capacity) {
      result.hit_context = static_cast<int64_t>(result.ids.size()) < options.max_tokens;
      break;
    }
    // Where longrope takes its other frequencies, the keys of all tokens are made again with them.
    const bool anew = RotatesAnewAt(program, position + 1);
    batch = anew ? Batch::Of(history) : Batch::Of({&id, 1}, 0, position);
    last_row = batch.rows() - 1;
  }
  result.decode_seconds = SecondsSince(start);
  return result;
}

}  // namespace planish

#include "runtime/generate.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <variant>

#include "base/check.h"
#include "model/rope.h"

namespace planish {
namespace {

double SecondsSince(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// The least sliding window of the program's attention; 0: none slides.
int64_t LeastWindow(const Program& program) {
  int64_t least = 0;
  for (const Block& block : program.blocks) {
    for (const Op& op : block.ops) {
      const auto* attention = std::get_if<AttentionOp>(&op.body);
      const int64_t window = attention == nullptr ? 0 : attention->shape.window;
      if (window > 0) least = least == 0 ? window : std::min(least, window);
    }
  }
  return least;
}

bool IsLong(const RopeTable& rope, int64_t length) {
  return !rope.long_inv_freq.empty() && length > rope.longer_than;
}

// True when a pass that stopped in the middle leaves the tokens before it as they were.
bool OutlivesInterruption(const Program& program) {
  return program.states == 0 && LeastWindow(program) == 0 &&
         std::ranges::all_of(program.ropes, [](const RopeTable& rope) { return rope.long_inv_freq.empty(); });
}

}  // namespace

int64_t ReusablePrefix(const Program& program, std::span<const int32_t> cached,
                       std::span<const int32_t> prompt) {
  const auto held = static_cast<int64_t>(cached.size()), size = static_cast<int64_t>(prompt.size());
  const auto common = static_cast<int64_t>(std::ranges::mismatch(cached, prompt).in1 - cached.begin());
  const int64_t kept = std::min(common, size - 1);  // the last one is run for its logits
  if (kept <= 0) return 0;
  if (kept < held && program.states > 0) return 0;
  const int64_t window = LeastWindow(program);
  if (kept < held && window > 0 && held > window) return 0;
  const bool rotates_anew = std::ranges::any_of(
      program.ropes, [&](const RopeTable& rope) { return IsLong(rope, held) != IsLong(rope, size); });
  return rotates_anew ? 0 : kept;
}

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
  PLANISH_CHECK(options.kept >= 0 && options.kept < prompt_size) << options.kept;
  result.cached = options.kept;
  Batch batch = Batch::Of(prompt.subspan(static_cast<size_t>(options.kept)), 0, options.kept);
  int64_t last_row = batch.rows() - 1;
  auto start = std::chrono::steady_clock::now();
  while (static_cast<int64_t>(result.ids.size()) < options.max_tokens) {
    const Status done = runner.Forward(context, batch, {&last_row, 1}, logits);
    if (!done.ok()) {
      if (done.error().code != Code::kInterrupted) return done.error();
      result.interrupted = true;
      if (!OutlivesInterruption(program)) result.cached = 0;
      break;
    }
    result.cached = static_cast<int64_t>(history.size());
    PLANISH_TRY(const int32_t id,
                sampler.Next(context, {logits.row(0), static_cast<size_t>(logits.cols())}, history,
                             options.first_step + static_cast<uint64_t>(result.ids.size())));
    if (result.ids.empty()) {
      result.prompt_seconds = SecondsSince(start);
      start = std::chrono::steady_clock::now();
    }
    const auto is_in = [id](const std::vector<int32_t>& ids) {
      return std::ranges::find(ids, id) != ids.end();
    };
    if (options.stop_at_eos && (is_in(program.eos_ids) || is_in(options.stop_ids))) {
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

// How a text is cut into the windows a model is judged on.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace planish {

// full    every window of the text
// screen  32 windows spread evenly over it (all of them when there are no more), for quick looks
enum class EvalSet { kFull, kScreen };
inline constexpr int64_t kScreenWindows = 32;

std::string_view EvalSetName(EvalSet set);
std::optional<EvalSet> ParseEvalSet(std::string_view name);

// Tokens [start, start + length) run alone, with an empty cache and positions from 0; the tokens at
// [first_scored, start + length) of the text count. All three are positions in the text.
struct Window {
  int64_t start = 0;
  int64_t length = 0;
  int64_t first_scored = 0;

  int64_t end() const { return start + length; }
  int64_t num_scored() const { return end() - first_scored; }
  bool operator==(const Window&) const = default;
};

// Windows of up to `context` tokens start at multiples of `stride` (0: context) until one reaches the
// end; one that would have a single token is left out. A token is scored in the first window that
// holds it with another before it: with stride = context every token but a window's first, with
// stride < context every token but the text's first. The screen set takes the windows
// floor((j + 1/2) n / 32), j = 0..31, of the n windows.
// Errors (input): context < 2, stride outside [0, context], fewer than 2 tokens.
Result<std::vector<Window>> MakeWindows(int64_t num_tokens, int64_t context, int64_t stride, EvalSet set);

}  // namespace planish

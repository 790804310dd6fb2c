#include "evaluate/windows.h"

#include <fmt/format.h>

#include <algorithm>

namespace planish {
namespace {

struct SetInfo {
  EvalSet set;
  std::string_view name;
};
constexpr SetInfo kSets[] = {{EvalSet::kFull, "full"}, {EvalSet::kScreen, "screen"}};

std::vector<Window> EvenlySpread(const std::vector<Window>& windows) {
  const auto n = static_cast<int64_t>(windows.size());
  if (n <= kScreenWindows) return windows;
  std::vector<Window> out;
  for (int64_t j = 0; j < kScreenWindows; ++j) {
    // (2 j + 1) n without overflow: n is a count of windows in memory.
    out.push_back(windows[static_cast<size_t>((2 * j + 1) * n / (2 * kScreenWindows))]);
  }
  return out;
}

}  // namespace

std::string_view EvalSetName(EvalSet set) { return kSets[static_cast<int>(set)].name; }

std::optional<EvalSet> ParseEvalSet(std::string_view name) {
  for (const auto& info : kSets) {
    if (info.name == name) return info.set;
  }
  return std::nullopt;
}

Result<std::vector<Window>> MakeWindows(int64_t num_tokens, int64_t context, int64_t stride, EvalSet set) {
  if (context < 2) {
    return InputError(
        fmt::format("evaluation context of {} tokens: expected at least 2 (1024 is usual)", context));
  }
  if (stride < 0 || stride > context) {
    return InputError(fmt::format(
        "evaluation stride {}: expected 1 to {} (the context), or 0 for windows that do not overlap", stride,
        context));
  }
  if (num_tokens < 2) {
    return InputError(
        fmt::format("text of {} tokens: at least 2 are needed to score one (an empty file?)", num_tokens));
  }
  if (stride == 0) stride = context;
  std::vector<Window> windows;
  int64_t previous_end = 0;
  for (int64_t start = 0; previous_end < num_tokens; start += stride) {
    const int64_t length = std::min(context, num_tokens - start);
    if (length >= 2) windows.push_back({start, length, std::max(start + 1, previous_end)});
    previous_end = start + length;
  }
  return set == EvalSet::kScreen ? EvenlySpread(windows) : windows;
}

}  // namespace planish

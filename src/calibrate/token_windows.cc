#include "calibrate/token_windows.h"

#include <fmt/format.h>

#include "base/random.h"

namespace planish {

Result<std::vector<std::vector<int32_t>>> ChooseWindows(std::span<const int32_t> tokens, int64_t windows,
                                                        int64_t length, uint64_t seed) {
  const auto count = static_cast<int64_t>(tokens.size());
  if (windows < 1 || length < 2) {
    return InputError(
        fmt::format("calibration: expected at least 1 window of 2 tokens, found {} of {}", windows, length));
  }
  if (count < length) {
    return InputError(fmt::format(
        "calibration: {}, too few for one window of {}; give more text, or shorter windows with --context",
        count == 0 ? "the text is empty" : fmt::format("the text has {} tokens", count), length));
  }
  if (count / length < windows) {
    return InputError(fmt::format(
        "calibration: the text has {} tokens, too few for {} windows of {}; give more text, or at most "
        "{} windows",
        count, windows, length, count / length));
  }
  constexpr uint64_t kStream = 0x77696e646f77;  // apart from every other use of the seed
  const Random random(seed, kStream);
  std::vector<std::vector<int32_t>> chosen;
  for (int64_t i = 0; i < windows; ++i) {
    const int64_t begin = i * count / windows, end = (i + 1) * count / windows;
    const int64_t slack = end - begin - length;
    const int64_t shift =
        slack > 0
            ? static_cast<int64_t>(random.Below(static_cast<uint64_t>(i), static_cast<uint64_t>(slack + 1)))
            : 0;
    const auto first = tokens.begin() + begin + shift;
    chosen.emplace_back(first, first + length);
  }
  return chosen;
}

}  // namespace planish

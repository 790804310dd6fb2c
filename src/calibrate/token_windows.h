// Which stretches of a calibration text are used.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/result.h"

namespace planish {

// `windows` stretches of `length` tokens, spread over the whole text: the text is cut into equal
// strata and each gets one window at a place drawn from the seed, so windows never overlap. Errors
// (input): an empty text, or one shorter than windows * length.
Result<std::vector<std::vector<int32_t>>> ChooseWindows(std::span<const int32_t> tokens, int64_t windows,
                                                        int64_t length, uint64_t seed);

}  // namespace planish

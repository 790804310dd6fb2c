// Where the search for the nearest of many levels begins.
#pragma once

#include <span>
#include <vector>

#include "grids/fit.h"

namespace planish {

// A guide to ascending levels, the same for all rows. By the first bits of a number (its float's bits shifted
// right by `shift`): the least code that it can have. Its nearest level is at most `steps` codes further
// among the first `distinct`; the others repeat the last of these, and what is above has the last code of
// all. So a search is one look-up and `steps` comparisons, of which a minifloat's numbers need one or two.
// Holds also for x / s when levels and numbers are scaled by s, whatever is rounded on the way.
class LevelGuide {
 public:
  LevelGuide() = default;
  // None for few levels, which are compared one by one, and where halving them takes no more comparisons.
  explicit LevelGuide(std::span<const float> levels);
  GuideView view() const { return {start_.empty() ? nullptr : start_.data(), shift_, steps_, distinct_}; }

 private:
  std::vector<float> start_;  // whole numbers, for gathers
  int shift_ = 0, steps_ = 0, distinct_ = 0;
};

}  // namespace planish

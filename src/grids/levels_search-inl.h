// The nearest of ascending levels by their midpoints, lane by lane. Included by kernel files only.
#pragma once

#include "grids/fit.h"
#include "grids/lanes-inl.h"

namespace planish {
namespace {

// Up to this many levels comparing with every midpoint is faster: three operations each, where a step of the
// search gathers, about as long as a dozen of them.
constexpr int kMostCompared = 32;

alignas(64) constexpr float kLane[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

// How many of midpoints 1 to count - 1 are less than x, which is the code of the level nearest to x; count a
// power of two. Midpoint i of lane l is mids[i * ld + l]. log2(count) gathers; NaN gives 0.
inline Lanes SearchLevel(const float* mids, int64_t ld, int count, Lanes x) {
  const Lanes lane = Load(kLane), apart = Set(static_cast<float>(ld));
  Lanes code = Set(0.0f);
  for (int step = count / 2; step > 0; step /= 2) {
    const Lanes next = Add(code, Set(static_cast<float>(step)));
    code = SelectLess(Gather(mids, Fma(next, apart, lane)), x, next, code);
  }
  return code;
}

// The same, count any number, from where the guide says for `guided`: x, or x over what the levels were
// scaled by. 1 + steps gathers.
inline Lanes SearchGuided(const GuideView& guide, const float* mids, int64_t ld, int count, Lanes x,
                          Lanes guided) {
  const Lanes lane = Load(kLane), apart = Set(static_cast<float>(ld));
  const Lanes one = Set(1.0f), last = Set(static_cast<float>(guide.distinct - 1));
  Lanes code = GatherByTop(guide.start, guided, guide.shift);
  for (int step = 0; step < guide.steps; ++step) {
    const Lanes next = Min(Add(code, one), last);
    code = SelectLess(Gather(mids, Fma(next, apart, lane)), x, next, code);
  }
  return SelectLess(Load(mids + (count - 1) * ld), x, Set(static_cast<float>(count - 1)), code);
}

// Level `code` of every lane.
inline Lanes LevelAt(const float* levels, int64_t ld, Lanes code) {
  return Gather(levels, Fma(code, Set(static_cast<float>(ld)), Load(kLane)));
}

}  // namespace
}  // namespace planish

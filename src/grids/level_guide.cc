#include "grids/level_guide.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <utility>

namespace planish {
namespace {

// Midpoints and numbers may be off by this much of themselves: scaling levels, halving their sum, moving it
// to the next float and dividing a number round by at most 2^-23 each, so 2^-21 would do.
constexpr double kMargin = 0x1p-18;
constexpr int kFewLevels = 32;  // kMostCompared of levels_search-inl.h, below which no kernel asks

// Numbers of one key lie in [low, high].
struct Range {
  double low, high;
};
Range RangeOf(uint32_t key, int shift) {
  const auto edge = [&](uint32_t bits) {  // of a magnitude; the last key ends where infinity begins
    return double{std::bit_cast<float>(bits)};
  };
  const uint32_t sign = uint32_t{1} << (31 - shift), magnitude = key & (sign - 1);
  const double least = edge(magnitude << shift), most = edge((magnitude + 1) << shift);
  return (key & sign) == 0 ? Range{least, most} : Range{-most, -least};
}

}  // namespace

LevelGuide::LevelGuide(std::span<const float> levels) {
  const auto count = static_cast<int>(levels.size());
  if (count <= kFewLevels) return;
  std::vector<double> mids;
  distinct_ = static_cast<int>(std::find(levels.begin(), levels.end(), levels.back()) - levels.begin()) + 1;
  for (int i = 1; i < distinct_; ++i) mids.push_back((double{levels[i - 1]} + double{levels[i]}) / 2);
  // Codes that have a midpoint below x for certain, or perhaps.
  const auto below = [&](double x, double margin) {
    int low = 0, high = distinct_ - 1;
    while (low < high) {
      const int at = (low + high) / 2;
      const double mid = mids[at] + margin * std::fabs(mids[at]);
      (margin > 0 ? mid < x : mid <= x) ? low = at + 1 : high = at;
    }
    return low;
  };
  constexpr uint32_t kInfinity = 0x7f800000u;
  for (const int shift : {20, 19, 18, 17}) {
    std::vector<float> start(size_t{1} << (32 - shift), 0.0f);
    int steps = 0;
    for (uint32_t key = 0; key < start.size(); ++key) {
      const uint32_t bits = key << shift;
      if ((bits & kInfinity) == kInfinity) {  // NaN: code 0
        if (bits == kInfinity) start[key] = static_cast<float>(distinct_ - 1);
        continue;
      }
      const Range range = RangeOf(key, shift);
      const int first = below(range.low, kMargin);
      start[key] = static_cast<float>(first);
      steps = std::max(steps, below(range.high, -kMargin) - first);
    }
    if (steps_ == 0 || steps < steps_) {
      start_ = std::move(start);
      shift_ = shift;
      steps_ = steps;
    }
    if (steps <= 2) break;
  }
  int halvings = 0;
  while ((1 << halvings) < count) ++halvings;
  if (steps_ + 1 >= halvings) *this = LevelGuide();
}

}  // namespace planish

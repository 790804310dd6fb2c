#include "base/context.h"

namespace planish {
namespace {

constexpr std::string_view kPrecisions[] = {"fp32", "bf16", "split"};

}  // namespace

std::string_view PrecisionName(Precision precision) { return kPrecisions[static_cast<int>(precision)]; }

std::optional<Precision> ParsePrecision(std::string_view name) {
  for (int i = 0; i < 3; ++i) {
    if (kPrecisions[i] == name) return static_cast<Precision>(i);
  }
  return std::nullopt;
}

}  // namespace planish

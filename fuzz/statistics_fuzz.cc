// The reader of statistics over arbitrary bytes: no crash, and the moments of what it accepts can be used.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>

#include "base/check.h"
#include "calibrate/moments.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace planish;
  const auto file = ParseStatistics(std::as_bytes(std::span(data, size)), "input");
  if (!file.ok()) {
    const auto& message = file.error().message;
    PLANISH_CHECK(!message.empty() && message.size() < 2000) << message;
    return 0;
  }
  for (const auto& [site, moments] : file->sites) {
    const int64_t n = moments.width();
    PLANISH_CHECK(n * n * 4 <= static_cast<int64_t>(size)) << site;
    PLANISH_CHECK(static_cast<int64_t>(moments.absmax().size()) == n) << site;
    const Mat<float> h = moments.MeanSquare();
    for (int64_t i = 0; i < n * n; ++i) PLANISH_CHECK(std::isfinite(h.data()[i])) << site << " " << i;
    PLANISH_CHECK(static_cast<int64_t>(moments.Mean().size()) == n) << site;
    PLANISH_CHECK(static_cast<int64_t>(moments.DeadChannels().size()) <= n) << site;
  }
  return 0;
}

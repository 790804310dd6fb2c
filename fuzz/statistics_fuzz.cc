// The reader of statistics files over arbitrary bytes: no crash, messages with their place, and whatever
// it accepts has parts of one width and finite numbers.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>

#include "base/check.h"
#include "calibrate/moments.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace planish;
  const auto parsed = ParseStatistics(std::as_bytes(std::span(data, size)), "input");
  if (!parsed.ok()) {
    const Error& error = parsed.error();
    PLANISH_CHECK(error.code == Code::kInput && error.message.starts_with("input:")) << error.message;
    return 0;
  }
  for (const auto& [site, moments] : parsed->sites) {
    const auto width = static_cast<size_t>(moments.width());
    PLANISH_CHECK(moments.count() >= 0 && moments.square_sum().cols == moments.width()) << site;
    PLANISH_CHECK(moments.mean_sum().size() == width && moments.absmax().size() == width) << site;
    for (const int32_t j : moments.DeadChannels())
      PLANISH_CHECK(moments.absmax()[static_cast<size_t>(j)] == 0);
    if (moments.count() == 0) continue;
    for (const float m : moments.Mean()) PLANISH_CHECK(!std::isnan(m)) << site;
    const Mat<float> h = moments.MeanSquare();
    for (int64_t i = 0; i < h.rows() * h.cols(); ++i) PLANISH_CHECK(std::isfinite(h.data()[i])) << site;
  }
  return 0;
}

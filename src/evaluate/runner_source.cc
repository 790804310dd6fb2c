#include "evaluate/runner_source.h"

#include <numeric>

namespace planish {

Status RunnerSource::Logits(const Context& context, std::span<const int32_t> ids, MatView<float> logits) {
  const auto total = static_cast<int64_t>(ids.size());
  for (int64_t at = 0; at < total; at += step_) {
    const int64_t count = std::min(step_, total - at);
    std::vector<int64_t> rows(static_cast<size_t>(count));
    std::iota(rows.begin(), rows.end(), int64_t{0});
    const auto part = ids.subspan(static_cast<size_t>(at), static_cast<size_t>(count));
    PLANISH_RETURN_IF_ERROR(runner_.Forward(context, Batch::Of(part, 0, at), rows, part_));
    for (int64_t i = 0; i < count; ++i) std::copy_n(part_.row(i), logits.cols, logits.row(at + i));
  }
  return {};
}

}  // namespace planish

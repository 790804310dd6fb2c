#include "evaluate/model_source.h"

#include <cstring>
#include <numeric>

namespace planish {

Status ModelSource::Logits(const Context& context, std::span<const int32_t> ids, MatView<float> logits) {
  std::vector<int64_t> rows(ids.size());
  std::iota(rows.begin(), rows.end(), int64_t{0});
  Mat<float> out;
  Context own = context;
  own.precision = precision_.value_or(context.precision);
  PLANISH_RETURN_IF_ERROR(Forward(own, model_, executor_, Batch::Of(ids), rows, cache_, out));
  for (int64_t i = 0; i < out.rows(); ++i) {
    std::memcpy(logits.row(i), out.row(i), static_cast<size_t>(out.cols()) * sizeof(float));
  }
  executor_.Give(std::move(out));
  return {};
}

}  // namespace planish

#include "runtime/packed_input.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/check.h"

namespace planish {

void QuantizedInput::Set(const packed::KernelSet& kernels, MatView<const float> x, const InputForm& form) {
  PLANISH_CHECK(x.rows >= 1 && x.rows <= packed::kMaxTokens) << x.rows << " tokens";
  PLANISH_CHECK(form.step == 0 || form.step == 16 || form.step == 32 || form.step == 64 || form.step == 128)
      << form.step;
  PLANISH_CHECK(!form.int8 || form.step > 0);
  form_ = form;
  tokens_ = static_cast<int>(x.rows);
  cols_ = x.cols;
  finite_ = true;
  const int64_t unit = form.step == 0 ? 4 : std::max(form.step, packed::kInputStep);
  const int64_t padded = (x.cols + unit - 1) / unit * unit, steps = form.step == 0 ? 0 : padded / form.step;
  if (form.floats) SetFloats(x, padded, steps);
  if (!form.int8) return;
  codes_.Resize(padded * tokens_);
  scales_.Resize(padded / packed::kInputStep * tokens_);
  neg_sums_.Resize(steps * tokens_);
  for (int t = 0; t < tokens_; ++t) {
    const packed::QuantizeArgs args = {x.row(t), x.cols,        steps,          form.step,       t,
                                       tokens_,  codes_.data(), scales_.data(), neg_sums_.data()};
    finite_ = kernels.quantize(args) && finite_;
  }
}

// A step's sum: 16 partial sums (column mod 16), joined by halving.
void QuantizedInput::SetFloats(MatView<const float> x, int64_t padded, int64_t steps) {
  floats_.Resize(padded * tokens_);
  float_neg_sums_.Resize(steps * tokens_);
  uint32_t largest = 0;
  for (int t = 0; t < tokens_; ++t) {
    const float* from = x.row(t);
    for (int64_t k = 0; k < x.cols; ++k) {
      floats_[k * tokens_ + t] = from[k];
      largest = std::max(largest, std::bit_cast<uint32_t>(from[k]) & 0x7fffffffu);
    }
    for (int64_t k = x.cols; k < padded; ++k) floats_[k * tokens_ + t] = 0;
    for (int64_t s = 0; s < steps; ++s) {
      float sums[16] = {};
      const int64_t begin = s * form_.step;
      for (int64_t k = begin; k < begin + form_.step; k += 16) {
        for (int64_t i = 0; i < 16; ++i) sums[i] += k + i < x.cols ? from[k + i] : 0.0f;
      }
      for (int width = 8; width > 0; width /= 2) {
        for (int i = 0; i < width; ++i) sums[i] += sums[i + width];
      }
      float_neg_sums_[s * tokens_ + t] = -sums[0];
    }
  }
  finite_ = finite_ && largest < 0x7f800000u;
}

}  // namespace planish

// Inputs of packed layers, quantized once for all layers that read them.
//
// int8 form: each token's columns in groups of 32, whatever the weights' steps (at 4 bits, groups of 128 add
// 4 % to the divergence that the weights cause, groups of 32 add 1.5 %); scale = m / 127 for the largest
// magnitude m of a group, code = x * (127 / m) rounded to nearest, ties to even. A group whose m is below
// 1e-30 is zeros with scale 0. A group with a NaN or an infinity gets scale NaN, so that it shows in every
// output, and finite() is false.
//
// float form: the inputs as they are, for dense layers, outliers, and codes with exact inputs.
#pragma once

#include <cstdint>

#include "runtime/packed_kernels.h"
#include "tensor/buffer.h"
#include "tensor/view.h"

namespace planish {

// What a layer needs of its input; forms of layers that share one are joined.
struct InputForm {
  int step = 0;         // of the sums; 0: dense layers only
  bool int8 = false;    // codes; needs step
  bool floats = false;  // values as they are
};

class QuantizedInput {
 public:
  // x [tokens, cols], 1 to 8 tokens. Memory grows to the largest input seen and stays. Single-threaded: about
  // a nanosecond for 30 columns with AVX-512.
  void Set(const packed::KernelSet& kernels, MatView<const float> x, const InputForm& form);

  int tokens() const { return tokens_; }
  int64_t cols() const { return cols_; }
  const InputForm& form() const { return form_; }
  // False when a value is NaN or infinite.
  bool finite() const { return finite_; }

  // As TileArgs describes them; null where the form lacks them.
  const int8_t* codes() const { return form_.int8 ? codes_.data() : nullptr; }
  const float* scales() const { return scales_.data(); }
  const float* neg_sums() const { return neg_sums_.data(); }
  const float* floats() const { return form_.floats ? floats_.data() : nullptr; }
  const float* float_neg_sums() const { return float_neg_sums_.data(); }

 private:
  void SetFloats(MatView<const float> x, int64_t padded, int64_t steps);

  InputForm form_;
  int tokens_ = 0;
  int64_t cols_ = 0;
  bool finite_ = true;
  Array<int8_t> codes_;
  Array<float> scales_, neg_sums_, floats_, float_neg_sums_;
};

}  // namespace planish

// A linear layer y = W x + b in parts, with the name it has in its checkpoint.
#pragma once

#include <string>
#include <vector>

#include "layer/matrix.h"

namespace planish {

struct Linear {
  std::string name;         // tensor name of the weight, e.g. "model.layers.0.mlp.down_proj.weight"
  Matrix w;                 // [out, in]
  std::vector<float> bias;  // [out] or empty
  bool own_bias = false;    // the bias is a part that compression made, stored as fp16
};

// Bytes of the parts that compression made: the matrix, and the bias if it is its own.
inline int64_t StoredBytes(const Linear& linear) {
  return StoredBytes(linear.w) + (linear.own_bias ? 2 * static_cast<int64_t>(linear.bias.size()) : 0);
}

// y [tokens, out] = x [tokens, in] W^T + b.
void Apply(const Context& context, const Linear& linear, MatView<const float> x, MatView<float> y);

}  // namespace planish

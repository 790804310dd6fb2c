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
};

// y [tokens, out] = x [tokens, in] W^T + b.
void Apply(const Context& context, const Linear& linear, MatView<const float> x, MatView<float> y);

}  // namespace planish

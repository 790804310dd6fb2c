#include "layer/linear.h"

#include "math/nn.h"

namespace planish {

void Apply(const Context& context, const Linear& linear, MatView<const float> x, MatView<float> y) {
  Apply(context, linear.w, x, y, Accumulate::kSet);
  if (!linear.bias.empty()) AddBias(context, linear.bias, y);
}

}  // namespace planish

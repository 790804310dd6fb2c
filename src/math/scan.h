// What state-space layers do along a sequence: a short causal convolution of every channel, and the selective
// scan of Mamba-2 (Dao and Gu, "Transformers are SSMs", arXiv 2405.21060, section 6). Both carry a state of
// fixed size from one call to the next, in place of keys and values.
#pragma once

#include <limits>
#include <span>

#include "base/context.h"
#include "tensor/view.h"

namespace planish {

// y[t, i] = bias[i] + sum over k of weight[i, k] * x[t - (kernel - 1) + k, i], for x, y [tokens, channels]
// and weight [channels, kernel]; an empty bias is zero. `state` [kernel - 1, channels] holds the inputs
// before the first token, the oldest first (zeros at the start of a sequence), and is advanced. y is memory
// of its own.
void CausalConvolution(const Context& context, MatView<const float> x, std::span<const float> weight,
                       std::span<const float> bias, int64_t kernel, std::span<float> state, MatView<float> y);

struct ScanShape {
  int64_t heads = 0, head_dim = 0;  // of x
  int64_t state = 0, groups = 0;    // B and C have `groups` vectors of `state`; head h reads group
                                    // h / (heads / groups)
  float dt_min = 0, dt_max = std::numeric_limits<float>::infinity();
  int64_t StateSize() const { return heads * head_dim * state; }
};
struct ScanWeights {  // [heads] each
  std::span<const float> a_log, d, dt_bias;
};
// For each head, with dt = clamp(softplus(dt + dt_bias)), S [state, head_dim] and token by token:
//   S <- exp(-dt exp(a_log)) S + B (dt x)^T;  y = S^T C + d x
// x, y: [tokens, heads * head_dim], b, c: [tokens, groups * state], dt: [tokens, heads]. `state`: all S in
// order of heads, zeros at the start of a sequence, advanced. Heads are divided over threads; the order
// within one does not depend on the tokens of a call.
void SelectiveScan(const Context& context, const ScanShape& shape, const ScanWeights& weights,
                   MatView<const float> x, MatView<const float> b, MatView<const float> c,
                   MatView<const float> dt, std::span<float> state, MatView<float> y);

}  // namespace planish

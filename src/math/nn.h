// Neural network operations on rows of fp32, each with its backward beside it.
//
// Reductions use 16 partial sums (element i goes to sum i mod 16) joined in a fixed tree, and
// transcendental functions are our own polynomials over fused multiply-adds, so every kernel set
// with fused multiply-add returns the same bits. Rows are split over the pool; a row is the work of one
// thread.
//
// Gradients: `d_x` is overwritten; gradients of parameters are added to (+=), in row order.
#pragma once

#include <span>

#include "base/context.h"
#include "tensor/view.h"

namespace planish {

// ---- elementwise ----
enum class Activation { kSilu, kGeluTanh, kGelu, kRelu, kSigmoid };

// y = exp(x), relative error below 2 ulp; x < -87.3 gives 0 (no subnormals), x > 88.7 infinity.
void Exp(const Context& context, std::span<const float> x, std::span<float> y);
// y = act(x), shapes [rows, width]. Relative errors: silu 2 ulp; gelu 4 ulp for |x| < 13 (sse4: 40);
// gelu_tanh like silu but growing with its exponent. NaN gives NaN; -infinity gives NaN except for relu and
// sigmoid.
void Activate(const Context& context, Activation act, MatView<const float> x, MatView<float> y);
void ActivateBackward(const Context& context, Activation act, MatView<const float> x,
                      MatView<const float> d_y, MatView<float> d_x);
// y = act(gate) * up, the gated MLP's middle.
void GatedActivate(const Context& context, Activation act, MatView<const float> gate, MatView<const float> up,
                   MatView<float> y);
void GatedActivateBackward(const Context& context, Activation act, MatView<const float> gate,
                           MatView<const float> up, MatView<const float> d_y, MatView<float> d_gate,
                           MatView<float> d_up);
// y += scale * x.
void AddScaled(const Context& context, float scale, MatView<const float> x, MatView<float> y);
// x *= factor.
void Scale(const Context& context, float factor, MatView<float> x);
// x[i, :] *= scales[i, 0].
void ScaleRows(const Context& context, MatView<const float> scales, MatView<float> x);
// x = cap * tanh(x / cap), cap > 0.
void SoftCap(const Context& context, float cap, MatView<float> x);
// y[i, :] += bias.
void AddBias(const Context& context, std::span<const float> bias, MatView<float> y);

// ---- norms ----
// y = x / sqrt(mean(x^2) + eps) * weight, over groups of `width` = weight.size() columns, so the same
// function serves per-head norms: x is [rows, groups * width].
void RmsNorm(const Context& context, MatView<const float> x, std::span<const float> weight, float eps,
             MatView<float> y);
// Gradients of norms read x and d_y twice, so d_x must be memory of its own.
void RmsNormBackward(const Context& context, MatView<const float> x, std::span<const float> weight, float eps,
                     MatView<const float> d_y, MatView<float> d_x, std::span<float> d_weight);
// y = (x - mean) / sqrt(var + eps) * weight + bias; an empty bias is zero.
void LayerNorm(const Context& context, MatView<const float> x, std::span<const float> weight,
               std::span<const float> bias, float eps, MatView<float> y);
void LayerNormBackward(const Context& context, MatView<const float> x, std::span<const float> weight,
                       float eps, MatView<const float> d_y, MatView<float> d_x, std::span<float> d_weight,
                       std::span<float> d_bias);

// ---- rotary positions ----
enum class RopePairing { kHalves, kAdjacent };  // (i, i + d/2) or (2i, 2i + 1)
// Rotates in place 2 * inv_freq.size() dimensions, from `offset` on, of each head of x [rows, heads *
// head_dim] by position * inv_freq[i]. Angles are taken in double, reduced, and sin/cos are our own
// polynomials; cos and sin are multiplied by `attention_factor`. `inverse` rotates backwards: the gradient.
void Rope(const Context& context, MatView<float> x, int64_t head_dim, std::span<const int32_t> positions,
          std::span<const double> inv_freq, float attention_factor, RopePairing pairing, bool inverse = false,
          int64_t offset = 0);

// ---- attention ----
struct AttentionShape {
  int64_t heads = 0, kv_heads = 0, head_dim = 0;
  float scale = 0;        // multiplies q k^T
  int64_t window = 0;     // 0: full; else key j is visible to query i iff i - window < j <= i
  float softcap = 0;      // 0: none; else scores become softcap * tanh(scores / softcap)
  int64_t value_dim = 0;  // of a head of v and of the result; 0: head_dim
  int64_t ValueDim() const { return value_dim != 0 ? value_dim : head_dim; }
};
// Causal attention of queries at positions first_position + [0, q.rows) over keys and values at
// positions [0, first_position + q.rows). q: [rows, heads * head_dim], k: [keys, kv_heads * head_dim]; out
// and v with ValueDim() in place of head_dim. Query head h reads kv head h / (heads / kv_heads). Never holds
// a full score matrix: one tile of queries by one tile of keys per thread, softmax in one pass over keys in
// ascending order. Key tiles start at multiples of 64 keys, so a query gets the same bits in a call of its
// own as among others. Each of q, k, v must be finite but for rows nobody needs: a non-finite v reaches
// queries up to 63 positions before it.
void CausalAttention(const Context& context, const AttentionShape& shape, MatView<const float> q,
                     MatView<const float> k, MatView<const float> v, int64_t first_position,
                     MatView<float> out);
// Gradients of the same, for values as wide as keys; the probabilities are recomputed. Plain loops, split
// over kv heads, with sums in double: for short calibration sequences, some 2 GMAC/s per core.
void CausalAttentionBackward(const Context& context, const AttentionShape& shape, MatView<const float> q,
                             MatView<const float> k, MatView<const float> v, int64_t first_position,
                             MatView<const float> d_out, MatView<float> d_q, MatView<float> d_k,
                             MatView<float> d_v);

// ---- output ----
// logits[i, :] -> logits - max - ln(sum exp(logits - max)), in place; the sum of exponentials in the
// fixed order of this file, by blocks of 256 columns that are added in double. A row with NaN or +infinity,
// or of nothing but -infinity, becomes NaN.
void LogSoftmax(const Context& context, MatView<float> logits);
// Loss = mean over rows of -log_probs[i, target[i]]; d_logits = (softmax - one_hot) / rows.
double CrossEntropyBackward(const Context& context, MatView<const float> log_probs,
                            std::span<const int32_t> targets, MatView<float> d_logits);
// Index of the largest element, the lowest on ties; NaN never wins. -1 if all are NaN.
int64_t ArgMax(std::span<const float> x);

// Sum in the fixed order of this file.
double Sum(std::span<const float> x);
// First element that is NaN or infinite, or -1.
int64_t FindNonFinite(std::span<const float> x);

}  // namespace planish

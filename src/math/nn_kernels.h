// The row kernels behind nn.h as a table of function pointers, one table per instruction set. Plain C
// types only, so that the files compiled for one instruction set share no inline code with the others.
// Kernels trust their arguments; nn.cc and nn_attention.cc check them.
#pragma once

#include <stdint.h>

namespace planish {

// Keys per attention tile; tiles start at multiples of it, so a query's result does not depend on which
// other queries are computed with it.
inline constexpr int64_t kKeyTile = 64;
// Rows (query, head) that one call of `attend` takes at most.
inline constexpr int64_t kRowTile = 64;

// head_dim rounded up to whole vectors.
static constexpr int64_t PaddedHeadDim(int64_t head_dim) { return (head_dim + 15) / 16 * 16; }

// One causal attention problem; strides in elements.
struct AttentionJob {
  const float *q, *k, *v;
  float* out;
  int64_t q_stride, k_stride, v_stride, out_stride;
  int64_t keys, first_position, head_dim, value_dim, group, window;  // group: query heads per kv head
  float scale, softcap;
  // Packed tiles [kv heads from packed_head on][tiles from packed_tile on], or null: then `attend` packs tile
  // by tile into its scratch.
  //   k: [head_dim][kKeyTile], transposed; v: [kKeyTile][padded value_dim]; missing keys and dims are zero.
  const float *packed_k, *packed_v;
  int64_t packed_head, packed_tile;
};

// Query heads [head, head + heads) of one kv head, queries [query, query + queries);
// heads * queries <= kRowTile.
struct AttentionTile {
  int64_t head, heads, query, queries;
};

static constexpr int64_t AttentionScratchFloats(int64_t head_dim, int64_t value_dim) {
  const int64_t padded = PaddedHeadDim(value_dim);
  return kRowTile * (head_dim + padded + kKeyTile + 16 + 1) + kKeyTile * (head_dim + padded);
}

// Tokens of one head of a scan (math/scan.h), one after the other: state [state_size, n] <- decay * state +
// b[s] * (step * x[i]), y[i] = sum over s, ascending, of c[s] * state[s, i], plus skip * x[i].
struct ScanJob {
  int64_t tokens, state_size, n;
  float* state;
  float* block;                           // memory for [state_size, 16]
  const float *x, *b, *c, *step, *decay;  // by token, strides in elements
  int64_t x_stride, b_stride, c_stride, step_stride;
  float skip;
  float* y;
  int64_t y_stride;
};

struct NormStats {
  float mean, inv;  // the row is normalized as (x - mean) * inv
};

struct NnKernels {
  void (*exp)(const float* x, float* y, int64_t n);
  void (*tanh)(const float* x, float* y, int64_t n);
  // Indexed by Activation.
  void (*activate[5])(const float* x, float* y, int64_t n);
  void (*activate_backward[5])(const float* x, const float* d_y, float* d_x, int64_t n);
  void (*gated[5])(const float* gate, const float* up, float* y, int64_t n);
  void (*gated_backward[5])(const float* gate, const float* up, const float* d_y, float* d_gate, float* d_up,
                            int64_t n);
  void (*add_scaled)(float scale, const float* x, float* y, int64_t n);  // y += scale x
  void (*rms_norm)(const float* x, const float* weight, float eps, float* y, int64_t n);
  void (*layer_norm)(const float* x, const float* weight, const float* bias, float eps, float* y, int64_t n);
  NormStats (*rms_norm_backward)(const float* x, const float* weight, float eps, const float* d_y, float* d_x,
                                 int64_t n);
  NormStats (*layer_norm_backward)(const float* x, const float* weight, float eps, const float* d_y,
                                   float* d_x, int64_t n);
  // d_weight[0, n) += sum over rows and groups of d_y * normalized x, d_bias (may be null) += sum of d_y;
  // n <= 16 columns starting at `x`; groups are group_stride apart; stats[row * groups + group].
  void (*norm_parameters)(const float* x, int64_t x_stride, const float* d_y, int64_t d_y_stride,
                          const NormStats* stats, int64_t rows, int64_t groups, int64_t group_stride,
                          float* d_weight, float* d_bias, int64_t n);
  // cos and sin of position * inv_freq[i], times factor.
  void (*rope_table)(double position, const double* inv_freq, int64_t n, double factor, float* cos,
                     float* sin);
  // One row of `heads` heads; sine_sign is +1, or -1 for the inverse.
  void (*rope_row)(float* x, int64_t heads, int64_t head_dim, const float* cos, const float* sin, int64_t n,
                   bool adjacent, float sine_sign);
  void (*log_softmax)(float* x, int64_t n);
  void (*pack_keys)(const AttentionJob& job, int64_t kv_head, int64_t tile, float* packed);
  void (*pack_values)(const AttentionJob& job, int64_t kv_head, int64_t tile, float* packed);
  void (*scan_tokens)(const ScanJob& job);
  // y[i] = bias[i] + sum over k, ascending, of taps[k * n + i] * rows[k][i], for n channels; bias may be
  // null.
  void (*conv_row)(const float* const* rows, const float* taps, const float* bias, int64_t kernel, float* y,
                   int64_t n);
  // y = ln(1 + exp(x)), in the order of a plain loop.
  void (*softplus)(const float* x, float* y, int64_t n);
  void (*attend)(const AttentionJob& job, const AttentionTile& tile, float* scratch);
};

// Null when the compiler's target lacks the instruction set.
const NnKernels* NnKernelsScalar();
const NnKernels* NnKernelsSse4();
const NnKernels* NnKernelsAvx2();
const NnKernels* NnKernelsAvx512();

}  // namespace planish

#include "math/scan.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "base/check.h"
#include "math/gemm_scratch.h"
#include "math/nn_dispatch.h"

namespace planish {

void CausalConvolution(const Context& context, MatView<const float> x, std::span<const float> weight,
                       std::span<const float> bias, int64_t kernel, std::span<float> state,
                       MatView<float> y) {
  const int64_t channels = x.cols, past = kernel - 1;
  PLANISH_CHECK(kernel > 0 && static_cast<int64_t>(weight.size()) == channels * kernel);
  PLANISH_CHECK(static_cast<int64_t>(state.size()) == channels * past && y.rows == x.rows &&
                y.cols == channels);
  PLANISH_CHECK(bias.empty() || static_cast<int64_t>(bias.size()) == channels);
  // Taps by tap, so that channels are neighbours.
  std::vector<float> taps(weight.size());
  for (int64_t i = 0; i < channels; ++i) {
    for (int64_t k = 0; k < kernel; ++k) {
      taps[static_cast<size_t>(k * channels + i)] = weight[static_cast<size_t>(i * kernel + k)];
    }
  }
  const auto row_at = [&](int64_t t) -> const float* {
    return t >= 0 ? x.row(t) : state.data() + (past + t) * channels;
  };
  const NnKernels& kernels = KernelsFor(context);
  ForRowBlocks(context, x.rows, channels * kernel, [&](int64_t first, int64_t count) {
    std::vector<const float*> rows(static_cast<size_t>(kernel));
    for (int64_t t = first; t < first + count; ++t) {
      for (int64_t k = 0; k < kernel; ++k) rows[static_cast<size_t>(k)] = row_at(t - past + k);
      kernels.conv_row(rows.data(), taps.data(), bias.empty() ? nullptr : bias.data(), kernel, y.row(t),
                       channels);
    }
  });
  std::vector<float> next(state.size());
  for (int64_t k = 0; k < past; ++k) {
    std::copy_n(row_at(x.rows - past + k), channels, next.data() + k * channels);
  }
  std::copy(next.begin(), next.end(), state.begin());
}

void SelectiveScan(const Context& context, const ScanShape& shape, const ScanWeights& weights,
                   MatView<const float> x, MatView<const float> b, MatView<const float> c,
                   MatView<const float> dt, std::span<float> state, MatView<float> y) {
  const int64_t heads = shape.heads, dim = shape.head_dim, n = shape.state, tokens = x.rows;
  PLANISH_CHECK(heads > 0 && shape.groups > 0 && heads % shape.groups == 0);
  PLANISH_CHECK(x.cols == heads * dim && y.cols == x.cols && y.rows == tokens);
  PLANISH_CHECK(b.cols == shape.groups * n && c.cols == b.cols && b.rows == tokens && c.rows == tokens);
  PLANISH_CHECK(dt.cols == heads && dt.rows == tokens);
  PLANISH_CHECK(static_cast<int64_t>(state.size()) == shape.StateSize());
  for (const auto& w : {weights.a_log, weights.d, weights.dt_bias}) {
    PLANISH_CHECK(static_cast<int64_t>(w.size()) == heads);
  }
  const NnKernels& kernels = KernelsFor(context);
  // Steps and decays of all tokens first: [tokens, heads].
  Mat<float> step(tokens, heads), decay(tokens, heads);
  std::vector<float> rate(static_cast<size_t>(heads));
  kernels.exp(weights.a_log.data(), rate.data(), heads);
  ForRowBlocks(context, tokens, heads * 8, [&](int64_t first, int64_t count) {
    for (int64_t t = first; t < first + count; ++t) {
      float *s = step.row(t), *e = decay.row(t);
      for (int64_t h = 0; h < heads; ++h) e[h] = dt(t, h) + weights.dt_bias[static_cast<size_t>(h)];
      kernels.softplus(e, s, heads);
      for (int64_t h = 0; h < heads; ++h) {
        s[h] = std::clamp(s[h], shape.dt_min, shape.dt_max);
        e[h] = -s[h] * rate[static_cast<size_t>(h)];
      }
      kernels.exp(e, e, heads);
    }
  });
  context.pool->ParallelFor(heads, [&](int64_t h) {
    float* own = state.data() + h * dim * n;
    const int64_t group = h / (heads / shape.groups);
    // So many that their B and C stay in cache from one part of the state to the next.
    constexpr int64_t kTokens = 64, kColumns = 16;
    gemm::Scratch block(n * kColumns);
    for (int64_t t = 0; t < tokens; t += kTokens) {
      const int64_t count = std::min(kTokens, tokens - t);
      kernels.scan_tokens({count, n, dim, own, block.data(), x.row(t) + h * dim, b.row(t) + group * n,
                           c.row(t) + group * n, step.row(t) + h, decay.row(t) + h, x.stride, b.stride,
                           c.stride, heads, weights.d[static_cast<size_t>(h)], y.row(t) + h * dim, y.stride});
    }
  });
}

}  // namespace planish

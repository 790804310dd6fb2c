// Checks, choice of the kernel set and splitting over threads for nn.h; the arithmetic is in nn-inl.h.
#include "math/nn.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "base/check.h"
#include "math/nn_dispatch.h"

namespace planish {
namespace {

template <typename T, typename U>
void CheckSameShape(const MatView<T>& a, const MatView<U>& b) {
  PLANISH_CHECK(a.rows == b.rows && a.cols == b.cols)
      << "[" << a.rows << ", " << a.cols << "] and [" << b.rows << ", " << b.cols << "]";
}

// Number of groups of `width` columns in a row of `cols`.
int64_t Groups(int64_t cols, int64_t width) {
  PLANISH_CHECK(width > 0 && cols % width == 0) << cols << " columns in groups of " << width;
  return cols / width;
}

using NormBackwardKernel = NormStats (*)(const float*, const float*, float, const float*, float*, int64_t);

// d_x row by row; then the parameters' gradients, 16 columns to a thread, rows in ascending order. The second
// step reads x and d_y again, so d_x must be memory of its own.
void NormBackward(const Context& context, NormBackwardKernel kernel, MatView<const float> x,
                  std::span<const float> weight, float eps, MatView<const float> d_y, MatView<float> d_x,
                  std::span<float> d_weight, float* d_bias) {
  CheckSameShape(x, d_y);
  CheckSameShape(x, d_x);
  PLANISH_CHECK(d_weight.size() == weight.size()) << d_weight.size() << " and " << weight.size();
  const int64_t width = static_cast<int64_t>(weight.size()), groups = Groups(x.cols, width);
  std::vector<NormStats> stats(static_cast<size_t>(x.rows * groups));
  const NnKernels& kernels = KernelsFor(context);
  ForRowBlocks(context, x.rows, x.cols, [&](int64_t first, int64_t count) {
    for (int64_t i = first; i < first + count; ++i) {
      for (int64_t g = 0; g < groups; ++g) {
        const int64_t at = g * width;
        stats[static_cast<size_t>(i * groups + g)] =
            kernel(x.row(i) + at, weight.data(), eps, d_y.row(i) + at, d_x.row(i) + at, width);
      }
    }
  });
  context.pool->ParallelFor((width + 15) / 16, [&](int64_t block) {
    const int64_t at = block * 16;
    kernels.norm_parameters(x.data + at, x.stride, d_y.data + at, d_y.stride, stats.data(), x.rows, groups,
                            width, d_weight.data() + at, d_bias == nullptr ? nullptr : d_bias + at,
                            std::min<int64_t>(16, width - at));
  });
}

}  // namespace

const NnKernels& KernelsFor(const Context& context) {
  const NnKernels* kernels = nullptr;
  switch (context.isa) {
    case Isa::kScalar:
      break;
    case Isa::kSse4:
      if (context.profile != Profile::kStrict) kernels = NnKernelsSse4();
      break;
    case Isa::kAvx2:
      kernels = NnKernelsAvx2();
      break;
    case Isa::kAvx512:
      kernels = NnKernelsAvx512();
      break;
  }
  return kernels != nullptr ? *kernels : *NnKernelsScalar();
}

void Exp(const Context& context, std::span<const float> x, std::span<float> y) {
  PLANISH_CHECK(x.size() == y.size()) << x.size() << " and " << y.size();
  const NnKernels& kernels = KernelsFor(context);
  ForRowBlocks(context, static_cast<int64_t>(x.size()), 1,
               [&](int64_t first, int64_t count) { kernels.exp(x.data() + first, y.data() + first, count); });
}

void Activate(const Context& context, Activation act, MatView<const float> x, MatView<float> y) {
  CheckSameShape(x, y);
  const auto kernel = KernelsFor(context).activate[static_cast<int>(act)];
  ForRowBlocks(context, x.rows, x.cols, [&](int64_t first, int64_t count) {
    for (int64_t i = first; i < first + count; ++i) kernel(x.row(i), y.row(i), x.cols);
  });
}

void ActivateBackward(const Context& context, Activation act, MatView<const float> x,
                      MatView<const float> d_y, MatView<float> d_x) {
  CheckSameShape(x, d_y);
  CheckSameShape(x, d_x);
  const auto kernel = KernelsFor(context).activate_backward[static_cast<int>(act)];
  ForRowBlocks(context, x.rows, x.cols, [&](int64_t first, int64_t count) {
    for (int64_t i = first; i < first + count; ++i) kernel(x.row(i), d_y.row(i), d_x.row(i), x.cols);
  });
}

void GatedActivate(const Context& context, Activation act, MatView<const float> gate, MatView<const float> up,
                   MatView<float> y) {
  CheckSameShape(gate, up);
  CheckSameShape(gate, y);
  const auto kernel = KernelsFor(context).gated[static_cast<int>(act)];
  ForRowBlocks(context, gate.rows, gate.cols, [&](int64_t first, int64_t count) {
    for (int64_t i = first; i < first + count; ++i) kernel(gate.row(i), up.row(i), y.row(i), gate.cols);
  });
}

void GatedActivateBackward(const Context& context, Activation act, MatView<const float> gate,
                           MatView<const float> up, MatView<const float> d_y, MatView<float> d_gate,
                           MatView<float> d_up) {
  CheckSameShape(gate, up);
  CheckSameShape(gate, d_y);
  CheckSameShape(gate, d_gate);
  CheckSameShape(gate, d_up);
  const auto kernel = KernelsFor(context).gated_backward[static_cast<int>(act)];
  ForRowBlocks(context, gate.rows, gate.cols, [&](int64_t first, int64_t count) {
    for (int64_t i = first; i < first + count; ++i) {
      kernel(gate.row(i), up.row(i), d_y.row(i), d_gate.row(i), d_up.row(i), gate.cols);
    }
  });
}

void AddScaled(const Context& context, float scale, MatView<const float> x, MatView<float> y) {
  CheckSameShape(x, y);
  const NnKernels& kernels = KernelsFor(context);
  ForRowBlocks(context, x.rows, x.cols, [&](int64_t first, int64_t count) {
    for (int64_t i = first; i < first + count; ++i) kernels.add_scaled(scale, x.row(i), y.row(i), x.cols);
  });
}

void Scale(const Context& context, float factor, MatView<float> x) {
  ForRowBlocks(context, x.rows, x.cols, [&](int64_t first, int64_t count) {
    for (int64_t i = first; i < first + count; ++i) {
      for (int64_t j = 0; j < x.cols; ++j) x(i, j) *= factor;
    }
  });
}

void ScaleRows(const Context& context, MatView<const float> scales, MatView<float> x) {
  PLANISH_CHECK(scales.rows == x.rows && scales.cols == 1) << scales.rows << " x " << scales.cols;
  ForRowBlocks(context, x.rows, x.cols, [&](int64_t first, int64_t count) {
    for (int64_t i = first; i < first + count; ++i) {
      for (int64_t j = 0; j < x.cols; ++j) x(i, j) *= scales(i, 0);
    }
  });
}

void SoftCap(const Context& context, float cap, MatView<float> x) {
  PLANISH_CHECK(cap > 0) << cap;
  const NnKernels& kernels = KernelsFor(context);
  const float inv = 1.0f / cap;
  ForRowBlocks(context, x.rows, x.cols, [&](int64_t first, int64_t count) {
    for (int64_t i = first; i < first + count; ++i) {
      float* row = x.row(i);
      for (int64_t j = 0; j < x.cols; ++j) row[j] *= inv;
      kernels.tanh(row, row, x.cols);
      for (int64_t j = 0; j < x.cols; ++j) row[j] *= cap;
    }
  });
}

void AddBias(const Context& context, std::span<const float> bias, MatView<float> y) {
  PLANISH_CHECK(static_cast<int64_t>(bias.size()) == y.cols) << bias.size() << " and " << y.cols;
  const NnKernels& kernels = KernelsFor(context);
  ForRowBlocks(context, y.rows, y.cols, [&](int64_t first, int64_t count) {
    for (int64_t i = first; i < first + count; ++i) kernels.add_scaled(1.0f, bias.data(), y.row(i), y.cols);
  });
}

void RmsNorm(const Context& context, MatView<const float> x, std::span<const float> weight, float eps,
             MatView<float> y) {
  CheckSameShape(x, y);
  const int64_t width = static_cast<int64_t>(weight.size()), groups = Groups(x.cols, width);
  const NnKernels& kernels = KernelsFor(context);
  ForRowBlocks(context, x.rows, x.cols, [&](int64_t first, int64_t count) {
    for (int64_t i = first; i < first + count; ++i) {
      for (int64_t g = 0; g < groups; ++g) {
        kernels.rms_norm(x.row(i) + g * width, weight.data(), eps, y.row(i) + g * width, width);
      }
    }
  });
}

void RmsNormBackward(const Context& context, MatView<const float> x, std::span<const float> weight, float eps,
                     MatView<const float> d_y, MatView<float> d_x, std::span<float> d_weight) {
  NormBackward(context, KernelsFor(context).rms_norm_backward, x, weight, eps, d_y, d_x, d_weight, nullptr);
}

void LayerNorm(const Context& context, MatView<const float> x, std::span<const float> weight,
               std::span<const float> bias, float eps, MatView<float> y) {
  CheckSameShape(x, y);
  PLANISH_CHECK(static_cast<int64_t>(weight.size()) == x.cols) << weight.size() << " and " << x.cols;
  PLANISH_CHECK(bias.empty() || bias.size() == weight.size()) << bias.size() << " and " << weight.size();
  const NnKernels& kernels = KernelsFor(context);
  const float* b = bias.empty() ? nullptr : bias.data();
  ForRowBlocks(context, x.rows, x.cols, [&](int64_t first, int64_t count) {
    for (int64_t i = first; i < first + count; ++i) {
      kernels.layer_norm(x.row(i), weight.data(), b, eps, y.row(i), x.cols);
    }
  });
}

void LayerNormBackward(const Context& context, MatView<const float> x, std::span<const float> weight,
                       float eps, MatView<const float> d_y, MatView<float> d_x, std::span<float> d_weight,
                       std::span<float> d_bias) {
  PLANISH_CHECK(static_cast<int64_t>(weight.size()) == x.cols) << weight.size() << " and " << x.cols;
  PLANISH_CHECK(d_bias.empty() || d_bias.size() == weight.size())
      << d_bias.size() << " and " << weight.size();
  NormBackward(context, KernelsFor(context).layer_norm_backward, x, weight, eps, d_y, d_x, d_weight,
               d_bias.empty() ? nullptr : d_bias.data());
}

void Rope(const Context& context, MatView<float> x, int64_t head_dim, std::span<const int32_t> positions,
          std::span<const double> inv_freq, float attention_factor, RopePairing pairing, bool inverse,
          int64_t offset) {
  const int64_t n = static_cast<int64_t>(inv_freq.size()), heads = Groups(x.cols, head_dim);
  PLANISH_CHECK(offset >= 0 && offset + 2 * n <= head_dim)
      << n << " frequencies at " << offset << " of heads of " << head_dim;
  PLANISH_CHECK(static_cast<int64_t>(positions.size()) == x.rows) << positions.size() << " and " << x.rows;
  const NnKernels& kernels = KernelsFor(context);
  ForRowBlocks(context, x.rows, x.cols, [&](int64_t first, int64_t count) {
    std::vector<float> table(static_cast<size_t>(2 * n));
    float *cosines = table.data(), *sines = cosines + n;
    for (int64_t i = first; i < first + count; ++i) {
      const int32_t position = positions[static_cast<size_t>(i)];
      if (i == first || position != positions[static_cast<size_t>(i - 1)]) {
        kernels.rope_table(position, inv_freq.data(), n, attention_factor, cosines, sines);
      }
      kernels.rope_row(x.row(i) + offset, heads, head_dim, cosines, sines, n,
                       pairing == RopePairing::kAdjacent, inverse ? -1.0f : 1.0f);
    }
  });
}

void LogSoftmax(const Context& context, MatView<float> logits) {
  const NnKernels& kernels = KernelsFor(context);
  ForRowBlocks(context, logits.rows, logits.cols, [&](int64_t first, int64_t count) {
    for (int64_t i = first; i < first + count; ++i) kernels.log_softmax(logits.row(i), logits.cols);
  });
}

double CrossEntropyBackward(const Context& context, MatView<const float> log_probs,
                            std::span<const int32_t> targets, MatView<float> d_logits) {
  CheckSameShape(log_probs, d_logits);
  PLANISH_CHECK(static_cast<int64_t>(targets.size()) == log_probs.rows && log_probs.rows > 0)
      << targets.size() << " and " << log_probs.rows;
  double sum = 0;  // before d_logits is written: it may be log_probs' memory
  for (int64_t i = 0; i < log_probs.rows; ++i) {
    const int32_t target = targets[static_cast<size_t>(i)];
    PLANISH_CHECK(target >= 0 && target < log_probs.cols) << target << " of " << log_probs.cols;
    sum -= static_cast<double>(log_probs(i, target));
  }
  const NnKernels& kernels = KernelsFor(context);
  const float inv_rows = 1.0f / static_cast<float>(log_probs.rows);
  ForRowBlocks(context, log_probs.rows, log_probs.cols, [&](int64_t first, int64_t count) {
    for (int64_t i = first; i < first + count; ++i) {
      float* d = d_logits.row(i);
      kernels.exp(log_probs.row(i), d, log_probs.cols);
      d[targets[static_cast<size_t>(i)]] -= 1.0f;
      for (int64_t j = 0; j < d_logits.cols; ++j) d[j] *= inv_rows;
    }
  });
  return sum / static_cast<double>(log_probs.rows);
}

// The three below need no products, so one version serves every kernel set.

int64_t ArgMax(std::span<const float> x) {
  float lanes[16];
  std::fill(lanes, lanes + 16, -std::numeric_limits<float>::infinity());
  const size_t whole = x.size() / 16 * 16;
  for (size_t i = 0; i < whole; i += 16) {
    for (size_t j = 0; j < 16; ++j) lanes[j] = x[i + j] > lanes[j] ? x[i + j] : lanes[j];
  }
  float max = *std::max_element(lanes, lanes + 16);
  for (size_t i = whole; i < x.size(); ++i) max = x[i] > max ? x[i] : max;
  const auto at = std::find(x.begin(), x.end(), max);
  return at == x.end() ? -1 : at - x.begin();
}

double Sum(std::span<const float> x) {
  double lanes[16] = {};
  const size_t whole = x.size() / 16 * 16;
  for (size_t i = 0; i < whole; i += 16) {
    for (size_t j = 0; j < 16; ++j) lanes[j] += static_cast<double>(x[i + j]);
  }
  for (size_t i = whole; i < x.size(); ++i) lanes[i - whole] += static_cast<double>(x[i]);
  for (size_t width = 8; width > 0; width /= 2) {
    for (size_t j = 0; j < width; ++j) lanes[j] += lanes[j + width];
  }
  return lanes[0];
}

int64_t FindNonFinite(std::span<const float> x) {
  constexpr uint32_t kExponent = 0x7f800000u;
  constexpr size_t kBlock = 64;  // tested as a whole, which the compiler turns into vectors
  for (size_t begin = 0; begin < x.size(); begin += kBlock) {
    const std::span<const float> block = x.subspan(begin, std::min(kBlock, x.size() - begin));
    uint32_t largest = 0;
    for (float f : block) largest = std::max(largest, std::bit_cast<uint32_t>(f) & kExponent);
    if (largest != kExponent) continue;
    for (size_t j = 0; j < block.size(); ++j) {
      if (!std::isfinite(block[j])) return static_cast<int64_t>(begin + j);
    }
  }
  return -1;
}

}  // namespace planish

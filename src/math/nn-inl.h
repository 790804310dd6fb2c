// The kernels of nn.h on F16x: elementwise, norms, rotary positions, softmax. Attention is in
// attention-inl.h. See simd-inl.h for what this file may use and how it is included.
#pragma once

#include <stdint.h>

#include "math/exp-inl.h"
#include "math/nn_kernels.h"

namespace planish {
namespace PLANISH_SIMD_NAMESPACE {
namespace {

// ---- exponential and friends ----

// tanh(x) = e / (e + 2), e = exp(2 |x|) - 1, so small arguments keep their relative accuracy: 4 ulp.
PLANISH_INLINE F16x TanhF(F16x x) {
  const F16x a = Min(Set(10.0f), Abs(x));  // tanh(10) rounds to 1; NaN stays
  const Reduced r = ReduceExp(Add(a, a));
  const F16x scale = ShiftExponent(Set(1.0f), r.t);
  const F16x e = Fma(scale, r.em1, Sub(scale, Set(1.0f)));
  return CopySign(Div(e, Add(e, Set(2.0f))), x);
}
PLANISH_INLINE F16x Sigmoid(F16x x) { return Div(Set(1.0f), Add(Set(1.0f), ExpF(Sub(Set(0.0f), x)))); }

// The normal distribution: cdf(x) and density * sqrt(2 pi). With t = 1 / (1 + |x| / 4), cdf(-|x|) =
// exp(-x^2 / 2) * t * P(t), P of degree 9 interpolated at Chebyshev nodes for |x| <= 13.3 (relative error
// 1.2e-8), beyond which exp is 0. Relative error of cdf below 8 ulp for |x| < 13 in sets that fuse (the
// rounding of x^2 is then known and undone).
struct Normal {
  F16x cdf, bell;
};
PLANISH_INLINE Normal NormalF(F16x x) {
  const F16x a = Min(Abs(x), Set(14.0f));
  const F16x square = Mul(a, a);
  const F16x rest = Fma(a, a, Sub(Set(0.0f), square));
  const F16x e = ExpSmall(Mul(square, Set(-0.5f)));
  const F16x bell = Fma(e, Mul(rest, Set(-0.5f)), e);
  const F16x t = Div(Set(1.0f), Fma(a, Set(0.25f), Set(1.0f)));
  constexpr float kTail[] = {0.09975525414f,  0.09935479906f, 0.0966253243f, 0.06695563442f,  0.1009276775f,
                             -0.01338363651f, 0.05932094941f, 0.0288008745f, -0.05318486013f, 0.01482798552f};
  F16x p = Set(kTail[9]);
  for (int i = 8; i >= 0; --i) p = Fma(p, t, Set(kTail[i]));
  const F16x tail = Mul(bell, Mul(p, t));
  return {SelectLess(x, Set(0.0f), tail, Sub(Set(1.0f), tail)), bell};
}

// ---- activations: value, and value with derivative ----

struct ValueAndSlope {
  F16x value, slope;
};
struct Silu {
  static PLANISH_INLINE F16x Value(F16x x) { return Div(x, Add(Set(1.0f), ExpF(Sub(Set(0.0f), x)))); }
  static PLANISH_INLINE ValueAndSlope Both(F16x x) {
    const F16x s = Sigmoid(x), y = Mul(x, s);
    return {y, Fma(y, Sub(Set(1.0f), s), s)};
  }
};
// 0.5 x (1 + tanh(u)) = x sigmoid(2 u), u = sqrt(2 / pi) (x + 0.044715 x^3).
struct GeluTanh {
  static PLANISH_INLINE ValueAndSlope Both(F16x x) {
    // At |x| = 15 the sigmoid is 0 or 1 exactly; the clamp keeps the powers finite.
    const F16x c = Max(Min(x, Set(15.0f)), Set(-15.0f)), square = Mul(c, c);
    const F16x u2 = Mul(c, Fma(square, Set(0.0713548162726f), Set(1.59576912161f)));
    const F16x s = Sigmoid(u2), y = Mul(x, s);
    const F16x u2_slope = Fma(square, Set(0.214064448818f), Set(1.59576912161f));
    return {y, Fma(Mul(y, Sub(Set(1.0f), s)), u2_slope, s)};
  }
  static PLANISH_INLINE F16x Value(F16x x) { return Both(x).value; }
};
struct Gelu {
  static PLANISH_INLINE F16x Value(F16x x) { return Mul(x, NormalF(x).cdf); }
  static PLANISH_INLINE ValueAndSlope Both(F16x x) {
    const Normal n = NormalF(x);
    return {Mul(x, n.cdf), Fma(Mul(x, Set(0.398942280401f)), n.bell, n.cdf)};
  }
};
struct SigmoidFunction {
  static PLANISH_INLINE F16x Value(F16x x) { return Sigmoid(x); }
  static PLANISH_INLINE ValueAndSlope Both(F16x x) {
    const F16x s = Sigmoid(x);
    return {s, Mul(s, Sub(Set(1.0f), s))};
  }
};
struct Relu {
  static PLANISH_INLINE F16x Value(F16x x) { return SelectLess(x, Set(0.0f), Set(0.0f), x); }
  static PLANISH_INLINE ValueAndSlope Both(F16x x) {
    return {Value(x), SelectLess(Set(0.0f), x, Set(1.0f), Set(0.0f))};
  }
};

// ---- elementwise loops ----

// body(i, n): n = 0 for 16 whole lanes at i, else the n lanes of the tail.
template <class Body>
PLANISH_INLINE void ForVectors(int64_t n, const Body& body) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) body(i, 0);
  if (i < n) body(i, n - i);
}
PLANISH_INLINE F16x LoadPart(const float* p, int64_t tail, float fill = 0) {
  return tail == 0 ? Load(p) : LoadTail(p, tail, fill);
}
PLANISH_INLINE void StorePart(F16x a, float* p, int64_t tail) {
  if (tail == 0) {
    Store(a, p);
  } else {
    StoreTail(a, p, tail);
  }
}

void ExpRow(const float* x, float* y, int64_t n) {
  ForVectors(n, [=](int64_t i, int64_t tail) { StorePart(ExpF(LoadPart(x + i, tail)), y + i, tail); });
}
void TanhRow(const float* x, float* y, int64_t n) {
  ForVectors(n, [=](int64_t i, int64_t tail) { StorePart(TanhF(LoadPart(x + i, tail)), y + i, tail); });
}
template <class Act>
void ActivateRow(const float* x, float* y, int64_t n) {
  ForVectors(n, [=](int64_t i, int64_t tail) { StorePart(Act::Value(LoadPart(x + i, tail)), y + i, tail); });
}
template <class Act>
void ActivateBackwardRow(const float* x, const float* d_y, float* d_x, int64_t n) {
  ForVectors(n, [=](int64_t i, int64_t tail) {
    StorePart(Mul(LoadPart(d_y + i, tail), Act::Both(LoadPart(x + i, tail)).slope), d_x + i, tail);
  });
}
template <class Act>
void GatedRow(const float* gate, const float* up, float* y, int64_t n) {
  ForVectors(n, [=](int64_t i, int64_t tail) {
    StorePart(Mul(Act::Value(LoadPart(gate + i, tail)), LoadPart(up + i, tail)), y + i, tail);
  });
}
template <class Act>
void GatedBackwardRow(const float* gate, const float* up, const float* d_y, float* d_gate, float* d_up,
                      int64_t n) {
  ForVectors(n, [=](int64_t i, int64_t tail) {
    const ValueAndSlope act = Act::Both(LoadPart(gate + i, tail));
    const F16x u = LoadPart(up + i, tail), d = LoadPart(d_y + i, tail);
    StorePart(Mul(Mul(d, u), act.slope), d_gate + i, tail);
    StorePart(Mul(d, act.value), d_up + i, tail);
  });
}
void AddScaledRow(float scale, const float* x, float* y, int64_t n) {
  ForVectors(n, [=](int64_t i, int64_t tail) {
    StorePart(Fma(Set(scale), LoadPart(x + i, tail), LoadPart(y + i, tail)), y + i, tail);
  });
}

// ---- norms ----

// Sum over i of term(i, tail), lane by lane, then joined. Terms beyond the end must be 0.
template <class Term>
PLANISH_INLINE float SumVectors(int64_t n, const Term& term) {
  F16x sum = Set(0.0f);
  ForVectors(n, [&](int64_t i, int64_t tail) { sum = term(i, tail, sum); });
  return JoinSum(sum);
}
PLANISH_INLINE NormStats RmsStats(const float* x, float eps, int64_t n) {
  const float squares = SumVectors(n, [=](int64_t i, int64_t tail, F16x sum) {
    const F16x v = LoadPart(x + i, tail);
    return Fma(v, v, sum);
  });
  return {0.0f, 1.0f / __builtin_sqrtf(squares / static_cast<float>(n) + eps)};
}
PLANISH_INLINE NormStats LayerStats(const float* x, float eps, int64_t n) {
  const float mean =
      SumVectors(n, [=](int64_t i, int64_t tail, F16x sum) { return Add(sum, LoadPart(x + i, tail)); }) /
      static_cast<float>(n);
  const float squares = SumVectors(n, [=](int64_t i, int64_t tail, F16x sum) {
    const F16x v = Sub(LoadPart(x + i, tail, mean), Set(mean));
    return Fma(v, v, sum);
  });
  return {mean, 1.0f / __builtin_sqrtf(squares / static_cast<float>(n) + eps)};
}

// Memory bound: x is read twice (the second time from cache) and y written once.
void RmsNormRow(const float* x, const float* weight, float eps, float* y, int64_t n) {
  const F16x inv = Set(RmsStats(x, eps, n).inv);
  ForVectors(n, [=](int64_t i, int64_t tail) {
    StorePart(Mul(Mul(LoadPart(x + i, tail), inv), LoadPart(weight + i, tail)), y + i, tail);
  });
}
void LayerNormRow(const float* x, const float* weight, const float* bias, float eps, float* y, int64_t n) {
  const NormStats stats = LayerStats(x, eps, n);
  const F16x inv = Set(stats.inv), mean = Set(stats.mean);
  ForVectors(n, [=](int64_t i, int64_t tail) {
    const F16x normalized = Mul(Sub(LoadPart(x + i, tail), mean), inv);
    const F16x b = bias == nullptr ? Set(0.0f) : LoadPart(bias + i, tail);
    StorePart(Fma(normalized, LoadPart(weight + i, tail), b), y + i, tail);
  });
}

// With g = weight * d_y and the normalized row z: d_x = inv * (g - mean(g) - z * mean(g * z)); without the
// mean(g) term for RmsNorm.
template <bool kCentered>
PLANISH_INLINE void NormBackward(const float* x, const float* weight, NormStats stats, const float* d_y,
                                 float* d_x, int64_t n) {
  const F16x inv = Set(stats.inv), mean = Set(stats.mean);
  const auto normalized = [=](int64_t i, int64_t tail) {
    return Mul(Sub(LoadPart(x + i, tail, stats.mean), mean), inv);
  };
  const auto gradient = [=](int64_t i, int64_t tail) {
    return Mul(LoadPart(weight + i, tail), LoadPart(d_y + i, tail));
  };
  const float mean_gz =
      SumVectors(n, [=](int64_t i, int64_t tail,
                        F16x sum) { return Fma(gradient(i, tail), normalized(i, tail), sum); }) /
      static_cast<float>(n);
  float mean_g = 0;
  if (kCentered) {
    mean_g = SumVectors(n, [=](int64_t i, int64_t tail, F16x sum) { return Add(sum, gradient(i, tail)); }) /
             static_cast<float>(n);
  }
  ForVectors(n, [=](int64_t i, int64_t tail) {
    const F16x centered = Sub(gradient(i, tail), Set(mean_g));
    StorePart(Mul(inv, Fma(normalized(i, tail), Set(-mean_gz), centered)), d_x + i, tail);
  });
}
NormStats RmsNormBackwardRow(const float* x, const float* weight, float eps, const float* d_y, float* d_x,
                             int64_t n) {
  const NormStats stats = RmsStats(x, eps, n);
  NormBackward<false>(x, weight, stats, d_y, d_x, n);
  return stats;
}
NormStats LayerNormBackwardRow(const float* x, const float* weight, float eps, const float* d_y, float* d_x,
                               int64_t n) {
  const NormStats stats = LayerStats(x, eps, n);
  NormBackward<true>(x, weight, stats, d_y, d_x, n);
  return stats;
}
void NormParameters(const float* x, int64_t x_stride, const float* d_y, int64_t d_y_stride,
                    const NormStats* stats, int64_t rows, int64_t groups, int64_t group_stride,
                    float* d_weight, float* d_bias, int64_t n) {
  const int64_t tail = n == kLanes ? 0 : n;
  F16x weight = LoadPart(d_weight, tail);
  F16x bias = d_bias == nullptr ? Set(0.0f) : LoadPart(d_bias, tail);
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t group = 0; group < groups; ++group) {
      const NormStats s = stats[row * groups + group];
      const F16x d = LoadPart(d_y + row * d_y_stride + group * group_stride, tail);
      const F16x v = LoadPart(x + row * x_stride + group * group_stride, tail);
      weight = Fma(d, Mul(Sub(v, Set(s.mean)), Set(s.inv)), weight);
      bias = Add(bias, d);
    }
  }
  StorePart(weight, d_weight, tail);
  if (d_bias != nullptr) StorePart(bias, d_bias, tail);
}

// ---- rotary positions ----

// Without fused products, in plain loops, so every set gives the same bits, sse4 included.
// Angle a = n pi/2 + r, n = round(a 2/pi), with pi/2 in three parts of which the first two have 33 bits:
// n times them is exact for |a| < 1.6e6. Taylor polynomials on |r| <= pi/4: absolute error below 1e-11.
void RopeTable(double position, const double* inv_freq, int64_t n, double factor, float* cosines,
               float* sines) {
  constexpr double kMagic = 6755399441055744.0;  // 1.5 * 2^52 rounds to an integer, kept in the low bits
  for (int64_t i = 0; i < n; ++i) {
    const double angle = position * inv_freq[i];
    const double shifted = angle * 0.63661977236758134308 + kMagic;
    const double turns = shifted - kMagic;
    uint64_t quadrant;
    __builtin_memcpy(&quadrant, &shifted, 8);
    double r = angle - turns * 1.57079632673412561417e+00;
    r = r - turns * 6.07710050630396597660e-11;
    r = r - turns * 2.02226624879595063154e-21;
    const double z = r * r;
    const double s =
        r +
        r * z * (-1.0 / 6 + z * (1.0 / 120 + z * (-1.0 / 5040 + z * (1.0 / 362880 + z * (-1.0 / 39916800)))));
    const double c =
        1.0 +
        z * (-0.5 + z * (1.0 / 24 + z * (-1.0 / 720 +
                                         z * (1.0 / 40320 + z * (-1.0 / 3628800 + z * (1.0 / 479001600))))));
    const double sine = (quadrant & 1) != 0 ? c : s, cosine = (quadrant & 1) != 0 ? s : c;
    sines[i] = static_cast<float>(((quadrant & 2) != 0 ? -sine : sine) * factor);
    cosines[i] = static_cast<float>((((quadrant + 1) & 2) != 0 ? -cosine : cosine) * factor);
  }
}
void RopeRow(float* x, int64_t heads, int64_t head_dim, const float* cosines, const float* sines, int64_t n,
             bool adjacent, float sine_sign) {
  for (int64_t head = 0; head < heads; ++head, x += head_dim) {
    if (adjacent) {
      for (int64_t i = 0; i < n; ++i) {
        const float a = x[2 * i], b = x[2 * i + 1], c = cosines[i], s = sine_sign * sines[i];
        x[2 * i] = a * c - b * s;
        x[2 * i + 1] = b * c + a * s;
      }
      continue;
    }
    const F16x sign = Set(sine_sign);
    ForVectors(n, [=](int64_t i, int64_t tail) {
      const F16x a = LoadPart(x + i, tail), b = LoadPart(x + n + i, tail);
      const F16x c = LoadPart(cosines + i, tail), s = Mul(sign, LoadPart(sines + i, tail));
      StorePart(Sub(Mul(a, c), Mul(b, s)), x + i, tail);
      StorePart(Add(Mul(b, c), Mul(a, s)), x + n + i, tail);
    });
  }
}

// ---- softmax ----

// ln x for x > 0, normal, in double without fused products: 2 artanh((m - 1) / (m + 1)) + e ln 2 with m in
// (1 / sqrt 2, sqrt 2]; absolute error below 1e-14. Infinity and NaN are returned as they are.
inline double Log(double x) {
  if (!(x < static_cast<double>(kInf))) return x;
  uint64_t bits;
  __builtin_memcpy(&bits, &x, 8);
  int exponent = static_cast<int>(bits >> 52) - 1023;
  bits = (bits & 0x000fffffffffffffull) | 0x3ff0000000000000ull;
  double m;
  __builtin_memcpy(&m, &bits, 8);
  if (m > 1.41421356237309515) {
    m *= 0.5;
    ++exponent;
  }
  const double s = (m - 1.0) / (m + 1.0), z = s * s;
  double p = 1.0 / 19;
  for (int k = 17; k >= 1; k -= 2) p = p * z + 1.0 / k;
  return 2.0 * s * p + exponent * 0.693147180559945309417;
}

// ---- state-space layers ----

// R tokens of the 16 columns from `i` on, of which `tail` as in ForVectors; their state is `block`
// [state_size, 16].
template <int R>
PLANISH_INLINE void ScanColumns(const ScanJob& job, int64_t token, int64_t i, int64_t tail, float* block) {
  F16x x[R], scaled[R], sum[R], keep[R];
  const float *b[R], *c[R];
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) {
    x[r] = LoadPart(job.x + (token + r) * job.x_stride + i, tail);
    scaled[r] = Mul(Set(job.step[(token + r) * job.step_stride]), x[r]);
    keep[r] = Set(job.decay[(token + r) * job.step_stride]);
    sum[r] = Set(0.0f);
    b[r] = job.b + (token + r) * job.b_stride;
    c[r] = job.c + (token + r) * job.c_stride;
  }
  for (int64_t s = 0; s < job.state_size; ++s) {
    F16x state = Load(block + s * kLanes);
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      state = Fma(Set(b[r][s]), scaled[r], Mul(keep[r], state));
      sum[r] = Fma(Set(c[r][s]), state, sum[r]);
    }
    Store(state, block + s * kLanes);
  }
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) {
    StorePart(Fma(Set(job.skip), x[r], sum[r]), job.y + (token + r) * job.y_stride + i, tail);
  }
}

// Bound: compute. Two fused multiply-adds and a product for every element of the state and token. The sums
// are chains as long as the state, so kScanTokens tokens go through it together, which hides their latency
// and loads and stores the state (8 bytes an element) once for all of them. 16 columns at a time are copied
// for all tokens: in the state they are n apart, at powers of two, where few sets of the cache hold them.
void ScanTokens(const ScanJob& job) {
  ForVectors(job.n, [&](int64_t i, int64_t tail) {
    for (int64_t s = 0; s < job.state_size; ++s) {
      Store(LoadPart(job.state + s * job.n + i, tail), job.block + s * kLanes);
    }
    int64_t token = 0;
    for (; token + kScanTokens <= job.tokens; token += kScanTokens) {
      ScanColumns<kScanTokens>(job, token, i, tail, job.block);
    }
    for (; token < job.tokens; ++token) ScanColumns<1>(job, token, i, tail, job.block);
    for (int64_t s = 0; s < job.state_size; ++s) {
      StorePart(Load(job.block + s * kLanes), job.state + s * job.n + i, tail);
    }
  });
}
void ConvRow(const float* const* rows, const float* taps, const float* bias, int64_t kernel, float* y,
             int64_t n) {
  ForVectors(n, [=](int64_t i, int64_t tail) {
    F16x sum = bias == nullptr ? Set(0.0f) : LoadPart(bias + i, tail);
    for (int64_t k = 0; k < kernel; ++k) {
      sum = Fma(LoadPart(taps + k * n + i, tail), LoadPart(rows[k] + i, tail), sum);
    }
    StorePart(sum, y + i, tail);
  });
}
// max(x, 0) + ln(1 + exp(-|x|)).
void SoftplusRow(const float* x, float* y, int64_t n) {
  ForVectors(n, [=](int64_t i, int64_t tail) {
    StorePart(ExpF(Sub(Set(0.0f), Abs(LoadPart(x + i, tail)))), y + i, tail);
  });
  for (int64_t i = 0; i < n; ++i) {
    const double e = static_cast<double>(y[i]);
    // Below 1e-5 the series is exact to 1e-10 where 1 + e would lose the digits of e.
    const double log = e < 1e-5 ? e - 0.5 * e * e : Log(1.0 + e);
    y[i] = static_cast<float>((x[i] > 0 ? static_cast<double>(x[i]) : 0.0) + log);
  }
}

// Three passes, of which the last two find the row in cache; bound by about 20 instructions per vector of
// the exponential. Sums of 256 columns are float, lane by lane; they are added in double.
void LogSoftmaxRow(float* x, int64_t n) {
  F16x maximum = Set(-kInf);
  ForVectors(n, [&](int64_t i, int64_t tail) { maximum = Max(LoadPart(x + i, tail, -kInf), maximum); });
  const float max = JoinMax(maximum);
  constexpr int64_t kBlock = 256;
  double sum = 0;
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    const int64_t count = n - begin < kBlock ? n - begin : kBlock;
    sum += static_cast<double>(SumVectors(count, [=](int64_t i, int64_t tail, F16x partial) {
      const F16x v = LoadPart(x + begin + i, tail, -kInf);
      return Add(partial, ExpSmall(Sub(v, Set(max))));
    }));
  }
  const F16x log_sum = Set(static_cast<float>(Log(sum)));
  ForVectors(n, [=](int64_t i, int64_t tail) {
    StorePart(Sub(Sub(LoadPart(x + i, tail), Set(max)), log_sum), x + i, tail);
  });
}

}  // namespace
}  // namespace PLANISH_SIMD_NAMESPACE
}  // namespace planish

#include "math/attention-inl.h"

namespace planish {
namespace PLANISH_SIMD_NAMESPACE {
namespace {

constexpr NnKernels kKernels = {
    ExpRow,
    TanhRow,
    {ActivateRow<Silu>, ActivateRow<GeluTanh>, ActivateRow<Gelu>, ActivateRow<Relu>,
     ActivateRow<SigmoidFunction>},
    {ActivateBackwardRow<Silu>, ActivateBackwardRow<GeluTanh>, ActivateBackwardRow<Gelu>,
     ActivateBackwardRow<Relu>, ActivateBackwardRow<SigmoidFunction>},
    {GatedRow<Silu>, GatedRow<GeluTanh>, GatedRow<Gelu>, GatedRow<Relu>, GatedRow<SigmoidFunction>},
    {GatedBackwardRow<Silu>, GatedBackwardRow<GeluTanh>, GatedBackwardRow<Gelu>, GatedBackwardRow<Relu>,
     GatedBackwardRow<SigmoidFunction>},
    AddScaledRow,
    RmsNormRow,
    LayerNormRow,
    RmsNormBackwardRow,
    LayerNormBackwardRow,
    NormParameters,
    RopeTable,
    RopeRow,
    LogSoftmaxRow,
    PackKeys,
    PackValues,
    ScanTokens,
    ConvRow,
    SoftplusRow,
    Attend,
};

}  // namespace
}  // namespace PLANISH_SIMD_NAMESPACE
}  // namespace planish

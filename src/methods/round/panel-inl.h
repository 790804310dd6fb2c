// The body of panel.h over Lanes. Included by panel*.cc only.
//
// Bound: a block of B columns costs B/2 fused multiply-adds a weight. Left-looking, so that the sums
// of a column stay in registers: 64 rows are 4 (AVX-512) or 8 (AVX2) independent chains, which covers
// the latency of the fused multiply-add; each needs one load of e, from L1 (128 columns x 64 rows is
// 32 KB). At B = 128 and n = 4096 this is 3 % of the multiply-adds of the layer.
#pragma once

#include "grids/lanes-inl.h"
#include "methods/round/panel.h"

namespace planish {
namespace {

constexpr int kVectors = static_cast<int>(kPanelRows) / Lanes::kWidth;

// acc = acc_j + sum_{first <= i < last} e_i c_ij.
inline void Feed(const PanelBlock& b, int64_t j, int64_t first, int64_t last, Lanes (&acc)[kVectors]) {
  const float* c = b.coefficients + j * b.coefficients_ld;
#pragma GCC unroll 8
  for (int v = 0; v < kVectors; ++v) acc[v] = Load(b.acc + j * b.ld + v * Lanes::kWidth);
  for (int64_t i = first; i < last; ++i) {
    const Lanes c_i = Set(c[i]);
    const float* e = b.e + i * b.ld;
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) acc[v] = Fma(Load(e + v * Lanes::kWidth), c_i, acc[v]);
  }
}

inline void RoundBody(const PanelBlock& b, int64_t begin, int64_t end) {
  for (int64_t j = begin; j < end; ++j) {
    Lanes acc[kVectors];
    Feed(b, j, begin, j, acc);
    const float* w = b.w + b.columns[j] * b.ld;
    uint8_t* codes = b.codes + b.columns[j] * b.ld;
    const float* scales = b.scales + b.groups[j] * b.ld;
    const float* zeros = b.zeros + b.groups[j] * b.ld;
    const Lanes inv = Set(b.inv_diag[j]);
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      const int64_t at = v * Lanes::kWidth;
      const Lanes w_v = Load(w + at), s = Load(scales + at), z = Load(zeros + at);
      const Lanes t = Fma(acc[v], inv, w_v);
      const Lanes lo = Sub(Set(0.0f), z);
      const Lanes a = Min(Max(RoundEven(Div(t, s)), lo), Sub(Set(b.max_code), z));
      Store(b.acc + j * b.ld + at, acc[v]);
      Store(b.e + j * b.ld + at, Sub(w_v, Mul(a, s)));
      StoreBytes(codes + at, Add(a, z));
    }
  }
}

inline void FeedBody(const PanelBlock& b, int64_t first, int64_t begin, int64_t end) {
  for (int64_t j = begin; j < end; ++j) {
    Lanes acc[kVectors];
    Feed(b, j, first, begin, acc);
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) Store(b.acc + j * b.ld + v * Lanes::kWidth, acc[v]);
  }
}

inline void TargetBody(const PanelBlock& b, int64_t begin, int64_t end, float* targets) {
  for (int64_t j = begin; j < end; ++j) {
    Lanes acc[kVectors];
    Feed(b, j, begin, j, acc);
    const float* w = b.w + b.columns[j] * b.ld;
    const Lanes inv = Set(b.inv_diag[j]);
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      const int64_t at = v * Lanes::kWidth;
      const Lanes shift = Mul(acc[v], inv);
      Store(b.e + j * b.ld + at, Sub(Set(0.0f), shift));
      Store(targets + (j - begin) * kPanelRows + at, Add(Load(w + at), shift));
    }
  }
}

}  // namespace
}  // namespace planish

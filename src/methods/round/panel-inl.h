// The body of panel.h over Lanes. Included by panel*.cc only.
//
// Bound: a block of B columns costs B/2 fused multiply-adds a weight. Left-looking, so that the sums
// of a column stay in registers: 64 rows are 4 (AVX-512) or 8 (AVX2) independent chains, which covers
// the latency of the fused multiply-add; each needs one load of e, from L1 (128 columns x 64 rows is
// 32 KB). At B = 128 and n = 4096 this is 3 % of the multiply-adds of the layer.
#pragma once

#include "grids/gguf_table-inl.h"
#include "grids/lanes-inl.h"
#include "grids/levels_search-inl.h"
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

struct Rounding {
  Lanes value, code;
};

// One vector of targets to a uniform grid.
template <bool kFine>
inline Rounding RoundUniform(const PanelBlock& b, int64_t group, int64_t at, Lanes t) {
  const Lanes s = Load(b.scales + group * b.ld + at), z = Load(b.zeros + group * b.ld + at);
  const Lanes whole = kFine ? RoundEven(z) : z;
  const Lanes part = kFine ? Sub(z, whole) : Set(0.0f);
  const Lanes x = kFine ? Add(Div(t, s), part) : Div(t, s);
  const Lanes lo = Sub(Set(0.0f), whole);
  const Lanes a = Min(Max(RoundEven(x), lo), Sub(Set(b.max_code), whole));
  return {Mul(kFine ? Sub(a, part) : a, s), Add(a, whole)};
}

// The same to levels: a comparison with every midpoint, three operations a level, or a search.
inline Rounding RoundLevels(const PanelBlock& b, int64_t group, int64_t at, Lanes t) {
  if (b.num_levels > kMostCompared) {
    const float* mids = b.midpoints + at;
    const Lanes code = b.guide.start == nullptr ? SearchLevel(mids, kPanelRows, b.num_levels, t)
                                                : SearchGuided(b.guide, mids, kPanelRows, b.num_levels, t,
                                                               Div(t, Load(b.scales + group * b.ld + at)));
    return {LevelAt(b.values + at, kPanelRows, code), code};
  }
  Rounding r{Load(b.values + at), Set(0.0f)};
  for (int i = 1; i < b.num_levels; ++i) {
    const Lanes mid = Load(b.midpoints + i * kPanelRows + at);
    r.value = SelectLess(mid, t, Load(b.values + i * kPanelRows + at), r.value);
    r.code = SelectLess(mid, t, Set(static_cast<float>(i)), r.code);
  }
  return r;
}

// (code + low) * scale + minimum. A scale of 0 gives infinity or NaN, which the clamp takes to a code.
inline Rounding RoundMinimum(const PanelBlock& b, int64_t group, int64_t at, Lanes t) {
  const Lanes s = Load(b.scales + group * b.ld + at), m = Load(b.zeros + group * b.ld + at);
  const Lanes low = Set(b.low_code), high = Set(b.low_code + b.max_code);
  const Lanes a = Min(Max(RoundEven(Div(Sub(t, m), s)), low), high);
  return {Add(Mul(a, s), m), Sub(a, low)};
}

inline Rounding RoundTable(const PanelBlock& b, int64_t group, int64_t at, Lanes t) {
  const Lanes s = Load(b.scales + group * b.ld + at);
  Rounding r;
  r.value = Mul(NearestOfTable(Div(t, s), &r.code), s);
  return r;
}

using Form = PanelBlock::Form;

template <Form kForm>
inline void RoundAs(const PanelBlock& b, int64_t begin, int64_t end) {
  for (int64_t j = begin; j < end; ++j) {
    Lanes acc[kVectors];
    Feed(b, j, begin, j, acc);
    const float* w = b.w + b.columns[j] * b.ld;
    uint8_t* codes = b.codes + b.columns[j] * b.ld;
    const Lanes inv = Set(b.inv_diag[j]);
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      const int64_t at = v * Lanes::kWidth;
      const Lanes w_v = Load(w + at);
      const Lanes t = Fma(acc[v], inv, w_v);
      Rounding r;
      if constexpr (kForm == Form::kValues) {
        r = RoundLevels(b, b.groups[j], at, t);
      } else if constexpr (kForm == Form::kMinimum) {
        r = RoundMinimum(b, b.groups[j], at, t);
      } else if constexpr (kForm == Form::kTable) {
        r = RoundTable(b, b.groups[j], at, t);
      } else {
        r = RoundUniform<kForm == Form::kFine>(b, b.groups[j], at, t);
      }
      Store(b.acc + j * b.ld + at, acc[v]);
      Store(b.e + j * b.ld + at, Sub(w_v, r.value));
      StoreBytes(codes + at, r.code);
    }
  }
}

inline void RoundBody(const PanelBlock& b, int64_t begin, int64_t end) {
  switch (b.form) {
    case Form::kWhole:
      return RoundAs<Form::kWhole>(b, begin, end);
    case Form::kFine:
      return RoundAs<Form::kFine>(b, begin, end);
    case Form::kMinimum:
      return RoundAs<Form::kMinimum>(b, begin, end);
    case Form::kTable:
      return RoundAs<Form::kTable>(b, begin, end);
    case Form::kValues:
      return RoundAs<Form::kValues>(b, begin, end);
  }
}

inline void FeedBody(const PanelBlock& b, int64_t first, int64_t last, int64_t begin, int64_t end) {
  for (int64_t j = begin; j < end; ++j) {
    Lanes acc[kVectors];
    Feed(b, j, first, last, acc);
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

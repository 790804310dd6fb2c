// FitPanel for uniform grids.
//
// Minimizes err(s, z) = sum_k h_k (w_k - q_k)^2 over stored scales s and zeros z in three steps:
//   1. both ends of the range shrunk together (the usual one-parameter search), and for 2 and 3 bits
//      every zero with a ladder of scales, because there the best zero is often far from the range's;
//   2. a pattern search around the best: scale and zero moved separately and together, the step of
//      the scale halved each time;
//   3. least squares: with the codes fixed the best scale is sum(h a w) / sum(h a a); where zeros are finer
//      than whole numbers, the best scale and zero together.
// Every candidate is judged with its scale and zero as stored, and min-max is the first one, so the result is
// never worse than min-max. About 60 to 90 judgements a group; each costs 7 vector operations a column and
// reads the panel from L1 (64 rows x 128 columns is 32 KB), so the kernel is bound by arithmetic.
#pragma once

#include "grids/fit_scale-inl.h"

namespace planish {
namespace {

constexpr int kTries = 4;  // candidates judged in one pass over the columns, to share its loads

struct Candidate {
  Lanes s, z;
};

struct GroupFit {
  const float* w;  // the group's columns at one register of rows
  int64_t ld, cols;
  const float* h;
  Lanes max_code;
  bool symmetric;
  float zero_step;
  ScaleRule rule;
  Lanes best_s, best_z, best_err;
};

inline Lanes SnapScale(const GroupFit& f, Lanes s) { return SnapScale(f.rule, s); }
// To a stored zero: a multiple of the step in [0, max_code].
inline Lanes ClampZero(const GroupFit& f, Lanes z) {
  const Lanes whole = RoundEven(Mul(z, Set(1.0f / f.zero_step)));
  return Min(Max(Mul(whole, Set(f.zero_step)), Set(0.0f)), f.max_code);
}

// Judges kTries candidates and keeps the best (the earliest on ties).
template <bool kFine>
inline void JudgeAs(GroupFit& f, const Candidate (&c)[kTries]) {
  Lanes inv[kTries], lo[kTries], hi[kTries], err[kTries], part[kTries];
  for (int t = 0; t < kTries; ++t) {
    const Lanes z = kFine ? RoundEven(c[t].z) : c[t].z;
    inv[t] = Div(Set(1.0f), c[t].s);
    lo[t] = Sub(Set(0.0f), z);
    hi[t] = Sub(f.max_code, z);
    part[t] = Sub(c[t].z, z);
    err[t] = Set(0.0f);
  }
  for (int64_t k = 0; k < f.cols; ++k) {
    const Lanes w = Load(f.w + k * f.ld);
    const Lanes h = Set(f.h == nullptr ? 1.0f : f.h[k]);
    for (int t = 0; t < kTries; ++t) {
      const Lanes x = kFine ? Add(Mul(w, inv[t]), part[t]) : Mul(w, inv[t]);
      Lanes a = Min(Max(RoundEven(x), lo[t]), hi[t]);
      if (kFine) a = Sub(a, part[t]);
      const Lanes d = Fnma(a, c[t].s, w);
      err[t] = Fma(Mul(h, d), d, err[t]);
    }
  }
  for (int t = 0; t < kTries; ++t) {
    f.best_s = SelectLess(err[t], f.best_err, c[t].s, f.best_s);
    f.best_z = SelectLess(err[t], f.best_err, c[t].z, f.best_z);
    f.best_err = Min(err[t], f.best_err);
  }
}

inline void Judge(GroupFit& f, const Candidate (&c)[kTries]) {
  if (f.zero_step < 1.0f) return JudgeAs<true>(f, c);
  JudgeAs<false>(f, c);
}

// The best scale and zero together for the codes that the best candidate gives: with codes c the line
// s c - y through w, and zero y / s.
inline Candidate LeastSquaresLine(const GroupFit& f) {
  const Lanes inv = Div(Set(1.0f), f.best_s);
  const Lanes z = RoundEven(f.best_z), part = Sub(f.best_z, z);
  const Lanes lo = Sub(Set(0.0f), z), hi = Sub(f.max_code, z);
  Lanes h_sum = Set(0.0f), c_sum = Set(0.0f), cc = Set(0.0f), cw = Set(0.0f), w_sum = Set(0.0f);
  for (int64_t k = 0; k < f.cols; ++k) {
    const Lanes w = Load(f.w + k * f.ld), h = Set(f.h == nullptr ? 1.0f : f.h[k]);
    const Lanes c = Add(Min(Max(RoundEven(Add(Mul(w, inv), part)), lo), hi), z);
    const Lanes hc = Mul(h, c);
    h_sum = Add(h_sum, h);
    c_sum = Add(c_sum, hc);
    cc = Fma(hc, c, cc);
    cw = Fma(hc, w, cw);
    w_sum = Fma(h, w, w_sum);
  }
  const Lanes det = Sub(Mul(h_sum, cc), Mul(c_sum, c_sum));
  const Lanes s = Div(Sub(Mul(h_sum, cw), Mul(c_sum, w_sum)), det);
  const Lanes y = Div(Sub(Mul(c_sum, cw), Mul(cc, w_sum)), det);
  // No line through one point, and no scale that is not positive.
  const Lanes positive = SelectLess(Set(1e-6f), Div(det, Mul(h_sum, cc)), s, Set(-1.0f));
  Candidate line;
  line.s = SnapScale(f, SelectLess(Set(0.0f), positive, s, f.best_s));
  line.z = ClampZero(f, SelectLess(Set(0.0f), positive, Div(y, s), f.best_z));
  return line;
}

// The best scale for the codes that the best candidate gives, zero kept.
inline Lanes LeastSquaresScale(const GroupFit& f) {
  const Lanes inv = Div(Set(1.0f), f.best_s);
  const Lanes z = RoundEven(f.best_z), part = Sub(f.best_z, z);
  const Lanes lo = Sub(Set(0.0f), z), hi = Sub(f.max_code, z);
  Lanes aw = Set(0.0f), aa = Set(0.0f);
  for (int64_t k = 0; k < f.cols; ++k) {
    const Lanes w = Load(f.w + k * f.ld);
    const Lanes a = Sub(Min(Max(RoundEven(Add(Mul(w, inv), part)), lo), hi), part);
    const Lanes ha = Mul(Set(f.h == nullptr ? 1.0f : f.h[k]), a);
    aw = Fma(ha, w, aw);
    aa = Fma(ha, a, aa);
  }
  return SelectLess(Set(0.0f), aa, Div(aw, aa), f.best_s);
}

// Step 1: scale = min-max scale * ratio, ratio from 1 down by `step`; `zero` < 0: from the range's low end.
inline void TryLadder(GroupFit& f, Lanes full_s, Lanes low, float step, float zero) {
  constexpr int kRungs = 16;
  for (int i = 0; i < kRungs; i += kTries) {
    Candidate c[kTries];
    for (int t = 0; t < kTries; ++t) {
      c[t].s = SnapScale(f, Mul(full_s, Set(1.0f - step * static_cast<float>(i + t))));
      if (zero >= 0) {
        c[t].z = Set(zero);
      } else {
        const Lanes low_t = Mul(low, Set(1.0f - step * static_cast<float>(i + t)));
        c[t].z = ClampZero(f, RoundEven(Div(Sub(Set(0.0f), low_t), c[t].s)));
      }
    }
    Judge(f, c);
  }
}

// Step 2: the eight neighbors of the best in (scale * (1 +- step), zero +- 1).
inline void TryNeighbors(GroupFit& f, float step) {
  const Lanes up = SnapScale(f, Mul(f.best_s, Set(1.0f + step)));
  const Lanes down = SnapScale(f, Mul(f.best_s, Set(1.0f - step)));
  if (f.symmetric) {
    const Lanes up2 = SnapScale(f, Mul(f.best_s, Set(1.0f + 0.5f * step)));
    const Lanes down2 = SnapScale(f, Mul(f.best_s, Set(1.0f - 0.5f * step)));
    Judge(f, {{up, f.best_z}, {down, f.best_z}, {up2, f.best_z}, {down2, f.best_z}});
    return;
  }
  const Lanes s = f.best_s, z = f.best_z;
  const float reach = f.zero_step < 12.5f * step ? 12.5f * step : f.zero_step;  // 1 at the first step
  const Lanes more = ClampZero(f, Add(z, Set(f.zero_step < 1.0f ? reach : 1.0f)));
  const Lanes less = ClampZero(f, Sub(z, Set(f.zero_step < 1.0f ? reach : 1.0f)));
  Judge(f, {{up, z}, {down, z}, {s, more}, {s, less}});
  Judge(f, {{up, more}, {down, more}, {up, less}, {down, less}});
}

inline void Search(GroupFit& f, Lanes full_s, Lanes low, int bits) {
  if (f.symmetric) {
    TryLadder(f, full_s, low, bits <= 3 ? 0.05f : 0.03f, static_cast<float>(1 << (bits - 1)));
  } else {
    TryLadder(f, full_s, low, bits <= 3 ? 0.05f : 0.03f, -1.0f);
    if (bits == 2) {
      for (int z = 0; z < 4; ++z) TryLadder(f, full_s, low, 0.05f, static_cast<float>(z));
    }
  }
  for (float step = 0.08f; step > 0.009f; step *= 0.5f) TryNeighbors(f, step);
  for (int i = 0; i < 2; ++i) {
    if (f.zero_step < 1.0f) {
      const Candidate line = LeastSquaresLine(f);
      Judge(f, {line, line, line, line});
    }
    const Lanes s = SnapScale(f, LeastSquaresScale(f));
    const Lanes up = SnapScale(f, Mul(s, Set(1.004f))), down = SnapScale(f, Mul(s, Set(0.996f)));
    Judge(f, {{s, f.best_z}, {up, f.best_z}, {down, f.best_z}, {f.best_s, f.best_z}});
  }
}

inline void FitUniformLanes(const PanelFit& fit, int64_t row) {
  const float max_code = static_cast<float>((1 << fit.bits) - 1);
  GroupFit f{fit.w + row,      fit.ld, fit.cols, fit.h, Set(max_code), fit.symmetric, fit.zero_step,
             RuleOf(fit, row), {},     {},       {}};
  Lanes low = Set(0.0f), high = Set(0.0f);
  for (int64_t k = 0; k < f.cols; ++k) {
    const Lanes w = Load(f.w + k * f.ld);
    low = Min(w, low);
    high = Max(w, high);
  }
  if (fit.symmetric) {
    high = Max(high, Sub(Set(0.0f), low));
    low = Sub(Set(0.0f), high);
  }
  // Halves first: the difference of two large floats may overflow.
  const Lanes half_range = Sub(Mul(high, Set(0.5f)), Mul(low, Set(0.5f)));
  const Lanes full_s = Mul(half_range, Set(2.0f / max_code));
  f.best_s = SnapScale(f, full_s);
  f.best_z = fit.symmetric ? Set(static_cast<float>(1 << (fit.bits - 1)))
                           : ClampZero(f, RoundEven(Div(Sub(Set(0.0f), low), f.best_s)));
  if (fit.search) {
    f.best_err = Set(__builtin_inff());
    const Candidate minmax{f.best_s, f.best_z};
    Judge(f, {minmax, minmax, minmax, minmax});
    Search(f, full_s, low, fit.bits);
  }
  const Lanes zero_group = half_range;  // 0 exactly when every weight is 0
  Store(fit.scales + row, SelectLess(Set(0.0f), zero_group, f.best_s, SnapScale(f, Set(1.0f))));
  Store(fit.zeros + row, f.best_z);
}

}  // namespace
}  // namespace planish

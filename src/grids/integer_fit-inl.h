// The body of FitPanel over Lanes: see integer_fit.h. Included by integer_fit*.cc only.
//
// Minimizes err(s, z) = sum_k h_k (w_k - q_k)^2 over fp16 scales s and whole zeros z in three steps:
//   1. both ends of the range shrunk together (the usual one-parameter search), and for 2 and 3 bits
//      every zero with a ladder of scales, because there the best zero is often far from the range's;
//   2. a pattern search around the best: scale and zero moved separately and together, the step of
//      the scale halved each time;
//   3. least squares: with the codes fixed the best scale is sum(h a w) / sum(h a a).
// Every candidate is judged with its scale already rounded to fp16, and min-max is the first one, so
// the result is never worse than min-max. About 60 to 90 judgements a group; each costs 7 vector
// operations a column and reads the panel from L1 (64 rows x 128 columns is 32 KB), so the kernel is
// bound by arithmetic.
#pragma once

#include "grids/integer_fit.h"
#include "grids/lanes-inl.h"

namespace planish {
namespace {

constexpr int kTries = 4;              // candidates judged in one pass over the columns, to share its loads
constexpr float kMinScale = 0x1p-24f;  // the smallest and largest of fp16
constexpr float kMaxScale = 65504.0f;

struct Candidate {
  Lanes s, z;
};

struct GroupFit {
  const float* w;  // the group's columns at one register of rows
  int64_t ld, cols;
  const float* h;
  Lanes max_code;
  bool symmetric;
  Lanes best_s, best_z, best_err;
};

inline Lanes SnapScale(Lanes s) { return RoundToHalf(Min(Max(s, Set(kMinScale)), Set(kMaxScale))); }
inline Lanes ClampZero(const GroupFit& f, Lanes z) { return Min(Max(z, Set(0.0f)), f.max_code); }

// Judges kTries candidates and keeps the best (the earliest on ties).
inline void Judge(GroupFit& f, const Candidate (&c)[kTries]) {
  Lanes inv[kTries], lo[kTries], hi[kTries], err[kTries];
  for (int t = 0; t < kTries; ++t) {
    inv[t] = Div(Set(1.0f), c[t].s);
    lo[t] = Sub(Set(0.0f), c[t].z);
    hi[t] = Sub(f.max_code, c[t].z);
    err[t] = Set(0.0f);
  }
  for (int64_t k = 0; k < f.cols; ++k) {
    const Lanes w = Load(f.w + k * f.ld);
    const Lanes h = Set(f.h == nullptr ? 1.0f : f.h[k]);
    for (int t = 0; t < kTries; ++t) {
      const Lanes a = Min(Max(RoundEven(Mul(w, inv[t])), lo[t]), hi[t]);
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

// The best scale for the codes that the best candidate gives, zero kept.
inline Lanes LeastSquaresScale(const GroupFit& f) {
  const Lanes inv = Div(Set(1.0f), f.best_s);
  const Lanes lo = Sub(Set(0.0f), f.best_z), hi = Sub(f.max_code, f.best_z);
  Lanes aw = Set(0.0f), aa = Set(0.0f);
  for (int64_t k = 0; k < f.cols; ++k) {
    const Lanes w = Load(f.w + k * f.ld);
    const Lanes a = Min(Max(RoundEven(Mul(w, inv)), lo), hi);
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
      c[t].s = SnapScale(Mul(full_s, Set(1.0f - step * static_cast<float>(i + t))));
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
  const Lanes up = SnapScale(Mul(f.best_s, Set(1.0f + step)));
  const Lanes down = SnapScale(Mul(f.best_s, Set(1.0f - step)));
  if (f.symmetric) {
    const Lanes up2 = SnapScale(Mul(f.best_s, Set(1.0f + 0.5f * step)));
    const Lanes down2 = SnapScale(Mul(f.best_s, Set(1.0f - 0.5f * step)));
    Judge(f, {{up, f.best_z}, {down, f.best_z}, {up2, f.best_z}, {down2, f.best_z}});
    return;
  }
  const Lanes s = f.best_s, z = f.best_z;
  const Lanes more = ClampZero(f, Add(z, Set(1.0f))), less = ClampZero(f, Sub(z, Set(1.0f)));
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
    const Lanes s = SnapScale(LeastSquaresScale(f));
    const Lanes up = SnapScale(Mul(s, Set(1.004f))), down = SnapScale(Mul(s, Set(0.996f)));
    Judge(f, {{s, f.best_z}, {up, f.best_z}, {down, f.best_z}, {f.best_s, f.best_z}});
  }
}

inline void FitLanes(const PanelFit& fit, int64_t row) {
  const float max_code = static_cast<float>((1 << fit.bits) - 1);
  GroupFit f{fit.w + row, fit.ld, fit.cols, fit.h, Set(max_code), fit.symmetric, {}, {}, {}};
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
  f.best_s = SnapScale(full_s);
  f.best_z = fit.symmetric ? Set(static_cast<float>(1 << (fit.bits - 1)))
                           : ClampZero(f, RoundEven(Div(Sub(Set(0.0f), low), f.best_s)));
  if (fit.search) {
    f.best_err = Set(__builtin_inff());
    const Candidate minmax{f.best_s, f.best_z};
    Judge(f, {minmax, minmax, minmax, minmax});
    Search(f, full_s, low, fit.bits);
  }
  const Lanes zero_group = half_range;  // 0 exactly when every weight is 0
  Store(fit.scales + row, SelectLess(Set(0.0f), zero_group, f.best_s, Set(1.0f)));
  Store(fit.zeros + row, f.best_z);
}

inline void FitPanelBody(const PanelFit& fit) {
  for (int64_t row = 0; row < kPanelRows; row += Lanes::kWidth) FitLanes(fit, row);
}

}  // namespace
}  // namespace planish

// FitPanel for grids of levels. Minimizes sum_k h_k (w_k - s T[c_k])^2 over stored scales s and, where the
// grid has several, over its sets of levels T:
//   1. a ladder of scales around the one that maps the group's range to the levels' range;
//   2. steps up and down of falling size around the best;
//   3. least squares: with the codes fixed the best scale is sum(h T w) / sum(h T T).
// Every candidate is judged with its scale as stored. The nearest level is found by comparing with all
// midpoints, two operations each and no branch, for 16 levels 4 operations a weight and candidate; or, of
// more than 32 levels, by a search of gathers, which begins where a guide to the levels says.
#pragma once

#include "grids/fit_scale-inl.h"
#include "grids/levels_search-inl.h"

namespace planish {
namespace {

struct LevelFit {
  const float* w;
  int64_t ld, cols;
  const float* h;
  const float* levels;  // of one set at this register of rows, kPanelRows apart
  GuideView guide;
  int count;
  ScaleRule rule;
  Lanes best_s, best_err;
};

// mids[i] holds midpoint i of every lane.
inline Lanes FoundLevel(const LevelFit& f, const Lanes* mids, Lanes x) {
  const auto* m = reinterpret_cast<const float*>(mids);
  const Lanes code = f.guide.start == nullptr ? SearchLevel(m, Lanes::kWidth, f.count, x)
                                              : SearchGuided(f.guide, m, Lanes::kWidth, f.count, x, x);
  return LevelAt(f.levels, kPanelRows, code);
}

inline Lanes LevelOf(const LevelFit& f, const Lanes* mids, Lanes x) {
  if (f.count > kMostCompared) return FoundLevel(f, mids, x);
  Lanes value = Load(f.levels);
  for (int i = 1; i < f.count; ++i) value = SelectLess(mids[i], x, Load(f.levels + i * kPanelRows), value);
  return value;
}

inline void Midpoints(const LevelFit& f, Lanes* mids) {
  for (int i = 1; i < f.count; ++i) {
    mids[i] = Mul(Set(0.5f), Add(Load(f.levels + (i - 1) * kPanelRows), Load(f.levels + i * kPanelRows)));
  }
}

// Candidates that are judged together share the loads.
template <int kTries>
inline void JudgeLevels(LevelFit& f, const Lanes* mids, const Lanes (&s)[kTries]) {
  Lanes inv[kTries], err[kTries];
  for (int t = 0; t < kTries; ++t) {
    inv[t] = Div(Set(1.0f), s[t]);
    err[t] = Set(0.0f);
  }
  for (int64_t k = 0; k < f.cols; ++k) {
    const Lanes w = Load(f.w + k * f.ld);
    const Lanes h = Set(f.h == nullptr ? 1.0f : f.h[k]);
    Lanes x[kTries], value[kTries];
    for (int t = 0; t < kTries; ++t) {
      x[t] = Mul(w, inv[t]);
      value[t] = Load(f.levels);
    }
    if (f.count > kMostCompared) {
      for (int t = 0; t < kTries; ++t) value[t] = FoundLevel(f, mids, x[t]);
    }
    for (int i = 1; i < f.count && f.count <= kMostCompared; ++i) {
      const Lanes level = Load(f.levels + i * kPanelRows);
      for (int t = 0; t < kTries; ++t) value[t] = SelectLess(mids[i], x[t], level, value[t]);
    }
    for (int t = 0; t < kTries; ++t) {
      const Lanes d = Fnma(value[t], s[t], w);
      err[t] = Fma(Mul(h, d), d, err[t]);
    }
  }
  for (int t = 0; t < kTries; ++t) {
    f.best_s = SelectLess(err[t], f.best_err, s[t], f.best_s);
    f.best_err = Min(err[t], f.best_err);
  }
}

inline Lanes LeastSquaresLevels(const LevelFit& f, const Lanes* mids) {
  const Lanes inv = Div(Set(1.0f), f.best_s);
  Lanes tw = Set(0.0f), tt = Set(0.0f);
  for (int64_t k = 0; k < f.cols; ++k) {
    const Lanes w = Load(f.w + k * f.ld), level = LevelOf(f, mids, Mul(w, inv));
    const Lanes ht = Mul(Set(f.h == nullptr ? 1.0f : f.h[k]), level);
    tw = Fma(ht, w, tw);
    tt = Fma(ht, level, tt);
  }
  const Lanes s = SelectLess(Set(0.0f), tt, Div(tw, tt), f.best_s);
  return SelectLess(Set(0.0f), s, s, f.best_s);
}

struct GroupEnds {
  Lanes low, high;  // zero among them
};

inline GroupEnds EndsOf(const LevelFit& f) {
  GroupEnds ends{Set(0.0f), Set(0.0f)};
  for (int64_t k = 0; k < f.cols; ++k) {
    const Lanes w = Load(f.w + k * f.ld);
    ends = {Min(w, ends.low), Max(w, ends.high)};
  }
  return ends;
}

// The scale at which the levels just cover the group.
inline Lanes CoveringScale(const LevelFit& f, const GroupEnds& ends) {
  const Lanes least = Load(f.levels), most = Load(f.levels + (f.count - 1) * kPanelRows);
  const Lanes up = SelectLess(Set(0.0f), most, Div(ends.high, most), Set(0.0f));
  const Lanes down = SelectLess(least, Set(0.0f), Div(ends.low, least), Set(0.0f));
  return Max(up, down);
}

// BitMoD's rule: the largest magnitude goes to the set's largest, whatever their signs. Where they differ,
// what lies beyond the shorter side is clipped, which often costs less than the steps that it takes to cover
// it.
inline Lanes MagnitudeScale(const LevelFit& f, const GroupEnds& ends) {
  const Lanes least = Load(f.levels), most = Load(f.levels + (f.count - 1) * kPanelRows);
  return Div(Max(ends.high, Sub(Set(0.0f), ends.low)), Max(most, Sub(Set(0.0f), least)));
}

// The MX rule takes 2^k with k = floor(log2 amax) - floor(log2 top level). Rounding x to a power of two gives
// values in (x / 1.5, x / 0.75], so that is x = 0.75 m amax / top with m in [1, 2) the mantissa of the top.
inline float MxFactor(const PanelFit& fit, const LevelFit& f) {
  if (fit.scale != ScaleForm::kPowerOfTwo) return 1.0f;
  float top = f.levels[(f.count - 1) * kPanelRows];
  while (top >= 2.0f) top *= 0.5f;
  return 0.75f * top;
}

inline void SearchLevels(LevelFit& f, const Lanes* mids, Lanes full) {
  if (f.rule.form == ScaleForm::kPowerOfTwo) {  // only the neighbors; a ladder would try them again and again
    return JudgeLevels(f, mids, {Mul(f.best_s, Set(2.0f)), Mul(f.best_s, Set(0.5f))});
  }
  // Many levels lose little between two rungs.
  const bool many = f.count > kMostCompared;
  const int rungs = many ? 6 : 16;
  const float apart = many ? 0.09f : 0.045f;
  for (int i = 0; i < rungs; i += 2) {
    Lanes s[2];
    for (int t = 0; t < 2; ++t) {
      s[t] = SnapScale(f.rule, Mul(full, Set(1.08f - apart * static_cast<float>(i + t))));
    }
    JudgeLevels(f, mids, s);
  }
  for (float move = 0.02f; move > (many ? 0.008f : 0.004f); move *= 0.5f) {
    JudgeLevels(f, mids,
                {SnapScale(f.rule, Mul(f.best_s, Set(1.0f + move))),
                 SnapScale(f.rule, Mul(f.best_s, Set(1.0f - move)))});
  }
  for (int i = 0; i < (many ? 1 : 2); ++i) {
    JudgeLevels(f, mids, {SnapScale(f.rule, LeastSquaresLevels(f, mids))});
  }
}

inline void FitLevelLanes(const PanelFit& fit, int64_t row) {
  const int count = 1 << fit.bits;
  Lanes best_s = Set(1.0f), best_err = Set(__builtin_inff()), best_set = Set(0.0f);
  for (int set = 0; set < fit.num_sets; ++set) {
    LevelFit f{fit.w + row,
               fit.ld,
               fit.cols,
               fit.h,
               fit.levels + static_cast<int64_t>(set) * count * kPanelRows + row,
               fit.guide,
               count,
               RuleOf(fit, row),
               Set(1.0f),
               Set(__builtin_inff())};
    Lanes mids[256];
    Midpoints(f, mids);
    const GroupEnds ends = EndsOf(f);
    const Lanes full = CoveringScale(f, ends);
    const Lanes rule = fit.num_sets > 1 ? MagnitudeScale(f, ends) : Mul(full, Set(MxFactor(fit, f)));
    const Lanes start = SnapScale(f.rule, rule);
    f.best_s = SelectLess(Set(0.0f), full, start, SnapScale(f.rule, Set(1.0f)));
    if (fit.search || fit.num_sets > 1) JudgeLevels(f, mids, {f.best_s});
    if (fit.search) {
      SearchLevels(f, mids, SelectLess(Set(0.0f), full, full, f.best_s));
    }
    if (set == 0) best_s = f.best_s;
    best_s = SelectLess(f.best_err, best_err, f.best_s, best_s);
    best_set = SelectLess(f.best_err, best_err, Set(static_cast<float>(set)), best_set);
    best_err = Min(f.best_err, best_err);
  }
  Store(fit.scales + row, best_s);
  if (fit.sets != nullptr) StoreBytes(fit.sets + row, best_set);
}

}  // namespace
}  // namespace planish

// The bodies of SearchKernels over Lanes: see gguf_search.h. Included by gguf_search*.cc only.
//
// For fixed codes the best scale and minimum are a weighted least-squares line, and its error follows from
// five sums, so a candidate costs one pass: 8 vector operations a value. Candidates are a ladder of inverse
// scales around the one that spreads the codes over the range (which end is clipped, and how much, is what
// the ladder decides), then lines fitted to the codes of the best line, which can only improve. All sums run
// over k in order, lanes never mix. A panel (4 KB) stays in L1: the kernel is bound by arithmetic.
#pragma once

#include "grids/gguf_search.h"
#include "grids/gguf_table-inl.h"

namespace planish {
namespace {

constexpr int kRungs = 24;       // of the ladder; an even number, two are judged in a pass
constexpr int kRefinements = 2;  // of the best line

inline Lanes Negate(Lanes a) { return Sub(Set(0.0f), a); }
// 1 / a, or 0 where a is 0.
inline Lanes InverseOrZero(Lanes a) {
  return SelectLess(Set(0.0f), Max(a, Negate(a)), Div(Set(1.0f), a), Set(0.0f));
}
inline Lanes X(const SearchPanel& p, int k, int lane) { return Load(p.x + k * kSearchLanes + lane); }
inline Lanes W(const SearchPanel& p, int k, int lane) { return Load(p.w + k * kSearchLanes + lane); }

struct Line {
  Lanes s, m;
};
struct LineSums {
  Lanes l, ll, lx;
};
struct Totals {
  Lanes w, x, xx;
};
inline Totals SumUp(const SearchPanel& p, int lane) {
  Totals t{Set(0.0f), Set(0.0f), Set(0.0f)};
  for (int k = 0; k < p.n; ++k) {
    const Lanes x = X(p, k, lane), w = W(p, k, lane), wx = Mul(w, x);
    t.w = Add(t.w, w);
    t.x = Add(t.x, wx);
    t.xx = Fma(wx, x, t.xx);
  }
  return t;
}

// Sums over the codes clamp(round(x * inv + offset), 0, high) of two candidates.
inline void SumCodes(const SearchPanel& p, int lane, Lanes high, const Lanes (&inv)[2],
                     const Lanes (&offset)[2], LineSums (&sums)[2]) {
  for (auto& s : sums) s = {Set(0.0f), Set(0.0f), Set(0.0f)};
  for (int k = 0; k < p.n; ++k) {
    const Lanes x = X(p, k, lane), w = W(p, k, lane);
    for (int t = 0; t < 2; ++t) {
      const Lanes l = Min(Max(RoundEven(Fma(x, inv[t], offset[t])), Set(0.0f)), high);
      const Lanes wl = Mul(w, l);
      sums[t].l = Add(sums[t].l, wl);
      sums[t].ll = Fma(wl, l, sums[t].ll);
      sums[t].lx = Fma(wl, x, sums[t].lx);
    }
  }
}

struct BestLine {
  Line line;
  Lanes error;
};

// The least-squares line of the sums, kept if its error is less. No line (all codes equal): not kept.
inline void KeepLine(const Totals& t, const LineSums& s, bool negative_min, BestLine& best) {
  const Lanes det = Fnma(s.l, s.l, Mul(t.w, s.ll));
  Lanes scale = Div(Fnma(t.x, s.l, Mul(t.w, s.lx)), det);
  Lanes min = Div(Fnma(s.l, s.lx, Mul(s.ll, t.x)), det);
  if (negative_min) {
    scale = SelectLess(Set(0.0f), min, Div(s.lx, s.ll), scale);
    min = Min(min, Set(0.0f));
  }
  Lanes error = Fnma(min, t.x, Fnma(scale, s.lx, t.xx));
  // NaN compares false, so a line without spread is never taken; nor is a negative scale.
  error = SelectLess(Set(0.0f), scale, error, Set(__builtin_inff()));
  error = SelectLess(Set(0.0f), det, error, Set(__builtin_inff()));
  best.line.s = SelectLess(error, best.error, scale, best.line.s);
  best.line.m = SelectLess(error, best.error, min, best.line.m);
  best.error = SelectLess(error, best.error, error, best.error);
}

inline void FitAffineLanes(const SearchPanel& p, int high_code, bool negative_min, int lane, float* scale,
                           float* min) {
  const Lanes high = Set(static_cast<float>(high_code));
  Lanes low = X(p, 0, lane), top = low;
  for (int k = 1; k < p.n; ++k) {
    low = Min(X(p, k, lane), low);
    top = Max(X(p, k, lane), top);
  }
  if (negative_min) {
    low = Min(low, Set(0.0f));
    top = Max(top, low);
  }
  const Totals totals = SumUp(p, lane);
  const Lanes range = Sub(top, low), unit = InverseOrZero(range);
  BestLine best{{Mul(range, Set(1.0f / static_cast<float>(high_code))), low}, Set(__builtin_inff())};
  LineSums sums[2];
  // From one and a half steps below the whole range to one and a half above, for few codes finer and less.
  const float reach = high_code <= 3 ? 0.9f : 1.5f;
  for (int i = 0; i < kRungs; i += 2) {
    Lanes inv[2], offset[2];
    for (int t = 0; t < 2; ++t) {
      const float rung = -reach + 2 * reach * static_cast<float>(i + t) / static_cast<float>(kRungs - 1);
      inv[t] = Mul(unit, Set(static_cast<float>(high_code) + rung));
      offset[t] = Negate(Mul(low, inv[t]));
    }
    SumCodes(p, lane, high, inv, offset, sums);
    KeepLine(totals, sums[0], negative_min, best);
    KeepLine(totals, sums[1], negative_min, best);
  }
  for (int i = 0; i < kRefinements; ++i) {
    const Lanes inv = InverseOrZero(best.line.s), wider = Mul(inv, Set(1.01f));
    const Lanes offset = Negate(Mul(best.line.m, inv)), wider_offset = Negate(Mul(best.line.m, wider));
    SumCodes(p, lane, high, {inv, wider}, {offset, wider_offset}, sums);
    KeepLine(totals, sums[0], negative_min, best);
    KeepLine(totals, sums[1], negative_min, best);
  }
  Store(scale + lane, best.line.s);
  Store(min + lane, best.line.m);
}

struct CodeRange {
  Lanes low, high;
  bool table;
};
inline CodeRange RangeOf(const SearchCodes& codes) {
  return {Set(static_cast<float>(codes.low)), Set(static_cast<float>(codes.high)), codes.table};
}
inline Lanes Nearest(const CodeRange& range, Lanes y) {
  if (range.table) return NearestOfTable(y, nullptr);
  return Min(Max(RoundEven(y), range.low), range.high);
}

// The best scale for the codes under two inverse scales, kept where (sum wlx)^2 / sum wll is larger.
inline void KeepScale(const SearchPanel& p, int lane, const CodeRange& range, Lanes first, Lanes second,
                      Lanes& scale, Lanes& score) {
  const Lanes inv[2] = {first, second};
  Lanes lx[2] = {Set(0.0f), Set(0.0f)}, ll[2] = {Set(0.0f), Set(0.0f)};
  for (int k = 0; k < p.n; ++k) {
    const Lanes x = X(p, k, lane), w = W(p, k, lane);
    for (int t = 0; t < 2; ++t) {
      const Lanes l = Nearest(range, Mul(x, inv[t]));
      const Lanes wl = Mul(w, l);
      lx[t] = Fma(wl, x, lx[t]);
      ll[t] = Fma(wl, l, ll[t]);
    }
  }
  for (int t = 0; t < 2; ++t) {
    const Lanes s = Div(lx[t], ll[t]), gain = Mul(s, lx[t]);
    scale = SelectLess(score, gain, s, scale);
    score = SelectLess(score, gain, gain, score);
  }
}

inline void FitScaleLanes(const SearchPanel& p, const SearchCodes& codes, int lane, float* out) {
  const CodeRange range = RangeOf(codes);
  Lanes largest = Set(0.0f);
  for (int k = 0; k < p.n; ++k) {
    const Lanes x = X(p, k, lane);
    largest = SelectLess(Max(largest, Negate(largest)), Max(x, Negate(x)), x, largest);
  }
  // The largest value on the longer end of the codes, up to a step or so off; then on the other end.
  const float end = codes.table ? -127.0f : static_cast<float>(codes.low);
  const float reach = codes.table ? 16.0f : 1.2f;
  const Lanes unit = InverseOrZero(largest);
  Lanes scale = Mul(largest, Set(1.0f / end)), score = Set(0.0f);
  const int rungs = codes.table ? 12 : kRungs;
  for (int i = 0; i < rungs; i += 2) {
    const auto rung = [&](int t) {
      return end - reach + 2 * reach * static_cast<float>(i + t) / static_cast<float>(rungs - 1);
    };
    const Lanes a = Mul(unit, Set(rung(0))), b = Mul(unit, Set(rung(1)));
    KeepScale(p, lane, range, a, b, scale, score);
    if (codes.high < 16) KeepScale(p, lane, range, Negate(a), Negate(b), scale, score);
  }
  for (int i = 0; i < kRefinements; ++i) {
    const Lanes inv = InverseOrZero(scale);
    KeepScale(p, lane, range, inv, Mul(inv, Set(1.01f)), scale, score);
  }
  Store(out + lane, scale);
}

inline void JudgeLanes(const SearchPanel& p, const SearchCodes& codes, int lane, const float* scale,
                       const float* min, float* error, uint8_t* out) {
  const CodeRange range = RangeOf(codes);
  const Lanes s = Load(scale + lane), m = Load(min + lane), inv = InverseOrZero(s);
  Lanes sum = Set(0.0f);
  for (int k = 0; k < p.n; ++k) {
    const Lanes x = X(p, k, lane), y = Mul(Sub(x, m), inv);
    Lanes code, value;
    if (range.table) {
      value = NearestOfTable(y, &code);
    } else {
      value = Min(Max(RoundEven(y), range.low), range.high);
      code = Sub(value, range.low);
    }
    const Lanes off = Sub(Fma(value, s, m), x);
    sum = Fma(Mul(W(p, k, lane), off), off, sum);
    if (out != nullptr) StoreBytes(out + k * kSearchLanes + lane, code);
  }
  Store(error + lane, sum);
}

void FitAffineBody(const SearchPanel& p, int high, bool negative_min, float* scale, float* min) {
  for (int lane = 0; lane < kSearchLanes; lane += Lanes::kWidth) {
    FitAffineLanes(p, high, negative_min, lane, scale, min);
  }
}
void FitScaleBody(const SearchPanel& p, const SearchCodes& codes, float* scale) {
  for (int lane = 0; lane < kSearchLanes; lane += Lanes::kWidth) FitScaleLanes(p, codes, lane, scale);
}
void JudgeBody(const SearchPanel& p, const SearchCodes& codes, const float* scale, const float* min,
               float* error, uint8_t* out) {
  for (int lane = 0; lane < kSearchLanes; lane += Lanes::kWidth) {
    JudgeLanes(p, codes, lane, scale, min, error, out);
  }
}

constexpr SearchKernels kBodies = {FitAffineBody, FitScaleBody, JudgeBody};

}  // namespace
}  // namespace planish

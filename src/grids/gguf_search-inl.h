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

constexpr int kRungs = 24;       // of the ladder of lines; an even number, two are judged in a pass
constexpr int kScaleRungs = 12;  // of the ladder of scales: twice as many lower no type's error by 1e-4 of it
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

  for (int i = 0; i < kScaleRungs; i += 2) {
    const auto rung = [&](int t) {
      return end - reach + 2 * reach * static_cast<float>(i + t) / static_cast<float>(kScaleRungs - 1);
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

// The nearest code to z / scale as a value, and optionally as a number from 0.
inline Lanes NearestCode(const CodeRange& range, Lanes y, Lanes* code) {
  if (range.table) return NearestOfTable(y, code);
  const Lanes value = Nearest(range, y);
  if (code != nullptr) *code = Sub(value, range.low);
  return value;
}

inline void JudgeLanes(const SearchPanel& p, const SearchCodes& codes, int lane, const float* scale,
                       const float* min, float* error, uint8_t* out) {
  const CodeRange range = RangeOf(codes);
  const Lanes s = Load(scale + lane), m = Load(min + lane), inv = InverseOrZero(s);
  Lanes sum = Set(0.0f);
  for (int k = 0; k < p.n; ++k) {
    const Lanes z = Sub(X(p, k, lane), m);
    Lanes code = Set(0.0f);
    const Lanes value = NearestCode(range, Mul(z, inv), out != nullptr ? &code : nullptr);
    const Lanes off = Fnma(value, s, z);
    sum = Fma(Mul(W(p, k, lane), off), off, sum);
    if (out != nullptr) StoreBytes(out + k * kSearchLanes + lane, code);
  }
  Store(error + lane, sum);
}

inline void SumCodesLanes(const SearchPanel& p, const SearchCodes& codes, int lane, const float* scale,
                          const float* min, CodeSums& sums) {
  const CodeRange range = RangeOf(codes);
  const Lanes s = Load(scale + lane), m = Load(min + lane), inv = InverseOrZero(s);
  const Lanes zero = Set(0.0f);
  Lanes error = zero, sw = zero, swx = zero, swq = zero, swqq = zero, swqx = zero;
  for (int k = 0; k < p.n; ++k) {
    const Lanes x = X(p, k, lane), w = W(p, k, lane), z = Sub(x, m);
    const Lanes q = Nearest(range, Mul(z, inv)), off = Fnma(q, s, z), wq = Mul(w, q);
    error = Fma(Mul(w, off), off, error);
    sw = Add(sw, w);
    swx = Fma(w, x, swx);
    swq = Add(swq, wq);
    swqq = Fma(wq, q, swqq);
    swqx = Fma(wq, x, swqx);
  }
  Store(sums.error + lane, error);
  Store(sums.w + lane, sw);
  Store(sums.wx + lane, swx);
  Store(sums.wq + lane, swq);
  Store(sums.wqq + lane, swqq);
  Store(sums.wqx + lane, swqx);
}

inline Lanes Clamp(Lanes x, float low, float high) { return Min(Max(x, Set(low)), Set(high)); }

// Three steps of the scale are judged in a pass, the lanes' own first: a neighbor must be better.
template <bool kTable>
inline void MoveStepsLanes(const SearchPanel& p, const SearchCodes& codes, const StepRange& steps, int lane,
                           LaneSteps& at) {
  constexpr float kMoves[3] = {0, -1, 1};
  CodeRange range = RangeOf(codes);
  range.table = kTable;
  const Lanes d = Load(at.d + lane), m = Load(at.m + lane);
  const Lanes step = Load(at.step + lane), min_step = Load(at.min_step + lane);
  Lanes best = Set(__builtin_inff()), best_step = step, best_min = min_step;
  for (int i = 0; i < (steps.affine ? 3 : 1); ++i) {
    const Lanes min_here = steps.affine ? Clamp(Add(min_step, Set(kMoves[i])), 0, steps.high) : min_step;
    const Lanes depth = Mul(m, min_here);
    Lanes here[3], scale[3], inv[3], error[3];
    for (int t = 0; t < 3; ++t) {
      here[t] = Clamp(Add(step, Set(kMoves[t])), steps.low, steps.high);
      scale[t] = Mul(d, here[t]);
      inv[t] = InverseOrZero(scale[t]);
      error[t] = Set(0.0f);
    }
    for (int k = 0; k < p.n; ++k) {
      const Lanes z = Add(X(p, k, lane), depth), w = W(p, k, lane);
      for (int t = 0; t < 3; ++t) {
        const Lanes off = Fnma(Nearest(range, Mul(z, inv[t])), scale[t], z);
        error[t] = Fma(Mul(w, off), off, error[t]);
      }
    }
    for (int t = 0; t < 3; ++t) {
      best_step = SelectLess(error[t], best, here[t], best_step);
      best_min = SelectLess(error[t], best, min_here, best_min);
      best = SelectLess(error[t], best, error[t], best);
    }
  }
  Store(at.step + lane, best_step);
  Store(at.min_step + lane, best_min);
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

void MoveStepsBody(const SearchPanel& p, const SearchCodes& codes, const StepRange& steps, LaneSteps& at) {
  const auto move = codes.table ? MoveStepsLanes<true> : MoveStepsLanes<false>;
  for (int lane = 0; lane < kSearchLanes; lane += Lanes::kWidth) move(p, codes, steps, lane, at);
}
void SumCodesBody(const SearchPanel& p, const SearchCodes& codes, const float* scale, const float* min,
                  CodeSums& sums) {
  for (int lane = 0; lane < kSearchLanes; lane += Lanes::kWidth) {
    SumCodesLanes(p, codes, lane, scale, min, sums);
  }
}

// Bound by memory beyond the caches: 128 bytes in, 34 out, about 40 AVX2 instructions a block.
void RoundQ8Body(const float* x, int64_t blocks, uint8_t* out) {
  for (; blocks > 0; --blocks, x += 32, out += 34) {
    Lanes most = Set(0.0f);
    for (int k = 0; k < 32; k += Lanes::kWidth) {
      const Lanes a = Load(x + k);
      most = Max(Max(a, Negate(a)), most);
    }
    const float d = Largest(most) / 127.0f, inverse = 1.0f / d;
    const uint16_t half = HalfBits(d < 65504.0f ? d : 65504.0f);
    __builtin_memcpy(out, &half, 2);
    // 1 / d of a d below 2^-126 is infinite: all is 0 then, as d is as a half.
    const Lanes factor = Set(inverse < __builtin_inff() ? inverse : 0.0f);
    uint8_t codes[32];
    for (int k = 0; k < 32; k += Lanes::kWidth) {
      const Lanes v = Mul(Load(x + k), factor), size = Max(v, Negate(v));
      // Halves that became the even number below go up; the differences are exact.
      const Lanes even = RoundEven(size);
      const Lanes up = SelectLess(Sub(size, even), Set(0.5f), even, Add(even, Set(1.0f)));
      StoreBytes(codes + k, Add(SelectLess(v, Set(0.0f), Negate(up), up), Set(128.0f)));
    }
    for (int k = 0; k < 32; ++k) out[2 + k] = codes[k] ^ 0x80;
  }
}

constexpr SearchKernels kBodies = {FitAffineBody, FitScaleBody, JudgeBody,
                                   MoveStepsBody, SumCodesBody, RoundQ8Body};

}  // namespace
}  // namespace planish

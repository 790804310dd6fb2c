// Scales rounded to what a file can hold, over Lanes. Included by fit*-inl.h only.
#pragma once

#include "grids/fit.h"
#include "grids/lanes-inl.h"

namespace planish {
namespace {

constexpr float kMinHalf = 0x1p-24f;  // the smallest and largest of fp16
constexpr float kMaxHalf = 65504.0f;

struct ScaleRule {
  ScaleForm form;
  Lanes unit;
  float max_steps;
};

inline ScaleRule RuleOf(const PanelFit& fit, int64_t row) {
  const bool units = fit.scale == ScaleForm::kSteps || fit.scale == ScaleForm::kE4M3;
  return {fit.scale, units ? Load(fit.units + row) : Set(1.0f), fit.max_steps};
}

// v with `1 + m` significant bits where c = 2^(23 - m) + 1 (Veltkamp's split: nearest, ties either way).
inline Lanes KeepBits(Lanes v, float c) {
  const Lanes wide = Mul(v, Set(c));
  return Sub(wide, Sub(wide, v));
}

// s > 0, finite. The same values as StoredScale but for ties.
inline Lanes SnapScale(const ScaleRule& rule, Lanes s) {
  switch (rule.form) {
    case ScaleForm::kHalf:
      return RoundToHalf(Min(Max(s, Set(kMinHalf)), Set(kMaxHalf)));
    case ScaleForm::kSteps: {
      const Lanes k = Min(Max(RoundEven(Div(s, rule.unit)), Set(1.0f)), Set(rule.max_steps));
      return Mul(k, rule.unit);
    }
    case ScaleForm::kPowerOfTwo:
      return KeepBits(Min(Max(s, Set(0x1p-100f)), Set(0x1p100f)), 0x1p23f + 1);
    case ScaleForm::kE4M3: {
      const Lanes t = Min(Max(Div(s, rule.unit), Set(0x1p-9f)), Set(448.0f));
      const Lanes small = Mul(RoundEven(Mul(t, Set(512.0f))), Set(0x1p-9f));
      return Mul(SelectLess(t, Set(0x1p-6f), small, KeepBits(t, 0x1p20f + 1)), rule.unit);
    }
  }
  return Set(1.0f);
}

}  // namespace
}  // namespace planish

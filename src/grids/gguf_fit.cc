#include "grids/gguf_fit.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "base/check.h"
#include "grids/transpose-inl.h"
#include "tensor/dtype.h"

namespace planish {
namespace {

class PanelSearch {
 public:
  PanelSearch(const SearchKernels& kernels, const BlockLayout& type, LanePanel& panel)
      : kernels_(kernels),
        type_(type),
        p_(panel),
        view_{panel.x, panel.w, type.n},
        range_{static_cast<float>(type.low_step), static_cast<float>(type.high_step), type.affine} {}

  void Run() {
    float scale[kSearchLanes], min[kSearchLanes] = {};
    if (type_.codes.high == 127) {
      SpreadOverCodes(scale);
    } else if (type_.affine) {
      kernels_.fit_affine(view_, type_.codes.high, /*negative_min=*/type_.subs > 1, scale, min);
    } else {
      kernels_.fit_scale(view_, type_.codes, scale);
    }
    if (type_.subs == 1) {
      RoundScales(scale, min);
    } else {
      ChooseSuperScales(scale, min);
      for (int round = 0; round < 2; ++round) {
        kernels_.move_steps(view_, type_.codes, range_, at_);
        FitSuperScales();
      }
      kernels_.move_steps(view_, type_.codes, range_, at_);
    }
    Finish();
  }

 private:
  // Q8_0: the largest value gets the last code; a search finds nothing that is worth its time.
  void SpreadOverCodes(float* scale) const {
    for (int i = 0; i < kSearchLanes; ++i) {
      float largest = 0;
      for (int k = 0; k < type_.n; ++k) {
        largest = std::max(largest, std::fabs(p_.x[k * kSearchLanes + i]));
      }
      scale[i] = largest / 127.0f;
    }
  }

  void RoundScales(const float* scale, const float* min) {
    for (int i = 0; i < kSearchLanes; ++i) {
      at_.d[i] = HalfScale(scale[i]);
      at_.m[i] = HalfScale(min[i]);
    }
  }

  // The largest sub-scale at the end of the integers.
  void ChooseSuperScales(const float* scale, const float* min) {
    for (int first = 0; first < kSearchLanes; first += type_.subs) {
      float largest = 0, deepest = 0;
      for (int i = first; i < first + type_.subs; ++i) {
        if (std::fabs(scale[i]) > std::fabs(largest)) largest = scale[i];
        deepest = std::max(deepest, -min[i]);
      }
      const float d = HalfScale(largest / (type_.affine ? range_.high : range_.low));
      const float m = HalfScale(deepest / range_.high);
      for (int i = first; i < first + type_.subs; ++i) {
        at_.d[i] = d;
        at_.m[i] = m;
        at_.step[i] = RoundStep(scale[i], d);
        at_.min_step[i] = type_.affine ? RoundStep(-min[i], m) : 0.0f;
      }
    }
  }

  float RoundStep(float value, float unit) const {
    const float ratio = unit == 0 ? 0 : value / unit;
    if (!std::isfinite(ratio)) return 0;
    return std::clamp(std::nearbyint(ratio), range_.low, range_.high);
  }

  // Super-scales that are best for the codes, kept where that lowers the block's error once they are halves.
  void FitSuperScales() {
    float scale[kSearchLanes], min[kSearchLanes], after[kSearchLanes];
    Effective(at_, scale, min);
    CodeSums sums;
    kernels_.sum_codes(view_, type_.codes, scale, min, sums);
    LaneSteps fitted = at_;
    for (int first = 0; first < kSearchLanes; first += type_.subs) LeastSquares(sums, first, fitted);
    Effective(fitted, scale, min);
    kernels_.judge(view_, type_.codes, scale, min, after, nullptr);
    for (int first = 0; first < kSearchLanes; first += type_.subs) {
      double old_error = 0, new_error = 0;
      for (int i = first; i < first + type_.subs; ++i) {
        old_error += sums.error[i];
        new_error += after[i];
      }
      if (!(new_error < old_error)) continue;
      for (int i = first; i < first + type_.subs; ++i) {
        at_.d[i] = fitted.d[i];
        at_.m[i] = fitted.m[i];
      }
    }
  }

  // x ~ d a - m b with a = sub-scale * code, b = sub-minimum.
  void LeastSquares(const CodeSums& sums, int first, LaneSteps& at) const {
    double aa = 0, ab = 0, bb = 0, ax = 0, bx = 0;
    for (int i = first; i < first + type_.subs; ++i) {
      const double s = at.step[i], b = -at.min_step[i];
      aa += s * s * sums.wqq[i];
      ab += s * b * sums.wq[i];
      bb += b * b * sums.w[i];
      ax += s * sums.wqx[i];
      bx += b * sums.wx[i];
    }
    double d = at.d[first], m = at.m[first];
    const double det = aa * bb - ab * ab;
    if (type_.affine && det > 1e-5 * aa * bb) {  // the sums are floats
      d = (ax * bb - bx * ab) / det;
      m = (aa * bx - ab * ax) / det;
    } else if (aa > 0) {
      d = (ax - m * ab) / aa;
    }
    if (type_.affine) m = std::max(m, 0.0);
    for (int i = first; i < first + type_.subs; ++i) {
      at.d[i] = HalfScale(static_cast<float>(d));
      at.m[i] = HalfScale(static_cast<float>(m));
    }
  }

  // Scales and minima as values are decoded.
  void Effective(const LaneSteps& at, float* scale, float* min) const {
    for (int i = 0; i < kSearchLanes; ++i) {
      scale[i] = type_.subs == 1 ? at.d[i] : at.d[i] * at.step[i];
      min[i] = type_.subs == 1 ? at.m[i] : -at.m[i] * at.min_step[i];
    }
  }

  // The nearest codes under what was chosen.
  void Finish() {
    EncodedLanes& e = p_.out;
    float scale[kSearchLanes], min[kSearchLanes], error[kSearchLanes];
    Effective(at_, scale, min);
    uint8_t codes[32 * kSearchLanes];
    kernels_.judge(view_, type_.codes, scale, min, error, codes);
    for (int i = 0; i < kSearchLanes; ++i) {
      e.d[i] = at_.d[i];
      e.m[i] = at_.m[i];
      e.scale[i] = static_cast<int>(at_.step[i]);
      e.min[i] = static_cast<int>(at_.min_step[i]);
    }
    for (int k = 0; k < type_.n; k += 16) TransposeBytes(codes + k * kSearchLanes, e.codes + k, type_.n);
  }

  const SearchKernels& kernels_;
  const BlockLayout& type_;
  LanePanel& p_;
  SearchPanel view_;
  StepRange range_;
  LaneSteps at_{};
};

}  // namespace

BlockLayout LayoutOf(GgufType type) {
  switch (type) {
    case GgufType::kQ4_0:
      return {32, 32, 1, false, {-8, 7, false}, 0, 0};
    case GgufType::kQ5_0:
      return {32, 32, 1, false, {-16, 15, false}, 0, 0};
    case GgufType::kQ8_0:
      return {32, 32, 1, false, {-127, 127, false}, 0, 0};
    case GgufType::kQ4_1:
      return {32, 32, 1, true, {0, 15, false}, 0, 0};
    case GgufType::kQ5_1:
      return {32, 32, 1, true, {0, 31, false}, 0, 0};
    case GgufType::kIQ4_NL:
      return {32, 32, 1, false, {0, 15, true}, 0, 0};
    case GgufType::kQ2_K:
      return {256, 16, 16, true, {0, 3, false}, 0, 15};
    case GgufType::kQ3_K:
      return {256, 16, 16, false, {-4, 3, false}, -32, 31};
    case GgufType::kQ4_K:
      return {256, 32, 8, true, {0, 15, false}, 0, 63};
    case GgufType::kQ5_K:
      return {256, 32, 8, true, {0, 31, false}, 0, 63};
    case GgufType::kQ6_K:
      return {256, 16, 16, false, {-32, 31, false}, -128, 127};
    case GgufType::kIQ4_XS:
      return {256, 32, 8, false, {0, 15, true}, -32, 31};
    default:
      PLANISH_CHECK(false) << InfoOf(type).name << " has no layout for encoding";
      return {};
  }
}

void FitLanes(const SearchKernels& kernels, const BlockLayout& layout, LanePanel& panel) {
  PanelSearch(kernels, layout, panel).Run();
}

float HalfScale(float x) {
  if (!std::isfinite(x)) return x > 0 ? 65504.0f : x < 0 ? -65504.0f : 0.0f;
  return ToFloat(ToF16(std::clamp(x, -65504.0f, 65504.0f)));
}

GgufType FitGgufType(GgufType type, int64_t cols) {
  if (cols % InfoOf(type).block == 0) return type;
  GgufType smaller = GgufType::kF16;
  switch (type) {
    case GgufType::kQ4_K:
      smaller = GgufType::kQ5_0;
      break;
    case GgufType::kQ5_K:
      smaller = GgufType::kQ5_1;
      break;
    case GgufType::kQ6_K:
      smaller = GgufType::kQ8_0;
      break;
    case GgufType::kQ2_K:
    case GgufType::kQ3_K:
    case GgufType::kIQ4_XS:
      smaller = GgufType::kIQ4_NL;
      break;
    default:
      break;
  }
  return cols % InfoOf(smaller).block == 0 ? smaller : GgufType::kF16;
}

std::string FallbackText(GgufType wanted, GgufType found, int64_t cols) {
  return fmt::format("{}, as rows of {} values are no multiple of the {} of {}", InfoOf(found).name, cols,
                     InfoOf(wanted).block, InfoOf(wanted).name);
}

}  // namespace planish

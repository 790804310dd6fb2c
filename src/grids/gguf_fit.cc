#include "grids/gguf_fit.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "base/check.h"
#include "tensor/dtype.h"

namespace planish {
namespace {

class PanelSearch {
 public:
  PanelSearch(const SearchKernels& kernels, const BlockLayout& type, LanePanel& panel)
      : kernels_(kernels), type_(type), p_(panel), view_{panel.x, panel.w, type.n} {}

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
        MoveSubScales();
        FitSuperScales();
      }
      MoveSubScales();
    }
    float error[kSearchLanes];
    Judge(p_.out, error, p_.out.codes);
  }

 private:
  // Effective scales and minima of the lanes, and their errors.
  void Judge(const EncodedLanes& e, float* error, uint8_t* codes) {
    float scale[kSearchLanes], min[kSearchLanes];
    for (int i = 0; i < kSearchLanes; ++i) {
      scale[i] = LaneScale(type_, e, i);
      min[i] = LaneMin(type_, e, i);
    }
    kernels_.judge(view_, type_.codes, scale, min, error, codes);
  }

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
      p_.out.d[i] = HalfScale(scale[i]);
      p_.out.m[i] = HalfScale(min[i]);
    }
  }

  // The largest sub-scale at the end of the integers.
  void ChooseSuperScales(const float* scale, const float* min) {
    EncodedLanes& e = p_.out;
    for (int first = 0; first < kSearchLanes; first += type_.subs) {
      float largest = 0, deepest = 0;
      for (int i = first; i < first + type_.subs; ++i) {
        if (std::fabs(scale[i]) > std::fabs(largest)) largest = scale[i];
        deepest = std::max(deepest, -min[i]);
      }
      const int end = type_.affine ? type_.high_step : type_.low_step;
      const float d = HalfScale(largest / static_cast<float>(end));
      const float m = HalfScale(deepest / static_cast<float>(type_.high_step));
      for (int i = first; i < first + type_.subs; ++i) {
        e.d[i] = d;
        e.m[i] = m;
        e.scale[i] = RoundScale(scale[i], d);
        e.min[i] = type_.affine ? RoundScale(-min[i], m) : 0;
      }
    }
  }

  int RoundScale(float value, float unit) const {
    const float ratio = unit == 0 ? 0 : value / unit;
    if (!std::isfinite(ratio)) return 0;
    return static_cast<int>(std::clamp(std::nearbyint(ratio), static_cast<float>(type_.low_step),
                                       static_cast<float>(type_.high_step)));
  }

  // Each lane's integers moved to the neighbors with the least error.
  void MoveSubScales() {
    const EncodedLanes start = p_.out;
    float best[kSearchLanes];
    Judge(start, best, nullptr);
    for (int ds = -1; ds <= 1; ++ds) {
      for (int dm = type_.affine ? -1 : 0; dm <= (type_.affine ? 1 : 0); ++dm) {
        if (ds == 0 && dm == 0) continue;
        EncodedLanes moved = start;
        for (int i = 0; i < kSearchLanes; ++i) {
          moved.scale[i] = std::clamp(start.scale[i] + ds, type_.low_step, type_.high_step);
          moved.min[i] = std::clamp(start.min[i] + dm, 0, type_.high_step);
        }
        float error[kSearchLanes];
        Judge(moved, error, nullptr);
        for (int i = 0; i < kSearchLanes; ++i) {
          if (!(error[i] < best[i])) continue;
          best[i] = error[i];
          p_.out.scale[i] = moved.scale[i];
          p_.out.min[i] = moved.min[i];
        }
      }
    }
  }

  // Super-scales that are best for the codes, kept where that lowers the block's error once they are halves.
  void FitSuperScales() {
    EncodedLanes& e = p_.out;
    float before[kSearchLanes], after[kSearchLanes];
    Judge(e, before, e.codes);
    EncodedLanes fitted = e;
    for (int first = 0; first < kSearchLanes; first += type_.subs) LeastSquares(first, fitted);
    Judge(fitted, after, nullptr);
    for (int first = 0; first < kSearchLanes; first += type_.subs) {
      double old_error = 0, new_error = 0;
      for (int i = first; i < first + type_.subs; ++i) {
        old_error += before[i];
        new_error += after[i];
      }
      if (!(new_error < old_error)) continue;
      for (int i = first; i < first + type_.subs; ++i) {
        e.d[i] = fitted.d[i];
        e.m[i] = fitted.m[i];
      }
    }
  }

  // x ~ d a - m b with a = sub-scale * code, b = sub-minimum.
  void LeastSquares(int first, EncodedLanes& e) const {
    double aa = 0, ab = 0, bb = 0, ax = 0, bx = 0;
    for (int i = first; i < first + type_.subs; ++i) {
      for (int k = 0; k < type_.n; ++k) {
        const int code = e.codes[k * kSearchLanes + i];
        const double value = type_.codes.table ? Iq4Value(code) : code + type_.codes.low;
        const double a = e.scale[i] * value, b = -e.min[i];
        const double w = p_.w[k * kSearchLanes + i], x = p_.x[k * kSearchLanes + i];
        aa += w * a * a;
        ab += w * a * b;
        bb += w * b * b;
        ax += w * a * x;
        bx += w * b * x;
      }
    }
    double d = e.d[first], m = e.m[first];
    const double det = aa * bb - ab * ab;
    if (type_.affine && det > 1e-12 * aa * bb) {
      d = (ax * bb - bx * ab) / det;
      m = (aa * bx - ab * ax) / det;
    } else if (aa > 0) {
      d = (ax - m * ab) / aa;
    }
    if (type_.affine) m = std::max(m, 0.0);
    for (int i = first; i < first + type_.subs; ++i) {
      e.d[i] = HalfScale(static_cast<float>(d));
      e.m[i] = HalfScale(static_cast<float>(m));
    }
  }

  const SearchKernels& kernels_;
  const BlockLayout& type_;
  LanePanel& p_;
  SearchPanel view_;
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

#include "grids/gguf_encode.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "base/check.h"
#include "grids/gguf_pack.h"
#include "grids/gguf_search.h"

namespace planish {
namespace {

// How a type that is searched is made of sub-blocks.
struct SearchedType {
  int n = 32;    // values of a sub-block
  int subs = 1;  // sub-blocks of a block; 1: the block itself has half-precision scales
  bool affine = false;
  SearchCodes codes;
  int low_scale = 0, high_scale = 0;  // of the integer sub-scales
};

SearchedType SearchedTypeOf(GgufType type) {
  switch (type) {
    case GgufType::kQ4_0:
      return {32, 1, false, {-8, 7, false}, 0, 0};
    case GgufType::kQ5_0:
      return {32, 1, false, {-16, 15, false}, 0, 0};
    case GgufType::kQ4_1:
      return {32, 1, true, {0, 15, false}, 0, 0};
    case GgufType::kQ5_1:
      return {32, 1, true, {0, 31, false}, 0, 0};
    case GgufType::kIQ4_NL:
      return {32, 1, false, {0, 15, true}, 0, 0};
    case GgufType::kQ2_K:
      return {16, 16, true, {0, 3, false}, 0, 15};
    case GgufType::kQ3_K:
      return {16, 16, false, {-4, 3, false}, -32, 31};
    case GgufType::kQ4_K:
      return {32, 8, true, {0, 15, false}, 0, 63};
    case GgufType::kQ5_K:
      return {32, 8, true, {0, 31, false}, 0, 63};
    case GgufType::kQ6_K:
      return {16, 16, false, {-32, 31, false}, -128, 127};
    case GgufType::kIQ4_XS:
      return {32, 8, false, {0, 15, true}, -32, 31};
    default:
      return {};
  }
}

// A scale as a finite half.
float HalfScale(float x) {
  if (!std::isfinite(x)) return x > 0 ? 65504.0f : x < 0 ? -65504.0f : 0.0f;
  return ToFloat(ToF16(std::clamp(x, -65504.0f, 65504.0f)));
}

// 16 sub-blocks, and what they become. The super-block of lane i is i / subs.
struct Panel {
  float x[32 * kSearchLanes], w[32 * kSearchLanes];
  EncodedLanes out;
};

class PanelSearch {
 public:
  PanelSearch(const SearchKernels& kernels, const SearchedType& type, Panel& panel)
      : kernels_(kernels), type_(type), p_(panel), view_{panel.x, panel.w, type.n} {}

  void Run() {
    float scale[kSearchLanes], min[kSearchLanes] = {};
    if (type_.affine) {
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
      scale[i] = type_.subs == 1 ? e.d[i] : e.d[i] * static_cast<float>(e.scale[i]);
      min[i] = type_.subs == 1 ? e.m[i] : -e.m[i] * static_cast<float>(e.min[i]);
    }
    kernels_.judge(view_, type_.codes, scale, min, error, codes);
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
      const int end = type_.affine ? type_.high_scale : type_.low_scale;
      const float d = HalfScale(largest / static_cast<float>(end));
      const float m = HalfScale(deepest / static_cast<float>(type_.high_scale));
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
    return static_cast<int>(std::clamp(std::nearbyint(ratio), static_cast<float>(type_.low_scale),
                                       static_cast<float>(type_.high_scale)));
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
          moved.scale[i] = std::clamp(start.scale[i] + ds, type_.low_scale, type_.high_scale);
          moved.min[i] = std::clamp(start.min[i] + dm, 0, type_.high_scale);
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
  const SearchedType& type_;
  Panel& p_;
  SearchPanel view_;
};

// --- the reference's plain rounding: 1 / d is taken before d becomes a half

// Whole number of y, halves away from zero.
int8_t RoundAway(float y) {
  const auto whole = static_cast<int32_t>(y);
  const float rest = y - static_cast<float>(whole);
  return static_cast<int8_t>(whole + static_cast<int32_t>(rest >= 0.5f) -
                             static_cast<int32_t>(rest <= -0.5f));
}

void RoundQ8(const float* x, uint8_t* b) {
  uint32_t largest = 0;  // floats without their sign are ordered like integers
  for (int i = 0; i < 32; ++i) largest = std::max(largest, std::bit_cast<uint32_t>(x[i]) & 0x7fffffffu);
  const float d = std::bit_cast<float>(largest) / 127.0f, inverse = d != 0 ? 1.0f / d : 0.0f;
  const F16 half = ToF16(std::min(d, 65504.0f));
  std::memcpy(b, &half, 2);
  // 1 / d of a d below 2^-126 is infinite: all is 0 then, as d is as a half.
  const float factor = std::isfinite(inverse) ? inverse : 0.0f;
  int8_t codes[32];
  for (int i = 0; i < 32; ++i) codes[i] = RoundAway(x[i] * factor);
  std::memcpy(b + 2, codes, 32);
}

// Q4_0 and Q5_0: the largest value maps to code 0.
void RoundSigned(const float* x, int steps, EncodedLanes& e, int lane) {
  float largest = 0;
  for (int i = 0; i < 32; ++i) {
    if (std::fabs(x[i]) > std::fabs(largest)) largest = x[i];
  }
  const float d = largest / static_cast<float>(-steps);
  const float inverse = d != 0 && std::isfinite(1.0f / d) ? 1.0f / d : 0.0f;
  e.d[lane] = HalfScale(d);
  for (int i = 0; i < 32; ++i) {
    const auto code = static_cast<int>(x[i] * inverse + (static_cast<float>(steps) + 0.5f));
    e.codes[i * kSearchLanes + lane] = static_cast<uint8_t>(std::min(2 * steps - 1, code));
  }
}

// Q4_1 and Q5_1.
void RoundAffine(const float* x, int high, EncodedLanes& e, int lane) {
  const auto [low, top] = std::minmax_element(x, x + 32);
  // Halves first: the difference of two large floats may overflow.
  const float d = (*top * 0.5f - *low * 0.5f) / static_cast<float>(high) * 2.0f;
  const float inverse = d != 0 && std::isfinite(1.0f / d) ? 1.0f / d : 0.0f;
  e.d[lane] = HalfScale(d);
  e.m[lane] = HalfScale(*low);
  for (int i = 0; i < 32; ++i) {
    const auto code = static_cast<int>(std::min((x[i] - *low) * inverse, 1e6f) + 0.5f);
    e.codes[i * kSearchLanes + lane] = static_cast<uint8_t>(std::min(high, code));
  }
}

void RoundBlock(GgufType type, const float* x, EncodedLanes& e, int lane) {
  const SearchedType t = SearchedTypeOf(type);
  if (t.affine) {
    RoundAffine(x, t.codes.high, e, lane);
  } else {
    RoundSigned(x, -t.codes.low, e, lane);
  }
}

bool IsRounded(GgufType type, std::span<const float> importance) {
  return importance.empty() && (type == GgufType::kQ4_0 || type == GgufType::kQ4_1 ||
                                type == GgufType::kQ5_0 || type == GgufType::kQ5_1);
}

// Blocks of a matrix, numbered row by row.
struct Blocks {
  MatView<const float> w;
  int64_t size = 0, per_row = 0;
  int64_t count() const { return w.rows * per_row; }
  const float* at(int64_t i) const { return w.row(i / per_row) + i % per_row * size; }
  int64_t column(int64_t i) const { return i % per_row * size; }
};

// Lays sub-blocks side by side; lanes past the last block hold zeros.
void FillPanel(const Blocks& blocks, const SearchedType& type, int64_t first, int64_t count,
               std::span<const float> importance, Panel& panel) {
  for (int lane = 0; lane < kSearchLanes; ++lane) {
    const int64_t block = lane / type.subs;
    const int64_t skip = lane % type.subs * type.n;
    for (int k = 0; k < type.n; ++k) {
      float& x = panel.x[k * kSearchLanes + lane];
      float& w = panel.w[k * kSearchLanes + lane];
      if (block >= count) {
        x = w = 0;
        continue;
      }
      x = blocks.at(first + block)[skip + k];
      w = importance.empty() ? 1.0f
                             : importance[static_cast<size_t>(blocks.column(first + block) + skip + k)];
    }
  }
}

}  // namespace

void EncodeBlocks(const Context& context, GgufType type, MatView<const float> w,
                  std::span<const float> importance, std::byte* out) {
  const GgufTypeInfo& info = InfoOf(type);
  PLANISH_CHECK(info.encodes && w.cols % info.block == 0) << info.name << " " << w.cols;
  PLANISH_CHECK(importance.empty() || static_cast<int64_t>(importance.size()) == w.cols);
  const Blocks blocks{w, info.block, w.cols / info.block};
  auto* bytes = reinterpret_cast<uint8_t*>(out);
  if (type == GgufType::kQ8_0) {
    constexpr int64_t kChunk = 1024;
    context.pool->ParallelFor((blocks.count() + kChunk - 1) / kChunk, [&](int64_t chunk) {
      const int64_t end = std::min(blocks.count(), (chunk + 1) * kChunk);
      for (int64_t i = chunk * kChunk; i < end; ++i) RoundQ8(blocks.at(i), bytes + i * info.bytes);
    });
    return;
  }
  const SearchedType searched = SearchedTypeOf(type);
  const bool rounded = IsRounded(type, importance);
  const SearchKernels& kernels = SelectSearchKernels(context.isa);
  const int64_t step = kSearchLanes / searched.subs;
  constexpr int64_t kPanels = 16;  // of a task
  context.pool->ParallelFor((blocks.count() + step * kPanels - 1) / (step * kPanels), [&](int64_t task) {
    Panel panel{};
    const int64_t end = std::min(blocks.count(), (task + 1) * step * kPanels);
    for (int64_t first = task * step * kPanels; first < end; first += step) {
      const int64_t count = std::min(step, end - first);
      if (rounded) {
        for (int64_t i = 0; i < count; ++i) {
          RoundBlock(type, blocks.at(first + i), panel.out, static_cast<int>(i));
        }
      } else {
        FillPanel(blocks, searched, first, count, importance, panel);
        PanelSearch(kernels, searched, panel).Run();
      }
      for (int64_t i = 0; i < count; ++i) {
        PackBlock(type, panel.out, static_cast<int>(i) * searched.subs, bytes + (first + i) * info.bytes);
      }
    }
  });
}

}  // namespace planish

#include "grids/gguf_encode.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "base/check.h"
#include "grids/gguf_fit.h"

namespace planish {
namespace {

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
  const BlockLayout t = LayoutOf(type);
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
void FillPanel(const Blocks& blocks, const BlockLayout& type, int64_t first, int64_t count,
               std::span<const float> importance, LanePanel& panel) {
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
  const BlockLayout searched = LayoutOf(type);
  const bool rounded = IsRounded(type, importance);
  const SearchKernels& kernels = SelectSearchKernels(context.isa);
  const int64_t step = kSearchLanes / searched.subs;
  constexpr int64_t kPanels = 16;  // of a task
  context.pool->ParallelFor((blocks.count() + step * kPanels - 1) / (step * kPanels), [&](int64_t task) {
    LanePanel panel{};
    const int64_t end = std::min(blocks.count(), (task + 1) * step * kPanels);
    for (int64_t first = task * step * kPanels; first < end; first += step) {
      const int64_t count = std::min(step, end - first);
      if (rounded) {
        for (int64_t i = 0; i < count; ++i) {
          RoundBlock(type, blocks.at(first + i), panel.out, static_cast<int>(i));
        }
      } else {
        FillPanel(blocks, searched, first, count, importance, panel);
        FitLanes(kernels, searched, panel);
      }
      for (int64_t i = 0; i < count; ++i) {
        PackBlock(type, panel.out, static_cast<int>(i) * searched.subs, bytes + (first + i) * info.bytes);
      }
    }
  });
}

}  // namespace planish

#include "grids/gguf_encode.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "base/check.h"
#include "grids/gguf_fit.h"
#include "grids/grid.h"
#include "grids/transpose-inl.h"

namespace planish {
namespace {

// --- the reference's plain rounding: 1 / d is taken before d becomes a half

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
    e.codes[lane * 32 + i] = static_cast<uint8_t>(std::min(2 * steps - 1, code));
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
    e.codes[lane * 32 + i] = static_cast<uint8_t>(std::min(high, code));
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

// Blocks of a strip of rows, numbered column by column, so that those of a panel share their importance.
struct Blocks {
  MatView<const float> w;
  int64_t size = 0, bytes = 0;
  int64_t count() const { return w.rows * (w.cols / size); }
  int64_t column(int64_t i) const { return i / w.rows * size; }
  const float* at(int64_t i) const { return w.row(i % w.rows) + column(i); }
  // Of the encoded block in the strip's rows.
  int64_t offset(int64_t i) const { return (i % w.rows * (w.cols / size) + i / w.rows) * bytes; }
};

constexpr float kZeros[32] = {};  // where a panel has no block

// Encodes a strip, panel by panel.
class StripEncoder {
 public:
  StripEncoder(const SearchKernels& kernels, GgufType type, std::span<const float> importance)
      : kernels_(kernels),
        type_(type),
        layout_(LayoutOf(type)),
        importance_(importance),
        rounded_(IsRounded(type, importance)),
        step_(kSearchLanes / layout_.subs) {
    std::ranges::fill(panel_.w, 1.0f);
    for (auto& four : weights_) std::ranges::fill(four, kZeros);
  }

  void Encode(const Blocks& blocks, uint8_t* out) {
    for (int64_t first = 0; first < blocks.count(); first += step_) {
      const int64_t count = std::min(step_, blocks.count() - first);
      if (rounded_) {
        for (int64_t i = 0; i < count; ++i) {
          RoundBlock(type_, blocks.at(first + i), panel_.out, static_cast<int>(i));
        }
      } else {
        Fill(blocks, first, count);
        FitLanes(kernels_, layout_, panel_);
      }
      for (int64_t i = 0; i < count; ++i) {
        PackBlock(type_, panel_.out, static_cast<int>(i) * layout_.subs, out + blocks.offset(first + i));
      }
    }
  }

 private:
  // Lays the sub-blocks of `count` blocks side by side; lanes without a block hold zeros.
  void Fill(const Blocks& blocks, int64_t first, int64_t count) {
    for (int lane = 0; lane < kSearchLanes; lane += 4) {
      const float* x[4];
      bool moved = false;
      for (int i = 0; i < 4; ++i) {
        const int64_t block = (lane + i) / layout_.subs, skip = (lane + i) % layout_.subs * layout_.n;
        x[i] = block < count ? blocks.at(first + block) + skip : kZeros;
        if (importance_.empty() || block >= count) continue;
        const float* w = importance_.data() + blocks.column(first + block) + skip;
        moved = moved || w != weights_[lane / 4][i];
        weights_[lane / 4][i] = w;
      }
      TransposeFourRows(x, layout_.n, panel_.x + lane, kSearchLanes);
      if (moved) TransposeFourRows(weights_[lane / 4], layout_.n, panel_.w + lane, kSearchLanes);
    }
  }

  const SearchKernels& kernels_;
  GgufType type_;
  BlockLayout layout_;
  std::span<const float> importance_;
  bool rounded_;
  int64_t step_;
  LanePanel panel_{};
  const float* weights_[kSearchLanes / 4][4];  // what panel_.w holds
};

// Rows of a task: enough work, and floats that stay in a core's cache.
int64_t StripRows(int64_t rows, int64_t cols) {
  constexpr int64_t kFloats = 32 << 10;
  return std::clamp<int64_t>(kFloats / cols, 1, rows);
}

void EncodeMxfp4(const Context& context, MatView<const float> w, std::span<const float> importance,
                 uint8_t* out) {
  const GridSpec grid = *FindGrid("mxfp4");
  GridMatrix m = FitGrid(context, w, importance, grid, ClipSearch::kWeighted);
  EncodeAll(context, w, m);
  const std::vector<uint8_t> table = MinifloatCodes(grid);
  const int64_t block_bytes = InfoOf(GgufType::kMXFP4).bytes;
  for (int64_t i = 0; i < w.rows; ++i) {
    for (int64_t g = 0; g < m.scales.cols(); ++g, out += block_bytes) {
      uint8_t codes[32];
      for (int64_t k = 0; k < 32; ++k) codes[k] = table[m.codes(i, 32 * g + k)];
      PackMxfp4(static_cast<uint8_t>(std::ilogb(m.scales(i, g)) + 127), codes, out);
    }
  }
}

}  // namespace

void PackMxfp4(uint8_t e, const uint8_t* codes, uint8_t* out) {
  out[0] = e;
  for (int k = 0; k < 16; ++k) out[1 + k] = static_cast<uint8_t>(codes[k] | codes[k + 16] << 4);
}

void EncodeBlocks(const Context& context, GgufType type, MatView<const float> w,
                  std::span<const float> importance, std::byte* out) {
  const GgufTypeInfo& info = InfoOf(type);
  PLANISH_CHECK(info.encodes && w.cols % info.block == 0) << info.name << " " << w.cols;
  PLANISH_CHECK(importance.empty() || static_cast<int64_t>(importance.size()) == w.cols);
  if (w.rows == 0 || w.cols == 0) return;
  if (type == GgufType::kMXFP4) {
    EncodeMxfp4(context, w, importance, reinterpret_cast<uint8_t*>(out));
    return;
  }
  const SearchKernels& kernels = SelectSearchKernels(context.isa);
  const int64_t rows = StripRows(w.rows, w.cols), row_bytes = GgufRowBytes(type, w.cols);
  context.pool->ParallelFor((w.rows + rows - 1) / rows, [&](int64_t task) {
    const int64_t first = task * rows, count = std::min(rows, w.rows - first);
    auto* bytes = reinterpret_cast<uint8_t*>(out) + first * row_bytes;
    if (type == GgufType::kQ8_0) {
      for (int64_t i = 0; i < count; ++i) {
        kernels.round_q8(w.row(first + i), w.cols / info.block, bytes + i * row_bytes);
      }
      return;
    }
    const MatView<const float> strip = w.Rows(first, count);
    StripEncoder(kernels, type, importance).Encode({strip, info.block, info.bytes}, bytes);
  });
}

}  // namespace planish

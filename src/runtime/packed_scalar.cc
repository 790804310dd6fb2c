// The definition of the packed kernels: plain loops over a tile's rows and columns.
#include <cmath>
#include <cstddef>
#include <cstring>
#include <limits>

#include "runtime/packed_kernels.h"
#include "tensor/dtype.h"

namespace planish::packed {
namespace {

#include "runtime/packed_portable-inl.h"

constexpr int kBitsOf[kCodeKinds] = {2, 3, 4, 4, 8};

float LoadHalf(const unsigned char* p) {
  F16 half;
  std::memcpy(&half, p, 2);
  return ToFloat(half);
}

// A segment's code as it enters the dot: the code, or the table's entry + 128.
int CodeAt(Kind kind, const unsigned char* step, const unsigned char* table, int row, int column) {
  const int block = column / 4, byte = 4 * row + column % 4;
  switch (kind) {
    case Kind::kInt2:
      return (step[64 * (block / 4) + byte] >> (2 * (block % 4))) & 3;
    case Kind::kInt3: {
      const unsigned char* p = step + 192 * (block / 8) + byte;
      const int i = block % 8;
      return ((p[64 * (i / 4)] >> (2 * (i % 4))) & 3) | (((p[128] >> i) & 1) << 2);
    }
    case Kind::kInt4:
      return (step[64 * (block / 2) + byte] >> (4 * (block % 2))) & 15;
    case Kind::kTable4:
      return table[(step[64 * (block / 2) + byte] >> (4 * (block % 2))) & 15];
    default:
      return step[64 * block + byte];
  }
}

// Walks the steps of a segment in order.
struct StepWalk {
  const TileArgs& a;
  Kind kind;
  bool asym;
  const unsigned char* p = a.data + (a.scales8 ? 64 : 0);
  const unsigned char* scales = nullptr;
  const unsigned char* zeros = nullptr;
  int64_t s = -1;

  bool Next() {
    const int64_t scale_bytes = a.scales8 ? 16 : 32;
    const bool bytes = kind == Kind::kInt8 || kind == Kind::kTable4;
    if (s >= 0) p += static_cast<int64_t>(2) * a.step * kBitsOf[static_cast<int>(kind)];
    if (++s == a.steps) return false;
    if (s % kBlockSteps == 0) {
      const int64_t n = a.steps - s < kBlockSteps ? a.steps - s : kBlockSteps;
      const int64_t zero_bytes = !asym ? 0 : bytes ? 16 * n : 16 * ((n + 1) / 2);
      scales = p;
      zeros = p + n * scale_bytes;
      p += (n * scale_bytes + zero_bytes + 63) / 64 * 64;
    }
    return true;
  }
  float Scale(int row) const {
    const auto in_block = s % kBlockSteps;
    if (!a.scales8) return LoadHalf(scales + 32 * in_block + 2 * row);
    return static_cast<float>(scales[16 * in_block + row]) * LoadHalf(a.data + 2 * row);
  }
  int Zero(int row) const {
    const auto in_block = s % kBlockSteps;
    if (!asym) return a.zero;
    if (kind == Kind::kInt8 || kind == Kind::kTable4) return zeros[16 * in_block + row];
    return (zeros[16 * (in_block / 2) + row] >> (4 * (in_block % 2))) & 15;
  }
  int Code(int row, int column) const {
    const unsigned char* table = kind == Kind::kTable4 ? a.tables + s * a.table_stride : nullptr;
    return CodeAt(kind, p, table, row, column);
  }
};

template <Kind kKind, bool kAsym, int kTokens>
void Int8Tile(const TileArgs& a) {
  StepWalk walk = {a, kKind, kAsym};
  while (walk.Next()) {
    for (int row = 0; row < kTileRows; ++row) {
      const auto zero = static_cast<float>(walk.Zero(row));
      float parts[kTokens];
      for (int t = 0; t < kTokens; ++t) parts[t] = zero * a.x_neg_sum[walk.s * kTokens + t];
      for (int begin = 0; begin < a.step; begin += kInputStep) {
        int32_t dots[kTokens] = {};
        for (int k = begin; k < begin + kInputStep; ++k) {
          const int code = walk.Code(row, k);
          const signed char* x = a.x + (walk.s * a.step + k / 4 * 4) * kTokens + k % 4;
          for (int t = 0; t < kTokens; ++t) dots[t] += code * x[4 * t];
        }
        const float* scales = a.x_scale + (walk.s * a.step + begin) / kInputStep * kTokens;
        for (int t = 0; t < kTokens; ++t) {
          parts[t] = std::fma(static_cast<float>(dots[t]), scales[t], parts[t]);
        }
      }
      for (int t = 0; t < kTokens; ++t) {
        float& acc = a.acc[kTileRows * t + row];
        acc = std::fma(parts[t], walk.Scale(row), acc);
      }
    }
  }
}

template <Kind kKind, bool kAsym, int kTokens>
void CodedFloatTile(const TileArgs& a) {
  StepWalk walk = {a, kKind, kAsym};
  while (walk.Next()) {
    for (int row = 0; row < kTileRows; ++row) {
      for (int t = 0; t < kTokens; ++t) {
        float parts[4] = {};
        for (int k = 0; k < a.step; ++k) {
          const float x = a.xf[(walk.s * a.step + k) * a.x_stride + t];
          parts[k % 4] = std::fma(static_cast<float>(walk.Code(row, k)), x, parts[k % 4]);
        }
        const float sum = (parts[0] + parts[1]) + (parts[2] + parts[3]);
        const float x_neg_sum = a.xf_neg_sum[walk.s * a.x_stride + t];
        const float dot = std::fma(static_cast<float>(walk.Zero(row)), x_neg_sum, sum);
        float& acc = a.acc[kTileRows * t + row];
        acc = std::fma(dot, walk.Scale(row), acc);
      }
    }
  }
}

// bf16: dword `row` of a line holds two columns. f16 and f32: a column's 16 rows side by side.
float DenseAt(Kind kind, const unsigned char* data, int row, int64_t column) {
  if (kind == Kind::kF16) return LoadHalf(data + 32 * column + 2 * row);
  if (kind == Kind::kBF16) {
    BF16 value;
    std::memcpy(&value, data + 64 * (column / 2) + 4 * row + 2 * (column % 2), 2);
    return ToFloat(value);
  }
  float value = 0;
  std::memcpy(&value, data + 64 * column + 4 * row, 4);
  return value;
}

template <Kind kKind, int kTokens>
void DenseTile(const TileArgs& a) {
  for (int row = 0; row < kTileRows; ++row) {
    for (int t = 0; t < kTokens; ++t) {
      float parts[4] = {};
      for (int64_t k = 0; k < a.steps; ++k) {
        parts[k % 4] = std::fma(DenseAt(kKind, a.data, row, k), a.xf[k * a.x_stride + t], parts[k % 4]);
      }
      a.acc[kTileRows * t + row] += (parts[0] + parts[1]) + (parts[2] + parts[3]);
    }
  }
}

bool Quantize(const QuantizeArgs& a) {
  bool finite = true;
  for (int64_t s = 0; s < a.steps; ++s) {
    float neg_sum = 0;
    for (int64_t at = s * a.step; at < (s + 1) * a.step; at += kInputStep) {
      float largest = 0;
      bool part_finite = true;
      const auto value = [&](int k) { return at + k < a.cols ? a.x[at + k] : 0.0f; };
      for (int k = 0; k < kInputStep; ++k) {
        part_finite = part_finite && std::isfinite(value(k));
        largest = std::fmax(largest, std::fabs(value(k)));
      }
      finite = finite && part_finite;
      const bool zeros = !part_finite || largest < kSmallestScaled;
      const float inverse = zeros ? 0.0f : 127.0f / largest;
      int32_t sum = 0;
      for (int k = 0; k < kInputStep; ++k) {
        const auto q = zeros ? 0 : static_cast<int32_t>(std::nearbyint(value(k) * inverse));
        sum += q;
        a.q[(at + k / 4 * 4) * a.tokens + 4 * a.token + k % 4] = static_cast<signed char>(q);
      }
      const float scale = !part_finite ? std::numeric_limits<float>::quiet_NaN()
                          : zeros      ? 0.0f
                                       : largest / 127.0f;
      a.scale[at / kInputStep * a.tokens + a.token] = scale;
      neg_sum -= scale * static_cast<float>(sum);
    }
    a.neg_sum[s * a.tokens + a.token] = neg_sum;
  }
  return finite;
}

template <Kind kKind, bool kAsym, int kTokens>
constexpr void FillCoded(KernelSet& set) {
  constexpr int kIndex = static_cast<int>(kKind);
  set.int8[kIndex][kAsym ? 1 : 0][kTokens - 1] = Int8Tile<kKind, kAsym, kTokens>;
  if constexpr (kTokens <= kFloatTokens) {
    set.coded_float[kIndex][kAsym ? 1 : 0][kTokens - 1] = CodedFloatTile<kKind, kAsym, kTokens>;
  }
  if constexpr (kTokens > 1) FillCoded<kKind, kAsym, kTokens - 1>(set);
}

template <Kind kKind, int kTokens>
constexpr void FillDense(KernelSet& set) {
  set.dense[static_cast<int>(kKind) - kCodeKinds][kTokens - 1] = DenseTile<kKind, kTokens>;
  if constexpr (kTokens > 1) FillDense<kKind, kTokens - 1>(set);
}

constexpr KernelSet MakeKernels() {
  KernelSet set = {};
  set.name = "scalar";
  FillCoded<Kind::kInt2, false, kMaxTokens>(set);
  FillCoded<Kind::kInt2, true, kMaxTokens>(set);
  FillCoded<Kind::kInt3, false, kMaxTokens>(set);
  FillCoded<Kind::kInt3, true, kMaxTokens>(set);
  FillCoded<Kind::kInt4, false, kMaxTokens>(set);
  FillCoded<Kind::kInt4, true, kMaxTokens>(set);
  FillCoded<Kind::kTable4, false, kMaxTokens>(set);
  FillCoded<Kind::kTable4, true, kMaxTokens>(set);
  FillCoded<Kind::kInt8, false, kMaxTokens>(set);
  FillCoded<Kind::kInt8, true, kMaxTokens>(set);
  FillDense<Kind::kBF16, kFloatTokens>(set);
  FillDense<Kind::kF16, kFloatTokens>(set);
  FillDense<Kind::kF32, kFloatTokens>(set);
  set.quantize = Quantize;
  set.unpack = UnpackPortable;
  set.interleave = InterleavePortable;
  return set;
}

}  // namespace

extern constinit const KernelSet kScalarKernels = MakeKernels();

}  // namespace planish::packed

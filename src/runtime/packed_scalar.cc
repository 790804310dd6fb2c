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

enum class Levels { kInteger, kTable, kSets, kRows };
struct CodeKind {
  int bits;
  Levels levels = Levels::kInteger;
};
constexpr CodeKind kKinds[kCodeKinds] = {{2},
                                         {3},
                                         {4},
                                         {8},
                                         {2, Levels::kTable},
                                         {3, Levels::kTable},
                                         {4, Levels::kTable},
                                         {3, Levels::kSets},
                                         {4, Levels::kSets},
                                         {2, Levels::kRows},
                                         {3, Levels::kRows},
                                         {4, Levels::kRows}};

// Where a row's table begins among those of 16: lines of 64 bytes hold tables of as many rows of every four
// as 16 bytes have room for.
int RowTable(int bits, int row) {
  const int entries = 1 << bits, rows = kTableEntries / entries;
  return 64 * (row % 4 / rows) + 16 * (row / 4) + row % 4 % rows * entries;
}

float LoadHalf(const unsigned char* p) {
  F16 half;
  std::memcpy(&half, p, 2);
  return ToFloat(half);
}

// A stored code; `columns` is the first byte of 32 columns' codes.
int BitsAt(int bits, const unsigned char* columns, int row, int column) {
  const int block = column / 4, byte = 4 * row + column % 4;
  switch (bits) {
    case 2:
      return (columns[64 * (block / 4) + byte] >> (2 * (block % 4))) & 3;
    case 3:
      return ((columns[64 * (block / 4) + byte] >> (2 * (block % 4))) & 3) |
             (((columns[128 + byte] >> block) & 1) << 2);
    case 4:
      return (columns[64 * (block / 2) + byte] >> (4 * (block % 2))) & 15;
    default:
      return columns[64 * block + byte];
  }
}

// Walks the steps of a segment in order.
struct StepWalk {
  const TileArgs& a;
  CodeKind kind;
  const unsigned char* tables = a.data + (a.scales == Scales::kRowBytes ? 64 : 0);  // kRows: of the block
  int table_bytes = kind.levels == Levels::kRows ? kTileRows << kind.bits : 0;
  const unsigned char* p = tables + (a.step_tables ? 0 : table_bytes);  // of the block's codes
  const unsigned char *units = nullptr, *offset_units = nullptr;
  const unsigned char *scales = nullptr, *offsets = nullptr, *sets = nullptr;
  int in_block = 0;
  int64_t s = -1;

  bool Next() {
    const int most = a.step < kInputStep ? kMostBlockSteps : kBlockSteps;
    if (++s == a.steps) return false;
    in_block = static_cast<int>(s % most);
    if (in_block != 0) return true;
    if (s > 0) p += int64_t{2} * most * a.step * kind.bits;
    const auto n = static_cast<int>(a.steps - s < most ? a.steps - s : most);
    const auto part = [&](bool there, int bytes) {
      const unsigned char* at = p;
      p += there ? bytes : 0;
      return at;
    };
    const unsigned char* begin = p;
    units = part(a.scales == Scales::kBlockBytes || a.scales == Scales::kBlockNibbles, 32);
    if (a.scales == Scales::kRowBytes) units = a.data;
    offset_units = part(a.offsets == Offsets::kBlockBytes || a.offsets == Offsets::kBlockNibbles, 32);
    scales = part(true, (a.scales == Scales::kHalf ? 32 : 16) * n);
    offsets = p;
    part(a.offsets == Offsets::kNibbles, 16 * ((n + 1) / 2));
    part(a.offsets == Offsets::kBytes || a.offsets == Offsets::kBlockBytes, 16 * n);
    part(a.offsets == Offsets::kHalf, 32 * n);
    sets = part(kind.levels == Levels::kSets, 16 * ((n + 1) / 2));
    p = begin + (p - begin + 63) / 64 * 64;
    if (a.step_tables) tables = part(true, table_bytes * n);
    return true;
  }

  int ByteOf(const unsigned char* from, int row) const { return from[16 * in_block + row]; }
  int NibbleOf(const unsigned char* from, int row) const {
    return (from[16 * (in_block / 2) + row] >> (4 * (in_block % 2))) & 15;
  }
  float Scale(int row) const { return StoredScale(row) * a.unit; }
  float StoredScale(int row) const {
    const int byte = ByteOf(scales, row);
    switch (a.scales) {
      case Scales::kHalf:
        return LoadHalf(scales + 32 * in_block + 2 * row);
      case Scales::kBlockNibbles:
        return static_cast<float>(byte & 15) * LoadHalf(units + 2 * row);
      case Scales::kPowers:
        return byte == 0 ? 0.0f : std::ldexp(1.0f, byte - 127);
      case Scales::kE4M3:
        return byte < 8 ? std::ldexp(static_cast<float>(byte), -9)
                        : std::ldexp(static_cast<float>(8 + byte % 8), byte / 8 - 10);
      default:
        return static_cast<float>(byte - a.scale_bias) * LoadHalf(units + 2 * row);
    }
  }
  float Offset(int row) const {
    switch (a.offsets) {
      case Offsets::kConstant:
        return static_cast<float>(a.zero) * Scale(row);
      case Offsets::kNibbles:
        return static_cast<float>(NibbleOf(offsets, row)) * a.zero_step * Scale(row);
      case Offsets::kBytes:
        return static_cast<float>(ByteOf(offsets, row)) * a.zero_step * Scale(row);
      case Offsets::kHalf:
        return LoadHalf(offsets + 32 * in_block + 2 * row);
      case Offsets::kBlockBytes:
        return static_cast<float>(ByteOf(offsets, row)) * LoadHalf(offset_units + 2 * row);
      case Offsets::kBlockNibbles:
        return static_cast<float>(ByteOf(scales, row) >> 4) * LoadHalf(offset_units + 2 * row);
    }
    return 0;
  }
  // A code as it enters the dot: the code, or the table's entry + 128.
  int Code(int row, int column) const {
    const int at = in_block * a.step + column;
    const int code = BitsAt(kind.bits, p + 64 * kind.bits * (at / 32), row, at % 32);
    if (kind.levels == Levels::kInteger) return code;
    if (kind.levels == Levels::kRows) {
      return tables[(a.step_tables ? table_bytes * in_block : 0) + RowTable(kind.bits, row) + code];
    }
    const bool own = kind.levels == Levels::kSets && code == (1 << kind.bits) - 1;
    return a.tables[own ? kTableEntries + NibbleOf(sets, row) : code];
  }
};

template <Kind kKind, int kTokens>
void Int8Tile(const TileArgs& a) {
  StepWalk walk = {a, kKinds[static_cast<int>(kKind)]};
  const int columns = a.step < kInputStep ? a.step : kInputStep;  // with a scale of inputs
  while (walk.Next()) {
    for (int row = 0; row < kTileRows; ++row) {
      float parts[kTokens] = {};
      for (int begin = 0; begin < a.step; begin += columns) {
        int32_t dots[kTokens] = {};
        for (int k = begin; k < begin + columns; ++k) {
          const int code = walk.Code(row, k);
          const signed char* x = a.x + (walk.s * a.step + k / 4 * 4) * kTokens + k % 4;
          for (int t = 0; t < kTokens; ++t) dots[t] += code * x[4 * t];
        }
        const float* scales = a.x_scale + (walk.s * a.step + begin) / kInputStep * kTokens;
        for (int t = 0; t < kTokens; ++t) {
          parts[t] = std::fma(static_cast<float>(dots[t]), scales[t], parts[t]);
        }
      }
      const float scale = walk.Scale(row), offset = walk.Offset(row);
      for (int t = 0; t < kTokens; ++t) {
        float& acc = a.acc[kTileRows * t + row];
        acc = std::fma(offset, a.x_neg_sum[walk.s * kTokens + t], acc);
        acc = std::fma(parts[t], scale, acc);
      }
    }
  }
}

template <Kind kKind, int kTokens>
void CodedFloatTile(const TileArgs& a) {
  StepWalk walk = {a, kKinds[static_cast<int>(kKind)]};
  while (walk.Next()) {
    for (int row = 0; row < kTileRows; ++row) {
      const float scale = walk.Scale(row), offset = walk.Offset(row);
      for (int t = 0; t < kTokens; ++t) {
        float parts[4] = {};
        for (int k = 0; k < a.step; ++k) {
          const float x = a.xf[(walk.s * a.step + k) * a.x_stride + t];
          parts[k % 4] = std::fma(static_cast<float>(walk.Code(row, k)), x, parts[k % 4]);
        }
        float& acc = a.acc[kTileRows * t + row];
        acc = std::fma(offset, a.xf_neg_sum[walk.s * a.x_stride + t], acc);
        acc = std::fma((parts[0] + parts[1]) + (parts[2] + parts[3]), scale, acc);
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
  for (int64_t i = 0; i < a.steps; ++i) a.neg_sum[i * a.tokens + a.token] = 0;
  for (int64_t at = 0; at < a.steps * a.step; at += kInputStep) {
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
    const float scale = !part_finite ? std::numeric_limits<float>::quiet_NaN()
                        : zeros      ? 0.0f
                                     : largest / 127.0f;
    a.scale[at / kInputStep * a.tokens + a.token] = scale;
    // A step of 16 has the sum of its half.
    const int columns = a.step < kInputStep ? a.step : kInputStep;
    for (int begin = 0; begin < kInputStep; begin += columns) {
      int32_t sum = 0;
      for (int k = begin; k < begin + columns; ++k) {
        const auto q = zeros ? 0 : static_cast<int32_t>(std::nearbyint(value(k) * inverse));
        sum += q;
        a.q[(at + k / 4 * 4) * a.tokens + 4 * a.token + k % 4] = static_cast<signed char>(q);
      }
      a.neg_sum[(at + begin) / a.step * a.tokens + a.token] -= scale * static_cast<float>(sum);
    }
  }
  return finite;
}

template <Kind kKind, int kTokens>
constexpr void FillCoded(KernelSet& set) {
  constexpr int kIndex = static_cast<int>(kKind);
  set.int8[kIndex][kTokens - 1] = Int8Tile<kKind, kTokens>;
  if constexpr (kTokens <= kFloatTokens)
    set.coded_float[kIndex][kTokens - 1] = CodedFloatTile<kKind, kTokens>;
  if constexpr (kTokens > 1) FillCoded<kKind, kTokens - 1>(set);
}

template <Kind kKind, int kTokens>
constexpr void FillDense(KernelSet& set) {
  set.dense[static_cast<int>(kKind) - kCodeKinds][kTokens - 1] = DenseTile<kKind, kTokens>;
  if constexpr (kTokens > 1) FillDense<kKind, kTokens - 1>(set);
}

constexpr KernelSet MakeKernels() {
  KernelSet set = {};
  set.name = "scalar";
  FillCoded<Kind::kInt2, kMaxTokens>(set);
  FillCoded<Kind::kInt3, kMaxTokens>(set);
  FillCoded<Kind::kInt4, kMaxTokens>(set);
  FillCoded<Kind::kInt8, kMaxTokens>(set);
  FillCoded<Kind::kTable2, kMaxTokens>(set);
  FillCoded<Kind::kTable3, kMaxTokens>(set);
  FillCoded<Kind::kTable4, kMaxTokens>(set);
  FillCoded<Kind::kSets3, kMaxTokens>(set);
  FillCoded<Kind::kSets4, kMaxTokens>(set);
  FillCoded<Kind::kRows2, kMaxTokens>(set);
  FillCoded<Kind::kRows3, kMaxTokens>(set);
  FillCoded<Kind::kRows4, kMaxTokens>(set);
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

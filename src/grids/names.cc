// Names of grids and their fixed levels.
#include <algorithm>
#include <cmath>
#include <iterator>

#include <fmt/format.h>

#include "base/check.h"
#include "grids/gguf_fit.h"
#include "grids/grid.h"
#include "tensor/dtype.h"

namespace planish {
namespace {

constexpr GridSpec Integer(int bits) { return {.bits = bits}; }
constexpr GridSpec Float(int exponent, int mantissa) {
  return {.bits = 1 + exponent + mantissa, .levels = LevelKind::kMinifloat, .exponent_bits = exponent};
}
constexpr GridSpec Of(LevelKind levels, int bits) { return {.bits = bits, .levels = levels}; }
constexpr GridSpec Block(GridSpec grid, ScaleKind scale, int64_t group) {
  grid.scale = scale;
  grid.group = group;
  return grid;
}

constexpr GridSpec Gguf(GgufType type, int64_t block) {
  return {.bits = 8, .group = block, .levels = LevelKind::kGguf, .block_type = type};
}

constexpr NamedGrid kNamed[] = {
    {"int1", Of(LevelKind::kBinary, 1)},
    {"int2", Integer(2)},
    {"int3", Integer(3)},
    {"int4", Integer(4)},
    {"int5", Integer(5)},
    {"int6", Integer(6)},
    {"int7", Integer(7)},
    {"int8", Integer(8)},
    {"nf2", Of(LevelKind::kNormal, 2)},
    {"nf3", Of(LevelKind::kNormal, 3)},
    {"nf4", Of(LevelKind::kNormal, 4)},
    {"e1m1", Float(1, 1)},
    {"e2m0", Float(2, 0)},
    {"e1m2", Float(1, 2)},
    {"e2m1", Float(2, 1)},
    {"e3m0", Float(3, 0)},
    {"e1m3", Float(1, 3)},
    {"e2m2", Float(2, 2)},
    {"e3m1", Float(3, 1)},
    {"e4m0", Float(4, 0)},
    {"e1m4", Float(1, 4)},
    {"e2m3", Float(2, 3)},
    {"e3m2", Float(3, 2)},
    {"e4m1", Float(4, 1)},
    {"e5m0", Float(5, 0)},
    {"e1m5", Float(1, 5)},
    {"e2m4", Float(2, 4)},
    {"e3m3", Float(3, 3)},
    {"e4m2", Float(4, 2)},
    {"e5m1", Float(5, 1)},
    {"e1m6", Float(1, 6)},
    {"e2m5", Float(2, 5)},
    {"e3m4", Float(3, 4)},
    {"e4m3", Float(4, 3)},
    {"e5m2", Float(5, 2)},
    {"rf8", Of(LevelKind::kResidual, 8)},
    {"bitmod3", Of(LevelKind::kBitMod, 3)},
    {"bitmod4", Of(LevelKind::kBitMod, 4)},
    {"table2", Of(LevelKind::kTable, 2)},
    {"table3", Of(LevelKind::kTable, 3)},
    {"table4", Of(LevelKind::kTable, 4)},
    {"power3", Of(LevelKind::kPower, 3)},
    {"power4", Of(LevelKind::kPower, 4)},
    {"power5", Of(LevelKind::kPower, 5)},
    {"power6", Of(LevelKind::kPower, 6)},
    {"power7", Of(LevelKind::kPower, 7)},
    {"power8", Of(LevelKind::kPower, 8)},
    {"mxfp4", Block(Float(2, 1), ScaleKind::kE8M0, 32)},
    {"mxfp6", Block(Float(2, 3), ScaleKind::kE8M0, 32)},
    {"mxfp6_e3m2", Block(Float(3, 2), ScaleKind::kE8M0, 32)},
    {"mxfp8", Block(Float(4, 3), ScaleKind::kE8M0, 32)},
    {"mxfp8_e5m2", Block(Float(5, 2), ScaleKind::kE8M0, 32)},
    {"nvfp4", Block(Float(2, 1), ScaleKind::kE4M3, 16)},
    {"q2_k", Gguf(GgufType::kQ2_K, 256)},
    {"q3_k", Gguf(GgufType::kQ3_K, 256)},
    {"q4_k", Gguf(GgufType::kQ4_K, 256)},
    {"q5_k", Gguf(GgufType::kQ5_K, 256)},
    {"q6_k", Gguf(GgufType::kQ6_K, 256)},
    {"iq4_xs", Gguf(GgufType::kIQ4_XS, 256)},
    {"iq4_nl", Gguf(GgufType::kIQ4_NL, 32)},
    {"q4_0", Gguf(GgufType::kQ4_0, 32)},
    {"q4_1", Gguf(GgufType::kQ4_1, 32)},
    {"q5_0", Gguf(GgufType::kQ5_0, 32)},
    {"q5_1", Gguf(GgufType::kQ5_1, 32)},
    {"q8_0", Gguf(GgufType::kQ8_0, 32)},
};

// Inverse of the normal distribution function by bisection of erfc: 60 halvings of [-10, 10].
double NormalQuantile(double p) {
  double low = -10, high = 10;
  for (int i = 0; i < 60; ++i) {
    const double mid = 0.5 * (low + high);
    (0.5 * std::erfc(-mid / std::sqrt(2.0)) < p ? low : high) = mid;
  }
  return 0.5 * (low + high);
}

// NF: 2^(b-1) quantiles below zero and 2^(b-1) above, evenly spaced in probability between 1/2 and
// 1 - (1/(2 * 2^b - 2) + 1/(2 * 2^b)) / 2, zero shared, divided by the largest.
std::vector<float> NormalLevels(int bits) {
  const int half = 1 << (bits - 1);
  const double n = 2 * half;
  const double end = 1 - 0.5 * (1 / (2 * n) + 1 / (2 * n - 2));
  const double top = NormalQuantile(end);
  std::vector<float> levels;
  for (int i = half - 1; i > 0; --i) {
    levels.push_back(static_cast<float>(-NormalQuantile(0.5 + (end - 0.5) * i / (half - 1)) / top));
  }
  for (int i = 0; i <= half; ++i) {
    levels.push_back(static_cast<float>(NormalQuantile(0.5 + (end - 0.5) * i / half) / top));
  }
  return levels;
}

// 2^(e - 1) - 1, but for E5M0 and E5M1: their last binade is a number, 2^16 under that bias and too large for
// fp16. A bias only moves what the scale makes up for; this one ends their levels where those of E4M3 end.
int MinifloatBias(int exponent_bits, int mantissa_bits) {
  return exponent_bits == 5 && mantissa_bits < 2 ? 23 : (1 << (exponent_bits - 1)) - 1;
}

// Every code is a number, except those of the two 8-bit formats of deep learning: E4M3 has a NaN at the top
// and E5M2 infinity and NaN in its last binade.
std::vector<float> MinifloatLevels(int exponent_bits, int mantissa_bits) {
  const int bias = MinifloatBias(exponent_bits, mantissa_bits);
  int codes = 1 << (exponent_bits + mantissa_bits);
  if (exponent_bits == 4 && mantissa_bits == 3) codes -= 1;
  if (exponent_bits == 5 && mantissa_bits == 2) codes -= 4;
  std::vector<float> levels;
  for (int code = 0; code < codes; ++code) {
    const int e = code >> mantissa_bits, m = code & ((1 << mantissa_bits) - 1);
    const int significand = e == 0 ? m : m + (1 << mantissa_bits);
    const double value = std::ldexp(significand, std::max(e, 1) - bias - mantissa_bits);
    levels.push_back(static_cast<float>(value));
    if (code > 0) levels.push_back(static_cast<float>(-value));
  }
  return levels;
}

std::vector<float> ResidualLevels() {
  constexpr double kResiduals[] = {1.0, 1.0625, 1.125, 1.25, 1.5};
  std::vector<float> levels = {0.0f};
  for (int e = 0; e < 16; ++e) {
    for (const double r : kResiduals) {
      levels.push_back(static_cast<float>(std::ldexp(r, e - 8)));
      levels.push_back(-levels.back());
    }
  }
  return levels;
}

std::vector<float> BitModLevels(int bits, int set) {
  constexpr float kThree[] = {1, 2, 4}, kFour[] = {1, 2, 3, 4, 6, 8, 12};
  constexpr float kSpecial3[] = {3, -3, 6, -6}, kSpecial4[] = {10, -10, 16, -16};
  std::vector<float> levels = {0.0f, bits == 3 ? kSpecial3[set] : kSpecial4[set]};
  for (const float v : bits == 3 ? std::span<const float>(kThree) : std::span<const float>(kFour)) {
    levels.push_back(v);
    levels.push_back(-v);
  }
  return levels;
}

std::vector<float> LevelSet(const GridSpec& grid, int set) {
  switch (grid.levels) {
    case LevelKind::kUniform:
      break;
    case LevelKind::kBinary:
      return {-1.0f, 1.0f};
    case LevelKind::kMinifloat:
      return MinifloatLevels(grid.exponent_bits, grid.bits - 1 - grid.exponent_bits);
    case LevelKind::kNormal:
      return NormalLevels(grid.bits);
    case LevelKind::kResidual:
      return ResidualLevels();
    case LevelKind::kBitMod:
      return BitModLevels(grid.bits, set);
    case LevelKind::kGguf:
    case LevelKind::kTable:
    case LevelKind::kPower:
      break;
  }
  PLANISH_CHECK(false) << GridText(grid) << " has no fixed levels";
  return {};
}

}  // namespace

std::span<const NamedGrid> NamedGrids() { return kNamed; }

std::optional<GridSpec> FindGrid(const std::string& name) {
  const auto* it = std::find_if(std::begin(kNamed), std::end(kNamed),
                                [&](const NamedGrid& named) { return name == named.name; });
  if (it == std::end(kNamed)) return std::nullopt;
  return it->grid;
}

GridSpec FitToRows(const GridSpec& grid, int64_t cols) {
  if (!grid.InBlocks()) return grid;
  const GgufType type = FitGgufType(grid.block_type, cols);
  return Gguf(type, InfoOf(type).block);
}

std::string GridText(const GridSpec& grid) {
  if (grid.InBlocks()) return InfoOf(grid.block_type).name;
  const NamedGrid* best = nullptr;
  for (const NamedGrid& named : kNamed) {
    const GridSpec& g = named.grid;
    const bool same = g.bits == grid.bits && g.levels == grid.levels && g.exponent_bits == grid.exponent_bits;
    const bool blocks = g.scale == grid.scale && g.group == grid.group;
    if (same && (best == nullptr || (blocks && g.scale != ScaleKind::kHalf))) best = &named;
  }
  std::string text = best == nullptr ? "grid" : best->name;
  const bool block = best != nullptr && best->grid.scale != ScaleKind::kHalf;
  if (grid.group > 0 && !block) text += fmt::format(" g{}", grid.group);
  if (grid.Uniform() && grid.symmetric) text += " sym";
  if (grid.scale == ScaleKind::kSteps) text += fmt::format(" s{}", grid.scale_bits);
  if (grid.tables != TableScope::kTensor) text += grid.tables == TableScope::kRow ? " row" : " each";
  if (grid.HasZeros() && grid.ZeroBits() != grid.bits) text += fmt::format(" z{}", grid.ZeroBits());
  return text;
}

std::string LevelsName(const GridSpec& grid) {
  for (const NamedGrid& named : kNamed) {  // the plain formats stand before the blocks made of them
    const GridSpec& g = named.grid;
    if (g.bits == grid.bits && g.levels == grid.levels && g.exponent_bits == grid.exponent_bits) {
      return named.name;
    }
  }
  return "";
}

std::string CheckGrid(const GridSpec& grid) {
  const auto range = [](const char* what, int64_t low, int64_t high, int64_t found) {
    return found >= low && found <= high
               ? std::string()
               : fmt::format("{}: expected {} to {}, found {}", what, low, high, found);
  };
  if (grid.InBlocks() && !InfoOf(grid.block_type).encodes) {
    return fmt::format("block type: {} cannot be made", InfoOf(grid.block_type).name);
  }
  std::string wrong = range("bits", grid.Uniform() ? 2 : 1, 8, grid.bits);
  if (wrong.empty()) wrong = range("group", 0, int64_t{1} << 24, grid.group);
  if (wrong.empty() && grid.scale == ScaleKind::kSteps) wrong = range("scale_bits", 4, 8, grid.scale_bits);
  if (wrong.empty() && grid.levels == LevelKind::kTable) wrong = range("bits of a table", 2, 4, grid.bits);
  if (wrong.empty() && grid.levels == LevelKind::kPower)
    wrong = range("bits of a power grid", 3, 8, grid.bits);
  if (wrong.empty() && grid.levels == LevelKind::kMinifloat) {
    wrong = range("bits of a minifloat's exponent", 1, std::min(5, grid.bits - 1), grid.exponent_bits);
  }
  const bool own_values = grid.scale == ScaleKind::kNone;
  if (wrong.empty() &&
      ((own_values || grid.tables != TableScope::kTensor) && grid.levels != LevelKind::kTable)) {
    wrong = "tables: only grids table2 to table4 have one for each row or group, or no scales";
  }
  if (wrong.empty() &&
      (own_values ? grid.tables == TableScope::kTensor : grid.tables == TableScope::kGroup)) {
    wrong = "tables: a group's own has no scale, the tensor's needs them";
  }
  if (wrong.empty() && grid.HasZeros()) wrong = range("zero_bits", grid.bits, 8, grid.ZeroBits());
  return wrong;
}

Mat<float> FixedLevels(const GridSpec& grid) {
  Mat<float> sets(grid.NumSets(), grid.NumLevels());
  for (int set = 0; set < grid.NumSets(); ++set) {
    std::vector<float> levels = LevelSet(grid, set);
    PLANISH_CHECK(!levels.empty() && static_cast<int>(levels.size()) <= grid.NumLevels()) << GridText(grid);
    levels = StoredLevels(std::move(levels), grid.bits);
    std::copy(levels.begin(), levels.end(), sets.row(set));
  }
  return sets;
}

std::vector<uint8_t> MinifloatCodes(const GridSpec& grid) {
  PLANISH_CHECK(grid.levels == LevelKind::kMinifloat) << GridText(grid);
  const Mat<float> levels = FixedLevels(grid);
  const int mantissa = grid.bits - 1 - grid.exponent_bits, bias = MinifloatBias(grid.exponent_bits, 2);
  std::vector<uint8_t> codes;
  for (int k = 0; k < grid.NumLevels(); ++k) {
    const float value = levels(0, k), magnitude = std::fabs(value);
    int code = 0;
    if (magnitude > 0) {
      const int e = std::max(std::ilogb(magnitude) + bias, 1);
      const auto significand = static_cast<int>(std::ldexp(magnitude, mantissa + bias - e));
      code = (e << mantissa) + significand - (1 << mantissa);
    }
    codes.push_back(static_cast<uint8_t>(code | (value < 0 ? 1 << (grid.bits - 1) : 0)));
  }
  return codes;
}

std::vector<float> StoredLevels(std::vector<float> levels, int bits) {
  for (float& level : levels) level = ToFloat(ToF16(level));
  std::sort(levels.begin(), levels.end());
  levels.resize(size_t{1} << bits, levels.back());
  return levels;
}

}  // namespace planish

#include "layer/code_order.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "base/check.h"

namespace planish {
namespace {

constexpr int64_t kUnit = 32;  // columns whose codes of any width are whole words

// Words [cols bits / 32, rows]: those of a column are a row's.
void GatherColumns(const Matrix& m, const Coded& coded, int64_t row, int64_t rows, const CodeRuns& runs,
                   std::byte* out) {
  const int64_t first = runs.first * coded.grid.bits / 32, words = runs.stride / 4;
  for (int64_t w = 0; w < words; ++w) {
    const std::byte* from = coded.codes.bytes.data() + 4 * ((first + w) * m.rows + row);
    for (int64_t i = 0; i < rows; ++i) std::memcpy(out + i * runs.stride + 4 * w, from + 4 * i, 4);
  }
}

// Words [cols, rows / 8] of eight rows each.
void GatherEights(const Matrix& m, const Coded& coded, int64_t row, int64_t rows, const CodeRuns& runs,
                  std::byte* out) {
  const int64_t width = m.rows / 8, end = std::min(m.cols, runs.first + 2 * runs.stride);
  for (int64_t j = runs.first; j < end; ++j) {
    const std::byte* from = coded.codes.bytes.data() + 4 * j * width;
    std::byte* to = out + (j - runs.first) / 2;
    for (int64_t i = 0; i < rows; ++i) {
      uint32_t word;
      std::memcpy(&word, from + 4 * ((row + i) / 8), 4);
      const uint32_t code = word >> (4 * kAwqSlots[(row + i) % 8]) & 15;
      to[i * runs.stride] |= static_cast<std::byte>(code << (j % 2 * 4));
    }
  }
}

using PatternTable = std::array<std::byte, 256>;

// Both nibbles of a byte at once where codes have four bits.
PatternTable MakeTable(const GridSpec& grid) {
  const std::vector<int> indices = LevelIndices(grid);
  PatternTable table;
  for (size_t k = 0; k < table.size(); ++k) {
    const int index = grid.bits == 4 ? indices[k & 15] | indices[k >> 4] << 4 : std::max(indices[k], 0);
    table[k] = static_cast<std::byte>(index);
  }
  return table;
}

const PatternTable& TableOf(const GridSpec& grid) {
  static const PatternTable e4m3 = MakeTable(FindGrid("e4m3").value());
  static const PatternTable e2m1 = MakeTable(FindGrid("e2m1").value());
  return grid.bits == 4 ? e2m1 : e4m3;
}

// Rows lie as here, other patterns in their bytes.
void MapBytes(const Matrix& m, const Coded& coded, int64_t row, int64_t rows, const CodeRuns& runs,
              std::byte* out) {
  const int bits = coded.grid.bits;
  const int64_t row_bytes = PackedBytes(m.cols, bits), first = runs.first * bits / 8;
  for (int64_t i = 0; i < rows; ++i) {
    const std::byte* from = coded.codes.bytes.data() + (row + i) * row_bytes + first;
    std::byte* to = out + i * runs.stride;
    if (coded.order == CodeOrder::kSigned) {
      for (int64_t k = 0; k < runs.stride; ++k) to[k] = from[k] ^ std::byte{0x80};
    } else {
      const PatternTable& table = TableOf(coded.grid);
      for (int64_t k = 0; k < runs.stride; ++k) to[k] = table[static_cast<size_t>(from[k])];
    }
  }
}

}  // namespace

CodeRuns RunsOf(const Matrix& matrix, int64_t row, int64_t rows, int64_t col, int64_t cols,
                std::vector<std::byte>& buffer) {
  const auto& coded = std::get<Coded>(matrix.body);
  const int bits = coded.grid.bits;
  const int64_t row_bytes = PackedBytes(matrix.cols, bits);
  if (coded.order == CodeOrder::kRows) return {coded.codes.bytes.data() + row * row_bytes, row_bytes, 0};
  const int64_t first = col / kUnit * kUnit;
  const int64_t end = std::min(matrix.cols, (col + cols + kUnit - 1) / kUnit * kUnit);
  CodeRuns runs{nullptr, PackedBytes(end - first, bits), first};
  buffer.assign(static_cast<size_t>(rows * runs.stride), std::byte{0});
  runs.data = buffer.data();
  switch (coded.order) {
    case CodeOrder::kRows:
      break;
    case CodeOrder::kColumns:
      GatherColumns(matrix, coded, row, rows, runs, buffer.data());
      break;
    case CodeOrder::kEights:
      GatherEights(matrix, coded, row, rows, runs, buffer.data());
      break;
    case CodeOrder::kSigned:
    case CodeOrder::kFloats:
      MapBytes(matrix, coded, row, rows, runs, buffer.data());
      break;
  }
  return runs;
}

Blob CodesInRows(const Matrix& matrix) {
  const auto& coded = std::get<Coded>(matrix.body);
  if (coded.order == CodeOrder::kRows) return coded.codes;
  auto all = std::make_shared<std::vector<std::byte>>();
  const int64_t row_bytes = PackedBytes(matrix.cols, coded.grid.bits);
  all->reserve(static_cast<size_t>(matrix.rows * row_bytes));
  std::vector<std::byte> buffer;
  for (int64_t row = 0; row < matrix.rows; row += kRunRows) {
    const int64_t rows = std::min(kRunRows, matrix.rows - row);
    const CodeRuns runs = RunsOf(matrix, row, rows, 0, matrix.cols, buffer);
    PLANISH_CHECK(runs.stride == row_bytes) << runs.stride;
    all->insert(all->end(), buffer.begin(), buffer.end());
  }
  return {std::span<const std::byte>(*all), all};
}

std::vector<int> LevelIndices(const GridSpec& grid) {
  const Mat<float> levels = FixedLevels(grid);
  const int half = grid.NumLevels() / 2, mantissa = grid.bits - 1 - grid.exponent_bits;
  const int bias = (1 << (grid.exponent_bits - 1)) - 1;
  std::vector<int> indices;
  for (int code = 0; code < grid.NumLevels(); ++code) {
    const int magnitude = code % half, e = magnitude >> mantissa, m = magnitude & ((1 << mantissa) - 1);
    const int significand = e == 0 ? m : m + (1 << mantissa);
    float value = std::ldexp(static_cast<float>(significand), std::max(e, 1) - bias - mantissa);
    if (code >= half) value = -value;
    const float* end = levels.row(0) + grid.NumLevels();
    const float* at = std::find(levels.row(0), end, value);
    indices.push_back(at == end ? -1 : static_cast<int>(at - levels.row(0)));
  }
  return indices;
}

}  // namespace planish

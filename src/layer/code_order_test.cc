// Codes in the orders of other programs' files: the same values as in rows, from wherever they are read.
#include "layer/code_order.h"

#include <gtest/gtest.h>

#include <cstring>

#include "base/random.h"
#include "layer/bit_run.h"

namespace planish {
namespace {

constexpr int64_t kRows = 40, kCols = 96;

Blob Own(std::vector<std::byte> bytes) {
  auto owner = std::make_shared<std::vector<std::byte>>(std::move(bytes));
  return {std::span<const std::byte>(*owner), owner};
}

// Random codes on the grid, in rows.
Matrix RandomCodes(const GridSpec& grid) {
  GridMatrix m;
  m.grid = grid;
  const int64_t groups = grid.NumGroups(kCols);
  m.codes.Resize(kRows, kCols);
  m.scales.Resize(kRows, groups);
  if (grid.Uniform()) m.zeros.Resize(kRows, groups);
  if (!grid.Uniform()) m.levels = FixedLevels(grid);
  const Random random(7, 0);
  uint64_t drawn = 0;
  for (int64_t k = 0; k < kRows * kCols; ++k) {
    // Indices that no pattern has repeat the last level.
    const bool floats = grid.levels == LevelKind::kMinifloat;
    const int count = !floats ? grid.NumLevels() : grid.bits == 8 ? 250 : 15;
    m.codes.data()[k] = static_cast<uint8_t>(random.Below(drawn++, static_cast<uint64_t>(count)));
  }
  for (int64_t k = 0; k < kRows * groups; ++k) {
    m.scales.data()[k] = static_cast<float>(1 + random.Below(drawn++, 15)) / 16;
    if (grid.Uniform()) m.zeros.data()[k] = static_cast<float>(random.Below(drawn++, 4));
  }
  return PackCodes(m);
}

// The same matrix with its codes as a file in that order has them, code by code.
Matrix InOrder(const Matrix& rows, CodeOrder order) {
  Matrix m = rows;
  auto& coded = std::get<Coded>(m.body);
  const GridMatrix unpacked = UnpackCodes(rows);
  const int bits = coded.grid.bits;
  std::vector<std::byte> bytes(coded.codes.bytes.size());
  const std::vector<int> indices =
      order == CodeOrder::kFloats ? LevelIndices(coded.grid) : std::vector<int>();
  for (int64_t i = 0; i < kRows; ++i) {
    for (int64_t j = 0; j < kCols; ++j) {
      const int code = unpacked.codes(i, j);
      switch (order) {
        case CodeOrder::kRows:
          break;
        case CodeOrder::kColumns:
          for (int b = 0; b < bits; ++b) {
            const int64_t bit = j * bits + b, at = (bit / 32 * kRows + i) * 32 + bit % 32;
            bytes[static_cast<size_t>(at / 8)] |= static_cast<std::byte>((code >> b & 1) << (at % 8));
          }
          break;
        case CodeOrder::kEights: {
          constexpr int kNibble[8] = {0, 4, 1, 5, 2, 6, 3, 7};  // 0 2 4 6 1 3 5 7 from the lowest up
          const int64_t nibble = (j * (kRows / 8) + i / 8) * 8 + kNibble[i % 8];
          bytes[static_cast<size_t>(nibble / 2)] |= static_cast<std::byte>(code << (nibble % 2 * 4));
          break;
        }
        case CodeOrder::kSigned:
          bytes[static_cast<size_t>(i * kCols + j)] = static_cast<std::byte>(static_cast<int8_t>(code - 128));
          break;
        case CodeOrder::kFloats: {
          const auto pattern = std::find(indices.begin(), indices.end(), code) - indices.begin();
          const int64_t at = i * kCols + j;
          if (bits == 8) bytes[static_cast<size_t>(at)] = static_cast<std::byte>(pattern);
          if (bits == 4)
            bytes[static_cast<size_t>(at / 2)] |= static_cast<std::byte>(pattern << (at % 2 * 4));
          break;
        }
      }
    }
  }
  coded.order = order;
  coded.codes = Own(std::move(bytes));
  return m;
}

void ExpectSame(const Matrix& rows, const Matrix& other) {
  const Blob back = CodesInRows(other);
  EXPECT_TRUE(std::ranges::equal(back.bytes, std::get<Coded>(rows.body).codes.bytes));
  const GridMatrix a = UnpackCodes(rows), b = UnpackCodes(other);
  EXPECT_TRUE(std::equal(a.codes.data(), a.codes.data() + kRows * kCols, b.codes.data()));
  for (const auto& [row, count, col, cols] : std::vector<std::array<int64_t, 4>>{
           {0, kRows, 0, kCols}, {5, 1, 33, 1}, {7, 20, 31, 34}, {39, 1, 95, 1}}) {
    std::vector<float> x(static_cast<size_t>(count * cols)), y(x.size());
    ReadRows(rows, row, count, col, cols, x.data(), cols);
    ReadRows(other, row, count, col, cols, y.data(), cols);
    EXPECT_EQ(x, y) << row << " " << col;
  }
}

TEST(CodeOrder, EveryOrderReadsTheSame) {
  for (const int bits : {2, 3, 4, 8}) {
    const Matrix rows = RandomCodes({.bits = bits, .group = 32});
    ExpectSame(rows, InOrder(rows, CodeOrder::kColumns));
    if (bits == 4) ExpectSame(rows, InOrder(rows, CodeOrder::kEights));
    if (bits == 8) ExpectSame(rows, InOrder(rows, CodeOrder::kSigned));
  }
  for (const char* name : {"e4m3", "mxfp8", "mxfp4", "nvfp4"}) {
    GridSpec grid = FindGrid(name).value();
    grid.scale = ScaleKind::kHalf;
    const Matrix rows = RandomCodes(grid);
    ExpectSame(rows, InOrder(rows, CodeOrder::kFloats));
  }
}

// Groups in the order of activations beside codes in columns, as GPTQ stores both.
TEST(CodeOrder, WithGroupsOfTheirOwn) {
  Matrix rows = RandomCodes({.bits = 4, .group = 32});
  std::vector<int32_t> groups;
  for (int32_t j = 0; j < kCols; ++j) groups.push_back(j % 3);
  std::vector<std::byte> bytes(groups.size() * 4);
  std::memcpy(bytes.data(), groups.data(), bytes.size());
  std::get<Coded>(rows.body).group_of = Own(std::move(bytes));
  ExpectSame(rows, InOrder(rows, CodeOrder::kColumns));
}

}  // namespace
}  // namespace planish

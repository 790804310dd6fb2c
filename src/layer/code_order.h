// Codes as files of other programs hold them, read in place: such files stay mapped, and what is asked for is
// put into the order of Coded a few rows at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "layer/matrix.h"

namespace planish {

// Rows of packed codes: code `first` + k of row i lies in bits [k b, (k + 1) b) of the run at data + i
// stride.
struct CodeRuns {
  const std::byte* data = nullptr;
  int64_t stride = 0, first = 0;
};

// Columns [col, col + cols) at least of rows [row, row + rows) of a matrix whose body is Coded: where they
// are stored, if they lie so, else made in `buffer`, which then keeps them. Sixteen rows from a multiple of
// sixteen on read whole cache lines of the orders by columns.
CodeRuns RunsOf(const Matrix& matrix, int64_t row, int64_t rows, int64_t col, int64_t cols,
                std::vector<std::byte>& buffer);
inline constexpr int64_t kRunRows = 16;

// All codes in the order of rows.
Blob CodesInRows(const Matrix& matrix);

// Pattern of a signed byte or nibble -> index of the same value in FixedLevels; -1 for NaN.
std::vector<int> LevelIndices(const GridSpec& grid);

}  // namespace planish

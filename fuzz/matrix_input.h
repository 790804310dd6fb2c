// What the fuzz targets of matrices share.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string_view>

#include "base/check.h"
#include "base/json.h"
#include "formats/checkpoint.h"
#include "layer/matrix.h"

namespace planish {

// Decoding costs work that grows faster than the input: a product of [n, 1] and [1, n] has n^2 elements.
inline constexpr int64_t kMaxElements = 1 << 12;

struct MatrixInput {
  Json json;
  Checkpoint checkpoint;
};

// Two bytes, little-endian, with the length of a JSON text; the text; a safetensors file. Nothing when one of
// them cannot be read.
inline std::optional<MatrixInput> SplitMatrixInput(const uint8_t* data, size_t size) {
  if (size < 2) return std::nullopt;
  const size_t length = data[0] | static_cast<size_t>(data[1]) << 8;
  if (size - 2 < length) return std::nullopt;
  auto json = ParseJson(std::string_view(reinterpret_cast<const char*>(data) + 2, length));
  auto checkpoint =
      Checkpoint::Parse(std::as_bytes(std::span(data + 2 + length, size - 2 - length)), "input");
  if (!json.ok() || !checkpoint.ok()) return std::nullopt;
  return MatrixInput{std::move(json).value(), std::move(checkpoint).value()};
}

// A matrix is the same read whole and in part.
inline void CheckReading(const Matrix& matrix) {
  const Mat<float> whole = Reconstruct(matrix);
  const int64_t row = matrix.rows / 2, col = matrix.cols / 3;
  Mat<float> tail(1, matrix.cols - col);
  ReadRows(matrix, row, 1, col, matrix.cols - col, tail.data(), tail.cols());
  PLANISH_CHECK(std::memcmp(tail.data(), whole.row(row) + col, static_cast<size_t>(tail.cols()) * 4) == 0);
}

}  // namespace planish

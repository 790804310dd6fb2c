// The readers of GPTQ, AWQ and compressed-tensors over arbitrary bytes. Input: two bytes, little-endian, with
// the length of a JSON object {"config": quantization_config, "rows": .., "cols": ..}; the object; a
// safetensors file with the tensors of the weight "m.weight". No crash, and what is accepted has the shape
// that was asked for and can be decoded, whole and in part.
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>

#include "base/check.h"
#include "layer/quantized.h"

namespace {

using namespace planish;

constexpr int64_t kMaxElements = 1 << 12;

void CheckMatrix(const Matrix& matrix) {
  PLANISH_CHECK(!Describe(matrix).empty() && StoredBytes(matrix) > 0);
  const Mat<float> whole = Reconstruct(matrix);
  const int64_t row = matrix.rows / 2, col = matrix.cols / 3;
  Mat<float> tail(1, matrix.cols - col);
  ReadRows(matrix, row, 1, col, matrix.cols - col, tail.data(), tail.cols());
  PLANISH_CHECK(std::memcmp(tail.data(), whole.row(row) + col, static_cast<size_t>(tail.cols()) * 4) == 0);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  const size_t length = data[0] | static_cast<size_t>(data[1]) << 8;
  if (size - 2 < length) return 0;
  const auto json = ParseJson(std::string_view(reinterpret_cast<const char*>(data) + 2, length));
  const auto checkpoint =
      Checkpoint::Parse(std::as_bytes(std::span(data + 2 + length, size - 2 - length)), "input");
  if (!json.ok() || !checkpoint.ok() || !json->is_object() || !json->contains("config") ||
      !(*json)["config"].is_object()) {
    return 0;
  }
  const auto rows = JsonInt(*json, "rows"), cols = JsonInt(*json, "cols");
  if (!rows.ok() || !cols.ok() || *rows < 1 || *cols < 1 || *rows > kMaxElements || *cols > kMaxElements ||
      *rows * *cols > kMaxElements) {
    return 0;  // a model asks for sizes that its configuration has passed
  }
  const auto reader = OpenQuantized((*json)["config"], *checkpoint);
  if (!reader.ok()) {
    PLANISH_CHECK(reader.error().code == Code::kInput && reader.error().message.size() < 4000)
        << reader.error().message;
    return 0;
  }
  if (!(*reader)->Holds("m.weight")) return 0;
  PLANISH_CHECK(!(*reader)->TensorsOf("m.weight").empty());
  const auto matrix = (*reader)->Read("m.weight", *rows, *cols);
  if (!matrix.ok()) {
    PLANISH_CHECK(matrix.error().code == Code::kInput && matrix.error().message.size() < 4000)
        << matrix.error().message;
    return 0;
  }
  PLANISH_CHECK(matrix->rows == *rows && matrix->cols == *cols);
  CheckMatrix(*matrix);
  static_cast<void>((*reader)->Notes());
  return 0;
}

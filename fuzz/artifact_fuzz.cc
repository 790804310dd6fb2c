// The reader of compressed matrices over arbitrary bytes. Input: two bytes, little-endian, with the length
// of a JSON description; the description; a safetensors file. No crash, and what is accepted has the
// shape it states, can be decoded, and describes itself as parts that exist with those bytes.
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>

#include "base/check.h"
#include "layer/artifact.h"

namespace {

using namespace planish;

// Decoding costs work that grows faster than the input: a product of [n, 1] and [1, n] has n^2 elements.
constexpr int64_t kMaxElements = 1 << 12;

bool IsSmall(const Matrix& matrix) {
  if (matrix.rows > kMaxElements || matrix.cols > kMaxElements || matrix.rows * matrix.cols > kMaxElements)
    return false;
  const std::vector<Matrix>* parts = nullptr;
  if (const auto* product = std::get_if<ProductPart>(&matrix.body)) parts = &product->factors;
  if (const auto* sum = std::get_if<SumPart>(&matrix.body)) parts = &sum->terms;
  if (parts == nullptr) return true;
  for (const Matrix& part : *parts) {
    if (!IsSmall(part)) return false;
  }
  return true;
}

void CheckMatrix(const Matrix& matrix) {
  std::vector<PartTensor> tensors;
  const OrderedJson description = DescribeParts(matrix, "again", tensors);
  int64_t bytes = 0;
  unsigned sum = 0;  // reads every byte of every part, for the address sanitizer
  for (const PartTensor& tensor : tensors) {
    const auto size = TensorByteSize(tensor.type, tensor.shape);
    PLANISH_CHECK(size.ok() && *size == static_cast<int64_t>(tensor.bytes.size())) << tensor.name;
    bytes += *size;
    for (const std::byte b : tensor.bytes) sum += static_cast<unsigned>(b);
  }
  PLANISH_CHECK(bytes == StoredBytes(matrix)) << sum;
  PLANISH_CHECK(description["rows"] == matrix.rows && description["cols"] == matrix.cols);
  PLANISH_CHECK(!Describe(matrix).empty());
  if (!IsSmall(matrix)) return;
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
  const auto description = ParseJson(std::string_view(reinterpret_cast<const char*>(data) + 2, length));
  const auto checkpoint =
      Checkpoint::Parse(std::as_bytes(std::span(data + 2 + length, size - 2 - length)), "input");
  if (!description.ok() || !checkpoint.ok()) return 0;
  int64_t rows = 1, cols = 1;  // what a model would ask for: the stated shape, where there is one
  if (const auto r = JsonInt(description->is_object() ? *description : Json::object(), "rows"); r.ok())
    rows = *r;
  if (const auto c = JsonInt(description->is_object() ? *description : Json::object(), "cols"); c.ok())
    cols = *c;
  const auto matrix = ReadParts(*description, "tensor", rows, cols, *checkpoint);
  if (!matrix.ok()) {
    PLANISH_CHECK(matrix.error().code == Code::kInput && matrix.error().message.starts_with("tensor:"))
        << matrix.error().message;
    return 0;
  }
  PLANISH_CHECK(matrix->rows == rows && matrix->cols == cols);
  CheckMatrix(*matrix);
  return 0;
}

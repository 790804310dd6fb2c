// The reader of compressed matrices over arbitrary bytes. Input: two bytes, little-endian, with the length
// of a JSON description; the description; a safetensors file. No crash, and what is accepted has the
// shape it states, can be decoded, and describes itself as parts that exist with those bytes.
#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/check.h"
#include "fuzz/matrix_input.h"
#include "layer/artifact.h"

namespace {

using namespace planish;

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
  CheckReading(matrix);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto input = SplitMatrixInput(data, size);
  if (!input) return 0;
  const Json& description = input->json;
  int64_t rows = 1, cols = 1;  // what a model would ask for: the stated shape, where there is one
  if (const auto r = JsonInt(description.is_object() ? description : Json::object(), "rows"); r.ok())
    rows = *r;
  if (const auto c = JsonInt(description.is_object() ? description : Json::object(), "cols"); c.ok())
    cols = *c;
  const auto matrix = ReadParts(description, "tensor", rows, cols, input->checkpoint);
  if (!matrix.ok()) {
    PLANISH_CHECK(matrix.error().code == Code::kInput && matrix.error().message.starts_with("tensor:"))
        << matrix.error().message;
    return 0;
  }
  PLANISH_CHECK(matrix->rows == rows && matrix->cols == cols);
  CheckMatrix(*matrix);
  return 0;
}

// Descriptions of compressed matrices with the file they speak of. The input is a JSON text, a line feed,
// and a safetensors file; the JSON is a description with the shape the model wants in its own rows and cols.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>

#include "base/check.h"
#include "layer/artifact.h"

namespace planish {
namespace {

// Reads every element of matrices small enough, for the address sanitizer; products are multiplied out.
void Use(const Matrix& matrix) {
  PLANISH_CHECK(StoredBytes(matrix) >= 0 && Describe(matrix).size() < 100'000);
  if (matrix.rows > 64 || matrix.cols > 4096) return;
  if (const auto* product = std::get_if<ProductPart>(&matrix.body)) {
    for (const Matrix& factor : product->factors) {
      Use(factor);
      if (factor.rows > 64 || factor.cols > 64) return;
    }
  }
  if (const auto* sum = std::get_if<SumPart>(&matrix.body)) {
    for (const Matrix& term : sum->terms) Use(term);
    return;
  }
  const Mat<float> values = Reconstruct(matrix);
  if (!std::holds_alternative<Coded>(matrix.body)) return;
  const IntegerMatrix codes = UnpackInteger(matrix);
  const Matrix packed = PackInteger(codes);
  const Mat<float> again = Reconstruct(packed);
  const auto bytes = static_cast<size_t>(values.rows() * values.cols()) * sizeof(float);
  PLANISH_CHECK(bytes == 0 || std::memcmp(values.data(), again.data(), bytes) == 0) << Describe(matrix);
}

}  // namespace
}  // namespace planish

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace planish;
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const size_t line = std::min(input.find('\n'), size);
  const auto description = ParseJson(input.substr(0, line));
  if (!description.ok() || !description->is_object()) return 0;
  const auto file = std::as_bytes(std::span(data, size)).subspan(std::min(line + 1, size));
  const auto checkpoint = Checkpoint::Parse(file, "input");
  if (!checkpoint.ok()) return 0;
  const auto rows = JsonInt(*description, "rows", 1), cols = JsonInt(*description, "cols", 1);
  if (!rows.ok() || !cols.ok()) return 0;
  const auto matrix = ReadParts(*description, "w", *rows, *cols, *checkpoint);
  if (matrix.ok()) {
    Use(*matrix);
  } else {
    const auto& message = matrix.error().message;
    PLANISH_CHECK(!message.empty() && message.size() < 2000) << message;
  }
  return 0;
}

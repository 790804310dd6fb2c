// The readers of GPTQ, AWQ and compressed-tensors over arbitrary bytes. Input: two bytes, little-endian, with
// the length of a JSON object {"config": quantization_config, "rows": .., "cols": ..}; the object; a
// safetensors file with the tensors of the weight "m.weight". No crash, and what is accepted has the shape
// that was asked for and can be decoded, whole and in part.
#include <cstddef>
#include <cstdint>

#include "base/check.h"
#include "fuzz/matrix_input.h"
#include "layer/quantized.h"

namespace {

using namespace planish;

void CheckMatrix(const Matrix& matrix) {
  PLANISH_CHECK(!Describe(matrix).empty() && StoredBytes(matrix) > 0);
  CheckReading(matrix);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto input = SplitMatrixInput(data, size);
  if (!input) return 0;
  const Json config = JsonMember(input->json, "config");
  if (!config.is_object()) return 0;
  const auto rows = JsonInt(input->json, "rows"), cols = JsonInt(input->json, "cols");
  if (!rows.ok() || !cols.ok() || *rows < 1 || *cols < 1 || *rows > kMaxElements || *cols > kMaxElements ||
      *rows * *cols > kMaxElements) {
    return 0;  // a model asks for sizes that its configuration has passed
  }
  const std::string_view text(reinterpret_cast<const char*>(data) + 2, data[0] | size_t{data[1]} << 8);
  const auto reader = OpenQuantized(config, input->checkpoint, JsonKeysInOrder(text, {"config", "dynamic"}));
  if (!reader.ok()) {
    PLANISH_CHECK(reader.error().code == Code::kInput && reader.error().message.size() < 4000)
        << reader.error().message;
    return 0;
  }
  if (!(*reader)->Holds("m.weight")) {
    const Status plain = (*reader)->CheckPlain("m.weight");
    PLANISH_CHECK(plain.ok() || plain.error().message.size() < 4000) << plain.error().message;
    return 0;
  }
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

// How the parts of a compressed matrix lie in a safetensors checkpoint: part tensors carry the
// original tensor's name plus a suffix, and a JSON description says how they join. The page for
// strangers is docs/formats/artifact.md.
#pragma once

#include <string>
#include <vector>

#include "base/json.h"
#include "formats/checkpoint.h"
#include "layer/linear.h"

namespace planish {

inline constexpr int kArtifactVersion = 1;

struct PartTensor {
  std::string name;
  DType type = DType::kU8;
  std::vector<int64_t> shape;
  std::span<const std::byte> bytes;
  std::shared_ptr<const void> owner;  // null: bytes of the matrix that it came from
};

// Appends the tensors of `matrix` to `tensors` and returns its description.
OrderedJson DescribeParts(const Matrix& matrix, const std::string& name, std::vector<PartTensor>& tensors);
// Adds the layer's own bias, if it has one, to its description; the fp16 bytes are kept alive by the blob.
Blob DescribeBias(const Linear& linear, OrderedJson& description, std::vector<PartTensor>& tensors);
// The matrix [rows, cols] of that description, mapped from the checkpoint. Errors name the tensor, what was
// found and what was expected.
Result<Matrix> ReadParts(const Json& description, const std::string& name, int64_t rows, int64_t cols,
                         const Checkpoint& checkpoint);
// Reads the bias [rows] that the description states, if any; then linear.own_bias is set.
Status ReadBias(const Json& description, const Checkpoint& checkpoint, Linear& linear);
// A dense tensor of the checkpoint as a matrix; checks type and shape.
Result<Matrix> ReadDenseTensor(const std::string& name, int64_t rows, int64_t cols,
                               const Checkpoint& checkpoint);

}  // namespace planish

// What the readers of quantized checkpoints share: checked tensors, and the choice of parts that hold a
// quantized matrix exactly.
#pragma once

#include <functional>
#include <initializer_list>
#include <memory>
#include <string>
#include <vector>

#include "base/json.h"
#include "formats/checkpoint.h"
#include "formats/tokenizer_regex.h"
#include "layer/quantized.h"

namespace planish::quantized {

// `order`: the keys of `dynamic` as the file has them.
Result<std::unique_ptr<QuantizedReader>> OpenGptq(const Json& config, const Checkpoint& checkpoint,
                                                  const std::vector<std::string>& order);
Result<std::unique_ptr<QuantizedReader>> OpenAwq(const Json& config, const Checkpoint& checkpoint,
                                                 const std::vector<std::string>& order);

// "model.layers.0.mlp.up_proj.weight" -> without ".weight".
std::string ModuleOf(const std::string& weight);

// Whether the expression matches from the first character of the text on, as Python's re.match does.
Result<bool> MatchesFromFront(const Regex& regex, std::string_view text);

// What follows "M." in the names of tensors that make the values of a weight, of all formats.
inline constexpr const char* kWeightTensors[] = {"weight",
                                                 "qweight",
                                                 "qzeros",
                                                 "scales",
                                                 "g_idx",
                                                 "weight_packed",
                                                 "weight_scale",
                                                 "weight_shape",
                                                 "weight_zero_point",
                                                 "weight_g_idx",
                                                 "weight_global_scale",
                                                 "shape",
                                                 "compressed",
                                                 "bitmask",
                                                 "row_offsets"};

// An error that names a tensor of M's values which is not among those that make it.
Status CheckOnly(const Checkpoint& checkpoint, const std::string& module,
                 std::initializer_list<std::string_view> makers);

// A tensor of one of the types with exactly that shape.
Result<TensorView> Expect(const Checkpoint& checkpoint, const std::string& name,
                          std::initializer_list<DType> types, const std::vector<int64_t>& shape);
// The values of a tensor of F16, BF16 or F32, all finite.
Result<std::vector<float>> ReadFloats(const Checkpoint& checkpoint, const std::string& name,
                                      const std::vector<int64_t>& shape);

uint32_t WordAt(const TensorView& view, int64_t index);

// Bytes of its own, filled by the caller.
Blob MakeBlob(int64_t bytes, const std::function<void(uint8_t*)>& fill);

// A matrix as another program states it: value = (code - zero) * scale, or level[code] * scale, in fp32.
struct Stated {
  int64_t rows = 0, cols = 0;
  GridSpec grid;  // bits, levels, group, symmetric; its scale kind is chosen here
  Blob codes;     // as in Coded, in that order
  CodeOrder order = CodeOrder::kRows;
  std::vector<float> scales;     // [rows, groups], or one for all
  std::vector<uint16_t> zeros;   // [rows, groups], or none: 2^(bits - 1)
  std::vector<int32_t> columns;  // [cols] the group of each column, uniform grids; empty: column / grid.group
};
// Coded where that is exact, else the values in fp32.
Matrix ToParts(Stated stated);

}  // namespace planish::quantized

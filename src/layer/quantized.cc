#include "layer/quantized.h"

#include <fmt/format.h>

#include "base/names.h"
#include "layer/compressed_tensors.h"
#include "layer/quantized_parts.h"

namespace planish {
namespace {

// Everything that stands beside or instead of M.weight in some format.
constexpr const char* kSuffixes[] = {"weight",
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
                                     "input_scale",
                                     "input_zero_point",
                                     "input_global_scale",
                                     "output_scale",
                                     "output_zero_point",
                                     "shape",
                                     "compressed",
                                     "bitmask",
                                     "row_offsets"};

}  // namespace

std::vector<std::string> QuantizedReader::TensorsOf(const std::string& weight) const {
  std::vector<std::string> names;
  for (const char* suffix : kSuffixes) {
    std::string name = quantized::ModuleOf(weight) + "." + suffix;
    if (checkpoint_.Has(name)) names.push_back(std::move(name));
  }
  return names;
}

void QuantizedReader::CountDecoded(const Matrix& matrix) {
  const auto* dense = std::get_if<Dense>(&matrix.body);
  if (dense == nullptr) return;
  ++decoded_;
  decoded_bytes_ += static_cast<int64_t>(dense->data.bytes.size());
}

std::vector<std::string> QuantizedReader::Notes() const {
  std::vector<std::string> notes = notes_;
  if (decoded_ > 0) {
    notes.push_back(fmt::format(
        "{} matri{} held as decoded values ({:.1f} MB), because the codes here cannot state them "
        "exactly (scales that are no fp16 numbers, zero points beyond the codes, or groups that no "
        "group_size gives)",
        decoded_, decoded_ == 1 ? "x is" : "ces are", static_cast<double>(decoded_bytes_) / 1e6));
  }
  return notes;
}

bool IsQuantizedMethod(const std::string& method) {
  return method == "gptq" || method == "awq" || method == "compressed-tensors";
}

Result<std::unique_ptr<QuantizedReader>> OpenQuantized(const Json& config, const Checkpoint& checkpoint) {
  PLANISH_TRY(const std::string method, JsonString(config, "quant_method"));
  if (method == "gptq") return quantized::OpenGptq(config, checkpoint);
  if (method == "awq") return quantized::OpenAwq(config, checkpoint);
  if (method == "compressed-tensors") return quantized::OpenCompressedTensors(config, checkpoint);
  return InputError(
      fmt::format("quant_method '{}': expected gptq, awq or compressed-tensors", Abbreviate(method)));
}

}  // namespace planish

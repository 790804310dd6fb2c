#include "layer/quantized.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/names.h"
#include "layer/compressed_tensors.h"
#include "layer/quantized_parts.h"

namespace planish {
namespace {

// What only says how inputs and outputs are quantized.
constexpr const char* kInputTensors[] = {"input_scale", "input_zero_point", "input_global_scale",
                                         "output_scale", "output_zero_point"};

}  // namespace

std::vector<std::string> QuantizedReader::TensorsOf(const std::string& weight) const {
  std::vector<std::string> names;
  const auto add = [&](const char* suffix) {
    std::string name = quantized::ModuleOf(weight) + "." + suffix;
    if (checkpoint_.Has(name)) names.push_back(std::move(name));
  };
  std::ranges::for_each(quantized::kWeightTensors, add);
  std::ranges::for_each(kInputTensors, add);
  return names;
}

Status QuantizedReader::CheckPlain(const std::string& weight) const {
  return quantized::CheckOnly(checkpoint_, quantized::ModuleOf(weight), {"weight"});
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
    notes.push_back(
        fmt::format("{} matri{} held as decoded values ({:.1f} MB), because the codes here cannot state them "
                    "exactly (scales that are no fp16 numbers, or zero points beyond the codes)",
                    decoded_, decoded_ == 1 ? "x is" : "ces are", static_cast<double>(decoded_bytes_) / 1e6));
  }
  return notes;
}

bool IsQuantizedMethod(const std::string& method) {
  return method == "gptq" || method == "awq" || method == "compressed-tensors";
}

Result<std::unique_ptr<QuantizedReader>> OpenQuantized(const Json& config, const Checkpoint& checkpoint,
                                                       const std::vector<std::string>& order) {
  PLANISH_TRY(const std::string method, JsonString(config, "quant_method"));
  if (method == "gptq") return quantized::OpenGptq(config, checkpoint, order);
  if (method == "awq") return quantized::OpenAwq(config, checkpoint, order);
  if (method == "compressed-tensors") return quantized::OpenCompressedTensors(config, checkpoint);
  return InputError(
      fmt::format("quant_method '{}': expected gptq, awq or compressed-tensors", Abbreviate(method)));
}

}  // namespace planish

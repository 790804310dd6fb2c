// A model's decoded weights as the Hugging Face folder that an original would be: what every toolkit loads.
#pragma once

#include <string>

#include "base/context.h"
#include "export/target.h"
#include "model/model.h"

namespace planish {

// Every float tensor in `type` (BF16, F16 or F32), compressed matrices decoded, experts of a bank that was
// compressed under names of their own; config.json without quantization_config; tokenizer files copied.
// Paths are added to the matrix beside them unless options.paths is kDrop. Memory: one panel. Errors: NaN or
// infinity, also one that F16 would make of a large value.
Result<Converted> ExportHf(const Context& context, const Model& model, DType type,
                           const ConvertOptions& options, const std::string& output);

}  // namespace planish

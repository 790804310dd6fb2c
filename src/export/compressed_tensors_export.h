// compressed-tensors checkpoints, which vLLM and SGLang load.
#pragma once

#include "export/target.h"

namespace planish {

// Whether its codes may be on that grid.
bool CompressedTensorsHolds(const GridSpec& grid);
// "auto", the default: codes as they are, int4 in groups of 128 for a model without. Others name a scheme.
std::vector<std::string> CompressedTensorsSchemes();
Result<Converted> WriteCompressedTensors(const Context& context, const Model& model,
                                         const ConvertOptions& options, const std::string& output);

}  // namespace planish

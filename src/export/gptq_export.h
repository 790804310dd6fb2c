// GPTQ and AWQ checkpoints, which vLLM, SGLang and transformers load.
#pragma once

#include "export/target.h"

namespace planish {

// Whether its codes may be on that grid.
bool GptqHolds(const GridSpec& grid);
// Integers of 2, 3, 4 or 8 bits. Version 2 stores zeros as they are, version 1 less one, so that it has none
// that are 0. Widths and groups of single modules stand in `dynamic`.
Result<Converted> WriteGptqV2(const Context& context, const Model& model, const ConvertOptions& options,
                              const std::string& output);
Result<Converted> WriteGptqV1(const Context& context, const Model& model, const ConvertOptions& options,
                              const std::string& output);
// 4-bit integers, one group size that divides the inputs of all layers.
Result<Converted> WriteAwq(const Context& context, const Model& model, const ConvertOptions& options,
                           const std::string& output);

}  // namespace planish

// A model's low-rank paths as an adapter, for the base that holds the matrices beside them.
#pragma once

#include <string>

#include "base/context.h"
#include "export/target.h"
#include "model/model.h"

namespace planish {

// Factors are F32 with the scale in B, so that every loader computes B A whatever it does with alpha. Ranks
// differ between layers; a PEFT folder gets them padded with zeros to the largest, as servers scale all
// modules alike. Errors: no paths; terms beside a matrix that are no products; families that GGUF cannot
// hold.
Result<Converted> ExportPeftLora(const Context& context, const Model& model, const std::string& output);
Result<Converted> ExportGgufLora(const Context& context, const Model& model, const std::string& output);

}  // namespace planish

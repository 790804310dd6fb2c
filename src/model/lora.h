// An adapter on a model: low-rank paths beside the matrices it names.
#pragma once

#include <string>

#include "base/context.h"
#include "model/gguf_family.h"
#include "model/model.h"

namespace planish {

struct LoraAttached {
  int64_t linears = 0;
  int64_t rank = 0;  // the largest
};

// Adds to every linear that the adapter at `path` (a PEFT folder or a GGUF file, formats/lora.h) names the
// path s B A: its matrix becomes a sum. B is copied with s in it; A stays in the mapped file. Several
// adapters may be attached one after the other. Errors: a module that the model does not have, shapes that do
// not fit, an embedding that is the head too (an adapter means one use of it), values that are not finite.
Result<LoraAttached> AttachLora(const Context& context, Model& model, const std::string& path);

// The order in which GGUF keeps the rows of B: that of the weight's.
GgufRowOrder LoraRowOrder(const GgufFamily& family, const Program& program, const std::string& gguf_name);

}  // namespace planish

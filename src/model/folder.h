// What a folder of a model holds beside its tensors: configuration, tokenizer, generation settings.
#pragma once

#include <string>

#include "model/model.h"

namespace planish {

// Copies the tokenizer and generation files of the model into `folder`; of a GGUF file, whose tokenizer lies
// in its metadata, writes a tokenizer.json.
Status CarryCompanions(const Model& model, const std::string& folder);

// config.json as an original of that model would have it: no quantization_config, `dtype` ("bfloat16") as the
// type of its weights, and the class that loaders ask for where it came without one (from a GGUF file).
// Error: rotary frequencies that only a GGUF file can state.
Result<OrderedJson> OriginalConfig(const Model& model, const std::string& dtype);
Status WriteConfig(const OrderedJson& config, const std::string& folder);

}  // namespace planish

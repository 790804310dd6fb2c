// What of a model's folder lies in a GGUF file.
#pragma once

#include <string>

#include "base/result.h"

namespace planish {

// The one GGUF model of a folder without safetensors, of a split one the first part. Empty: there is none, or
// the tensors are safetensors. Error: several.
Result<std::string> GgufOfFolder(const std::string& folder);

// Where a model's tokenizer lies in metadata: the path itself if it is a file, or GgufOfFolder of a folder
// without tokenizer files of its own. Empty: elsewhere, or nowhere.
Result<std::string> GgufWithTokenizer(const std::string& path);

// False where a model has no tokenizer at all and knows ids only.
Result<bool> HasTokenizer(const std::string& path);

}  // namespace planish

// Architectures. A family is one file in model/arch/ that defines `const Family kFamily_<file name>`, GGUF
// included; the build collects them, so adding one touches nothing else.
#pragma once

#include <span>
#include <string>

#include "base/json.h"
#include "model/gguf_family.h"
#include "model/program.h"

namespace planish {

struct Family {
  const char* model_type;  // of config.json
  const char* summary;     // what sets it apart, for listings and for "the nearest is ..." messages
  Result<Program> (*build)(const Json& config);
  std::span<const GgufFamily> gguf = {};  // how it lies in GGUF files; empty: not at all
  const char* also = nullptr;             // another model_type of the same family
};

std::span<const Family* const> AllFamilies();
// The family of a model_type, or null.
const Family* FindFamily(const std::string& model_type);
// The program of a config.json. Unknown families: an error naming the nearest known one.
Result<Program> BuildProgram(const Json& config);

}  // namespace planish

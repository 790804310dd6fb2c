// Architectures. A family is one file in model/arch/ that defines `const Family kFamily` in a namespace of
// its name, GGUF included; the build collects them, so adding one touches nothing else.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "base/json.h"
#include "model/config.h"
#include "model/gguf_family.h"
#include "model/program.h"

namespace planish {

struct Family {
  const char* model_type;    // of config.json
  const char* architecture;  // the class of its models there
  const char* summary;       // what sets it apart, for listings and for "the nearest is ..." messages
  Result<Program> (*build)(const Config& config);
  std::span<const GgufFamily> gguf = {};  // how it lies in GGUF files; empty: not at all
  const char* also = nullptr;             // another model_type of the same family
};

std::span<const Family* const> AllFamilies();
// The family of a model_type, or null.
const Family* FindFamily(const std::string& model_type);
// The program of a config.json. Errors: a field that the family does not implement, by its name and value; an
// unknown family, with the nearest known one and what of the config that one would not read.
Result<Program> BuildProgram(const Json& config);
// Removes fields from a config, "name" or "rope_scaling.name", which is to be read as if it had never had
// them. One that is not there is no error.
void IgnoreFields(const std::vector<std::string>& paths, Json& config);

}  // namespace planish

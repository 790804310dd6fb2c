// A GGUF file as what a model is bound to: a configuration and tensors in Hugging Face's names and row order.
// Also the names and metadata for the way back.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/json.h"
#include "formats/checkpoint.h"
#include "formats/gguf.h"
#include "model/gguf_rope.h"
#include "model/program.h"

namespace planish {

struct GgufModel {
  Json config;  // as of config.json; block types stand in its quantization_config as parts
  Checkpoint checkpoint;
};

// The architectures of gguf_family.h. Tensors stay in the mapped file, but for rows that lie in another order
// and norms that the file keeps with 1 added, which are copied. Errors: another architecture, tensors without
// a place in it, types that cannot be decoded, missing metadata.
Result<GgufModel> OpenGgufModel(const std::string& path);
// The same of a file that is open; the result keeps it so.
Result<GgufModel> ReadGgufModel(const std::shared_ptr<const GgufFile>& file);

// Adds general.architecture and all hyper-parameters; the tensors that go with them. Errors: a family or a
// setting that GGUF cannot hold, by name.
Result<std::vector<GgufRopeTensor>> AddHyperParameters(const Json& config, const Program& program,
                                                       GgufMetadata& metadata);

}  // namespace planish

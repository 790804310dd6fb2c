// A model as a GGUF file, or as the parts of a split one, that llama.cpp loads.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "base/context.h"
#include "export/target.h"
#include "formats/gguf_types.h"
#include "model/model.h"

namespace planish {

struct GgufExport {
  GgufType type = GgufType::kQ8_0;  // of the layers' matrices: F32, F16, BF16 or one that encodes
  Paths paths = Paths::kRefuse;     // beside the matrices
  // Mean square of each input, by name of the weight: errors are weighed by it where blocks are made. Weights
  // that are not here count all columns alike.
  std::map<std::string, std::vector<float>> importance;
  ImportanceSource importance_source;  // quantize.imatrix.* of the file
  int64_t split_bytes = 0;             // most bytes of tensors in a part; 0: one file
};

struct GgufExported {
  int64_t tensors = 0, bytes = 0;
  std::vector<std::string> paths;  // the file, or its parts
  // Tensors that got another type, and why; what other programs will tokenize otherwise.
  std::vector<std::string> notes;
};

// Matrices get the asked type, embedding and head at least Q6_K; rows that are no multiple of a block fall
// back as in llama.cpp (Q4_K to Q5_0, and so on); norms and biases are F32. Blocks already of that type are
// copied. A split file has no name of its own: NAME.gguf becomes NAME-00001-of-00003.gguf and so on. Errors:
// a family, rope or tokenizer that the format cannot hold; what stands beside matrices (Refusals), unless
// `paths` says what becomes of it; values that are not finite.
Result<GgufExported> ExportGguf(const Context& context, const Model& model, const GgufExport& options,
                                const std::string& path);

}  // namespace planish

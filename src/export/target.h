// The formats of other programs that a model can be written in. A format is added in one place: a function
// that writes it, beside this file, and its row in targets.cc; `planish convert` reads its names, help and
// options from there.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "base/context.h"
#include "formats/checkpoint.h"
#include "model/model.h"

namespace planish {

// What becomes of a low-rank path beside a matrix where a format holds one matrix a layer.
enum class Paths {
  kRefuse,  // an error that lists the layers
  kMerge,   // added to the matrix before it is encoded
  kDrop,    // left out
};

// An importance matrix, as a file made by it records it. No file: there is none.
struct ImportanceSource {
  std::string file, texts;  // names
  int64_t entries = 0, chunks = 0;
};

struct ConvertOptions {
  std::string type;  // what follows the colon of "gguf:q8_0"; empty: nothing
  Paths paths = Paths::kRefuse;
  // Written although servers that join layers (q, k, v; gate, up) cannot load it. Only for targets that they
  // read.
  bool mixed_fused = false;
  // How much each column's error counts, by name of the weight; weights that are not here count all alike.
  // Only for targets that take it.
  std::map<std::string, std::vector<float>> importance;
  ImportanceSource importance_source;
  // Most bytes of tensors in a file; 0: kDefaultShardBytes in folders, everything in one file elsewhere. Only
  // for targets that divide what they write.
  int64_t shard_bytes = 0;
  int64_t FolderShardBytes() const { return shard_bytes > 0 ? shard_bytes : kDefaultShardBytes; }
};

struct Converted {
  int64_t tensors = 0, bytes = 0;
  std::vector<std::string> notes;  // what the reader of the output should know, a line each
  std::string path = {};           // what to open, where that is not the output's name: the first part
};

struct ConvertTarget {
  const char* name;     // "gguf"
  const char* summary;  // one line for --help
  // What may follow the colon, the first being the default; null: nothing may.
  std::vector<std::string> (*types)();
  bool type_optional;  // "gguf" alone means the default type
  // `output` does not exist yet; it appears whole or not at all. Errors name what the format cannot hold
  // and the option that makes it fit.
  Result<Converted> (*write)(const Context& context, const Model& model, const ConvertOptions& options,
                             const std::string& output);
  bool takes_importance = false;
  bool divides = true;  // into files of ConvertOptions::shard_bytes
  bool joined = false;  // read by servers that join layers
  bool takes_tokenizer = true;
};

std::span<const ConvertTarget> AllConvertTargets();

// "gguf:q8_0" -> the target, and options.type set. Case does not matter in types. Errors list what there is.
Result<const ConvertTarget*> ParseConvertTarget(const std::string& text, ConvertOptions& options);

}  // namespace planish

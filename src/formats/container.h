// Whatever file or folder of tensors: what is stored in it, by name, without knowing what it is for.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/context.h"
#include "base/result.h"

namespace planish {

struct StoredTensor {
  std::string name, type;  // "BF16", "Q4_K"
  std::vector<int64_t> shape;
  std::span<const std::byte> bytes;
};

struct Container {
  std::string kind;  // "GGUF model", "safetensors folder", "PEFT adapter", "statistics", ...
  std::vector<std::pair<std::string, std::string>> metadata;  // long values cut short
  std::vector<StoredTensor> tensors;                          // in the order of the files
  int64_t file_bytes = 0;
  std::shared_ptr<const void> owner;
};

// A folder with safetensors (of a model, an artifact or a PEFT adapter), a safetensors or GGUF file, or an
// importance matrix of either form, whose older one has a tensor F32 for each entry. Errors: those of the
// readers; a folder with neither.
Result<Container> OpenContainer(const std::string& path);

struct Checksums {
  std::vector<std::string> tensors;  // SHA-256 of each one's bytes
  // Of the lines "CHECKSUM  NAME\n" in order of names, as sha256sum writes them: the same however tensors are
  // divided among files, and ordered in them.
  std::string all;
};
Result<Checksums> ChecksumsOf(const Context& context, const Container& container);

}  // namespace planish

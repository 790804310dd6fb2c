// The reader of model.safetensors.index.json over arbitrary bytes: no crash, and no file outside of the
// folder.
#include <cstddef>
#include <cstdint>
#include <string>

#include "base/check.h"
#include "formats/checkpoint.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace planish;
  const auto shards = ParseShardIndex(std::string(reinterpret_cast<const char*>(data), size));
  if (!shards.ok()) {
    PLANISH_CHECK(shards.error().code == Code::kInput && shards.error().message.size() < 4000)
        << shards.error().message;
    return 0;
  }
  for (const auto& [file, tensors] : *shards) {
    PLANISH_CHECK(!file.empty() && file.find('/') == file.npos && file != ".." && !tensors.empty()) << file;
  }
  return 0;
}

#include "apps/inspect_stored.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/file.h"
#include "formats/container.h"
#include "formats/gguf.h"
#include "formats/lora.h"
#include "model/model.h"

namespace planish::app {
namespace {

// On one line, and without what would steer a terminal.
std::string OneLine(std::string text) {
  std::ranges::replace_if(
      text, [](unsigned char c) { return c < 0x20 || c == 0x7f; }, ' ');
  return text;
}

}  // namespace

bool IsOnlyStored(const std::string& path) {
  if (DirectoryExists(path)) {
    return FileExists(JoinPath(path, kLoraConfigName)) && !FileExists(JoinPath(path, "config.json"));
  }
  if (!FileExists(path)) return false;
  const auto gguf = GgufFile::Open(path);
  if (!gguf.ok()) return true;
  const auto type = (*gguf)->String("general.type", "model");
  return type.ok() && *type != "model";
}

Status InspectStored(const Context& context, const std::string& given, bool checksum, bool json) {
  const std::string path = ResolveModelPath(given);
  PLANISH_TRY(const Container container, OpenContainer(path));
  Checksums sums;
  if (checksum) {
    PLANISH_TRY(sums, ChecksumsOf(context, container));
  }
  if (json) {
    OrderedJson out = {{"path", given}, {"kind", container.kind}, {"bytes", container.file_bytes}};
    for (const auto& [key, value] : container.metadata) out["metadata"][key] = value;
    if (checksum) out["sha256"] = sums.all;
    out["tensors"] = OrderedJson::array();
    for (size_t i = 0; i < container.tensors.size(); ++i) {
      const StoredTensor& tensor = container.tensors[i];
      out["tensors"].push_back({{"name", tensor.name},
                                {"type", tensor.type},
                                {"shape", tensor.shape},
                                {"bytes", tensor.bytes.size()}});
      if (checksum) out["tensors"].back()["sha256"] = sums.tensors[i];
    }
    PrintJson(out);
    return {};
  }
  fmt::print("{}: {}, {} tensors, {}\n", given, container.kind, container.tensors.size(),
             FormatBytes(static_cast<double>(container.file_bytes)));
  for (const auto& [key, value] : container.metadata) fmt::print("  {}: {}\n", OneLine(key), OneLine(value));
  if (checksum) fmt::print("sha256 of all: {}\n", sums.all);
  for (size_t i = 0; i < container.tensors.size(); ++i) {
    const StoredTensor& tensor = container.tensors[i];
    fmt::print("{:<52} {:<8} {:<16} {:>10}{}\n", OneLine(tensor.name), tensor.type,
               fmt::format("[{}]", fmt::join(tensor.shape, ", ")),
               FormatBytes(static_cast<double>(tensor.bytes.size())), checksum ? "  " + sums.tensors[i] : "");
  }
  return {};
}

}  // namespace planish::app

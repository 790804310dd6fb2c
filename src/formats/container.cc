#include "formats/container.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <map>

#include "base/file.h"
#include "base/hash.h"
#include "base/json.h"
#include "base/names.h"
#include "formats/checkpoint.h"
#include "formats/gguf.h"
#include "formats/imatrix.h"
#include "formats/lora.h"

namespace planish {
namespace {

constexpr size_t kLongestValue = 60;

std::string ValueText(const GgufFile& file, const std::string& key, const GgufValue& value) {
  if (value.kind == GgufKind::kArray) {
    return fmt::format("{} values of type {}", value.count, GgufKindName(value.element));
  }
  if (value.kind == GgufKind::kString) {
    const auto text = file.String(key);
    return text.ok() ? Abbreviate(*text, kLongestValue) : "";
  }
  if (const auto integer = file.Int(key); integer.ok()) return fmt::format("{}", *integer);
  if (const auto flag = file.Bool(key, false); flag.ok()) return *flag ? "true" : "false";
  const auto number = file.Number(key, 0);
  return number.ok() ? fmt::format("{}", *number) : "";
}

Result<Container> OfGguf(const std::string& path) {
  PLANISH_TRY(const auto file, GgufFile::Open(path));
  Container container;
  container.kind =
      "GGUF " + Abbreviate(file->String("general.type", "model").ok() ? *file->String("general.type", "model")
                                                                      : std::string("file"),
                           kLongestValue);
  for (const auto& [key, value] : file->metadata()) {
    container.metadata.emplace_back(key, ValueText(*file, key, value));
  }
  for (const GgufTensor& tensor : file->tensors()) {
    container.tensors.push_back(
        {tensor.name, InfoOf(tensor.type).name, {tensor.dims.rbegin(), tensor.dims.rend()}, tensor.bytes});
  }
  container.file_bytes = file->file_bytes();
  container.owner = file;
  return container;
}

Result<Container> OfSafetensors(const std::string& path) {
  PLANISH_TRY(const auto file, SafetensorsFile::Open(path));
  Container container;
  container.kind = file->metadata().contains("planish_statistics") ? "statistics" : "safetensors file";
  for (const auto& [key, value] : file->metadata()) {
    container.metadata.emplace_back(key, Abbreviate(value, kLongestValue));
  }
  for (const TensorInfo& info : file->tensors()) {
    container.tensors.push_back(
        {info.name, std::string(DTypeName(info.type)), info.shape, file->View(info).bytes()});
  }
  container.file_bytes = file->file_bytes();
  container.owner = file;
  return container;
}

// Fields of the configuration in `path`; objects and lists cut short.
Status AddFields(const std::string& path, Container& container) {
  PLANISH_TRY(const std::string text, ReadTextFile(path, int64_t{64} << 20));
  const auto config = ParseJson(text);
  if (!config.ok()) return config.error().At(path);
  if (!config->is_object()) return InputError(path + ": expected an object");
  for (const auto& [key, value] : config->items()) {
    container.metadata.emplace_back(key, Abbreviate(DumpJson(value), kLongestValue));
  }
  return {};
}

Result<Container> OfModelFolder(const std::string& path) {
  PLANISH_TRY(const Checkpoint checkpoint, Checkpoint::Open(path));
  Container container;
  container.kind = "safetensors folder";
  const std::string config = JoinPath(path, "config.json");
  // Infinity and NaN, which configurations of Python may hold, are no JSON: the tensors are listed anyway.
  if (FileExists(config) && !AddFields(config, container).ok()) {
    container.metadata = {{"config.json", "not JSON"}};
  }
  for (const TensorInfo* info : checkpoint.tensors()) {
    PLANISH_TRY(const TensorView view, checkpoint.Get(info->name));
    container.tensors.push_back({info->name, std::string(DTypeName(info->type)), info->shape, view.bytes()});
  }
  container.file_bytes = checkpoint.file_bytes();
  container.owner = checkpoint.owner();
  return container;
}

Result<Container> OfOldImatrix(const std::string& path) {
  PLANISH_TRY(auto read, OpenImatrix(path));
  const auto imatrix = std::make_shared<const Imatrix>(std::move(read));
  Container container;
  container.kind = "importance matrix (.dat)";
  container.metadata = {{"datasets", fmt::format("{}", fmt::join(imatrix->datasets, ", "))},
                        {"chunks", std::to_string(imatrix->chunk_count)}};
  for (const auto& [name, entry] : imatrix->entries) {
    const auto bytes = std::as_bytes(std::span(entry.sum2));
    container.tensors.push_back({name, "F32", {static_cast<int64_t>(entry.sum2.size())}, bytes});
    container.file_bytes += static_cast<int64_t>(bytes.size());
  }
  container.owner = imatrix;
  return container;
}

}  // namespace

Result<Container> OpenContainer(const std::string& path) {
  if (!FileExists(path)) {
    if (!FileExists(JoinPath(path, kLoraConfigName))) return OfModelFolder(path);
    PLANISH_TRY(Container container, OfSafetensors(JoinPath(path, kLoraTensorsName)));
    container.kind = "PEFT adapter";
    container.metadata.clear();
    PLANISH_RETURN_IF_ERROR(AddFields(JoinPath(path, kLoraConfigName), container));
    return container;
  }
  PLANISH_TRY(const auto file, MappedFile::Open(path));
  if (GgufFile::HasMagic(file->bytes())) return OfGguf(path);
  auto tensors = OfSafetensors(path);
  if (tensors.ok()) return tensors;
  auto imatrix = OfOldImatrix(path);
  if (imatrix.ok()) return imatrix;
  return InputError(fmt::format("{}: neither GGUF, nor safetensors ({}), nor an importance matrix ({})", path,
                                tensors.error().message, imatrix.error().message));
}

Result<Checksums> ChecksumsOf(const Context& context, const Container& container) {
  const auto count = static_cast<int64_t>(container.tensors.size());
  Checksums sums;
  sums.tensors.resize(container.tensors.size());
  int64_t total_bytes = 0;
  for (const StoredTensor& tensor : container.tensors) {
    total_bytes += static_cast<int64_t>(tensor.bytes.size());
  }
  std::atomic<int64_t> done_bytes{0};
  context.pool->ParallelFor(count, [&](int64_t i) {
    constexpr size_t kPart = size_t{16} << 20;  // between looks at the cancel flag
    Sha256 hash;
    auto rest = container.tensors[static_cast<size_t>(i)].bytes;
    while (!rest.empty() && !context.Cancelled()) {
      const auto part = rest.first(std::min(kPart, rest.size()));
      hash.Update(part);
      rest = rest.subspan(part.size());
      const int64_t done = done_bytes += static_cast<int64_t>(part.size());
      if (context.progress != nullptr) {
        context.progress->Update("checksums", static_cast<double>(done), static_cast<double>(total_bytes),
                                 "bytes");
      }
    }
    sums.tensors[static_cast<size_t>(i)] = hash.Hex();
  });
  PLANISH_RETURN_IF_ERROR(context.CheckCancelled());
  std::map<std::string_view, std::string_view> by_name;
  for (size_t i = 0; i < container.tensors.size(); ++i) by_name[container.tensors[i].name] = sums.tensors[i];
  Sha256 all;
  for (const auto& [name, sum] : by_name) all.Update(fmt::format("{}  {}\n", sum, name));
  sums.all = all.Hex();
  return sums;
}

}  // namespace planish

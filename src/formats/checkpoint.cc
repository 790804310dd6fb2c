#include "formats/checkpoint.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "base/checked.h"
#include "base/file.h"
#include "base/json.h"
#include "base/names.h"

namespace planish {
namespace {

constexpr const char* kSingleFile = "model.safetensors";
constexpr const char* kIndexFile = "model.safetensors.index.json";

// The index of a model of a million tensors is about 100 MB.
constexpr int64_t kMaxIndexBytes = 100'000'000;

// File names come from the index, so they must not lead out of its folder.
bool IsPlainFileName(std::string_view name) {
  return !name.empty() && name != "." && name.find("..") == std::string_view::npos &&
         name.find_first_of(std::string_view("/\\\0", 3)) == std::string_view::npos;
}

Result<ShardMap> ReadIndex(const std::string& path) {
  PLANISH_TRY(const std::string text, ReadTextFile(path, kMaxIndexBytes));
  auto shards = ParseShardIndex(text);
  if (!shards.ok()) return shards.error().At(path);
  return shards;
}

}  // namespace

Result<ShardMap> ParseShardIndex(const std::string& text) {
  PLANISH_TRY(const Json index, ParseJson(text, {.depth = 16}));
  const auto map = index.is_object() ? index.find("weight_map") : index.end();
  if (map == index.end() || !map->is_object()) {
    return InputError("expected an object with an object 'weight_map'");
  }
  ShardMap shards;
  for (const auto& [tensor, file] : map->items()) {
    if (!file.is_string()) {
      return InputError(fmt::format("weight_map: '{}': expected a file name, found {}", Abbreviate(tensor),
                                    Abbreviate(DumpJson(file))));
    }
    const auto& name = file.get_ref<const std::string&>();
    if (!IsPlainFileName(name)) {
      return InputError(fmt::format("weight_map: '{}': '{}' is not a plain file name in the same folder",
                                    Abbreviate(tensor), Abbreviate(name)));
    }
    shards[name].push_back(tensor);
  }
  return shards;
}

Result<Checkpoint> Checkpoint::Open(const std::string& folder) {
  auto state = std::make_shared<State>();
  state->folder = folder;
  const std::string single = JoinPath(folder, kSingleFile);
  const std::string index = JoinPath(folder, kIndexFile);
  if (FileExists(single)) return OpenFile(single);
  if (!FileExists(index)) {
    return InputError(
        fmt::format("{}: {}neither {} nor {} (expected a model folder in the format of transformers)", folder,
                    DirectoryExists(folder) ? "" : "no such folder: ", kSingleFile, kIndexFile));
  }
  PLANISH_RETURN_IF_ERROR(OpenShards(index, *state));
  Index(*state);
  return Checkpoint(std::move(state));
}

Checkpoint Checkpoint::OfFile(std::string folder, std::string name,
                              std::shared_ptr<const SafetensorsFile> file) {
  auto state = std::make_shared<State>();
  state->folder = std::move(folder);
  state->shards.push_back({std::move(name), std::move(file)});
  for (const TensorInfo& info : state->shards[0].file->tensors()) {
    state->by_name.push_back({&info, &state->shards[0]});
  }
  Index(*state);
  return Checkpoint(std::move(state));
}

Result<Checkpoint> Checkpoint::OpenFile(const std::string& path) {
  const auto slash = path.rfind('/');
  PLANISH_TRY(auto file, SafetensorsFile::Open(path));
  if (slash == std::string::npos) return OfFile("", path, std::move(file));
  return OfFile(path.substr(0, slash), path.substr(slash + 1), std::move(file));
}

Checkpoint Checkpoint::OfTensors(const std::string& path, std::vector<Loose> tensors,
                                 std::shared_ptr<const void> owner, int64_t file_bytes) {
  auto state = std::make_shared<State>();
  state->folder = path;
  state->loose = std::move(tensors);
  state->loose_owner = std::move(owner);
  state->loose_file_bytes = file_bytes;
  for (Loose& tensor : state->loose) {
    tensor.info.begin = 0;
    tensor.info.end = static_cast<int64_t>(tensor.bytes.size());
    state->by_name.push_back({&tensor.info, nullptr, tensor.bytes.data()});
  }
  Index(*state);
  return Checkpoint(std::move(state));
}

Result<Checkpoint> Checkpoint::Parse(std::span<const std::byte> bytes, const std::string& name) {
  PLANISH_TRY(auto file, SafetensorsFile::Parse(bytes, name));
  return OfFile(name, name, std::move(file));
}

Status Checkpoint::OpenShards(const std::string& index_path, State& state) {
  PLANISH_TRY(const ShardMap shard_map, ReadIndex(index_path));
  for (const auto& [name, tensors] : shard_map) {
    auto file = SafetensorsFile::Open(JoinPath(state.folder, name));
    if (!file.ok()) {
      return Error{file.error().code, fmt::format("{} (one of {} shards named by {})", file.error().message,
                                                  shard_map.size(), kIndexFile)};
    }
    state.shards.push_back({name, std::move(file).value()});
  }
  size_t i = 0;  // shards are complete: pointers to them stay valid from here on
  for (const auto& [name, tensors] : shard_map) {
    const Shard& shard = state.shards[i++];
    for (const std::string& tensor : tensors) {
      const TensorInfo* info = shard.file->Find(tensor);
      if (info == nullptr) {
        return InputError(
            fmt::format("{}: weight_map: tensor '{}' is not in {} (files of different downloads?)",
                        index_path, Abbreviate(tensor), name));
      }
      state.by_name.push_back({info, &shard});
    }
  }
  return {};
}

void Checkpoint::Index(State& state) {
  // First the order of the files, then that of the names. The sum is of mapped files: it cannot overflow.
  std::sort(state.by_name.begin(), state.by_name.end(), [](const Entry& a, const Entry& b) {
    return a.shard != b.shard ? a.shard < b.shard : a.info < b.info;
  });
  for (const Entry& entry : state.by_name) {
    state.tensors.push_back(entry.info);
    state.total_bytes += entry.info->end - entry.info->begin;
  }
  std::sort(state.by_name.begin(), state.by_name.end(),
            [](const Entry& a, const Entry& b) { return a.info->name < b.info->name; });
}

const Checkpoint::Entry* Checkpoint::Locate(std::string_view name) const {
  const auto& entries = state_->by_name;
  const auto it = std::lower_bound(entries.begin(), entries.end(), name,
                                   [](const Entry& e, std::string_view n) { return e.info->name < n; });
  return it != entries.end() && it->info->name == name ? &*it : nullptr;
}

Result<TensorView> Checkpoint::Get(std::string_view name) const {
  if (const Entry* entry = Locate(name)) {
    if (entry->shard == nullptr) return TensorView{entry->loose, entry->info->type, entry->info->shape};
    return entry->shard->file->View(*entry->info);
  }
  std::vector<std::string> names;
  for (const Entry& entry : state_->by_name) names.push_back(entry.info->name);
  std::string hint = DidYouMean(name, names);
  if (hint.empty()) {
    hint = fmt::format("it has {} tensors", names.size());
    if (!names.empty()) hint += fmt::format(", the first is '{}'", Abbreviate(names[0]));
  }
  return InputError(
      fmt::format("{}: no tensor '{}' in this checkpoint; {}", state_->folder, Abbreviate(name), hint));
}

int64_t Checkpoint::file_bytes() const {
  int64_t bytes = 0;
  bytes += state_->loose_file_bytes;
  for (const Shard& shard : state_->shards) bytes += shard.file->file_bytes();
  return bytes;
}

std::string Checkpoint::FileOf(std::string_view name) const {
  const Entry* entry = Locate(name);
  return entry == nullptr || entry->shard == nullptr ? "" : entry->shard->name;
}

Result<ShardPlan> PlanShards(const std::vector<TensorSpec>& tensors, int64_t max_shard_bytes) {
  if (max_shard_bytes <= 0) {
    return InputError(
        fmt::format("maximum shard size: found {} bytes, expected more than 0", max_shard_bytes));
  }
  ShardPlan plan;
  plan.files.emplace_back();
  int64_t shard_bytes = 0;
  for (const TensorSpec& tensor : tensors) {
    const auto size = TensorByteSize(tensor.type, tensor.shape);
    if (!size.ok()) return size.error().At(fmt::format("tensor '{}'", Abbreviate(tensor.name)));
    const auto total = CheckedAdd(plan.total_bytes, *size);
    if (!total) return InputError("the sizes of the tensors together overflow 64 bits");
    plan.total_bytes = *total;
    if (!plan.files.back().tensors.empty() && *size > max_shard_bytes - shard_bytes) {
      plan.files.emplace_back();
      shard_bytes = 0;
    }
    plan.files.back().tensors.push_back(tensor);
    shard_bytes += *size;
  }
  const size_t count = plan.files.size();
  for (size_t i = 0; i < count; ++i) {
    plan.files[i].name =
        count == 1 ? kSingleFile : fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, count);
  }
  return plan;
}

std::string ShardIndexText(const ShardPlan& plan) {
  Json weight_map = Json::object();
  for (const auto& file : plan.files) {
    for (const TensorSpec& tensor : file.tensors) weight_map[tensor.name] = file.name;
  }
  const Json index = {{"metadata", {{"total_size", plan.total_bytes}}},
                      {"weight_map", std::move(weight_map)}};
  return DumpJson(index, 2) + "\n";
}

Status WriteIndex(const std::string& folder, const ShardPlan& plan) {
  if (plan.files.size() == 1) return {};
  return WriteFileAtomically(JoinPath(folder, kIndexFile), ShardIndexText(plan));
}

}  // namespace planish

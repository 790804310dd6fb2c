// A model folder's tensors: model.safetensors, or the shards listed by model.safetensors.index.json; and
// the plan by which a model is written as one or more files.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "formats/safetensors.h"
#include "tensor/view.h"

namespace planish {

// Cheap to copy; copies share the mapped files. Safe to read from any number of threads.
class Checkpoint {
 public:
  // `folder` may be "embedded:NAME". Of the sharded form, only tensors of the index are seen: others in
  // the shards are ignored, and a tensor of the index that is not in its shard is an error.
  static Result<Checkpoint> Open(const std::string& folder);
  // One safetensors file by itself.
  static Result<Checkpoint> OpenFile(const std::string& path);
  // The same for bytes in memory, which must outlive every copy; `name` stands in for the folder.
  static Result<Checkpoint> Parse(std::span<const std::byte> bytes, const std::string& name);
  // Tensors that lie in a file of another format, or in memory; `owner` keeps them alive.
  struct Loose {
    TensorInfo info;  // begin and end are set here
    std::span<const std::byte> bytes;
  };
  static Checkpoint OfTensors(const std::string& path, std::vector<Loose> tensors,
                              std::shared_ptr<const void> owner, int64_t file_bytes);
  Checkpoint() = default;  // holds nothing; only Open makes one that can be asked

  bool Has(std::string_view name) const { return Locate(name) != nullptr; }
  // Valid as long as a copy of this checkpoint; not aligned in general. The error for a missing tensor
  // names the nearest existing ones.
  Result<TensorView> Get(std::string_view name) const;
  // By file name, then by offset.
  const std::vector<const TensorInfo*>& tensors() const { return state_->tensors; }
  // Bytes of all tensors.
  int64_t total_bytes() const { return state_->total_bytes; }
  // Bytes of the files whole: tensors and their headers.
  int64_t file_bytes() const;
  // Keeps the mapped files alive for whoever holds a view.
  std::shared_ptr<const void> owner() const { return state_; }
  // Name of the file in the folder that holds the tensor, or "" when there is no such tensor.
  std::string FileOf(std::string_view name) const;
  const std::string& folder() const { return state_->folder; }

 private:
  struct Shard {
    std::string name;  // in the folder
    std::shared_ptr<const SafetensorsFile> file;
  };
  struct Entry {
    const TensorInfo* info = nullptr;
    const Shard* shard = nullptr;  // null: loose
    const std::byte* loose = nullptr;
  };
  struct State {
    std::string folder;
    std::vector<Shard> shards;  // by ascending name
    std::vector<Loose> loose;
    std::shared_ptr<const void> loose_owner;
    int64_t loose_file_bytes = 0;
    std::vector<Entry> by_name;
    std::vector<const TensorInfo*> tensors;
    int64_t total_bytes = 0;
  };
  explicit Checkpoint(std::shared_ptr<const State> state) : state_(std::move(state)) {}
  static Checkpoint OfFile(std::string folder, std::string name, std::shared_ptr<const SafetensorsFile> file);
  static Status OpenShards(const std::string& index_path, State& state);
  static void Index(State& state);
  const Entry* Locate(std::string_view name) const;

  std::shared_ptr<const State> state_;
};

// The division of a model into files.
struct ShardPlan {
  struct File {
    std::string name;  // "model.safetensors", or "model-00001-of-00003.safetensors"
    std::vector<TensorSpec> tensors;
  };
  std::vector<File> files;
  int64_t total_bytes = 0;  // of all tensors
};

// File name -> the names of its tensors.
using ShardMap = std::map<std::string, std::vector<std::string>>;
// The text of a model.safetensors.index.json. Errors: no weight_map, files that are not in its folder.
Result<ShardMap> ParseShardIndex(const std::string& text);

// The size of shards that loaders are used to.
inline constexpr int64_t kDefaultShardBytes = 5'000'000'000;

// Fills files with the tensors in the model's order, closing a file before the tensor that would take it
// above `max_shard_bytes` (> 0) of data; a tensor larger than that stands alone. No tensors: one empty file.
Result<ShardPlan> PlanShards(const std::vector<TensorSpec>& tensors,
                             int64_t max_shard_bytes = kDefaultShardBytes);

// The text of model.safetensors.index.json, as transformers writes it.
std::string ShardIndexText(const ShardPlan& plan);

// Writes that file into the folder when the plan has several files; a single one needs no index.
Status WriteIndex(const std::string& folder, const ShardPlan& plan);

}  // namespace planish

#include "pipeline/work_folder.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "base/file.h"
#include "formats/safetensors.h"

namespace planish {
namespace {

constexpr int64_t kMaxJournalBytes = 1 << 20;

Result<Json> ReadJson(const std::string& path) {
  PLANISH_TRY(const std::string text, ReadTextFile(path, kMaxJournalBytes));
  auto json = ParseJson(text);
  if (!json.ok()) return json.error().At(path);
  return json;
}

Result<Fingerprint> ReadFingerprint(const Json& journal) {
  Fingerprint fingerprint;
  if (!journal.is_object() || !journal.contains("fingerprint") || !journal["fingerprint"].is_object()) {
    return InputError("field 'fingerprint' is missing");
  }
  for (const auto& [part, value] : journal["fingerprint"].items()) {
    if (!value.is_string()) return InputError("fingerprint: expected strings");
    fingerprint[part] = value.get<std::string>();
  }
  return fingerprint;
}

}  // namespace

std::string WorkFolder::BlockPath(int block) const {
  return JoinPath(path_, fmt::format("block-{:04}.safetensors", block));
}
std::string WorkFolder::StatesPath(int block) const {
  return JoinPath(path_, fmt::format("states-{:04}.bin", block));
}

WorkFolder::WorkFolder(WorkFolder&& other) noexcept
    : output_(std::move(other.output_)),
      path_(std::move(other.path_)),
      fingerprint_(std::move(other.fingerprint_)),
      next_block_(other.next_block_),
      lock_(std::exchange(other.lock_, -1)) {}

WorkFolder::~WorkFolder() {
  if (lock_ >= 0) close(lock_);
}

Status WorkFolder::Lock() {
  const std::string path = JoinPath(path_, "lock");
  lock_ = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (lock_ < 0) return InputError(fmt::format("{}: cannot create: {}", path, std::strerror(errno)));
  if (flock(lock_, LOCK_EX | LOCK_NB) != 0) {
    return InputError(fmt::format("{}: another process is at work on this output", path_));
  }
  return {};
}

Status WorkFolder::WriteJournal() const {
  OrderedJson journal;
  for (const auto& [part, value] : fingerprint_) journal["fingerprint"][part] = value;
  journal["next_block"] = next_block_;
  return WriteFileAtomically(JoinPath(path_, "journal.json"), DumpJson(journal, 1) + "\n");
}

Result<WorkFolder> WorkFolder::Open(const std::string& given, const Fingerprint& fingerprint, bool restart) {
  PLANISH_TRY(const std::string output, FollowLinks(given));
  WorkFolder folder(output, output + ".partial");
  const std::string journal_path = JoinPath(folder.path_, "journal.json");
  if (DirectoryExists(folder.path_)) {
    PLANISH_RETURN_IF_ERROR(folder.Lock());
    if (restart || !FileExists(journal_path)) {
      close(std::exchange(folder.lock_, -1));
      PLANISH_RETURN_IF_ERROR(RemoveTree(folder.path_));
    }
  }
  folder.fingerprint_ = fingerprint;
  if (!DirectoryExists(folder.path_)) {
    PLANISH_RETURN_IF_ERROR(MakeDirectories(folder.path_));
    PLANISH_RETURN_IF_ERROR(folder.Lock());
    PLANISH_RETURN_IF_ERROR(folder.WriteJournal());
    return folder;
  }
  PLANISH_TRY(const Json journal, ReadJson(journal_path));
  const auto known = ReadFingerprint(journal);
  if (!known.ok()) return known.error().At(journal_path);
  const std::string differences = Differences(fingerprint, *known);
  if (!differences.empty()) {
    return InputError(
        fmt::format("{}: an unfinished run is there, but it differs in: {}. Finish it with the same "
                    "settings, choose another output, or add --restart to discard it",
                    folder.path_, differences));
  }
  PLANISH_TRY(const int64_t next, JsonInt(journal, "next_block"));
  if (next < 1 || next > 1'000'000)
    return InputError(fmt::format("{}: next_block is {}", journal_path, next));
  folder.next_block_ = static_cast<int>(next);
  return folder;
}

Status WorkFolder::FinishBlock(int block, const std::vector<StoredLinear>& linears,
                               const StateStore& states) {
  std::vector<PartTensor> tensors;
  OrderedJson index = OrderedJson::array();
  std::vector<Blob> biases;
  for (const auto& linear : linears) {
    OrderedJson entry;
    entry["name"] = linear.name;
    entry["parts"] = DescribeParts(linear.matrix, linear.name, tensors);
    biases.push_back(
        DescribeBias({linear.name, {}, linear.bias, !linear.bias.empty()}, entry["parts"], tensors));
    entry["report"] = linear.report;
    index.push_back(std::move(entry));
  }
  std::vector<TensorSpec> specs;
  std::map<std::string, std::span<const std::byte>> data;
  for (const auto& t : tensors) {
    specs.push_back({t.name, t.type, t.shape});
    data[t.name] = t.bytes;
  }
  PLANISH_TRY(auto writer,
              SafetensorsWriter::Create(BlockPath(block), specs, {{"linears", DumpJson(index)}}));
  const auto order = writer.order();
  for (const auto& spec : order) PLANISH_RETURN_IF_ERROR(writer.Append(spec.name, data[spec.name]));
  PLANISH_RETURN_IF_ERROR(writer.Commit());
  PLANISH_RETURN_IF_ERROR(states.Save(StatesPath(block + 1)));
  next_block_ = block + 1;
  PLANISH_RETURN_IF_ERROR(WriteJournal());
  std::remove(StatesPath(block).c_str());
  return {};
}

Status WorkFolder::LoadStates(StateStore& states, const std::vector<int64_t>& entry_bytes) const {
  return states.Load(StatesPath(next_block_), entry_bytes);
}

Result<std::vector<StoredLinear>> WorkFolder::LoadBlock(int block) const {
  const std::string path = BlockPath(block);
  PLANISH_TRY(const auto checkpoint, Checkpoint::OpenFile(path));
  PLANISH_TRY(const auto file, SafetensorsFile::Open(path));
  const auto text = file->metadata().find("linears");
  if (text == file->metadata().end())
    return InputError(fmt::format("{}: metadata 'linears' is missing", path));
  auto index = ParseJson(text->second);
  if (!index.ok()) return index.error().At(path);
  if (!index->is_array()) return InputError(fmt::format("{}: metadata 'linears': expected a list", path));
  // A second reading keeps the order of keys: the manifest's bytes depend on it.
  const OrderedJson ordered = OrderedJson::parse(text->second, nullptr, /*allow_exceptions=*/false);
  std::vector<StoredLinear> linears;
  for (size_t i = 0; i < index->size(); ++i) {
    const Json& entry = (*index)[i];
    StoredLinear linear;
    PLANISH_TRY(linear.name, JsonString(entry, "name"));
    if (!entry.contains("parts") || !entry["parts"].is_object()) {
      return InputError(fmt::format("{}: '{}' has no parts", path, linear.name));
    }
    const Json& parts = entry["parts"];
    PLANISH_TRY(const int64_t rows, JsonInt(parts, "rows"));
    PLANISH_TRY(const int64_t cols, JsonInt(parts, "cols"));
    PLANISH_TRY(linear.matrix, ReadParts(parts, linear.name, rows, cols, checkpoint));
    Linear bias{linear.name, {linear.matrix.rows, linear.matrix.cols, {}}, {}};
    PLANISH_RETURN_IF_ERROR(ReadBias(parts, checkpoint, bias));
    linear.bias = std::move(bias.bias);
    linear.report = ordered[i].value("report", OrderedJson::object());
    linears.push_back(std::move(linear));
  }
  return linears;
}

Status WorkFolder::Publish() {
  PLANISH_RETURN_IF_ERROR(SyncDirectory(OutputPath()));
  if (std::rename(OutputPath().c_str(), output_.c_str()) != 0) {
    return FailureError(
        fmt::format("{}: cannot rename to '{}': {}", OutputPath(), output_, std::strerror(errno)));
  }
  return RemoveTree(path_);
}

}  // namespace planish

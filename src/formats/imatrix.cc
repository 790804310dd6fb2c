#include "formats/imatrix.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/bytes.h"
#include "base/checked.h"
#include "base/file.h"
#include "base/names.h"
#include "formats/gguf.h"

namespace planish {
namespace {

constexpr std::string_view kSums = ".in_sum2", kCounts = ".counts";
constexpr int64_t kMaxNameBytes = 1024;

std::string At(std::string_view name) { return fmt::format("entry '{}'", Abbreviate(name)); }

Result<std::vector<float>> ReadFloats(std::span<const std::byte> bytes, const std::string& what) {
  std::vector<float> values(bytes.size() / 4);
  std::memcpy(values.data(), bytes.data(), values.size() * 4);
  for (size_t i = 0; i < values.size(); ++i) {
    if (std::isfinite(values[i]) && values[i] >= 0) continue;
    return InputError(
        fmt::format("{}: element {} is {}, expected a finite number of at least 0", what, i, values[i]));
  }
  return values;
}

Result<std::vector<float>> ReadTensor(const GgufTensor& tensor) {
  const std::string where = fmt::format("tensor '{}'", Abbreviate(tensor.name));
  if (tensor.type != GgufType::kF32) {
    return InputError(fmt::format("{}: type {}, expected F32", where, InfoOf(tensor.type).name));
  }
  return ReadFloats(tensor.bytes, where);
}

Result<ImatrixEntry> ReadEntry(const GgufFile& file, const GgufTensor& sums, const std::string& weight) {
  const GgufTensor* counts = file.Find(weight + std::string(kCounts));
  if (counts == nullptr) return InputError(fmt::format("tensor '{}{}' is missing", weight, kCounts));
  ImatrixEntry entry;
  PLANISH_TRY(entry.sum2, ReadTensor(sums));
  PLANISH_TRY(entry.counts, ReadTensor(*counts));
  entry.matrices = static_cast<int64_t>(entry.counts.size());
  if (entry.counts.empty() || entry.sum2.empty() || entry.sum2.size() % entry.counts.size() != 0) {
    return InputError(fmt::format("{}: {} sums for {} counts, expected a multiple", At(weight),
                                  entry.sum2.size(), entry.counts.size()));
  }
  return entry;
}

Result<Imatrix> ReadGguf(std::span<const std::byte> bytes, const std::string& name) {
  PLANISH_TRY(const auto file, GgufFile::Parse(bytes, name));
  Imatrix imatrix;
  PLANISH_TRY(const std::string type, file->String("general.type", ""));
  if (type != "imatrix") {
    return InputError(
        fmt::format("general.type '{}': expected imatrix (is this a model?)", Abbreviate(type)));
  }
  if (file->Has("imatrix.datasets")) {
    PLANISH_TRY(imatrix.datasets, file->Strings("imatrix.datasets"));
  }
  PLANISH_TRY(imatrix.chunk_count, file->Int("imatrix.chunk_count", 0));
  PLANISH_TRY(imatrix.chunk_size, file->Int("imatrix.chunk_size", 0));
  if (imatrix.chunk_count < 0 || imatrix.chunk_size < 0) {
    return InputError(fmt::format("{} chunks of {} tokens", imatrix.chunk_count, imatrix.chunk_size));
  }
  for (const GgufTensor& tensor : file->tensors()) {
    const std::string_view tensor_name = tensor.name;
    if (tensor_name.ends_with(kCounts)) {
      const auto weight = tensor_name.substr(0, tensor_name.size() - kCounts.size());
      if (file->Find(fmt::format("{}{}", weight, kSums)) != nullptr) continue;
      return InputError(fmt::format("tensor '{}{}' is missing", Abbreviate(weight), kSums));
    }
    if (!tensor_name.ends_with(kSums)) {
      return InputError(fmt::format("tensor '{}': expected a name that ends in {} or {}",
                                    Abbreviate(tensor_name), kSums, kCounts));
    }
    const std::string weight(tensor_name.substr(0, tensor_name.size() - kSums.size()));
    PLANISH_TRY(imatrix.entries[weight], ReadEntry(*file, tensor, weight));
  }
  if (imatrix.entries.empty()) return InputError("no entries");
  return imatrix;
}

// The older form, front to back.
class OldReader {
 public:
  explicit OldReader(std::span<const std::byte> bytes) : bytes_(bytes) {}
  size_t left() const { return bytes_.size(); }

  Result<int32_t> Int(const char* what) {
    int32_t value = 0;
    PLANISH_TRY(const auto bytes, Bytes(4, what));
    std::memcpy(&value, bytes.data(), 4);
    return value;
  }
  Result<std::span<const std::byte>> Bytes(int64_t size, const char* what) {
    if (size < 0 || static_cast<uint64_t>(size) > bytes_.size()) {
      return InputError(fmt::format("{}: {} bytes, but {} are left (truncated?)", what, size, bytes_.size()));
    }
    const auto part = bytes_.first(static_cast<size_t>(size));
    bytes_ = bytes_.subspan(static_cast<size_t>(size));
    return part;
  }
  Result<std::string> Name(int64_t most, const char* what) {
    PLANISH_TRY(const int32_t size, Int(what));
    if (size < 0 || size > most) {
      return InputError(fmt::format("{}: length {}, expected 0 to {}", what, size, most));
    }
    PLANISH_TRY(const auto bytes, Bytes(size, what));
    return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  }

 private:
  std::span<const std::byte> bytes_;
};

Status ReadOldEntry(OldReader& reader, Imatrix& imatrix) {
  PLANISH_TRY(const std::string weight, reader.Name(kMaxNameBytes, "name of a weight"));
  if (weight.empty()) return InputError("a weight without a name");
  PLANISH_TRY(const int32_t calls, reader.Int("number of calls"));
  PLANISH_TRY(const int32_t size, reader.Int("number of values"));
  if (calls < 0 || size < 1) {
    return InputError(
        fmt::format("{}: {} calls and {} values, expected at least 0 and 1", At(weight), calls, size));
  }
  PLANISH_TRY(const auto bytes, reader.Bytes(int64_t{size} * 4, "values"));
  ImatrixEntry entry;
  PLANISH_TRY(entry.sum2, ReadFloats(bytes, At(weight)));
  // Without calls the values are taken as they are.
  entry.counts = {static_cast<float>(std::max(calls, 1))};
  if (!imatrix.entries.emplace(weight, std::move(entry)).second) {
    return InputError(At(weight) + " occurs twice");
  }
  return {};
}

Result<Imatrix> ReadOld(std::span<const std::byte> bytes) {
  OldReader reader(bytes);
  Imatrix imatrix;
  PLANISH_TRY(const int32_t count, reader.Int("number of entries"));
  constexpr size_t kLeastEntry = 4 + 1 + 4 + 4 + 4;
  if (count < 1 || static_cast<uint64_t>(count) > reader.left() / kLeastEntry) {
    return InputError(fmt::format("neither GGUF nor an older importance matrix: {} entries in {} bytes",
                                  count, bytes.size()));
  }
  for (int32_t i = 0; i < count; ++i) {
    const Status read = ReadOldEntry(reader, imatrix);
    if (!read.ok()) return read.error().At(fmt::format("entry {} of {}", i + 1, count));
  }
  if (reader.left() == 0) return imatrix;  // files of the first programs end here
  PLANISH_TRY(imatrix.chunk_count, reader.Int("number of chunks"));
  if (imatrix.chunk_count < 0) return InputError(fmt::format("{} chunks", imatrix.chunk_count));
  PLANISH_TRY(std::string dataset, reader.Name(int64_t{1} << 16, "name of the data set"));
  if (!dataset.empty()) imatrix.datasets.push_back(std::move(dataset));
  if (reader.left() > 0) return InputError(fmt::format("{} bytes behind the end", reader.left()));
  return imatrix;
}

Status WriteOld(const std::string& path, const Imatrix& imatrix) {
  std::string out;
  AppendBytes(out, static_cast<int32_t>(imatrix.entries.size()));
  for (const auto& [name, entry] : imatrix.entries) {
    AppendBytes(out, static_cast<int32_t>(name.size()));
    out += name;
    const float most = *std::max_element(entry.counts.begin(), entry.counts.end());
    const float chunk = imatrix.chunk_size > 0 ? static_cast<float>(imatrix.chunk_size) : 1.0f;
    const auto calls = std::max(1, static_cast<int32_t>(std::ceil(most / chunk)));
    AppendBytes(out, calls);
    AppendBytes(out, static_cast<int32_t>(entry.sum2.size()));
    for (size_t i = 0; i < entry.sum2.size(); ++i) {
      const float count = entry.counts[i / static_cast<size_t>(entry.cols())];
      AppendBytes(out,
                  count > 0 ? entry.sum2[i] / count * static_cast<float>(calls) : static_cast<float>(calls));
    }
  }
  AppendBytes(out, static_cast<int32_t>(imatrix.chunk_count));
  const std::string dataset = imatrix.datasets.empty() ? "" : imatrix.datasets.front();
  AppendBytes(out, static_cast<int32_t>(dataset.size()));
  return WriteFileAtomically(path, out + dataset);
}

Status WriteGguf(const std::string& path, const Imatrix& imatrix) {
  GgufMetadata metadata;
  metadata.String("general.type", "imatrix");
  metadata.Strings("imatrix.datasets", imatrix.datasets);
  metadata.Int("imatrix.chunk_count", imatrix.chunk_count);
  metadata.Int("imatrix.chunk_size", imatrix.chunk_size);
  std::vector<GgufTensorSpec> specs;
  for (const auto& [name, entry] : imatrix.entries) {
    specs.push_back({fmt::format("{}{}", name, kSums), GgufType::kF32, {entry.cols(), entry.matrices}});
    specs.push_back({fmt::format("{}{}", name, kCounts), GgufType::kF32, {1, entry.matrices}});
  }
  PLANISH_TRY(auto writer, GgufWriter::Create(path, metadata, specs));
  for (const auto& [name, entry] : imatrix.entries) {
    PLANISH_RETURN_IF_ERROR(writer.Append(std::as_bytes(std::span(entry.sum2))));
    PLANISH_RETURN_IF_ERROR(writer.Append(std::as_bytes(std::span(entry.counts))));
  }
  return writer.Commit();
}

}  // namespace

Result<std::vector<float>> Imatrix::Importance(std::string_view name, int64_t cols, int64_t matrices,
                                               int64_t matrix) const {
  const auto it = entries.find(name);
  if (it == entries.end()) return std::vector<float>();
  const ImatrixEntry& entry = it->second;
  // A bank that was used as one plain product has one count for the columns of all its matrices.
  const auto size = static_cast<int64_t>(entry.sum2.size());
  if (size != cols * matrices || (entry.matrices != matrices && entry.matrices != 1)) {
    return InputError(
        fmt::format("importance of '{}': found {} values for {} matrices, the weight has {} of {} columns",
                    Abbreviate(name), size, entry.matrices, matrices, cols));
  }
  const float count = entry.counts[static_cast<size_t>(entry.matrices == 1 ? 0 : matrix)];
  std::vector<float> values(static_cast<size_t>(cols), 1.0f);
  if (!(count > 0)) return values;
  for (int64_t j = 0; j < cols; ++j) {
    values[static_cast<size_t>(j)] = entry.sum2[static_cast<size_t>(matrix * cols + j)] / count;
  }
  return values;
}

Result<Imatrix> ParseImatrix(std::span<const std::byte> bytes, const std::string& name) {
  auto read = GgufFile::HasMagic(bytes) ? ReadGguf(bytes, name) : ReadOld(bytes);
  if (!read.ok() && !read.error().message.starts_with(name)) return read.error().At(name);
  return read;
}

Result<Imatrix> OpenImatrix(const std::string& path) {
  PLANISH_TRY(const auto file, MappedFile::Open(path));
  return ParseImatrix(file->bytes(), path);
}

Status WriteImatrix(const std::string& path, const Imatrix& imatrix) {
  return path.ends_with(".dat") ? WriteOld(path, imatrix) : WriteGguf(path, imatrix);
}

}  // namespace planish

#include <fmt/format.h>

#include <cstring>
#include <set>

#include "base/bytes.h"
#include "base/checked.h"
#include "formats/gguf.h"

namespace planish {
namespace {

constexpr int64_t kAlignment = 32;

void PutString(std::string& out, std::string_view text) {
  AppendBytes(out, static_cast<uint64_t>(text.size()));
  out += text;
}
int64_t Padding(int64_t size) { return (kAlignment - size % kAlignment) % kAlignment; }

}  // namespace

void GgufMetadata::Key(const std::string& key, GgufKind kind) {
  PutString(bytes_, key);
  AppendBytes(bytes_, static_cast<int32_t>(kind));
  ++count_;
}
void GgufMetadata::Int(const std::string& key, int64_t value, GgufKind kind) {
  Key(key, kind);
  switch (kind) {
    case GgufKind::kU16:
      return AppendBytes(bytes_, static_cast<uint16_t>(value));
    case GgufKind::kI32:
      return AppendBytes(bytes_, static_cast<int32_t>(value));
    default:
      return AppendBytes(bytes_, static_cast<uint32_t>(value));
  }
}
void GgufMetadata::Float(const std::string& key, float value) {
  Key(key, GgufKind::kF32);
  AppendBytes(bytes_, value);
}
void GgufMetadata::Bool(const std::string& key, bool value) {
  Key(key, GgufKind::kBool);
  AppendBytes(bytes_, static_cast<uint8_t>(value));
}
void GgufMetadata::String(const std::string& key, std::string_view value) {
  Key(key, GgufKind::kString);
  PutString(bytes_, value);
}
void GgufMetadata::Strings(const std::string& key, std::span<const std::string> values) {
  Key(key, GgufKind::kArray);
  AppendBytes(bytes_, static_cast<int32_t>(GgufKind::kString));
  AppendBytes(bytes_, static_cast<uint64_t>(values.size()));
  for (const auto& value : values) PutString(bytes_, value);
}
void GgufMetadata::Ints(const std::string& key, std::span<const int32_t> values) {
  Key(key, GgufKind::kArray);
  AppendBytes(bytes_, static_cast<int32_t>(GgufKind::kI32));
  AppendBytes(bytes_, static_cast<uint64_t>(values.size()));
  for (int32_t value : values) AppendBytes(bytes_, value);
}
void GgufMetadata::Bytes(const std::string& key, std::string_view values) {
  Key(key, GgufKind::kArray);
  AppendBytes(bytes_, static_cast<int32_t>(GgufKind::kU8));
  PutString(bytes_, values);
}
void GgufMetadata::Floats(const std::string& key, std::span<const float> values) {
  Key(key, GgufKind::kArray);
  AppendBytes(bytes_, static_cast<int32_t>(GgufKind::kF32));
  AppendBytes(bytes_, static_cast<uint64_t>(values.size()));
  for (float value : values) AppendBytes(bytes_, value);
}
void GgufMetadata::Copy(const std::string& key, const GgufValue& value) {
  Key(key, value.kind);
  if (value.kind == GgufKind::kString) AppendBytes(bytes_, static_cast<uint64_t>(value.bytes.size()));
  if (value.kind == GgufKind::kArray) {
    AppendBytes(bytes_, static_cast<int32_t>(value.element));
    AppendBytes(bytes_, static_cast<uint64_t>(value.count));
  }
  bytes_.append(reinterpret_cast<const char*>(value.bytes.data()), value.bytes.size());
}

namespace {

// Sizes of the tensors without padding; no sum of padded ones overflows.
Result<std::vector<int64_t>> SizesOf(const std::string& path, std::span<const GgufTensorSpec> tensors) {
  std::vector<int64_t> sizes;
  std::set<std::string> names;
  int64_t total = 0;
  for (const auto& tensor : tensors) {
    const GgufTypeInfo& info = InfoOf(tensor.type);
    const auto where = [&] { return fmt::format("{}: tensor '{}'", path, tensor.name); };
    if (tensor.name.empty() || tensor.name.size() > 63 || !names.insert(tensor.name).second) {
      return InputError(where() + ": expected a name of 1 to 63 bytes that occurs once");
    }
    if (tensor.dims.empty() || tensor.dims.size() > 4 || tensor.dims[0] % info.block != 0) {
      return InputError(fmt::format("{}: [{}] cannot be stored as {} in blocks of {}", where(),
                                    fmt::join(tensor.dims, ", "), info.name, info.block));
    }
    const auto count = CheckedProduct(tensor.dims);
    const auto size = count ? CheckedMul(*count / info.block, info.bytes) : std::nullopt;
    const auto next = size ? CheckedAdd(total, *size) : std::nullopt;
    if (!next || *next > (int64_t{1} << 62)) return InputError(where() + ": its size overflows");
    sizes.push_back(*size);
    total = *next + Padding(*next);
  }
  return sizes;
}

std::string Header(const GgufMetadata& metadata, std::span<const GgufTensorSpec> tensors,
                   std::span<const int64_t> sizes) {
  std::string header = "GGUF";
  AppendBytes(header, uint32_t{3});
  AppendBytes(header, static_cast<int64_t>(tensors.size()));
  AppendBytes(header, metadata.count());
  header += metadata.bytes();
  int64_t offset = 0;
  for (size_t i = 0; i < tensors.size(); ++i) {
    const GgufTensorSpec& tensor = tensors[i];
    PutString(header, tensor.name);
    AppendBytes(header, static_cast<uint32_t>(tensor.dims.size()));
    for (int64_t dim : tensor.dims) AppendBytes(header, dim);
    AppendBytes(header, static_cast<int32_t>(tensor.type));
    AppendBytes(header, static_cast<uint64_t>(offset));
    offset += sizes[i] + Padding(sizes[i]);
  }
  header.append(static_cast<size_t>(Padding(static_cast<int64_t>(header.size()))), '\0');
  return header;
}

// The ends of runs of tensors that hold at most `limit` padded bytes, or a single tensor.
std::vector<size_t> Ends(std::span<const int64_t> sizes, int64_t limit) {
  std::vector<size_t> ends;
  int64_t held = 0;
  for (size_t i = 0; i < sizes.size(); ++i) {
    const int64_t size = sizes[i] + Padding(sizes[i]);
    if (limit > 0 && held > 0 && size > limit - held) {
      ends.push_back(i);
      held = 0;
    }
    held += size;
  }
  ends.push_back(sizes.size());
  return ends;
}

}  // namespace

Result<GgufWriter> GgufWriter::Create(const std::string& path, const GgufMetadata& metadata,
                                      std::vector<GgufTensorSpec> tensors, int64_t split_bytes) {
  PLANISH_TRY(auto sizes, SizesOf(path, tensors));
  const std::vector<size_t> ends = Ends(sizes, split_bytes);
  const auto count = static_cast<int64_t>(ends.size());
  if (count > kMaxGgufParts) {
    return InputError(fmt::format("{}: {} parts of at most {} bytes, expected at most {} parts", path, count,
                                  split_bytes, kMaxGgufParts));
  }
  constexpr std::string_view kSuffix = ".gguf";
  const std::string stem = path.ends_with(kSuffix) ? path.substr(0, path.size() - kSuffix.size()) : path;
  std::vector<Part> parts;
  for (size_t i = 0, begin = 0; i < ends.size(); begin = ends[i++]) {
    const auto of_part = [&](const auto& list) { return std::span(list).subspan(begin, ends[i] - begin); };
    Part part{path, "", ends[i]};
    GgufMetadata keys = i == 0 ? metadata : GgufMetadata();
    if (count > 1) {
      part.path = GgufPartPath(stem, static_cast<int64_t>(i) + 1, count);
      if (FileExists(part.path)) {
        return InputError(part.path + ": already exists; choose another output or remove it");
      }
      keys.Int(kSplitNo, static_cast<int64_t>(i), GgufKind::kU16);
      keys.Int(kSplitCount, count, GgufKind::kU16);
      keys.Int(kSplitTensorsCount, static_cast<int64_t>(tensors.size()), GgufKind::kI32);
    }
    part.header = Header(keys, of_part(tensors), of_part(sizes));
    parts.push_back(std::move(part));
  }
  GgufWriter writer(std::move(parts), std::move(sizes));
  PLANISH_RETURN_IF_ERROR(writer.StartPart());
  return writer;
}

std::vector<std::string> GgufWriter::paths() const {
  std::vector<std::string> paths;
  for (const Part& part : parts_) paths.push_back(part.path);
  return paths;
}

Status GgufWriter::StartPart() {
  if (!files_.empty()) PLANISH_RETURN_IF_ERROR(files_.back().Close());
  Part& part = parts_[files_.size()];
  PLANISH_TRY(auto file, AtomicFile::Create(part.path));
  PLANISH_RETURN_IF_ERROR(file.Append(part.header));
  part.header.clear();
  files_.push_back(std::move(file));
  return {};
}

Status GgufWriter::Append(std::span<const std::byte> data) {
  if (current_ == sizes_.size() || static_cast<int64_t>(data.size()) > sizes_[current_] - written_) {
    return FailureError("more data than the tensors that were declared hold");
  }
  if (current_ == parts_[files_.size() - 1].end) PLANISH_RETURN_IF_ERROR(StartPart());
  AtomicFile& file = files_.back();
  PLANISH_RETURN_IF_ERROR(file.Append(data));
  written_ += static_cast<int64_t>(data.size());
  if (written_ < sizes_[current_]) return {};
  constexpr std::byte kZeros[kAlignment] = {};
  PLANISH_RETURN_IF_ERROR(file.Append(std::span(kZeros, static_cast<size_t>(Padding(written_)))));
  ++current_;
  written_ = 0;
  return {};
}

Status GgufWriter::Commit() {
  if (current_ < sizes_.size()) {
    return FailureError(fmt::format("tensor {} of {} is not complete", current_ + 1, sizes_.size()));
  }
  // The first part, which readers open, appears when all others are there.
  for (size_t i = files_.size(); i-- > 0;) {
    const Status status = files_[i].Commit();
    if (status.ok()) continue;
    for (size_t k = i + 1; k < files_.size(); ++k) static_cast<void>(RemoveTree(files_[k].path()));
    return status;
  }
  return {};
}

}  // namespace planish

// SafetensorsWriter of safetensors.h.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <set>

#include "base/checked.h"
#include "base/json.h"
#include "base/names.h"
#include "formats/safetensors.h"
#include "formats/text.h"

namespace planish {
namespace {

// Data order: falling alignment, and within one alignment the order of the reference library, so that
// equal models give equal files.
constexpr std::array<DType, kNumDTypes> kTypeOrder = {
    DType::kU64,    DType::kI64,    DType::kF64,        DType::kC64,        DType::kF32, DType::kU32,
    DType::kI32,    DType::kBF16,   DType::kF16,        DType::kU16,        DType::kI16, DType::kF8E8M0,
    DType::kF8E4M3, DType::kF8E5M2, DType::kF8E4M3FNUZ, DType::kF8E5M2FNUZ, DType::kI8,  DType::kU8,
    DType::kF6E3M2, DType::kF6E2M3, DType::kF4,         DType::kBool};

int TypeRank(DType type) {
  return static_cast<int>(std::find(kTypeOrder.begin(), kTypeOrder.end(), type) - kTypeOrder.begin());
}

Status CheckNames(const std::vector<TensorSpec>& tensors) {
  std::set<std::string_view> seen;
  for (const TensorSpec& t : tensors) {
    const std::string place = fmt::format("tensor '{}'", Abbreviate(t.name));
    if (t.name == "__metadata__") return InputError(place + ": the name is reserved by the format");
    if (const auto valid = ValidateUtf8(t.name); !valid.ok()) return valid.error().At(place + ": name");
    if (!seen.insert(t.name).second) {
      return InputError(place + " is declared twice (of tied tensors, write only one)");
    }
  }
  return {};
}

std::string Quoted(const std::string& text) { return DumpJson(Json(text)); }

std::string TensorEntry(const TensorSpec& tensor, int64_t begin, int64_t end) {
  return fmt::format(R"({}:{{"dtype":"{}","shape":[{}],"data_offsets":[{},{}]}})", Quoted(tensor.name),
                     DTypeName(tensor.type), fmt::join(tensor.shape, ","), begin, end);
}

// Length, JSON and padding: the file up to its data.
Result<std::string> Header(const std::vector<TensorSpec>& order, const std::vector<int64_t>& sizes,
                           const std::map<std::string, std::string>& metadata) {
  std::string json = R"({"__metadata__":)" + DumpJson(Json(metadata));
  int64_t offset = 0;
  for (size_t i = 0; i < order.size(); ++i) {
    const auto end = CheckedAdd(offset, sizes[i]);
    if (!end) return InputError("the sizes of the tensors together overflow 64 bits");
    json += ',' + TensorEntry(order[i], offset, *end);
    offset = *end;
  }
  json += '}';
  json.resize((json.size() + 7) / 8 * 8, ' ');
  if (static_cast<int64_t>(json.size()) > kMaxSafetensorsHeaderBytes) {
    return InputError(
        fmt::format("the header needs {} bytes for {} tensors, the format's limit is {} (use more shards)",
                    json.size(), order.size(), kMaxSafetensorsHeaderBytes));
  }
  std::string text;
  for (int i = 0; i < 8; ++i) text += static_cast<char>(json.size() >> (8 * i) & 0xff);
  return text + json;
}

}  // namespace

Result<SafetensorsWriter> SafetensorsWriter::Create(const std::string& path, std::vector<TensorSpec> tensors,
                                                    std::map<std::string, std::string> metadata) {
  if (const Status names = CheckNames(tensors); !names.ok()) return names.error().At(path);
  std::sort(tensors.begin(), tensors.end(), [](const TensorSpec& a, const TensorSpec& b) {
    const int rank_a = TypeRank(a.type), rank_b = TypeRank(b.type);
    return rank_a != rank_b ? rank_a < rank_b : a.name < b.name;
  });
  std::vector<int64_t> sizes;
  for (const TensorSpec& t : tensors) {
    const auto bytes = TensorByteSize(t.type, t.shape);
    if (!bytes.ok()) return bytes.error().At(fmt::format("{}: tensor '{}'", path, Abbreviate(t.name)));
    sizes.push_back(*bytes);
  }
  metadata["format"] = "pt";
  const auto header = Header(tensors, sizes, metadata);
  if (!header.ok()) return header.error().At(path);
  PLANISH_TRY(auto file, AtomicFile::Create(path));
  PLANISH_RETURN_IF_ERROR(file.Append(*header));
  return SafetensorsWriter(std::move(file), path, std::move(tensors), std::move(sizes));
}

Status SafetensorsWriter::Append(std::string_view name, std::span<const std::byte> data) {
  while (current_ < order_.size() && order_[current_].name != name && written_ == sizes_[current_]) {
    ++current_;
    written_ = 0;
  }
  if (current_ == order_.size() || order_[current_].name != name) {
    const std::string expected = current_ == order_.size()
                                     ? "no more data"
                                     : fmt::format("{} more bytes of '{}'", sizes_[current_] - written_,
                                                   Abbreviate(order_[current_].name));
    return FailureError(
        fmt::format("{}: data of tensor '{}' out of order, expected {}", path_, Abbreviate(name), expected));
  }
  if (static_cast<int64_t>(data.size()) > sizes_[current_] - written_) {
    return FailureError(fmt::format("{}: tensor '{}': {} bytes after {} of {}", path_, Abbreviate(name),
                                    data.size(), written_, sizes_[current_]));
  }
  PLANISH_RETURN_IF_ERROR(file_.Append(data));
  written_ += static_cast<int64_t>(data.size());
  return {};
}

Status SafetensorsWriter::Commit() {
  for (; current_ < order_.size(); ++current_, written_ = 0) {
    if (written_ == sizes_[current_]) continue;
    return FailureError(fmt::format("{}: tensor '{}': {} of {} bytes were written", path_,
                                    Abbreviate(order_[current_].name), written_, sizes_[current_]));
  }
  return file_.Commit();
}

}  // namespace planish

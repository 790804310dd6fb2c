#include "formats/gguf.h"

#include <fmt/format.h>

#include <bit>
#include <cstring>

#include "base/check.h"
#include "base/checked.h"
#include "base/names.h"

namespace planish {
namespace {

constexpr int64_t kDefaultAlignment = 32;
constexpr int64_t kMaxKeyBytes = 65535;

int64_t KindBytes(int32_t kind) {  // 0: not of fixed size, -1: unknown
  constexpr int64_t kSizes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
  return kind < 0 || kind > 12 ? -1 : kSizes[kind];
}

// Takes numbers and strings off the front of the file.
class Cursor {
 public:
  explicit Cursor(std::span<const std::byte> bytes) : bytes_(bytes) {}
  int64_t position() const { return at_; }
  int64_t left() const { return static_cast<int64_t>(bytes_.size()) - at_; }

  template <typename T>
  Result<T> Take(const char* what) {
    T value{};
    if (left() < static_cast<int64_t>(sizeof(T))) {
      return InputError(fmt::format("the file ends inside the {} at byte {} (truncated?)", what, at_));
    }
    std::memcpy(&value, bytes_.data() + at_, sizeof(T));
    at_ += static_cast<int64_t>(sizeof(T));
    return value;
  }
  Result<std::span<const std::byte>> TakeBytes(int64_t size, const char* what) {
    if (size < 0 || size > left()) {
      return InputError(
          fmt::format("{} of {} bytes at byte {}, but {} are left (truncated?)", what, size, at_, left()));
    }
    const auto part = bytes_.subspan(static_cast<size_t>(at_), static_cast<size_t>(size));
    at_ += size;
    return part;
  }
  Result<std::span<const std::byte>> TakeString(const char* what) {
    PLANISH_TRY(const auto size, Take<uint64_t>(what));
    if (size > static_cast<uint64_t>(left())) {
      return InputError(
          fmt::format("{} of {} bytes at byte {}, but {} are left (truncated?)", what, size, at_, left()));
    }
    return TakeBytes(static_cast<int64_t>(size), what);
  }

 private:
  std::span<const std::byte> bytes_;
  int64_t at_ = 0;
};

std::string Text(std::span<const std::byte> bytes) {
  return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

Result<GgufValue> ReadValue(Cursor& cursor) {
  GgufValue value;
  PLANISH_TRY(const int32_t kind, cursor.Take<int32_t>("type of a value"));
  if (KindBytes(kind) < 0) return InputError(fmt::format("type {} is not known, expected 0 to 12", kind));
  value.kind = static_cast<GgufKind>(kind);
  if (value.kind == GgufKind::kString) {
    PLANISH_TRY(value.bytes, cursor.TakeString("string"));
    return value;
  }
  if (value.kind != GgufKind::kArray) {
    PLANISH_TRY(value.bytes, cursor.TakeBytes(KindBytes(kind), "value"));
    return value;
  }
  PLANISH_TRY(const int32_t element, cursor.Take<int32_t>("element type"));
  if (KindBytes(element) < 0 || element == static_cast<int32_t>(GgufKind::kArray)) {
    return InputError(fmt::format("elements of type {}, expected a number, bool or string", element));
  }
  value.element = static_cast<GgufKind>(element);
  PLANISH_TRY(const uint64_t count, cursor.Take<uint64_t>("element count"));
  const int64_t least = value.element == GgufKind::kString ? 8 : KindBytes(element);
  if (count > static_cast<uint64_t>(cursor.left() / least)) {
    return InputError(fmt::format("an array of {} elements, but {} bytes are left", count, cursor.left()));
  }
  value.count = static_cast<int64_t>(count);
  if (value.element != GgufKind::kString) {
    PLANISH_TRY(value.bytes, cursor.TakeBytes(value.count * least, "array"));
    return value;
  }
  Cursor start = cursor;
  for (int64_t i = 0; i < value.count; ++i) {
    PLANISH_TRY(const auto element_bytes, cursor.TakeString("string"));
    static_cast<void>(element_bytes);
  }
  PLANISH_TRY(value.bytes, start.TakeBytes(cursor.position() - start.position(), "array"));
  return value;
}

struct Entry {
  GgufTensor tensor;
  int64_t offset = 0, size = 0;
};

Result<Entry> ReadEntry(Cursor& cursor) {
  Entry entry;
  PLANISH_TRY(const auto name, cursor.TakeString("tensor name"));
  entry.tensor.name = Text(name);
  const std::string where = fmt::format("tensor '{}'", Abbreviate(entry.tensor.name));
  PLANISH_TRY(const uint32_t rank, cursor.Take<uint32_t>("number of dimensions"));
  if (rank < 1 || rank > 4) {
    return InputError(fmt::format("{}: {} dimensions, expected 1 to 4", where, rank));
  }
  for (uint32_t i = 0; i < rank; ++i) {
    PLANISH_TRY(const int64_t dim, cursor.Take<int64_t>("dimension"));
    if (dim < 1) return InputError(fmt::format("{}: dimension {} is {}, expected at least 1", where, i, dim));
    entry.tensor.dims.push_back(dim);
  }
  PLANISH_TRY(const int32_t type, cursor.Take<int32_t>("tensor type"));
  const GgufTypeInfo* info = FindGgufType(type);
  if (info == nullptr) {
    return InputError(fmt::format("{}: type {} {}", where, type,
                                  IsRemovedGgufType(type) ? "was removed from the format; convert the "
                                                            "original model anew"
                                                          : "is not known"));
  }
  entry.tensor.type = info->type;
  if (entry.tensor.dims[0] % info->block != 0) {
    return InputError(fmt::format("{}: rows of {} values are no multiple of the {} of a {} block", where,
                                  entry.tensor.dims[0], info->block, info->name));
  }
  const auto count = CheckedProduct(entry.tensor.dims);
  const auto size = count ? CheckedMul(*count / info->block, info->bytes) : std::nullopt;
  if (!size) return InputError(fmt::format("{}: its size overflows 64 bits", where));
  PLANISH_TRY(const uint64_t offset, cursor.Take<uint64_t>("offset"));
  if (!std::in_range<int64_t>(offset)) return InputError(fmt::format("{}: offset {}", where, offset));
  entry.offset = static_cast<int64_t>(offset);
  entry.size = *size;
  return entry;
}

int64_t PadTo(int64_t size, int64_t alignment) { return (size + alignment - 1) / alignment * alignment; }

Status CheckMagic(Cursor& cursor) {
  PLANISH_TRY(const auto magic, cursor.TakeBytes(4, "magic"));
  if (Text(magic) != "GGUF") return InputError("not a GGUF file: it does not start with 'GGUF'");
  PLANISH_TRY(const uint32_t version, cursor.Take<uint32_t>("version"));
  if ((version & 0xffff) == 0) return InputError("a big-endian file; convert it to little-endian first");
  if (version != 2 && version != 3) {
    return InputError(fmt::format("version {}, this program reads 2 and 3", version));
  }
  return {};
}

double NumberAt(GgufKind kind, const std::byte* data) {
  const auto load = [&]<typename T>(T value) {
    std::memcpy(&value, data, sizeof(T));
    return static_cast<double>(value);
  };
  switch (kind) {
    case GgufKind::kU8:
      return load(uint8_t{});
    case GgufKind::kI8:
      return load(int8_t{});
    case GgufKind::kU16:
      return load(uint16_t{});
    case GgufKind::kI16:
      return load(int16_t{});
    case GgufKind::kU32:
      return load(uint32_t{});
    case GgufKind::kI32:
      return load(int32_t{});
    case GgufKind::kF32:
      return load(float{});
    case GgufKind::kBool:
      return load(uint8_t{});
    case GgufKind::kU64:
      return load(uint64_t{});
    case GgufKind::kI64:
      return load(int64_t{});
    case GgufKind::kF64:
      return load(double{});
    default:
      return 0;
  }
}

bool IsInteger(GgufKind kind) {
  return KindBytes(static_cast<int32_t>(kind)) > 0 && kind != GgufKind::kF32 && kind != GgufKind::kF64 &&
         kind != GgufKind::kBool;
}

Error WrongKind(const std::string& key, GgufKind found, const char* expected) {
  return InputError(fmt::format("key '{}': type {}, expected {}", key, GgufKindName(found), expected));
}

Result<int64_t> Integer(const std::string& key, const GgufValue& value) {
  if (!IsInteger(value.kind)) return WrongKind(key, value.kind, "an integer");
  const double number = NumberAt(value.kind, value.bytes.data());
  // Sizes and ids are far below 2^53; beyond, a double would not hold the number.
  if (number < -0x1p53 || number > 0x1p53) {
    return InputError(fmt::format("key '{}': {} is out of range", key, number));
  }
  return static_cast<int64_t>(number);
}

Status ExpectInteger(const std::map<std::string, GgufValue, std::less<>>& metadata, const std::string& key,
                     int64_t expected, const std::string& file) {
  const auto it = metadata.find(key);
  if (it == metadata.end()) {
    return InputError(fmt::format("{}: key '{}' is missing, expected {} in this part", file, key, expected));
  }
  const auto found = Integer(key, it->second);
  if (!found.ok()) return found.error().At(file);
  if (*found == expected) return {};
  return InputError(
      fmt::format("{}: {} is {}, expected {} (a part of another model?)", file, key, *found, expected));
}

// "dir/name-00001-of-00003.gguf" -> its other parts.
Result<std::vector<std::string>> OtherParts(const std::string& path, int64_t count) {
  const std::string suffix = GgufPartPath("", 1, count);
  if (count > kMaxGgufParts || !path.ends_with(suffix)) {
    return InputError(fmt::format("one of {} parts: open the first, named NAME{}", count, suffix));
  }
  std::vector<std::string> paths;
  const std::string stem = path.substr(0, path.size() - suffix.size());
  for (int64_t i = 2; i <= count; ++i) paths.push_back(GgufPartPath(stem, i, count));
  return paths;
}

}  // namespace

std::string GgufPartPath(const std::string& stem, int64_t number, int64_t count) {
  return fmt::format("{}-{:05}-of-{:05}.gguf", stem, number, count);
}

const char* GgufKindName(GgufKind kind) {
  constexpr const char* kNames[] = {"u8",   "i8",     "u16",   "i16", "u32", "i32", "f32",
                                    "bool", "string", "array", "u64", "i64", "f64"};
  return kNames[static_cast<int32_t>(kind)];
}

bool GgufFile::HasMagic(std::span<const std::byte> bytes) {
  return bytes.size() >= 4 && std::memcmp(bytes.data(), "GGUF", 4) == 0;
}

Result<GgufFile::Metadata> GgufFile::ReadPart(std::span<const std::byte> bytes) {
  Cursor cursor(bytes);
  PLANISH_RETURN_IF_ERROR(CheckMagic(cursor));
  PLANISH_TRY(const int64_t tensor_count, cursor.Take<int64_t>("tensor count"));
  PLANISH_TRY(const int64_t key_count, cursor.Take<int64_t>("key count"));
  // The least that a key (13 bytes) and a tensor (32) take bound both counts.
  if (tensor_count < 0 || tensor_count > cursor.left() / 32 || key_count < 0 ||
      key_count > cursor.left() / 13) {
    return InputError(fmt::format("{} tensors and {} keys do not fit into {} bytes (truncated?)",
                                  tensor_count, key_count, bytes.size()));
  }
  Metadata metadata;
  for (int64_t i = 0; i < key_count; ++i) {
    PLANISH_TRY(const auto key_bytes, cursor.TakeString("key"));
    const std::string key = Text(key_bytes);
    if (key.empty() || key_bytes.size() > kMaxKeyBytes) {
      return InputError(
          fmt::format("key {}: its length is {}, expected 1 to {}", i, key.size(), kMaxKeyBytes));
    }
    auto value = ReadValue(cursor);
    if (!value.ok()) return value.error().At(fmt::format("key '{}'", Abbreviate(key)));
    if (!metadata.emplace(key, *value).second) {
      return InputError(fmt::format("key '{}' occurs twice", Abbreviate(key)));
    }
  }
  int64_t alignment = kDefaultAlignment;
  if (const auto it = metadata.find("general.alignment"); it != metadata.end()) {
    if (it->second.kind != GgufKind::kU32) return WrongKind(it->first, it->second.kind, "u32");
    alignment = static_cast<int64_t>(NumberAt(GgufKind::kU32, it->second.bytes.data()));
    if (!std::has_single_bit(static_cast<uint64_t>(alignment))) {
      return InputError(fmt::format("general.alignment: {}, expected a power of two", alignment));
    }
  }
  std::vector<Entry> entries;
  for (int64_t i = 0; i < tensor_count; ++i) {
    PLANISH_TRY(Entry entry, ReadEntry(cursor));
    entries.push_back(std::move(entry));
  }
  const int64_t data = PadTo(cursor.position(), alignment);
  const int64_t data_size = static_cast<int64_t>(bytes.size()) - data;
  int64_t expected = 0;  // offsets are the running sum of padded sizes, each within the file: no overflow
  for (Entry& entry : entries) {
    const std::string where = fmt::format("tensor '{}'", Abbreviate(entry.tensor.name));
    if (entry.offset != expected) {
      return InputError(fmt::format("{}: offset {}, expected {}", where, entry.offset, expected));
    }
    if (entry.size > data_size - expected) {
      return InputError(fmt::format("{}: {} bytes at offset {}, but the data has {} (truncated download?)",
                                    where, entry.size, expected, std::max<int64_t>(data_size, 0)));
    }
    entry.tensor.bytes =
        bytes.subspan(static_cast<size_t>(data + entry.offset), static_cast<size_t>(entry.size));
    expected = PadTo(expected + entry.size, alignment);
    if (!by_name_.emplace(entry.tensor.name, tensors_.size()).second) {
      return InputError(fmt::format("{}: occurs twice", where));
    }
    tensors_.push_back(std::move(entry.tensor));
  }
  file_bytes_ += static_cast<int64_t>(bytes.size());
  return metadata;
}

Result<std::shared_ptr<const GgufFile>> GgufFile::Parse(std::span<const std::byte> bytes,
                                                        const std::string& name) {
  auto file = std::shared_ptr<GgufFile>(new GgufFile);
  file->path_ = name;
  auto metadata = file->ReadPart(bytes);
  if (!metadata.ok()) return metadata.error().At(name);
  file->metadata_ = std::move(metadata).value();
  return std::shared_ptr<const GgufFile>(std::move(file));
}

Result<std::shared_ptr<const GgufFile>> GgufFile::Open(const std::string& path) {
  auto file = std::shared_ptr<GgufFile>(new GgufFile);
  const OpenPart open = [&](const std::string& part) -> Result<std::span<const std::byte>> {
    PLANISH_TRY(auto mapped, MappedFile::Open(part));
    file->files_.push_back(mapped);
    return mapped->bytes();
  };
  return Read(path, open, file);
}

Result<std::shared_ptr<const GgufFile>> GgufFile::ParseParts(
    std::span<const std::span<const std::byte>> parts, const std::string& name) {
  const auto count = static_cast<int64_t>(parts.size());
  const OpenPart open = [&](const std::string& path) -> Result<std::span<const std::byte>> {
    for (int64_t i = 0; i < count; ++i) {
      if (path == GgufPartPath(name, i + 1, count)) return parts[static_cast<size_t>(i)];
    }
    return InputError(path + ": no such part");
  };
  return Read(GgufPartPath(name, 1, count), open, std::shared_ptr<GgufFile>(new GgufFile));
}

Result<std::shared_ptr<const GgufFile>> GgufFile::Read(const std::string& path, const OpenPart& open,
                                                       std::shared_ptr<GgufFile> file) {
  file->path_ = path;
  PLANISH_TRY(const auto bytes, open(path));
  auto metadata = file->ReadPart(bytes);
  if (!metadata.ok()) return metadata.error().At(path);
  file->metadata_ = std::move(metadata).value();
  const auto splits = file->Int(kSplitCount, 1);
  if (!splits.ok()) return splits.error().At(path);
  if (*splits > 1) PLANISH_RETURN_IF_ERROR(file->ReadOtherParts(*splits, open));
  return std::shared_ptr<const GgufFile>(std::move(file));
}

// The files say themselves which parts they are: one that was renamed, or is left from another model of the
// same name, must not be taken for a part of this one.
Status GgufFile::ReadOtherParts(int64_t count, const OpenPart& open) {
  const auto others = OtherParts(path_, count);
  if (!others.ok()) return others.error().At(path_);
  PLANISH_RETURN_IF_ERROR(ExpectInteger(metadata_, kSplitNo, 0, path_));
  for (size_t i = 0; i < others->size(); ++i) {
    const std::string& name = (*others)[i];
    PLANISH_TRY(const auto bytes, open(name));
    const auto metadata = ReadPart(bytes);
    if (!metadata.ok()) return metadata.error().At(name);
    PLANISH_RETURN_IF_ERROR(ExpectInteger(*metadata, kSplitNo, static_cast<int64_t>(i) + 1, name));
    PLANISH_RETURN_IF_ERROR(ExpectInteger(*metadata, kSplitCount, count, name));
  }
  const auto total = Int(kSplitTensorsCount);
  if (!total.ok()) return total.error().At(path_);
  if (*total == static_cast<int64_t>(tensors_.size())) return {};
  return InputError(fmt::format("{}: {} is {}, the {} parts hold {}", path_, kSplitTensorsCount, *total,
                                count, tensors_.size()));
}

const GgufTensor* GgufFile::Find(std::string_view name) const {
  const auto it = by_name_.find(name);
  return it == by_name_.end() ? nullptr : &tensors_[it->second];
}

Result<const GgufValue*> GgufFile::Value(const std::string& key, const char* expected) const {
  const auto it = metadata_.find(key);
  if (it == metadata_.end()) return InputError(fmt::format("key '{}' ({}) is missing", key, expected));
  return &it->second;
}

Result<int64_t> GgufFile::Int(const std::string& key) const {
  PLANISH_TRY(const GgufValue* value, Value(key, "integer"));
  return Integer(key, *value);
}
Result<int64_t> GgufFile::Int(const std::string& key, int64_t fallback) const {
  return Has(key) ? Int(key) : Result<int64_t>(fallback);
}
Result<double> GgufFile::Number(const std::string& key, double fallback) const {
  if (!Has(key)) return fallback;
  PLANISH_TRY(const GgufValue* value, Value(key, "number"));
  if (KindBytes(static_cast<int32_t>(value->kind)) == 0) return WrongKind(key, value->kind, "a number");
  return NumberAt(value->kind, value->bytes.data());
}
Result<bool> GgufFile::Bool(const std::string& key, bool fallback) const {
  if (!Has(key)) return fallback;
  PLANISH_TRY(const GgufValue* value, Value(key, "bool"));
  if (value->kind != GgufKind::kBool) return WrongKind(key, value->kind, "bool");
  return value->bytes[0] != std::byte{0};
}
Result<std::string> GgufFile::String(const std::string& key) const {
  PLANISH_TRY(const GgufValue* value, Value(key, "string"));
  if (value->kind != GgufKind::kString) return WrongKind(key, value->kind, "string");
  return Text(value->bytes);
}
Result<std::string> GgufFile::String(const std::string& key, const std::string& fallback) const {
  return Has(key) ? String(key) : Result<std::string>(fallback);
}
Result<std::vector<std::string>> GgufFile::Strings(const std::string& key) const {
  PLANISH_TRY(const GgufValue* value, Value(key, "array of strings"));
  if (value->kind != GgufKind::kArray || value->element != GgufKind::kString) {
    return WrongKind(key, value->kind, "an array of strings");
  }
  std::vector<std::string> strings;
  Cursor cursor(value->bytes);
  for (int64_t i = 0; i < value->count; ++i) {
    PLANISH_TRY(const auto bytes, cursor.TakeString("string"));
    strings.push_back(Text(bytes));
  }
  return strings;
}
Result<std::vector<double>> GgufFile::Numbers(const std::string& key) const {
  PLANISH_TRY(const GgufValue* value, Value(key, "array of numbers"));
  if (value->kind != GgufKind::kArray || value->element == GgufKind::kString) {
    return WrongKind(key, value->kind, "an array of numbers");
  }
  std::vector<double> numbers;
  const int64_t size = KindBytes(static_cast<int32_t>(value->element));
  for (int64_t i = 0; i < value->count; ++i) {
    numbers.push_back(NumberAt(value->element, value->bytes.data() + i * size));
  }
  return numbers;
}

}  // namespace planish

#include "formats/safetensors.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <numeric>
#include <optional>

#include "base/checked.h"
#include "base/json.h"
#include "base/names.h"

namespace planish {
namespace {

constexpr int64_t kLengthBytes = 8;
constexpr std::string_view kMetadataKey = "__metadata__";

std::string TensorPlace(std::string_view name) { return fmt::format("tensor '{}'", Abbreviate(name)); }

// Reads the header event by event: no tree is built, so a hostile header of 100 MB costs no more memory
// than the tensors it declares, and the first thing out of place ends the parse.
class HeaderParser : public nlohmann::json_sax<Json> {
 public:
  HeaderParser(std::vector<TensorInfo>& tensors, std::map<std::string, std::string>& metadata)
      : tensors_(tensors), metadata_(metadata) {}

  const std::string& problem() const { return problem_; }

  bool null() override { return Misplaced("null"); }
  bool boolean(bool value) override { return Misplaced(value ? "true" : "false"); }
  bool number_integer(number_integer_t value) override { return Misplaced(fmt::format("{}", value)); }
  bool number_float(number_float_t, const string_t& text) override { return Misplaced(text); }
  bool binary(binary_t&) override { return Misplaced("binary data"); }

  bool number_unsigned(number_unsigned_t value) override {
    const auto number = CheckedNarrow<int64_t>(value);
    if (!number || (place_ != Place::kShape && place_ != Place::kOffsets))
      return Misplaced(fmt::format("{}", value));
    if (place_ == Place::kShape) {
      tensors_.back().shape.push_back(*number);
      return true;
    }
    if (num_offsets_ >= 2) return Fail("data_offsets: more than two numbers, expected [begin, end]");
    (num_offsets_++ == 0 ? tensors_.back().begin : tensors_.back().end) = *number;
    return true;
  }

  bool string(string_t& value) override {
    if (place_ == Place::kMetadata) {
      metadata_[key_] = value;
      return true;
    }
    if (place_ != Place::kTensor || key_ != "dtype") return Misplaced(fmt::format("'{}'", Abbreviate(value)));
    const auto type = ParseDType(value);
    if (!type) return Fail(fmt::format("unknown dtype '{}'", Abbreviate(value)));
    tensors_.back().type = *type;
    return true;
  }

  bool start_object(std::size_t) override {
    if (place_ == Place::kStart) {
      place_ = Place::kHeader;
      return true;
    }
    if (place_ != Place::kHeader) return Misplaced("an object");
    if (key_ == kMetadataKey) {
      place_ = Place::kMetadata;
      return true;
    }
    tensors_.emplace_back().name = key_;
    has_type_ = has_shape_ = has_offsets_ = false;
    num_offsets_ = 0;
    place_ = Place::kTensor;
    return true;
  }

  bool key(string_t& name) override {
    key_ = name;
    if (place_ == Place::kHeader && key_ == kMetadataKey) return FirstTime(has_metadata_);
    if (place_ == Place::kMetadata && metadata_.contains(key_)) return Twice();
    if (place_ != Place::kTensor) return true;  // duplicate tensors are found when names are indexed
    if (key_ == "dtype") return FirstTime(has_type_);
    if (key_ == "shape") return FirstTime(has_shape_);
    if (key_ == "data_offsets") return FirstTime(has_offsets_);
    return Fail(fmt::format("unknown member '{}', expected dtype, shape and data_offsets", Abbreviate(key_)));
  }

  bool end_object() override {
    if (place_ == Place::kTensor) {
      if (!has_type_) return Fail("dtype is missing");
      if (!has_shape_) return Fail("shape is missing");
      if (!has_offsets_) return Fail("data_offsets is missing");
    }
    place_ = Place::kHeader;
    return true;
  }

  bool start_array(std::size_t) override {
    if (place_ == Place::kTensor && key_ == "shape") {
      place_ = Place::kShape;
    } else if (place_ == Place::kTensor && key_ == "data_offsets") {
      place_ = Place::kOffsets;
    } else {
      return Misplaced("an array");
    }
    return true;
  }

  bool end_array() override {
    if (place_ == Place::kOffsets && num_offsets_ != 2) {
      return Fail(fmt::format("data_offsets: {} numbers, expected [begin, end]", num_offsets_));
    }
    place_ = Place::kTensor;
    return true;
  }

  bool parse_error(std::size_t offset, const std::string&, const nlohmann::detail::exception&) override {
    problem_ = fmt::format("header is not valid JSON at its byte {}", offset);
    return false;
  }

 private:
  enum class Place { kStart, kHeader, kMetadata, kTensor, kShape, kOffsets };

  bool Fail(const std::string& problem) {
    const bool in_tensor = place_ == Place::kTensor || place_ == Place::kShape || place_ == Place::kOffsets;
    problem_ = in_tensor ? TensorPlace(tensors_.back().name) + ": " + problem : problem;
    return false;
  }

  bool FirstTime(bool& seen) {
    if (seen) return Twice();
    seen = true;
    return true;
  }

  bool Twice() {
    const std::string what = fmt::format("'{}' appears twice", Abbreviate(key_));
    return Fail(place_ == Place::kMetadata ? "__metadata__: " + what : what);
  }

  // A value of a kind that does not belong here.
  bool Misplaced(const std::string& found) {
    constexpr const char* kNumber = "a whole number from 0 to 2^63-1";
    switch (place_) {
      case Place::kStart:
        return Fail("header: expected an object, found " + found);
      case Place::kHeader:
        return Fail(fmt::format("'{}': expected an object, found {}", Abbreviate(key_), found));
      case Place::kMetadata:
        return Fail(fmt::format("__metadata__: '{}': expected a string, found {}", Abbreviate(key_), found));
      case Place::kTensor:
        return Fail(fmt::format("{}: expected {}, found {}", key_,
                                key_ == "dtype" ? "a string" : "an array of numbers", found));
      case Place::kShape:
        return Fail(fmt::format("shape: expected {}, found {}", kNumber, found));
      case Place::kOffsets:
        return Fail(fmt::format("data_offsets: expected {}, found {}", kNumber, found));
    }
    return false;
  }

  std::vector<TensorInfo>& tensors_;
  std::map<std::string, std::string>& metadata_;
  Place place_ = Place::kStart;
  std::string key_;
  bool has_metadata_ = false;
  bool has_type_ = false, has_shape_ = false, has_offsets_ = false;  // of the tensor being read
  int num_offsets_ = 0;
  std::string problem_;
};

// The JSON text of the header: after the length, without the padding. The length is returned too.
struct HeaderText {
  std::string_view json;
  int64_t data_offset = 0;
};

Result<HeaderText> FindHeader(std::span<const std::byte> bytes) {
  const auto file_bytes = static_cast<int64_t>(bytes.size());
  if (file_bytes < kLengthBytes) {
    return InputError(fmt::format(
        "{} bytes, a safetensors file has at least 8 (empty or truncated download?)", file_bytes));
  }
  uint64_t length = 0;
  for (int i = 0; i < kLengthBytes; ++i) length |= static_cast<uint64_t>(bytes[i]) << (8 * i);
  if (length > static_cast<uint64_t>(kMaxSafetensorsHeaderBytes)) {
    return InputError(
        fmt::format("header length {} is above the limit of {} bytes (is this a safetensors file?)", length,
                    kMaxSafetensorsHeaderBytes));
  }
  const auto header_bytes = static_cast<int64_t>(length);
  if (header_bytes > file_bytes - kLengthBytes) {
    return InputError(fmt::format("header of {} bytes does not fit into a file of {} (truncated download?)",
                                  header_bytes, file_bytes));
  }
  std::string_view text(reinterpret_cast<const char*>(bytes.data()) + kLengthBytes, length);
  const int64_t data_offset = kLengthBytes + header_bytes;
  if (text.empty() || text.front() != '{') return InputError("header does not start with '{'");
  text = text.substr(0, text.find_last_not_of(' ') + 1);
  if (text.back() != '}') {
    return InputError("header does not end with '}' followed by nothing but spaces");
  }
  // The JSON lexer takes a zero byte for the end of its input.
  if (const size_t zero = text.find('\0'); zero != std::string_view::npos) {
    return InputError(fmt::format("header is not valid JSON at its byte {}: zero byte", zero));
  }
  return HeaderText{text, data_offset};
}

}  // namespace

std::string ShapeText(const std::vector<int64_t>& shape) {
  constexpr size_t kShown = 8;
  std::string text = "[";
  for (size_t i = 0; i < shape.size() && i < kShown; ++i)
    text += fmt::format("{}{}", i > 0 ? ", " : "", shape[i]);
  if (shape.size() > kShown) text += fmt::format(", ... {} dimensions", shape.size());
  return text + "]";
}

Result<int64_t> TensorByteSize(DType type, const std::vector<int64_t>& shape) {
  for (int64_t d : shape) {
    if (d < 0) return InputError(fmt::format("shape {} has a negative dimension", ShapeText(shape)));
  }
  const auto count = CheckedProduct(shape);
  const auto bits = count ? CheckedMul<int64_t>(*count, DTypeBits(type)) : std::nullopt;
  if (!bits) {
    return InputError(
        fmt::format("shape {} of {} overflows a 64-bit size", ShapeText(shape), DTypeName(type)));
  }
  if (*bits % 8 != 0) {
    return InputError(
        fmt::format("shape {} of {} is {} bits, not whole bytes", ShapeText(shape), DTypeName(type), *bits));
  }
  return *bits / 8;
}

Result<std::shared_ptr<const SafetensorsFile>> SafetensorsFile::Open(const std::string& path) {
  PLANISH_TRY(auto mapped, MappedFile::Open(path));
  std::shared_ptr<SafetensorsFile> file(new SafetensorsFile);
  file->path_ = path;
  file->bytes_ = mapped->bytes();
  file->file_ = std::move(mapped);
  if (const Status status = file->ReadHeader(); !status.ok()) return status.error().At(path);
  return std::shared_ptr<const SafetensorsFile>(std::move(file));
}

Result<std::shared_ptr<const SafetensorsFile>> SafetensorsFile::Parse(std::span<const std::byte> bytes,
                                                                      const std::string& name) {
  std::shared_ptr<SafetensorsFile> file(new SafetensorsFile);
  file->path_ = name;
  file->bytes_ = bytes;
  if (const Status status = file->ReadHeader(); !status.ok()) return status.error().At(name);
  return std::shared_ptr<const SafetensorsFile>(std::move(file));
}

Status SafetensorsFile::ReadHeader() {
  PLANISH_TRY(const HeaderText header, FindHeader(bytes_));
  HeaderParser parser(tensors_, metadata_);
  if (!Json::sax_parse(header.json.begin(), header.json.end(), &parser)) return InputError(parser.problem());
  PLANISH_RETURN_IF_ERROR(CheckLayout(header.data_offset));
  return IndexNames();
}

// Sorts the tensors by offset, checks that they fill the data part without hole or overlap, and turns
// offsets in the data part into offsets in the file.
Status SafetensorsFile::CheckLayout(int64_t data_offset) {
  data_bytes_ = static_cast<int64_t>(bytes_.size()) - data_offset;
  for (const TensorInfo& t : tensors_) {
    const auto bytes = TensorByteSize(t.type, t.shape);
    if (!bytes.ok()) return bytes.error().At(TensorPlace(t.name));
    if (t.end < t.begin) {
      return InputError(fmt::format("data_offsets [{}, {}]: end before begin", t.begin, t.end))
          .At(TensorPlace(t.name));
    }
    if (t.end - t.begin != *bytes) {
      return InputError(fmt::format("shape {} of {} needs {} bytes, data_offsets give {}", ShapeText(t.shape),
                                    DTypeName(t.type), *bytes, t.end - t.begin))
          .At(TensorPlace(t.name));
    }
    if (t.end > data_bytes_) {
      return InputError(
                 fmt::format("data_offsets [{}, {}] reach beyond the {} bytes of data (truncated download?)",
                             t.begin, t.end, data_bytes_))
          .At(TensorPlace(t.name));
    }
  }
  std::stable_sort(tensors_.begin(), tensors_.end(), [](const TensorInfo& a, const TensorInfo& b) {
    return a.begin != b.begin ? a.begin < b.begin : a.end < b.end;
  });
  int64_t expected = 0;
  for (TensorInfo& t : tensors_) {
    if (t.begin != expected) {
      return InputError(fmt::format("data begins at {}, expected {}: {}", t.begin, expected,
                                    t.begin > expected ? "a hole before it" : "it overlaps another tensor"))
          .At(TensorPlace(t.name));
    }
    expected = t.end;
    t.begin += data_offset;
    t.end += data_offset;
  }
  if (expected != data_bytes_) {
    return InputError(
        fmt::format("{} bytes after the last tensor's data, expected none", data_bytes_ - expected));
  }
  return {};
}

Status SafetensorsFile::IndexNames() {
  by_name_.resize(tensors_.size());
  std::iota(by_name_.begin(), by_name_.end(), int64_t{0});
  const auto name = [this](int64_t i) -> const std::string& { return tensors_[static_cast<size_t>(i)].name; };
  std::sort(by_name_.begin(), by_name_.end(), [&](int64_t a, int64_t b) { return name(a) < name(b); });
  const auto twice = std::adjacent_find(by_name_.begin(), by_name_.end(),
                                        [&](int64_t a, int64_t b) { return name(a) == name(b); });
  if (twice != by_name_.end()) return InputError(TensorPlace(name(*twice)) + " appears twice");
  return {};
}

const TensorInfo* SafetensorsFile::Find(std::string_view name) const {
  const auto it = std::lower_bound(
      by_name_.begin(), by_name_.end(), name,
      [this](int64_t i, std::string_view n) { return tensors_[static_cast<size_t>(i)].name < n; });
  if (it == by_name_.end()) return nullptr;
  const TensorInfo& found = tensors_[static_cast<size_t>(*it)];
  return found.name == name ? &found : nullptr;
}

}  // namespace planish

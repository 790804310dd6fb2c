// GGUF files, versions 2 and 3: metadata, a directory of tensors, and their aligned data; a model may be
// split into several files. https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
//
// The reader maps the files and trusts nothing in them; the writer declares every tensor first and then
// streams the data. A file is immutable after Open and may be read by any number of threads.
//
// Parts are named NAME-00001-of-00003.gguf. All have split.no (u16, from 0), split.count (u16) and
// split.tensors.count (i32, of all parts together); the model's own metadata is in the first one. Tensors
// follow each other from part to part, none is divided.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/file.h"
#include "base/result.h"
#include "formats/gguf_types.h"

namespace planish {

// Types of metadata values, by their numbers in files.
enum class GgufKind : int32_t {
  kU8 = 0,
  kI8 = 1,
  kU16 = 2,
  kI16 = 3,
  kU32 = 4,
  kI32 = 5,
  kF32 = 6,
  kBool = 7,
  kString = 8,
  kArray = 9,
  kU64 = 10,
  kI64 = 11,
  kF64 = 12,
};
const char* GgufKindName(GgufKind kind);

// Keys that say which part of a split model a file is.
inline constexpr const char* kSplitNo = "split.no";
inline constexpr const char* kSplitCount = "split.count";
inline constexpr const char* kSplitTensorsCount = "split.tensors.count";
inline constexpr int64_t kMaxGgufParts = 9999;
// "dir/name", 1, 3 -> "dir/name-00001-of-00003.gguf".
std::string GgufPartPath(const std::string& stem, int64_t number, int64_t count);

// A value as it lies in the file.
struct GgufValue {
  GgufKind kind = GgufKind::kU32;
  GgufKind element = GgufKind::kU32;  // of arrays
  int64_t count = 1;                  // elements of arrays
  std::span<const std::byte> bytes;   // without the count; a string without its length
};

struct GgufTensor {
  std::string name;
  GgufType type = GgufType::kF32;
  std::vector<int64_t> dims;         // 1 to 4, the contiguous dimension first
  std::span<const std::byte> bytes;  // in the mapped file
  // [rows, cols] of the same data: all but the first dimension together are rows.
  int64_t cols() const { return dims[0]; }
  int64_t rows() const {
    int64_t rows = 1;
    for (size_t i = 1; i < dims.size(); ++i) rows *= dims[i];
    return rows;
  }
};

class GgufFile {
 public:
  // Maps and checks the file, and, if it is the first of a split model, the others. Errors name the file, the
  // key or tensor, what was found and expected.
  static Result<std::shared_ptr<const GgufFile>> Open(const std::string& path);
  // One file in memory, which must outlive the result; `name` stands in for the path.
  static Result<std::shared_ptr<const GgufFile>> Parse(std::span<const std::byte> bytes,
                                                       const std::string& name);
  // A split model in memory: its parts in order, as if named NAME-00001-of-0000N.gguf and so on.
  static Result<std::shared_ptr<const GgufFile>> ParseParts(std::span<const std::span<const std::byte>> parts,
                                                            const std::string& name);
  static bool HasMagic(std::span<const std::byte> bytes);

  const std::string& path() const { return path_; }
  const std::vector<GgufTensor>& tensors() const { return tensors_; }  // in the order of the files
  const GgufTensor* Find(std::string_view name) const;
  const std::map<std::string, GgufValue, std::less<>>& metadata() const { return metadata_; }
  int64_t file_bytes() const { return file_bytes_; }

  // A key of the type asked for (any integer type for Int, any number for Number). Missing: the fallback, or
  // an error where there is none.
  bool Has(std::string_view key) const { return metadata_.find(key) != metadata_.end(); }
  Result<int64_t> Int(const std::string& key) const;
  Result<int64_t> Int(const std::string& key, int64_t fallback) const;
  Result<double> Number(const std::string& key, double fallback) const;
  Result<bool> Bool(const std::string& key, bool fallback) const;
  Result<std::string> String(const std::string& key) const;
  Result<std::string> String(const std::string& key, const std::string& fallback) const;
  Result<std::vector<std::string>> Strings(const std::string& key) const;
  Result<std::vector<double>> Numbers(const std::string& key) const;

 private:
  using Metadata = std::map<std::string, GgufValue, std::less<>>;
  GgufFile() = default;
  // Adds the tensors of one file; its metadata is the result.
  Result<Metadata> ReadPart(std::span<const std::byte> bytes);
  // Where the bytes of a part come from, by its path.
  using OpenPart = std::function<Result<std::span<const std::byte>>(const std::string& path)>;
  static Result<std::shared_ptr<const GgufFile>> Read(const std::string& path, const OpenPart& open,
                                                      std::shared_ptr<GgufFile> file);
  Status ReadOtherParts(int64_t count, const OpenPart& open);
  Result<const GgufValue*> Value(const std::string& key, const char* expected) const;

  std::string path_;
  std::vector<std::shared_ptr<const MappedFile>> files_;
  std::map<std::string, GgufValue, std::less<>> metadata_;
  std::vector<GgufTensor> tensors_;
  std::map<std::string, size_t, std::less<>> by_name_;
  int64_t file_bytes_ = 0;
};

// Metadata to be written, in order.
class GgufMetadata {
 public:
  void Int(const std::string& key, int64_t value, GgufKind kind = GgufKind::kU32);
  void Float(const std::string& key, float value);
  void Bool(const std::string& key, bool value);
  void String(const std::string& key, std::string_view value);
  void Strings(const std::string& key, std::span<const std::string> values);
  void Ints(const std::string& key, std::span<const int32_t> values);
  void Floats(const std::string& key, std::span<const float> values);
  void Bytes(const std::string& key, std::string_view values);
  // A value of another file.
  void Copy(const std::string& key, const GgufValue& value);
  int64_t count() const { return count_; }
  const std::string& bytes() const { return bytes_; }

 private:
  void Key(const std::string& key, GgufKind kind);
  std::string bytes_;
  int64_t count_ = 0;
};

struct GgufTensorSpec {
  std::string name;  // at most 63 bytes
  GgufType type = GgufType::kF32;
  std::vector<int64_t> dims;
};

// Writes a file, or the parts of a split one: the header at once, then the tensors in their order, each in
// one or more pieces. Nothing has its final name before Commit(), and the first part gets it last. Use from
// one thread.
class GgufWriter {
 public:
  // Tensors of more than `split_bytes` together (0: no limit), padding counted, are split: every part but one
  // of a single larger tensor holds at most that. Errors: names or shapes that the format has no place for,
  // more parts than names can number, parts that exist.
  static Result<GgufWriter> Create(const std::string& path, const GgufMetadata& metadata,
                                   std::vector<GgufTensorSpec> tensors, int64_t split_bytes = 0);
  // What a reader opens first, then the other parts.
  std::vector<std::string> paths() const;
  // The next bytes of the tensor at hand; a complete one is padded.
  Status Append(std::span<const std::byte> data);
  // Error when a tensor is not complete.
  Status Commit();

 private:
  struct Part {
    std::string path, header;
    size_t end = 0;  // the first tensor of the next part
  };
  GgufWriter(std::vector<Part> parts, std::vector<int64_t> sizes)
      : parts_(std::move(parts)), sizes_(std::move(sizes)) {}
  Status StartPart();
  std::vector<Part> parts_;
  std::vector<AtomicFile> files_;  // of parts begun; all but the last are closed
  std::vector<int64_t> sizes_;     // of tensors
  size_t current_ = 0;
  int64_t written_ = 0;
};

}  // namespace planish

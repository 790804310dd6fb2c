// safetensors files: an 8-byte little-endian header length, a JSON header, and the packed little-endian
// row-major data of all tensors without holes. https://github.com/huggingface/safetensors
//
// The reader maps the file and trusts nothing in it; the writer declares every tensor first and then
// streams the data. A file is immutable after Open and may be read by any number of threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/file.h"
#include "base/result.h"
#include "tensor/dtype.h"
#include "tensor/view.h"

namespace planish {

// A longer header is refused: the limit of the reference implementation.
inline constexpr int64_t kMaxSafetensorsHeaderBytes = 100'000'000;

struct TensorInfo {
  std::string name;
  DType type = DType::kF32;
  std::vector<int64_t> shape;  // empty: one element
  int64_t begin = 0, end = 0;  // byte offsets in the file
};

class SafetensorsFile {
 public:
  // Maps and checks the file (or "embedded:NAME"). Errors name the file, the tensor and the field.
  static Result<std::shared_ptr<const SafetensorsFile>> Open(const std::string& path);
  // The same for bytes in memory, which must outlive the result; `name` stands in for the path.
  static Result<std::shared_ptr<const SafetensorsFile>> Parse(std::span<const std::byte> bytes,
                                                              const std::string& name);

  // In the order of their data; empty tensors at one offset keep the header's order.
  const std::vector<TensorInfo>& tensors() const { return tensors_; }
  // Null when there is no tensor of that name.
  const TensorInfo* Find(std::string_view name) const;
  // The data of one of this file's tensors, valid as long as the file; not aligned in general.
  TensorView View(const TensorInfo& info) const {
    return {bytes_.data() + info.begin, info.type, info.shape};
  }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  const std::string& path() const { return path_; }
  // Bytes of all tensors together.
  int64_t data_bytes() const { return data_bytes_; }
  // Bytes of the file whole, header included.
  int64_t file_bytes() const { return static_cast<int64_t>(bytes_.size()); }

 private:
  SafetensorsFile() = default;
  Status ReadHeader();
  Status IndexNames();
  Status CheckLayout(int64_t data_offset);

  std::string path_;
  std::shared_ptr<const MappedFile> file_;  // null when made by Parse
  std::span<const std::byte> bytes_;
  std::vector<TensorInfo> tensors_;
  std::vector<int64_t> by_name_;  // indices into tensors_, by ascending name
  std::map<std::string, std::string> metadata_;
  int64_t data_bytes_ = 0;
};

// A tensor to be written.
struct TensorSpec {
  std::string name;
  DType type = DType::kF32;
  std::vector<int64_t> shape;
};

// Writes one file: the header at once, then the data in parts. The file appears under its name at
// Commit(); destroyed without it, nothing is left. Use from one thread.
class SafetensorsWriter {
 public:
  // Creates the file and writes its header. `metadata` is stored with "format" set to "pt", which some
  // loaders insist on. Errors: a path that cannot be written, a name that is taken twice, reserved
  // ("__metadata__") or not UTF-8, a size that overflows, a header above kMaxSafetensorsHeaderBytes.
  static Result<SafetensorsWriter> Create(const std::string& path, std::vector<TensorSpec> tensors,
                                          std::map<std::string, std::string> metadata = {});

  // The tensors in the order of their data, in which Append expects them: by type, falling alignment
  // first (so that every tensor is aligned), then by name. It is the order of the reference library.
  const std::vector<TensorSpec>& order() const { return order_; }

  // The next bytes of a tensor: the one at hand, or, once that is complete, the one after it. Empty
  // tensors may be left out. Every call is a system call: pass large parts. After an error the writer
  // can only be destroyed.
  Status Append(std::string_view name, std::span<const std::byte> data);

  // Error when a tensor is not complete.
  Status Commit();

 private:
  SafetensorsWriter(AtomicFile file, std::string path, std::vector<TensorSpec> order,
                    std::vector<int64_t> sizes)
      : file_(std::move(file)), path_(std::move(path)), order_(std::move(order)), sizes_(std::move(sizes)) {}
  AtomicFile file_;
  std::string path_;
  std::vector<TensorSpec> order_;
  std::vector<int64_t> sizes_;  // bytes, in the same order
  size_t current_ = 0;          // the tensor at hand
  int64_t written_ = 0;         // its bytes so far
};

// "[4096, 11008]" for messages.
std::string ShapeText(const std::vector<int64_t>& shape);

// Bytes of a tensor. Errors: a negative dimension, overflow, or a sub-byte type whose bits do not fill
// whole bytes.
Result<int64_t> TensorByteSize(DType type, const std::vector<int64_t>& shape);

}  // namespace planish

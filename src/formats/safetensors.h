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

// "[4096, 11008]" for messages.
std::string ShapeText(const std::vector<int64_t>& shape);

// Bytes of a tensor. Errors: a negative dimension, overflow, or a sub-byte type whose bits do not fill
// whole bytes.
Result<int64_t> TensorByteSize(DType type, const std::vector<int64_t>& shape);

}  // namespace planish

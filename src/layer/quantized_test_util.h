// What the tests of readers of quantized checkpoints share: files in memory, and what is read from them.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/json.h"
#include "layer/quantized.h"

namespace planish::test {

// Tensors in memory under the names of a file.
class Files {
 public:
  template <typename T>
  void Add(const std::string& name, DType type, std::vector<int64_t> shape, const std::vector<T>& values) {
    std::string& bytes = (*data_)[name];
    bytes.assign(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
    shapes_[name] = {type, std::move(shape)};
  }
  void Halves(const std::string& name, std::vector<int64_t> shape, const std::vector<float>& values) {
    std::vector<uint16_t> halves;
    for (float f : values) halves.push_back(ToF16(f).bits);
    Add(name, DType::kF16, std::move(shape), halves);
  }
  void Floats(const std::string& name, std::vector<int64_t> shape, const std::vector<float>& values) {
    Add(name, DType::kF32, std::move(shape), values);
  }
  void Remove(const std::string& name) { shapes_.erase(name); }
  Checkpoint Open() const {
    std::vector<Checkpoint::Loose> loose;
    for (const auto& [name, info] : shapes_) {
      loose.push_back({{name, info.first, info.second}, std::as_bytes(std::span(data_->at(name)))});
    }
    return Checkpoint::OfTensors("memory", std::move(loose), data_, 0);
  }

 private:
  std::shared_ptr<std::map<std::string, std::string>> data_ =
      std::make_shared<std::map<std::string, std::string>>();
  std::map<std::string, std::pair<DType, std::vector<int64_t>>> shapes_;
};

struct Read {
  std::string error;
  Matrix matrix;
  std::vector<float> values;
  std::vector<std::string> notes;
};

inline Read ReadFrom(const Json& config, const Files& files, int64_t rows, int64_t cols,
                     const std::vector<std::string>& order = {}) {
  Read result;
  auto reader = OpenQuantized(config, files.Open(), order);
  if (!reader.ok()) {
    result.error = reader.error().message;
    return result;
  }
  if (!(*reader)->Holds("m.weight")) {
    const Status plain = (*reader)->CheckPlain("m.weight");
    result.error = plain.ok() ? "plain" : plain.error().message;
    return result;
  }
  auto matrix = (*reader)->Read("m.weight", rows, cols);
  if (!matrix.ok()) {
    result.error = matrix.error().message;
    return result;
  }
  result.matrix = *matrix;
  const Mat<float> values = Reconstruct(*matrix);
  result.values.assign(values.data(), values.data() + rows * cols);
  result.notes = (*reader)->Notes();
  return result;
}

}  // namespace planish::test

// Memory for packed panels, kept by each thread and reused, so that a small product costs no allocation.
#pragma once

#include <utility>
#include <vector>

#include "tensor/buffer.h"

namespace planish::gemm {

// A buffer borrowed from the calling thread for a scope. Borrowing nests: a product inside a RowSource::Read
// gets another buffer than the one its caller holds.
class Scratch {
 public:
  explicit Scratch(int64_t floats) {
    auto& kept = Kept();
    if (!kept.empty()) {
      array_ = std::move(kept.back());
      kept.pop_back();
    }
    if (floats > array_.size()) array_.Resize(floats);
  }
  ~Scratch() { Kept().push_back(std::move(array_)); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  float* data() { return array_.data(); }

 private:
  static std::vector<Array<float>>& Kept() {
    thread_local std::vector<Array<float>> kept;
    return kept;
  }
  Array<float> array_;
};

}  // namespace planish::gemm

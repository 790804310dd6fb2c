// Views: who owns the memory is somebody else's business. Checked when made, trusted inside.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/check.h"
#include "tensor/buffer.h"
#include "tensor/dtype.h"

namespace planish {

// A row-major matrix [rows, cols] whose rows are `stride` elements apart.
template <typename T>
struct MatView {
  T* data = nullptr;
  int64_t rows = 0, cols = 0, stride = 0;

  MatView() = default;
  MatView(T* d, int64_t r, int64_t c) : data(d), rows(r), cols(c), stride(c) {}
  MatView(T* d, int64_t r, int64_t c, int64_t s) : data(d), rows(r), cols(c), stride(s) {}
  // From a mutable view to a const one.
  template <typename U>
  requires(std::is_same_v<const U, T> && !std::is_same_v<U, T>)
      MatView(const MatView<U>& other)  // NOLINT: implicit like a pointer's
      : data(other.data), rows(other.rows), cols(other.cols), stride(other.stride) {}

  T* row(int64_t i) const { return data + i * stride; }
  T& operator()(int64_t i, int64_t j) const { return data[i * stride + j]; }
  MatView Rows(int64_t begin, int64_t count) const { return {data + begin * stride, count, cols, stride}; }
  MatView Cols(int64_t begin, int64_t count) const { return {data + begin, rows, count, stride}; }
};

// An owned row-major matrix, uninitialized.
template <typename T>
class Mat {
 public:
  Mat() = default;
  Mat(int64_t rows, int64_t cols) { Resize(rows, cols); }
  Mat(Mat&& other) noexcept
      : array_(std::move(other.array_)),
        rows_(std::exchange(other.rows_, 0)),
        cols_(std::exchange(other.cols_, 0)) {}
  Mat& operator=(Mat&& other) noexcept {
    array_ = std::move(other.array_);
    rows_ = std::exchange(other.rows_, 0);
    cols_ = std::exchange(other.cols_, 0);
    return *this;
  }
  void Resize(int64_t rows, int64_t cols) {
    array_.Resize(rows * cols);
    rows_ = rows;
    cols_ = cols;
  }
  void Fill(T value) {
    for (auto& x : array_) x = value;
  }
  int64_t rows() const { return rows_; }
  int64_t cols() const { return cols_; }
  int64_t capacity() const { return array_.capacity(); }
  T* data() { return array_.data(); }
  const T* data() const { return array_.data(); }
  T* row(int64_t i) { return data() + i * cols_; }
  const T* row(int64_t i) const { return data() + i * cols_; }
  T& operator()(int64_t i, int64_t j) { return data()[i * cols_ + j]; }
  const T& operator()(int64_t i, int64_t j) const { return data()[i * cols_ + j]; }
  MatView<T> view() { return {data(), rows_, cols_}; }
  MatView<const T> view() const { return {data(), rows_, cols_}; }
  operator MatView<T>() { return view(); }              // NOLINT: a matrix is its view
  operator MatView<const T>() const { return view(); }  // NOLINT

 private:
  Array<T> array_;
  int64_t rows_ = 0, cols_ = 0;
};

// Type-erased, dense, row-major; possibly unaligned (it may point into a mapped file).
struct TensorView {
  const std::byte* data = nullptr;
  DType type = DType::kF32;
  std::vector<int64_t> shape;

  int64_t NumElements() const {
    int64_t n = 1;
    for (int64_t d : shape) n *= d;
    return n;
  }
  int64_t NumBytes() const { return NumElements() * DTypeBits(type) / 8; }
  std::span<const std::byte> bytes() const { return {data, static_cast<size_t>(NumBytes())}; }
};

// A matrix whose elements are one of the computable types; what the GEMM takes as weights.
// Elements may be unaligned.
struct WeightView {
  const std::byte* data = nullptr;
  DType type = DType::kF32;                // kF32, kF16 or kBF16
  int64_t rows = 0, cols = 0, stride = 0;  // stride in elements
};

inline WeightView Weights(const MatView<const float>& m) {
  return {reinterpret_cast<const std::byte*>(m.data), DType::kF32, m.rows, m.cols, m.stride};
}

// One element, whatever its type and alignment (slow: for definitions and lookups).
inline float LoadElement(const std::byte* data, DType type, int64_t index) {
  if (type == DType::kF32) {
    float f;
    std::memcpy(&f, data + index * 4, 4);
    return f;
  }
  uint16_t bits;
  std::memcpy(&bits, data + index * 2, 2);
  return type == DType::kBF16 ? ToFloat(BF16{bits}) : ToFloat(F16{bits});
}

}  // namespace planish

// Owned, aligned, uninitialized memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <span>
#include <utility>

namespace planish {

namespace internal {
struct FreeBytes {
  size_t mapped_bytes = 0;  // 0: from the heap
  void operator()(std::byte* data) const;
};
}  // namespace internal

// Aligned to 64 bytes, a cache line and the widest vector register. From 1 MiB on the memory is mapped and
// aligned to 2 MiB, from 4 MiB on advised to use huge pages.
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(size_t size_bytes);  // throws std::bad_alloc
  Buffer(Buffer&& other) noexcept : data_(std::move(other.data_)), size_(std::exchange(other.size_, 0)) {}
  Buffer& operator=(Buffer&& other) noexcept {
    data_ = std::move(other.data_);
    size_ = std::exchange(other.size_, 0);
    return *this;
  }
  std::byte* data() { return data_.get(); }
  const std::byte* data() const { return data_.get(); }
  size_t size() const { return size_; }
  std::span<std::byte> bytes() { return {data(), size_}; }
  std::span<const std::byte> bytes() const { return {data(), size_}; }

 private:
  std::unique_ptr<std::byte[], internal::FreeBytes> data_;
  size_t size_ = 0;
};

// An owned array of trivially copyable T. Resize keeps nothing and reuses the memory when it fits.
template <typename T>
class Array {
 public:
  Array() = default;
  explicit Array(int64_t size) { Resize(size); }
  Array(Array&& other) noexcept : buffer_(std::move(other.buffer_)), size_(std::exchange(other.size_, 0)) {}
  Array& operator=(Array&& other) noexcept {
    buffer_ = std::move(other.buffer_);
    size_ = std::exchange(other.size_, 0);
    return *this;
  }
  Array(int64_t size, T value) {
    Resize(size);
    for (int64_t i = 0; i < size; ++i) data()[i] = value;
  }
  void Resize(int64_t size) {
    const size_t bytes = static_cast<size_t>(size) * sizeof(T);
    if (bytes > buffer_.size()) buffer_ = Buffer(bytes);
    size_ = size;
  }
  T* data() { return reinterpret_cast<T*>(buffer_.data()); }
  const T* data() const { return reinterpret_cast<const T*>(buffer_.data()); }
  int64_t size() const { return size_; }
  int64_t capacity() const { return static_cast<int64_t>(buffer_.size() / sizeof(T)); }
  bool empty() const { return size_ == 0; }
  T& operator[](int64_t i) { return data()[i]; }
  const T& operator[](int64_t i) const { return data()[i]; }
  T* begin() { return data(); }
  T* end() { return data() + size_; }
  const T* begin() const { return data(); }
  const T* end() const { return data() + size_; }
  std::span<T> span() { return {data(), static_cast<size_t>(size_)}; }
  std::span<const T> span() const { return {data(), static_cast<size_t>(size_)}; }

 private:
  Buffer buffer_;
  int64_t size_ = 0;
};

}  // namespace planish

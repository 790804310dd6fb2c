// What both targets of GGUF ask of a file that was accepted.
#pragma once

#include <cstddef>
#include <span>

#include "base/check.h"
#include "formats/gguf.h"

namespace planish {

// Tensors lie inside the parts, in order, and every byte can be read; keys answer whatever they are asked
// for.
inline void CheckGguf(const GgufFile& file, std::span<const std::span<const std::byte>> parts) {
  size_t part = 0;
  const std::byte* at = parts.front().data();
  volatile unsigned sum = 0;  // reads every byte of every tensor, for the address sanitizer
  for (const auto& tensor : file.tensors()) {
    const auto inside = [&] {
      return tensor.bytes.data() >= at &&
             tensor.bytes.data() + tensor.bytes.size() <= parts[part].data() + parts[part].size();
    };
    while (!inside() && part + 1 < parts.size()) at = parts[++part].data();
    PLANISH_CHECK(inside()) << tensor.name;
    PLANISH_CHECK(static_cast<int64_t>(tensor.bytes.size()) ==
                  tensor.rows() * GgufRowBytes(tensor.type, tensor.cols()));
    PLANISH_CHECK(file.Find(tensor.name) == &tensor) << tensor.name;
    for (std::byte b : tensor.bytes) sum = sum + static_cast<unsigned>(b);
    at = tensor.bytes.data() + tensor.bytes.size();
  }
  for (const auto& [key, value] : file.metadata()) {
    static_cast<void>(file.Int(key).ok());
    static_cast<void>(file.Number(key, 0).ok());
    static_cast<void>(file.String(key, "").ok());
    if (const auto strings = file.Strings(key); strings.ok()) {
      PLANISH_CHECK(static_cast<int64_t>(strings->size()) == value.count) << key;
    }
    if (const auto numbers = file.Numbers(key); numbers.ok()) {
      PLANISH_CHECK(static_cast<int64_t>(numbers->size()) == value.count) << key;
    }
  }
}

}  // namespace planish

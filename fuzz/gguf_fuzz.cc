// The GGUF reader over arbitrary bytes: no crash, and whatever it accepts lies inside the file, in order.
#include <cstddef>
#include <cstdint>
#include <span>

#include "base/check.h"
#include "formats/gguf.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace planish;
  const auto bytes = std::as_bytes(std::span(data, size));
  const auto parsed = GgufFile::Parse(bytes, "input");
  if (!parsed.ok()) {
    PLANISH_CHECK(!parsed.error().message.empty() && parsed.error().message.size() < 2000)
        << parsed.error().message;
    return 0;
  }
  const GgufFile& file = **parsed;
  const std::byte* at = bytes.data();
  unsigned sum = 0;  // reads every byte of every tensor and value, for the address sanitizer
  for (const auto& tensor : file.tensors()) {
    PLANISH_CHECK(tensor.bytes.data() >= at) << tensor.name;
    PLANISH_CHECK(static_cast<int64_t>(tensor.bytes.size()) ==
                  tensor.rows() * GgufRowBytes(tensor.type, tensor.cols()));
    PLANISH_CHECK(file.Find(tensor.name) == &tensor) << tensor.name;
    for (std::byte b : tensor.bytes) sum += static_cast<unsigned>(b);
    at = tensor.bytes.data() + tensor.bytes.size();
  }
  PLANISH_CHECK(at <= bytes.data() + size) << sum;
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
  return 0;
}

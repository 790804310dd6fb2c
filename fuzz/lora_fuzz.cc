// The readers of adapters over arbitrary bytes: a GGUF file, or a configuration, a zero byte and tensors.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include "base/check.h"
#include "formats/gguf.h"
#include "formats/lora.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace planish;
  const auto bytes = std::as_bytes(std::span(data, size));
  const bool gguf = GgufFile::HasMagic(bytes);
  const void* zero = size == 0 ? nullptr : std::memchr(data, 0, size);
  if (!gguf && zero == nullptr) return 0;
  const size_t split = gguf ? 0 : static_cast<size_t>(static_cast<const uint8_t*>(zero) - data);
  const auto parsed = gguf ? ParseGgufLora(bytes, "input")
                           : ParsePeftLora(std::string(reinterpret_cast<const char*>(data), split),
                                           bytes.subspan(split + 1), "input");
  if (!parsed.ok()) {
    PLANISH_CHECK(!parsed.error().message.empty() && parsed.error().message.size() < 4000)
        << parsed.error().message;
    return 0;
  }
  PLANISH_CHECK(!parsed->pairs.empty());
  unsigned sum = 0;
  for (const auto& pair : parsed->pairs) {
    PLANISH_CHECK(std::isfinite(pair.scale) && pair.rank >= 1) << pair.target;
    PLANISH_CHECK(pair.b.cols == pair.rank) << pair.target;
    for (const LoraFactor* factor : {&pair.a, &pair.b}) {
      PLANISH_CHECK(static_cast<int64_t>(factor->bytes.size()) ==
                    factor->rows * GgufRowBytes(factor->type, factor->cols))
          << pair.target;
      for (std::byte b : factor->bytes) sum += static_cast<unsigned>(b);
    }
  }
  PLANISH_CHECK(sum <= 255 * size);
  return 0;
}

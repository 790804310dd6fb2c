// The GGUF reader over arbitrary bytes: no crash, and whatever it accepts lies inside the file, in order.
#include <cstddef>
#include <cstdint>
#include <span>

#include "fuzz/gguf_check.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace planish;
  const auto bytes = std::as_bytes(std::span(data, size));
  const auto parsed = GgufFile::Parse(bytes, "input");
  if (!parsed.ok()) {
    PLANISH_CHECK(!parsed.error().message.empty() && parsed.error().message.size() < 2000)
        << parsed.error().message;
    return 0;
  }
  CheckGguf(**parsed, std::span(&bytes, 1));
  return 0;
}

// Split GGUF models: the input is divided at the bytes "NEXTPART" into the parts of one. No crash; what is
// accepted has tensors inside its parts, in order.
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "fuzz/gguf_check.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace planish;
  constexpr std::string_view kMark = "NEXTPART";
  std::string_view rest(reinterpret_cast<const char*>(data), size);
  std::vector<std::span<const std::byte>> parts;
  for (bool more = true; more;) {
    const size_t mark = rest.find(kMark);
    more = mark != rest.npos;
    parts.push_back(std::as_bytes(std::span(rest.substr(0, mark))));
    if (more) rest = rest.substr(mark + kMark.size());
  }
  const auto parsed = GgufFile::ParseParts(parts, "input");
  if (!parsed.ok()) {
    PLANISH_CHECK(!parsed.error().message.empty() && parsed.error().message.size() < 2000)
        << parsed.error().message;
    return 0;
  }
  CheckGguf(**parsed, parts);
  return 0;
}

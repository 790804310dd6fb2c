// The safetensors reader over arbitrary bytes: no crash, and whatever it accepts keeps the format's rules,
// by arithmetic and by a JSON parser other than the reader's own.
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "base/check.h"
#include "base/json.h"
#include "formats/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace planish;
  const auto bytes = std::as_bytes(std::span(data, size));
  const auto parsed = SafetensorsFile::Parse(bytes, "input");
  if (!parsed.ok()) {
    PLANISH_CHECK(!parsed.error().message.empty() && parsed.error().message.size() < 2000)
        << parsed.error().message;
    return 0;
  }
  const SafetensorsFile& file = **parsed;
  int64_t offset = static_cast<int64_t>(size) - file.data_bytes();
  unsigned sum = 0;  // reads every byte of every tensor, for the address sanitizer
  for (const TensorInfo& info : file.tensors()) {
    const TensorView view = file.View(info);
    PLANISH_CHECK(info.begin == offset) << info.name;
    PLANISH_CHECK(view.NumBytes() == info.end - info.begin) << info.name;
    PLANISH_CHECK(file.Find(info.name) == &info) << info.name;
    for (std::byte b : view.bytes()) sum += static_cast<unsigned>(b);
    offset = info.end;
  }
  PLANISH_CHECK(offset == static_cast<int64_t>(size)) << sum;

  const size_t header_size = size - static_cast<size_t>(file.data_bytes()) - 8;
  const auto json = ParseJson(std::string_view(reinterpret_cast<const char*>(data) + 8, header_size));
  PLANISH_CHECK(json.ok()) << json.error().message;
  PLANISH_CHECK(json->size() == file.tensors().size() + json->count("__metadata__"));
  for (const TensorInfo& info : file.tensors()) {
    PLANISH_CHECK((*json)[info.name]["shape"] == Json(info.shape)) << info.name;
    PLANISH_CHECK((*json)[info.name]["dtype"] == DTypeName(info.type)) << info.name;
  }
  return 0;
}

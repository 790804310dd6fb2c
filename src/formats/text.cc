#include "formats/text.h"

#include <fmt/format.h>

#include <cstdint>
#include <cstring>

#include "base/file.h"

namespace planish {
namespace {

// Length of the well-formed sequence at the start of `text` (not empty), or 0.
size_t SequenceLength(std::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char lead = byte(0);
  if (lead < 0x80) return 1;
  size_t length = 0;
  unsigned char low = 0x80, high = 0xbf;  // what the second byte may be
  if (lead >= 0xc2 && lead <= 0xdf) {
    length = 2;
  } else if (lead >= 0xe0 && lead <= 0xef) {
    length = 3;
    if (lead == 0xe0) low = 0xa0;   // overlong
    if (lead == 0xed) high = 0x9f;  // surrogates
  } else if (lead >= 0xf0 && lead <= 0xf4) {
    length = 4;
    if (lead == 0xf0) low = 0x90;   // overlong
    if (lead == 0xf4) high = 0x8f;  // above U+10FFFF
  } else {
    return 0;
  }
  if (text.size() < length || byte(1) < low || byte(1) > high) return 0;
  for (size_t i = 2; i < length; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return 0;
  }
  return length;
}

}  // namespace

Result<void> ValidateUtf8(std::string_view text) {
  size_t i = 0;
  while (i < text.size()) {
    if (text.size() - i >= 8) {  // eight ASCII bytes at a time
      uint64_t word;
      std::memcpy(&word, text.data() + i, 8);
      if ((word & 0x8080808080808080u) == 0) {
        i += 8;
        continue;
      }
    }
    const size_t length = SequenceLength(text.substr(i));
    if (length == 0) {
      return InputError(
          fmt::format("not UTF-8: bad byte 0x{:02x} at offset {}", static_cast<unsigned char>(text[i]), i));
    }
    i += length;
  }
  return {};
}

Result<std::string> LoadText(const std::string& path) {
  PLANISH_TRY(std::string text, ReadTextFile(path));
  const auto valid = ValidateUtf8(text);
  if (!valid.ok()) {
    return InputError(fmt::format("{}: {}; expected UTF-8 text (convert it, e.g. with iconv -t UTF-8)", path,
                                  valid.error().message));
  }
  return text;
}

}  // namespace planish

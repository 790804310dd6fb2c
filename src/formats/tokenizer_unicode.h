// UTF-8, character classes and the byte-level alphabet of tokenizer.json files.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace planish {

// Bits of a character's class. A character of none of the first three is what the usual patterns
// call [^\s\p{L}\p{N}].
enum CharClass : uint8_t {
  kLetter = 1,        // \p{L}
  kNumber = 2,        // \p{N}
  kSpace = 4,         // White_Space
  kWord = 8,          // a letter, mark, decimal digit, connector or joiner, as added tokens see words
  kMark = 16,         // \p{M}
  kNonSpacing = 32,   // \p{Mn}
  kPunctuation = 64,  // \p{P}
  kOther = 128,       // \p{C}: control, format, unassigned, private use
};

// The classes of all code points, taken from the tables of PCRE2 (one pass over all characters on
// first use, some milliseconds), so that hand-written scanners and regexes agree.
class CharClassTable {
 public:
  static const CharClassTable& Get();
  uint8_t operator[](uint32_t code_point) const {
    return blocks_[size_t{index_[code_point >> 8]} * 256 + (code_point & 255)];
  }

 private:
  CharClassTable();
  std::vector<uint16_t> index_;  // [0x1100]: number of the block of 256 characters
  std::vector<uint8_t> blocks_;  // [distinct blocks * 256]
};

// False for code points that no character has (category Cn).
bool IsAssigned(uint32_t code_point);

// Unicode White_Space, which is PCRE2's \s without U+180E.
bool IsWhiteSpace(uint32_t code_point);

// Bytes in the UTF-8 character that starts with `lead`; the text must be valid.
inline size_t Utf8Length(char lead) {
  const auto b = static_cast<uint8_t>(lead);
  return b < 0x80 ? 1 : b < 0xE0 ? 2 : b < 0xF0 ? 3 : 4;
}
// The character at p of valid UTF-8; `length` receives its bytes.
inline uint32_t Utf8Decode(const char* p, size_t* length) {
  const auto at = [p](int i) { return static_cast<uint32_t>(static_cast<uint8_t>(p[i])); };
  *length = Utf8Length(*p);
  switch (*length) {
    case 1:
      return at(0);
    case 2:
      return (at(0) & 31) << 6 | (at(1) & 63);
    case 3:
      return (at(0) & 15) << 12 | (at(1) & 63) << 6 | (at(2) & 63);
    default:
      return (at(0) & 7) << 18 | (at(1) & 63) << 12 | (at(2) & 63) << 6 | (at(3) & 63);
  }
}
void AppendUtf8(uint32_t code_point, std::string* out);
// Offset of the first byte that is not part of valid UTF-8.
std::optional<size_t> FindInvalidUtf8(std::string_view text);

// Appends `bytes` with each maximal invalid part replaced by one U+FFFD (the practice Unicode
// recommends), or, with `each_byte`, each of its bytes. With `hold_tail`, an incomplete character at the end
// is left out. Returns the number of bytes consumed.
size_t AppendReplacingInvalid(std::string_view bytes, bool hold_tail, std::string* out,
                              bool each_byte = false);

// The byte-level alphabet: each byte has one printable character (0x21-0x7E, 0xA1-0xAC and
// 0xAE-0xFF themselves; the other 68, ascending, U+0100 to U+0143).
std::string_view ByteToAlphabet(uint8_t byte);
// The bytes a string of that alphabet stands for; nullopt when another character occurs.
std::optional<std::string> AlphabetToBytes(std::string_view token);

}  // namespace planish

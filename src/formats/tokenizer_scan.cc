#include "formats/tokenizer_scan.h"

#include <fmt/format.h>

#include <array>

#include "formats/tokenizer_split.h"

namespace planish {
namespace {

constexpr char kLlama3Head[] = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|";
constexpr char kLlama3Tail[] = "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

constexpr uint8_t kAnyClass = kLetter | kNumber | kSpace;

constexpr std::array<uint8_t, 128> MakeAsciiClasses() {
  std::array<uint8_t, 128> classes{};
  for (int c = 0; c < 128; ++c) {
    if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z')) classes[c] = kLetter;
    if (c >= '0' && c <= '9') classes[c] = kNumber;
    if (c == ' ' || (c >= 9 && c <= 13)) classes[c] = kSpace;
  }
  return classes;
}
constexpr std::array<uint8_t, 128> kAsciiClasses = MakeAsciiClasses();

// One text being scanned; positions are byte offsets at character boundaries.
class ScanCursor {
 public:
  ScanCursor(std::string_view text, const CharClassTable& table) : text_(text), table_(table) {}

  // Class of the character at `at` (bits of kAnyClass), its length in *length.
  uint8_t Class(size_t at, size_t* length) const {
    const auto byte = static_cast<uint8_t>(text_[at]);
    if (byte < 128) {
      *length = 1;
      return kAsciiClasses[byte];
    }
    return table_[Utf8Decode(text_.data() + at, length)] & kAnyClass;
  }
  // End of the run of characters of `wanted` class (0: of none) from `at`.
  size_t Run(size_t at, uint8_t wanted) const {
    size_t length = 0;
    while (at < text_.size() && Matches(Class(at, &length), wanted)) at += length;
    return at;
  }
  bool Is(size_t at, uint8_t wanted) const {
    size_t length = 0;
    return at < text_.size() && Matches(Class(at, &length), wanted);
  }
  char At(size_t at) const { return at < text_.size() ? text_[at] : '\0'; }

  // \s+(?!\S)|\s+ : a run before a non-space gives up its last character, if it has two or more.
  size_t Spaces(size_t from) const {
    size_t at = from, last = from, length = 0;
    while (at < text_.size() && Class(at, &length) == kSpace) {
      last = at;
      at += length;
    }
    return at == text_.size() || last == from ? at : last;
  }

 private:
  static bool Matches(uint8_t found, uint8_t wanted) {
    return wanted == 0 ? found == 0 : (found & wanted) != 0;
  }
  std::string_view text_;
  const CharClassTable& table_;
};

// Length of 's 't 're 've 'm 'll 'd at `from`, where an apostrophe stands; 0 for none. Caseless
// matching in Unicode also takes U+017F (long s) for s.
size_t Contraction(std::string_view text, size_t from, bool caseless) {
  const auto at = [&](size_t i) -> char {
    if (from + i >= text.size()) return '\0';
    const char c = text[from + i];
    return caseless && c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c;
  };
  switch (at(1)) {
    case 's':
    case 't':
    case 'm':
    case 'd':
      return 2;
    case 'r':
    case 'v':
      return at(2) == 'e' ? 3 : 0;
    case 'l':
      return at(2) == 'l' ? 3 : 0;
    case '\xC5':
      return caseless && at(2) == '\xBF' ? 3 : 0;
    default:
      return 0;
  }
}

bool IsLineEnd(char c) { return c == '\r' || c == '\n'; }

}  // namespace

std::optional<Scanner> Scanner::ForPattern(std::string_view pattern) {
  if (pattern == kGpt2Pattern) return Scanner(ScanFamily::kGpt2, 0);
  for (const auto& [digits, count] : {std::pair{"\\p{N}{1,3}", 3}, std::pair{"\\p{N}", 1}}) {
    if (pattern == fmt::format("{}{}{}", kLlama3Head, digits, kLlama3Tail)) {
      return Scanner(ScanFamily::kLlama3, count);
    }
  }
  return std::nullopt;
}

size_t Scanner::NextGpt2(std::string_view text, size_t from) const {
  const ScanCursor cursor(text, *table_);
  const char first = text[from];
  if (first == '\'') {
    if (const size_t length = Contraction(text, from, false)) return from + length;
  }
  const size_t start = from + (first == ' ' ? 1 : 0);
  size_t length = 0;
  if (start < text.size()) {
    const uint8_t found = cursor.Class(start, &length);
    if (found != kSpace) return cursor.Run(start + length, found);
  }
  return cursor.Spaces(from);
}

size_t Scanner::NextLlama3(std::string_view text, size_t from) const {
  const ScanCursor cursor(text, *table_);
  const char first = text[from];
  if (first == '\'') {
    if (const size_t length = Contraction(text, from, true)) return from + length;
  }
  size_t length = 0;
  const uint8_t found = cursor.Class(from, &length);
  if (found == kLetter) return cursor.Run(from + length, kLetter);
  if (found == kNumber) {
    size_t at = from + length;
    for (int n = 1; n < max_digits_ && cursor.Is(at, kNumber); ++n) at += Utf8Length(text[at]);
    return at;
  }
  if (!IsLineEnd(first) && cursor.Is(from + length, kLetter)) return cursor.Run(from + length, kLetter);
  if (found == 0 || (first == ' ' && cursor.Is(from + 1, 0))) {
    size_t at = cursor.Run(from + length, 0);
    while (IsLineEnd(cursor.At(at))) ++at;
    return at;
  }
  // White space. \s*[\r\n]+ reaches to the last line end of the run.
  const size_t end = cursor.Run(from, kSpace);
  for (size_t at = end; at > from; --at) {
    if (IsLineEnd(text[at - 1])) return at;
  }
  return cursor.Spaces(from);
}

}  // namespace planish

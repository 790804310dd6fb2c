#include "formats/template_text.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <map>
#include <optional>

#include "formats/tokenizer_unicode.h"
#include "formats/unicode_normalize.h"

namespace planish::jinja {
namespace {

// Bytes of the last character.
size_t LastLength(std::string_view text) {
  size_t length = 1;
  while (length < text.size() && (static_cast<uint8_t>(text[text.size() - length]) & 0xC0) == 0x80) ++length;
  return length;
}

bool InSet(std::string_view character, std::string_view set) {
  if (character.size() == 1) return set.find(character) != set.npos;
  for (size_t at = 0; at < set.size(); at += Utf8Length(set[at])) {
    if (set.substr(at).starts_with(character)) return true;
  }
  return false;
}

bool IsSpaceText(std::string_view character) {
  size_t length = 0;
  return IsSpace(Utf8Decode(character.data(), &length));
}

// Single characters whose upper case is not what the lower case of another leads back to.
const std::map<uint32_t, uint32_t>& UpperExceptions() {
  static const std::map<uint32_t, uint32_t> table = {
      {0xB5, 0x39C},    {0x131, 0x49},    {0x17F, 0x53},   {0x1C5, 0x1C4},  {0x1C8, 0x1C7},  {0x1CB, 0x1CA},
      {0x1F2, 0x1F1},   {0x345, 0x399},   {0x3C2, 0x3A3},  {0x3D0, 0x392},  {0x3D1, 0x398},  {0x3D5, 0x3A6},
      {0x3D6, 0x3A0},   {0x3F0, 0x39A},   {0x3F1, 0x3A1},  {0x3F5, 0x395},  {0x1C80, 0x412}, {0x1C81, 0x414},
      {0x1C82, 0x41E},  {0x1C83, 0x421},  {0x1C84, 0x422}, {0x1C85, 0x422}, {0x1C86, 0x42A}, {0x1C87, 0x462},
      {0x1C88, 0xA64A}, {0x1E9B, 0x1E60}, {0x1FBE, 0x399}};
  return table;
}

// By lower case: the first character that has it as its own.
const std::map<uint32_t, uint32_t>& UpperOfLower() {
  static const std::map<uint32_t, uint32_t> table = [] {
    std::map<uint32_t, uint32_t> upper;
    constexpr uint32_t kLastWithCase = 0x1E943;
    for (uint32_t code = 0x80; code <= kLastWithCase; ++code) {
      if (code >= 0xD800 && code < 0xE000) continue;
      std::string lower;
      AppendLower(code, &lower);
      size_t length = 0;
      const uint32_t to = Utf8Decode(lower.data(), &length);
      if (to != code && length == lower.size()) upper.emplace(to, code);
    }
    return upper;
  }();
  return table;
}

bool UpperIsSeveral(uint32_t code) {
  if (code == 0x149 || code == 0x1F0 || code == 0x390 || code == 0x3B0 || code == 0x587) return true;
  if (code >= 0x1E96 && code <= 0x1E9A) return true;
  if (code >= 0xFB00 && code <= 0xFB17) return true;
  if (code < 0x1F50 || code > 0x1FFC) return false;
  // Greek with an iota or a breathing that has no capital of its own.
  if (code <= 0x1F56) return code % 2 == 0;
  if (code >= 0x1F80 && code <= 0x1FAF) return true;
  const uint32_t low = code & 15;
  if (code < 0x1FB0) return false;
  if (code <= 0x1FCC) return (low >= 2 && low <= 4) || low == 6 || low == 7 || low == 12;
  if (code <= 0x1FD7) return low == 2 || low == 3 || low == 6 || low == 7;
  if (code <= 0x1FE7) return (low >= 2 && low <= 4) || low == 6 || low == 7;
  return (low >= 2 && low <= 4) || low == 6 || low == 7 || low == 12;
}

Status AppendUpper(uint32_t code, std::string& out) {
  if (code < 0x80) {
    out.push_back(code >= 'a' && code <= 'z' ? static_cast<char>(code - 32) : static_cast<char>(code));
    return {};
  }
  if (code == 0xDF) {
    out += "SS";
    return {};
  }
  if (UpperIsSeveral(code)) {
    return InputError(
        fmt::format("the upper case of U+{:04X} is several characters, which is not supported", code));
  }
  for (const auto* table : {&UpperExceptions(), &UpperOfLower()}) {
    if (const auto it = table->find(code); it != table->end()) {
      AppendUtf8(it->second, &out);
      return {};
    }
  }
  AppendUtf8(code, &out);
  return {};
}

// The final form of sigma ends a word.
void AppendLowerAt(std::string_view text, size_t at, size_t length, uint32_t code, std::string& out) {
  constexpr uint32_t kSigma = 0x3A3, kFinalSigma = 0x3C2;
  if (code < 0x80) {
    out.push_back(code >= 'A' && code <= 'Z' ? static_cast<char>(code + 32) : static_cast<char>(code));
    return;
  }
  if (code == kSigma && at > 0) {
    const std::string_view before = text.substr(0, at), after = text.substr(at + length);
    size_t bytes = 0;
    const bool letter_before =
        IsLetter(Utf8Decode(before.data() + before.size() - LastLength(before), &bytes));
    const bool letter_after = !after.empty() && IsLetter(Utf8Decode(after.data(), &bytes));
    if (letter_before && !letter_after) {
      AppendUtf8(kFinalSigma, &out);
      return;
    }
  }
  AppendLower(code, &out);
}

}  // namespace

bool IsSpace(uint32_t c) { return (c >= 0x1C && c <= 0x1F) || IsWhiteSpace(c); }

std::string_view StripLeft(std::string_view text) {
  while (!text.empty() && IsSpaceText(text)) text.remove_prefix(Utf8Length(text[0]));
  return text;
}
std::string_view StripRight(std::string_view text) {
  while (!text.empty()) {
    const size_t length = LastLength(text);
    if (!IsSpaceText(text.substr(text.size() - length))) break;
    text.remove_suffix(length);
  }
  return text;
}
std::string_view StripLeft(std::string_view text, std::string_view set) {
  while (!text.empty() && InSet(text.substr(0, Utf8Length(text[0])), set))
    text.remove_prefix(Utf8Length(text[0]));
  return text;
}
std::string_view StripRight(std::string_view text, std::string_view set) {
  while (!text.empty()) {
    const size_t length = LastLength(text);
    if (!InSet(text.substr(text.size() - length), set)) break;
    text.remove_suffix(length);
  }
  return text;
}

size_t CountCharacters(std::string_view text) {
  return static_cast<size_t>(
      std::ranges::count_if(text, [](char c) { return (static_cast<uint8_t>(c) & 0xC0) != 0x80; }));
}

std::vector<size_t> CharacterOffsets(std::string_view text) {
  std::vector<size_t> offsets;
  offsets.reserve(text.size() + 1);
  for (size_t at = 0; at < text.size(); at += Utf8Length(text[at])) offsets.push_back(at);
  offsets.push_back(text.size());
  return offsets;
}

bool IsLetter(uint32_t c) {
  if (c < 0x80) return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
  return (CharClassTable::Get()[c] & kLetter) != 0;
}

std::string Lower(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  size_t length = 0;
  for (size_t at = 0; at < text.size(); at += length) {
    const uint32_t code = Utf8Decode(text.data() + at, &length);
    AppendLowerAt(text, at, length, code, out);
  }
  return out;
}

Result<std::string> Upper(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  size_t length = 0;
  for (size_t at = 0; at < text.size(); at += length) {
    PLANISH_RETURN_IF_ERROR(AppendUpper(Utf8Decode(text.data() + at, &length), out));
  }
  return out;
}

Result<std::string> Capitalize(std::string_view text) {
  if (text.empty()) return std::string();
  const size_t first = Utf8Length(text[0]);
  PLANISH_TRY(std::string out, Upper(text.substr(0, first)));
  return out + Lower(text.substr(first));
}

Result<std::string> Title(std::string_view text) {
  std::string out;
  bool in_word = false;
  size_t length = 0;
  for (size_t at = 0; at < text.size(); at += length) {
    const uint32_t code = Utf8Decode(text.data() + at, &length);
    if (in_word) {
      AppendLowerAt(text, at, length, code, out);
    } else {
      PLANISH_RETURN_IF_ERROR(AppendUpper(code, out));
    }
    in_word = IsLetter(code);
  }
  return out;
}

std::vector<std::string_view> SplitLines(std::string_view text) {
  std::vector<std::string_view> lines;
  size_t start = 0, length = 0;
  for (size_t at = 0; at < text.size(); at += length) {
    const uint32_t c = Utf8Decode(text.data() + at, &length);
    const bool ends =
        (c >= 0xA && c <= 0xD) || (c >= 0x1C && c <= 0x1E) || c == 0x85 || c == 0x2028 || c == 0x2029;
    if (!ends) continue;
    lines.push_back(text.substr(start, at - start));
    if (c == '\r' && at + 1 < text.size() && text[at + 1] == '\n') length = 2;
    start = at + length;
  }
  if (start < text.size()) lines.push_back(text.substr(start));
  return lines;
}

void AppendRepr(std::string_view text, std::string& out) {
  const char quote = text.find('\'') != text.npos && text.find('"') == text.npos ? '"' : '\'';
  out.push_back(quote);
  size_t length = 0;
  for (size_t at = 0; at < text.size(); at += length) {
    const uint32_t c = Utf8Decode(text.data() + at, &length);
    if (c == static_cast<uint32_t>(quote) || c == '\\') {
      out.push_back('\\');
      out.push_back(static_cast<char>(c));
    } else if (c == '\n' || c == '\r' || c == '\t') {
      out += c == '\n' ? "\\n" : c == '\r' ? "\\r" : "\\t";
    } else if (c < 0x20 || c == 0x7F) {
      out += fmt::format("\\x{:02x}", c);
    } else if (c < 0x7F) {
      out.push_back(static_cast<char>(c));
    } else if (IsSpace(c) || (CharClassTable::Get()[c] & kOther) != 0) {
      out += c < 0x100     ? fmt::format("\\x{:02x}", c)
             : c < 0x10000 ? fmt::format("\\u{:04x}", c)
                           : fmt::format("\\U{:08x}", c);
    } else {
      out += text.substr(at, length);
    }
  }
  out.push_back(quote);
}

std::string FloatRepr(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  const double size = std::fabs(value);
  const bool scientific = size != 0 && (size < 1e-4 || size >= 1e16);
  char buffer[64];
  const auto result = std::to_chars(buffer, buffer + sizeof(buffer), value,
                                    scientific ? std::chars_format::scientific : std::chars_format::fixed);
  std::string text(buffer, result.ptr);
  if (!scientific && text.find('.') == text.npos) text += ".0";
  return text;
}

std::string EscapeForMessage(std::string_view text) {
  std::string out;
  for (const char c : text) {
    const auto byte = static_cast<uint8_t>(c);
    if (byte < 0x20 || byte == 0x7F) {
      out += c == '\n' ? "\\n" : fmt::format("\\x{:02x}", byte);
    } else {
      out.push_back(c);
    }
  }
  return out;
}

}  // namespace planish::jinja

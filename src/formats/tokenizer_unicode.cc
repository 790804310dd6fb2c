#include "formats/tokenizer_unicode.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <map>

#include "base/check.h"
#include "formats/tokenizer_regex.h"

namespace planish {
namespace {

// Alphabetic, M, Nd, Pc and Join_Control; the ranges of category So are circled and squared letters.
constexpr char kWordPattern[] =
    "[\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}\\x{24b6}-\\x{24e9}\\x{1f130}-\\x{1f149}\\x{1f150}-\\x{1f169}"
    "\\x{1f170}-\\x{1f189}\\x{200c}\\x{200d}]+";

constexpr uint32_t kNumCodePoints = 0x110000;

bool IsSurrogate(uint32_t c) { return c >= 0xD800 && c < 0xE000; }

// Marks the characters of `text` (all code points in order) that `pattern` matches.
void MarkClass(const std::string& text, const char* pattern, uint8_t bit, std::vector<uint8_t>* classes) {
  auto regex = Regex::Compile(pattern);
  PLANISH_CHECK(regex.ok()) << regex.error().message;
  Regex::Matcher matcher(*regex, text);
  size_t begin = 0, end = 0;
  while (matcher.Next(&begin, &end)) {
    for (size_t i = begin; i < end;) {
      size_t length = 0;
      (*classes)[Utf8Decode(text.data() + i, &length)] |= bit;
      i += length;
    }
  }
  PLANISH_CHECK(matcher.status().ok()) << matcher.status().error().message;
}

// Planes 4 to 13 hold no characters, the last two only private ones: they are left out.
std::string AllCharacters() {
  std::string text;
  text.reserve(0x41000 * 4);
  for (uint32_t c = 0; c < 0x40000; ++c) {
    if (!IsSurrogate(c)) AppendUtf8(c, &text);
  }
  for (uint32_t c = 0xE0000; c < 0xE1000; ++c) AppendUtf8(c, &text);
  return text;
}

}  // namespace

bool IsAssigned(uint32_t c) {
  static const std::vector<uint8_t> unassigned = [] {
    std::vector<uint8_t> found(kNumCodePoints);
    std::fill(found.begin() + 0x40000, found.begin() + 0xE0000, uint8_t{1});
    std::fill(found.begin() + 0xE1000, found.begin() + 0xF0000, uint8_t{1});
    MarkClass(AllCharacters(), "\\p{Cn}+", 1, &found);
    return found;
  }();
  return unassigned[c] == 0;
}

bool IsWhiteSpace(uint32_t c) {
  return (c >= 0x9 && c <= 0xD) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

CharClassTable::CharClassTable() {
  const std::string text = AllCharacters();
  // Outside of the text all are kOther.
  std::vector<uint8_t> classes(kNumCodePoints);
  std::fill(classes.begin() + 0x40000, classes.begin() + 0xE0000, uint8_t{kOther});
  std::fill(classes.begin() + 0xE1000, classes.end(), uint8_t{kOther});
  MarkClass(text, "\\p{L}+", kLetter, &classes);
  MarkClass(text, "\\p{N}+", kNumber, &classes);
  MarkClass(text, kWordPattern, kWord, &classes);
  MarkClass(text, "\\p{M}+", kMark, &classes);
  MarkClass(text, "\\p{Mn}+", kNonSpacing, &classes);
  MarkClass(text, "\\p{P}+", kPunctuation, &classes);
  MarkClass(text, "\\p{C}+", kOther, &classes);
  std::map<std::string_view, uint16_t> known;
  for (uint32_t c = 0; c < kNumCodePoints; ++c) {
    if (IsWhiteSpace(c)) classes[c] |= kSpace;
  }
  for (uint32_t block = 0; block < kNumCodePoints / 256; ++block) {
    const std::string_view content(reinterpret_cast<const char*>(classes.data()) + block * 256, 256);
    const auto [it, fresh] = known.try_emplace(content, static_cast<uint16_t>(known.size()));
    if (fresh) blocks_.insert(blocks_.end(), content.begin(), content.end());
    index_.push_back(it->second);
  }
}

const CharClassTable& CharClassTable::Get() {
  static const CharClassTable table;
  return table;
}

void AppendUtf8(uint32_t c, std::string* out) {
  if (c < 0x80) {
    out->push_back(static_cast<char>(c));
  } else if (c < 0x800) {
    out->push_back(static_cast<char>(0xC0 | c >> 6));
    out->push_back(static_cast<char>(0x80 | (c & 63)));
  } else if (c < 0x10000) {
    out->push_back(static_cast<char>(0xE0 | c >> 12));
    out->push_back(static_cast<char>(0x80 | (c >> 6 & 63)));
    out->push_back(static_cast<char>(0x80 | (c & 63)));
  } else {
    out->push_back(static_cast<char>(0xF0 | c >> 18));
    out->push_back(static_cast<char>(0x80 | (c >> 12 & 63)));
    out->push_back(static_cast<char>(0x80 | (c >> 6 & 63)));
    out->push_back(static_cast<char>(0x80 | (c & 63)));
  }
}

namespace {

// Checks the character at the start of `text` (not empty): returns its length if it is whole and
// valid. Otherwise `bad` receives the length of the maximal invalid part, and `cut` whether it is a
// valid beginning that the end of the text cuts off.
size_t CheckCharacter(std::string_view text, size_t* bad, bool* cut) {
  const auto at = [text](size_t i) { return static_cast<uint8_t>(text[i]); };
  const uint8_t lead = at(0);
  *bad = 1;
  *cut = false;
  if (lead < 0x80) return 1;
  if (lead < 0xC2 || lead > 0xF4) return 0;
  const size_t length = Utf8Length(text[0]);
  for (size_t i = 1; i < length; ++i) {
    if (i == text.size()) {
      *bad = i;
      *cut = true;
      return 0;
    }
    // The second byte also excludes overlong forms, surrogates and values over 0x10FFFF.
    uint8_t low = 0x80, high = 0xBF;
    if (i == 1) {
      if (lead == 0xE0) low = 0xA0;
      if (lead == 0xED) high = 0x9F;
      if (lead == 0xF0) low = 0x90;
      if (lead == 0xF4) high = 0x8F;
    }
    if (at(i) < low || at(i) > high) {
      *bad = i;
      return 0;
    }
  }
  return length;
}

// Bytes of plain ASCII at the start of `text`.
size_t AsciiPrefix(std::string_view text) {
  size_t i = 0;
  for (uint64_t word = 0; i + 8 <= text.size(); i += 8) {
    std::memcpy(&word, text.data() + i, 8);
    if (word & 0x8080808080808080u) break;
  }
  while (i < text.size() && static_cast<uint8_t>(text[i]) < 0x80) ++i;
  return i;
}

}  // namespace

std::optional<size_t> FindInvalidUtf8(std::string_view text) {
  size_t i = 0;
  while (true) {
    i += AsciiPrefix(text.substr(i));
    if (i == text.size()) return std::nullopt;
    size_t bad = 0;
    bool cut = false;
    const size_t length = CheckCharacter(text.substr(i), &bad, &cut);
    if (length == 0) return i;
    i += length;
  }
}

size_t AppendReplacingInvalid(std::string_view bytes, bool hold_tail, std::string* out, bool each_byte) {
  size_t i = 0;
  while (i < bytes.size()) {
    const size_t ascii = AsciiPrefix(bytes.substr(i));
    out->append(bytes.substr(i, ascii));
    i += ascii;
    if (i == bytes.size()) break;
    size_t bad = 0;
    bool cut = false;
    const size_t length = CheckCharacter(bytes.substr(i), &bad, &cut);
    if (length > 0) {
      out->append(bytes.substr(i, length));
      i += length;
      continue;
    }
    if (cut && hold_tail) break;
    for (size_t n = each_byte ? bad : 1; n > 0; --n) out->append("\xEF\xBF\xBD");
    i += bad;
  }
  return i;
}

namespace {

struct Alphabet {
  std::array<std::string, 256> characters;
  std::array<int16_t, 0x144> bytes;  // by code point; -1: not in the alphabet

  Alphabet() {
    bytes.fill(-1);
    uint32_t next = 0x100;
    for (uint32_t b = 0; b < 256; ++b) {
      const bool itself = (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
      const uint32_t c = itself ? b : next++;
      AppendUtf8(c, &characters[b]);
      bytes[c] = static_cast<int16_t>(b);
    }
  }
  static const Alphabet& Get() {
    static const Alphabet alphabet;
    return alphabet;
  }
};

}  // namespace

std::string_view ByteToAlphabet(uint8_t byte) { return Alphabet::Get().characters[byte]; }

std::optional<std::string> AlphabetToBytes(std::string_view token) {
  const Alphabet& alphabet = Alphabet::Get();
  std::string bytes;
  for (size_t i = 0; i < token.size();) {
    size_t length = 0;
    const uint32_t c = Utf8Decode(token.data() + i, &length);
    if (c >= alphabet.bytes.size() || alphabet.bytes[c] < 0) return std::nullopt;
    bytes.push_back(static_cast<char>(alphabet.bytes[c]));
    i += length;
  }
  return bytes;
}

}  // namespace planish

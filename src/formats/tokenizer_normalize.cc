#include "formats/tokenizer_normalize.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "formats/tokenizer_charsmap.h"
#include "formats/tokenizer_regex.h"
#include "formats/tokenizer_unicode.h"
#include "formats/unicode_normalize.h"

namespace planish {

// Real normalizers write at most some twenty bytes for a character; models count in 32 bits.
size_t ExpansionLimit(size_t bytes) {
  return std::min(bytes * 32 + (size_t{1} << 16), size_t{INT32_MAX} - 64);
}

Error ExpandsBeyond(size_t bytes) {
  return InputError(fmt::format("the tokenizer's normalizer expands {} bytes of text beyond {}", bytes,
                                ExpansionLimit(bytes)));
}

namespace {

class PrependText : public Normalizer {
 public:
  explicit PrependText(std::string prefix) : prefix_(std::move(prefix)) {}
  Result<std::string> Apply(std::string text) const override { return text.empty() ? text : prefix_ + text; }

 private:
  std::string prefix_;
};

// Replaces every occurrence of a string or of a regex's matches.
class Replace : public Normalizer {
 public:
  Replace(std::string pattern, std::optional<Regex> regex, std::string content)
      : pattern_(std::move(pattern)), regex_(std::move(regex)), content_(std::move(content)) {}

  Result<std::string> Apply(std::string text) const override {
    std::string out;
    size_t done = 0;
    const auto replace = [&](size_t begin, size_t end) {
      out.append(text, done, begin - done).append(content_);
      done = end;
      return out.size() <= ExpansionLimit(text.size());
    };
    bool fits = true;
    if (regex_) {
      Regex::Matcher matcher(*regex_, text);
      size_t begin = 0, end = 0;
      while (fits && matcher.Next(&begin, &end)) fits = replace(begin, end);
      PLANISH_RETURN_IF_ERROR(matcher.status());
    } else {
      for (size_t at = text.find(pattern_); fits && at != std::string::npos; at = text.find(pattern_, done)) {
        fits = replace(at, at + pattern_.size());
      }
    }
    if (!fits) return ExpandsBeyond(text.size());
    return out.append(text, done);
  }

 private:
  std::string pattern_;
  std::optional<Regex> regex_;
  std::string content_;
};

class UnicodeNormal : public Normalizer {
 public:
  explicit UnicodeNormal(UnicodeForm form) : form_(form) {}
  Result<std::string> Apply(std::string text) const override { return NormalizeUnicode(text, form_); }

 private:
  UnicodeForm form_;
};

// Rewrites character by character.
class MapCharacters : public Normalizer {
 public:
  using Map = void (*)(uint32_t, std::string*);
  explicit MapCharacters(Map map) : map_(map) {}
  Result<std::string> Apply(std::string text) const override {
    std::string out;
    out.reserve(text.size());
    for (size_t at = 0, length = 0; at < text.size(); at += length) {
      map_(Utf8Decode(text.data() + at, &length), &out);
    }
    return out;
  }

 private:
  Map map_;
};

void AppendUnlessMark(uint32_t c, std::string* out) {
  if (!(CharClassTable::Get()[c] & kMark)) AppendUtf8(c, out);
}

void AppendUnlessNonSpacing(uint32_t c, std::string* out) {
  if (!(CharClassTable::Get()[c] & kNonSpacing)) AppendUtf8(c, out);
}

// The cleaning of machine translation corpora: control characters vanish, what works as a space
// becomes one.
void AppendNmt(uint32_t c, std::string* out) {
  const auto within = [c](uint32_t low, uint32_t high) { return c >= low && c <= high; };
  if (within(1, 8) || c == 0xB || within(0xE, 0x1F) || c == 0x7F || c == 0x8F || c == 0x9F) return;
  const bool space = c == 9 || c == 0xA || c == 0xC || c == 0xD || c == 0x1680 || within(0x200B, 0x200F) ||
                     c == 0x2028 || c == 0x2029 || c == 0x2581 || c == 0xFEFF || c == 0xFFFD;
  AppendUtf8(space ? ' ' : c, out);
}

// Control, format and private characters vanish; unassigned ones stay, as in the reference.
void AppendClean(uint32_t c, std::string* out) {
  const bool line = c == '\t' || c == '\n' || c == '\r';
  if (c == 0 || c == 0xFFFD || (!line && (CharClassTable::Get()[c] & kOther) && IsAssigned(c))) return;
  AppendUtf8(line || IsWhiteSpace(c) ? ' ' : c, out);
}

// The blocks of ideographs that BERT sets apart by spaces.
void AppendSpacedIdeograph(uint32_t c, std::string* out) {
  static constexpr std::pair<uint32_t, uint32_t> kBlocks[] = {
      {0x4E00, 0x9FFF},   {0x3400, 0x4DBF},   {0x20000, 0x2A6DF}, {0x2A700, 0x2B73F},
      {0x2B740, 0x2B81F}, {0x2B920, 0x2CEAF}, {0xF900, 0xFAFF},   {0x2F800, 0x2FA1F}};
  const bool ideograph =
      std::ranges::any_of(kBlocks, [c](const auto& block) { return c >= block.first && c <= block.second; });
  if (ideograph) out->push_back(' ');
  AppendUtf8(c, out);
  if (ideograph) out->push_back(' ');
}

// White space off the ends.
class StripEnds : public Normalizer {
 public:
  StripEnds(bool left, bool right) : left_(left), right_(right) {}
  Result<std::string> Apply(std::string text) const override {
    size_t begin = 0, end = 0, length = 0;
    bool content = false;
    for (size_t at = 0; at < text.size(); at += length) {
      if (IsWhiteSpace(Utf8Decode(text.data() + at, &length))) continue;
      if (!std::exchange(content, true)) begin = at;
      end = at + length;
    }
    if (!content) return left_ || right_ ? std::string() : text;
    if (right_) text.resize(end);
    return left_ ? text.substr(begin) : text;
  }

 private:
  bool left_, right_;
};

// The character map of SentencePiece as tokenizer.json applies it: by grapheme where it is shorter than six
// bytes and a rule fits its beginning (the shortest one then replaces all of it), else by character.
class Precompiled : public Normalizer {
 public:
  Precompiled(CharsMap map, Regex grapheme) : map_(std::move(map)), grapheme_(std::move(grapheme)) {}

  Result<std::string> Apply(std::string text) const override {
    std::string out;
    out.reserve(text.size());
    for (size_t at = 0; at < text.size();) {
      const size_t plain = PlainPrefix(std::string_view(text).substr(at));
      out.append(text, at, plain);
      at += plain;
      // Graphemes of the stretch up to the next pair of plain characters.
      const std::string_view stretch = std::string_view(text).substr(at, StretchLength(text, at));
      Regex::Matcher matcher(grapheme_, stretch);
      size_t begin = 0, end = 0;
      while (matcher.Next(&begin, &end)) {
        AppendGrapheme(stretch.substr(begin, end - begin), &out);
        if (out.size() > ExpansionLimit(text.size())) return ExpandsBeyond(text.size());
      }
      PLANISH_RETURN_IF_ERROR(matcher.status());
      at += stretch.size();
    }
    return out;
  }

 private:
  static bool IsAscii(char c) { return static_cast<uint8_t>(c) < 128; }
  // ASCII characters before another one are graphemes, but for \r\n.
  bool Plain(char c) const { return IsAscii(c) && c != '\r' && map_.KeepsAscii(c); }
  size_t PlainPrefix(std::string_view text) const {
    size_t i = 0;
    while (i + 1 < text.size() && Plain(text[i]) && IsAscii(text[i + 1])) ++i;
    return i;
  }
  size_t StretchLength(std::string_view text, size_t at) const {
    size_t end = at;
    // No grapheme reaches over the boundary between two ASCII characters of which the first is plain.
    do {
      ++end;
    } while (end < text.size() && !(IsAscii(text[end - 1]) && Plain(text[end - 1]) && IsAscii(text[end])));
    return end - at;
  }
  void AppendGrapheme(std::string_view grapheme, std::string* out) const {
    constexpr size_t kWhole = 6;
    if (grapheme.size() < kWhole) {
      const CharsMap::Match match = map_.Shortest(grapheme);
      if (match.length > 0) {
        out->append(match.replacement);
        return;
      }
    }
    for (size_t at = 0, length = 0; at < grapheme.size(); at += length) {
      length = Utf8Length(grapheme[at]);
      const std::string_view character = grapheme.substr(at, length);
      const CharsMap::Match match = map_.Shortest(character);
      out->append(match.length > 0 ? match.replacement : character);
    }
  }

  CharsMap map_;
  Regex grapheme_;
};

void AppendAlphabet(uint32_t c, std::string* out) {
  std::string bytes;
  AppendUtf8(c, &bytes);
  for (const char byte : bytes) out->append(ByteToAlphabet(static_cast<uint8_t>(byte)));
}

// Standard base64 with padding.
Result<std::string> DecodeBase64(std::string_view text) {
  std::string bytes;
  bytes.reserve(text.size() / 4 * 3);
  uint32_t bits = 0;
  int count = 0;
  const size_t padding = text.ends_with("==") ? 2 : text.ends_with('=') ? 1 : 0;
  for (size_t i = 0; i + padding < text.size(); ++i) {
    const char c = text[i];
    const int value = c >= 'A' && c <= 'Z'   ? c - 'A'
                      : c >= 'a' && c <= 'z' ? c - 'a' + 26
                      : c >= '0' && c <= '9' ? c - '0' + 52
                      : c == '+'             ? 62
                      : c == '/'             ? 63
                                             : -1;
    if (value < 0) return InputError(fmt::format("not base64 at character {}", i));
    bits = bits << 6 | static_cast<uint32_t>(value);
    count += 6;
    if (count >= 8) bytes.push_back(static_cast<char>(bits >> (count -= 8)));
  }
  if (text.size() % 4 != 0)
    return InputError(fmt::format("base64 of {} characters, no multiple of 4", text.size()));
  return bytes;
}

Status ParseStep(const Json& json, NormalizerChain* chain);

Status ParsePrecompiled(const Json& json, NormalizerChain* chain) {
  constexpr const char* kField = "precompiled_charsmap";
  PLANISH_TRY(const std::string text, JsonString(json, kField));
  const auto bytes = DecodeBase64(text);
  if (!bytes.ok()) return bytes.error().At(fmt::format("field '{}'", kField));
  auto map = CharsMap::Parse(*bytes);
  if (!map.ok()) return map.error().At(fmt::format("field '{}'", kField));
  PLANISH_TRY(Regex grapheme, Regex::Compile("\\X"));
  chain->steps.push_back(std::make_unique<Precompiled>(*std::move(map), std::move(grapheme)));
  return {};
}

Status ParseSequence(const Json& json, NormalizerChain* chain) {
  const auto it = json.find("normalizers");
  if (it == json.end() || !it->is_array()) return InputError("field 'normalizers': expected a list");
  for (size_t i = 0; i < it->size(); ++i) {
    const Status status = ParseStep((*it)[i], chain);
    if (!status.ok()) return status.error().At(fmt::format("normalizers[{}]", i));
  }
  return {};
}

Status ParsePrepend(const Json& json, NormalizerChain* chain) {
  PLANISH_TRY(std::string prefix, JsonString(json, "prepend"));
  chain->steps.push_back(std::make_unique<PrependText>(std::move(prefix)));
  return {};
}

Status ParseReplace(const Json& json, NormalizerChain* chain) {
  PLANISH_TRY(std::string content, JsonString(json, "content"));
  const auto it = json.find("pattern");
  if (it == json.end() || !it->is_object() || it->size() != 1 || !it->begin().value().is_string()) {
    return InputError("field 'pattern': expected {\"Regex\": text} or {\"String\": text}");
  }
  const std::string& kind = it->begin().key();
  const auto& text = it->begin().value().get_ref<const std::string&>();
  std::optional<Regex> regex;
  if (kind == "Regex") {
    PLANISH_TRY(regex, Regex::Compile(text));
  } else if (kind != "String") {
    return InputError(fmt::format("field 'pattern': unknown kind '{}', expected Regex or String", kind));
  } else if (text.empty()) {
    return InputError("field 'pattern': an empty String matches nothing");
  }
  chain->steps.push_back(std::make_unique<Replace>(text, std::move(regex), std::move(content)));
  return {};
}

template <UnicodeForm form>
Status ParseForm(const Json&, NormalizerChain* chain) {
  chain->steps.push_back(std::make_unique<UnicodeNormal>(form));
  return {};
}

template <MapCharacters::Map map>
Status ParseMap(const Json&, NormalizerChain* chain) {
  chain->steps.push_back(std::make_unique<MapCharacters>(map));
  return {};
}

Status ParseStrip(const Json& json, NormalizerChain* chain) {
  PLANISH_TRY(const bool left, JsonBool(json, "strip_left", true));
  PLANISH_TRY(const bool right, JsonBool(json, "strip_right", true));
  chain->steps.push_back(std::make_unique<StripEnds>(left, right));
  return {};
}

Status ParseBert(const Json& json, NormalizerChain* chain) {
  PLANISH_TRY(const bool clean, JsonBool(json, "clean_text", true));
  PLANISH_TRY(const bool ideographs, JsonBool(json, "handle_chinese_chars", true));
  PLANISH_TRY(const bool lowercase, JsonBool(json, "lowercase", true));
  PLANISH_TRY(const bool strip_accents, JsonBool(json, "strip_accents", lowercase));
  if (clean) chain->steps.push_back(std::make_unique<MapCharacters>(AppendClean));
  if (ideographs) chain->steps.push_back(std::make_unique<MapCharacters>(AppendSpacedIdeograph));
  if (strip_accents) {
    chain->steps.push_back(std::make_unique<UnicodeNormal>(UnicodeForm::kNfd));
    chain->steps.push_back(std::make_unique<MapCharacters>(AppendUnlessNonSpacing));
  }
  if (lowercase) chain->steps.push_back(std::make_unique<MapCharacters>(AppendLower));
  return {};
}

constexpr std::pair<const char*, Status (*)(const Json&, NormalizerChain*)> kNormalizers[] = {
    {"Sequence", ParseSequence},
    {"Prepend", ParsePrepend},
    {"Replace", ParseReplace},
    {"NFC", ParseForm<UnicodeForm::kNfc>},
    {"NFD", ParseForm<UnicodeForm::kNfd>},
    {"NFKC", ParseForm<UnicodeForm::kNfkc>},
    {"NFKD", ParseForm<UnicodeForm::kNfkd>},
    {"Lowercase", ParseMap<AppendLower>},
    {"StripAccents", ParseMap<AppendUnlessMark>},
    {"Nmt", ParseMap<AppendNmt>},
    {"Strip", ParseStrip},
    {"ByteLevel", ParseMap<AppendAlphabet>},
    {"Precompiled", ParsePrecompiled},
    {"BertNormalizer", ParseBert}};

Status ParseStep(const Json& json, NormalizerChain* chain) {
  if (!json.is_object()) return InputError("expected an object");
  const auto type = JsonString(json, "type");
  if (!type.ok()) return type.error();
  std::string known;
  for (const auto& [name, parse] : kNormalizers) {
    known.append(known.empty() ? "" : ", ").append(name);
    if (*type != name) continue;
    const Status status = parse(json, chain);
    return status.ok() ? status : status.error().At(*type);
  }
  return InputError(fmt::format("type '{}' is not supported (known: {})", *type, known));
}

}  // namespace

Result<NormalizerChain> NormalizerChain::Parse(const Json& json) {
  NormalizerChain chain;
  if (json.is_null()) return chain;
  const Status status = ParseStep(json, &chain);
  if (!status.ok()) return status.error().At("normalizer");
  return chain;
}

Result<std::string> NormalizerChain::Apply(std::string text) const {
  const size_t before = text.size();
  for (const auto& step : steps) {
    PLANISH_TRY(text, step->Apply(std::move(text)));
    if (text.size() > ExpansionLimit(before)) return ExpandsBeyond(before);
  }
  return text;
}

}  // namespace planish

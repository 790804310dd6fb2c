#include "formats/tokenizer_split.h"

#include <fmt/format.h>

#include <optional>
#include <string>
#include <utility>

#include "base/check.h"
#include "formats/tokenizer_regex.h"
#include "formats/tokenizer_scan.h"
#include "formats/tokenizer_unicode.h"
#include "formats/unicode_scripts.h"

namespace planish {

const char kGpt2Pattern[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

namespace {

enum class Behavior { kIsolated, kRemoved, kMergedWithPrevious, kMergedWithNext, kContiguous };

Result<Behavior> ParseBehavior(const Json& json) {
  const auto name = JsonString(json, "behavior");
  if (!name.ok()) return name.error();
  static constexpr std::pair<const char*, Behavior> kNames[] = {
      {"Isolated", Behavior::kIsolated},
      {"Removed", Behavior::kRemoved},
      {"MergedWithPrevious", Behavior::kMergedWithPrevious},
      {"MergedWithNext", Behavior::kMergedWithNext},
      {"Contiguous", Behavior::kContiguous}};
  for (const auto& [known, behavior] : kNames) {
    if (*name == known) return behavior;
  }
  return InputError(fmt::format("field 'behavior': unknown value '{}'", *name));
}

// Turns the sequence of matches and gaps of a piece into parts. Each segment is added in order and
// they cover the piece; at most one part is held back.
class SegmentMerger {
 public:
  SegmentMerger(std::string_view piece, Behavior behavior, bool invert, const NextStage& next)
      : piece_(piece), behavior_(behavior), invert_(invert), next_(next) {}

  bool Match(size_t begin, size_t end) {
    return (begin == last_ || Add(last_, begin, invert_)) && Add(begin, end, !invert_);
  }
  bool Finish() {
    if (last_ < piece_.size() && !Add(last_, piece_.size(), invert_)) return false;
    return Flush();
  }

 private:
  bool Add(size_t begin, size_t end, bool match) {
    last_ = end;
    switch (behavior_) {
      case Behavior::kIsolated:
        return next_(piece_.substr(begin, end - begin));
      case Behavior::kRemoved:
        return match || next_(piece_.substr(begin, end - begin));
      case Behavior::kContiguous:
        return Join(begin, end, match, held_match_ == match);
      case Behavior::kMergedWithPrevious:
        return Join(begin, end, match, match && !held_match_);
      case Behavior::kMergedWithNext:
        return Join(begin, end, match, held_match_ && !match);
    }
    return false;
  }
  bool Join(size_t begin, size_t end, bool match, bool with_held) {
    if (!holding_ || !with_held) {
      if (!Flush()) return false;
      held_begin_ = begin;
    }
    holding_ = true;
    held_end_ = end;
    held_match_ = match;
    return true;
  }
  bool Flush() {
    return !std::exchange(holding_, false) || next_(piece_.substr(held_begin_, held_end_ - held_begin_));
  }

  std::string_view piece_;
  Behavior behavior_;
  bool invert_;
  const NextStage& next_;
  size_t last_ = 0;
  bool holding_ = false, held_match_ = false;
  size_t held_begin_ = 0, held_end_ = 0;
};

// Split by a pattern that a Scanner knows, where matches and gaps are parts of their own.
bool SplitByScanner(const Scanner& scanner, std::string_view piece, const NextStage& next) {
  for (size_t from = 0; from < piece.size();) {
    const size_t end = scanner.Next(piece, from);
    if (!next(piece.substr(from, end - from))) return false;
    from = end;
  }
  return true;
}

class RegexSplit : public PreTokenizer {
 public:
  RegexSplit(Regex regex, std::string_view pattern, Behavior behavior, bool invert)
      : regex_(std::move(regex)), behavior_(behavior), invert_(invert) {
    // The known patterns match everything, so there are no gaps that Removed could drop.
    if (behavior == Behavior::kIsolated || (behavior == Behavior::kRemoved && invert)) {
      scanner_ = Scanner::ForPattern(pattern);
    }
  }

  bool Split(std::string_view piece, const NextStage& next, Error* error) const override {
    if (scanner_) return SplitByScanner(*scanner_, piece, next);
    SegmentMerger merger(piece, behavior_, invert_, next);
    Regex::Matcher matcher(regex_, piece);
    size_t begin = 0, end = 0;
    while (matcher.Next(&begin, &end)) {
      if (!merger.Match(begin, end)) return false;
    }
    if (!matcher.status().ok()) {
      *error = matcher.status().error();
      return false;
    }
    return merger.Finish();
  }

 private:
  Regex regex_;
  Behavior behavior_;
  bool invert_;
  std::optional<Scanner> scanner_;
};

class StringSplit : public PreTokenizer {
 public:
  StringSplit(std::string pattern, Behavior behavior, bool invert)
      : pattern_(std::move(pattern)), behavior_(behavior), invert_(invert) {}

  bool Split(std::string_view piece, const NextStage& next, Error*) const override {
    SegmentMerger merger(piece, behavior_, invert_, next);
    for (size_t at = piece.find(pattern_); at != std::string_view::npos;
         at = piece.find(pattern_, at + pattern_.size())) {
      if (!merger.Match(at, at + pattern_.size())) return false;
    }
    return merger.Finish();
  }

 private:
  std::string pattern_;
  Behavior behavior_;
  bool invert_;
};

class DigitsSplit : public PreTokenizer {
 public:
  explicit DigitsSplit(bool individual)
      : behavior_(individual ? Behavior::kIsolated : Behavior::kContiguous) {}

  bool Split(std::string_view piece, const NextStage& next, Error*) const override {
    SegmentMerger merger(piece, behavior_, false, next);
    for (size_t at = 0, length = 0; at < piece.size(); at += length) {
      const uint32_t c = Utf8Decode(piece.data() + at, &length);
      if ((table_[c] & kNumber) && !merger.Match(at, at + length)) return false;
    }
    return merger.Finish();
  }

 private:
  Behavior behavior_;
  const CharClassTable& table_ = CharClassTable::Get();
};

class ByteLevelSplit : public PreTokenizer {
 public:
  ByteLevelSplit(bool add_prefix_space, bool use_regex) : add_prefix_space_(add_prefix_space) {
    if (use_regex) scanner_ = Scanner::ForPattern(kGpt2Pattern);
  }

  bool Split(std::string_view piece, const NextStage& next, Error*) const override {
    std::string with_space;
    if (add_prefix_space_ && piece.front() != ' ') {
      with_space.append(" ").append(piece);
      piece = with_space;
    }
    return scanner_ ? SplitByScanner(*scanner_, piece, next) : next(piece);
  }

 private:
  bool add_prefix_space_;
  std::optional<Scanner> scanner_;
};

// Spaces become the replacement (U+2581), one more goes in front, and words begin at each.
class MetaspaceSplit : public PreTokenizer {
 public:
  enum class Prepend { kAlways, kFirst, kNever };
  MetaspaceSplit(std::string replacement, Prepend prepend, bool split)
      : replacement_(std::move(replacement)), prepend_(prepend), split_(split) {}

  bool Split(std::string_view piece, const NextStage& next, Error* error) const override {
    // Models count in 32 bits, and a space grows to as much as four bytes.
    if (piece.size() > kMaxPieceBytes) {
      *error = InputError(fmt::format("a piece of {} bytes for Metaspace; at most {} are accepted",
                                      piece.size(), kMaxPieceBytes));
      return false;
    }
    std::string text;
    const bool wanted = prepend_ == Prepend::kAlways || (prepend_ == Prepend::kFirst && next.AtStart(piece));
    if (wanted && piece.front() != ' ' && !piece.starts_with(replacement_)) text = replacement_;
    for (const char c : piece) c == ' ' ? text.append(replacement_) : text.append(1, c);
    if (!split_) return next(text);
    const std::string_view view = text;
    size_t begin = 0;
    for (size_t at = view.find(replacement_); at != view.npos;
         at = view.find(replacement_, at + replacement_.size())) {
      if (!next(view.substr(begin, at - begin))) return false;
      begin = at;
    }
    return next(view.substr(begin));
  }

 private:
  static constexpr size_t kMaxPieceBytes = size_t{1} << 28;
  std::string replacement_;
  Prepend prepend_;
  bool split_;
};

// Splits by single characters that a predicate picks.
class CharacterSplit : public PreTokenizer {
 public:
  CharacterSplit(bool (*picks)(uint32_t), Behavior behavior) : picks_(picks), behavior_(behavior) {}

  bool Split(std::string_view piece, const NextStage& next, Error*) const override {
    SegmentMerger merger(piece, behavior_, false, next);
    for (size_t at = 0, length = 0; at < piece.size(); at += length) {
      if (picks_(Utf8Decode(piece.data() + at, &length)) && !merger.Match(at, at + length)) return false;
    }
    return merger.Finish();
  }

 private:
  bool (*picks_)(uint32_t);
  Behavior behavior_;
};

// Words begin where another script does, and before the first character of one. Spaces and characters of no
// script go with what stands before them; with nothing there they are lost, as in the reference.
class ScriptSplit : public PreTokenizer {
 public:
  bool Split(std::string_view piece, const NextStage& next, Error*) const override {
    constexpr uint32_t kProlongedSound = 0x30FC;  // both kana's, common in the table
    static const uint32_t kHan = ScriptOf(0x4E00);
    uint32_t last = 0;
    size_t begin = 0;
    for (size_t at = 0, length = 0; at < piece.size(); at += length) {
      const uint32_t c = Utf8Decode(piece.data() + at, &length);
      const uint32_t script = c == ' ' ? 0 : c == kProlongedSound ? kHan : ScriptOf(c);
      if (script == 0 || script == last) continue;
      if (last != 0 && !next(piece.substr(begin, at - begin))) return false;
      begin = at;
      last = script;
    }
    return last == 0 || next(piece.substr(begin));
  }
};

// Around stages behind ByteLevel: texts to that alphabet, and their parts back to bytes.
class ToAlphabet : public PreTokenizer {
 public:
  bool Split(std::string_view piece, const NextStage& next, Error*) const override {
    std::string text;
    for (const char byte : piece) text += ByteToAlphabet(static_cast<uint8_t>(byte));
    return next(text);
  }
};

class FromAlphabet : public PreTokenizer {
 public:
  bool Split(std::string_view piece, const NextStage& next, Error*) const override {
    const auto bytes = AlphabetToBytes(piece);
    PLANISH_CHECK(bytes.has_value());  // no stage between the two adds characters
    return next(*bytes);
  }
};

Status ParseStage(const Json& json, PreTokenizerChain* chain);

Status ParseSequence(const Json& json, PreTokenizerChain* chain) {
  const auto it = json.find("pretokenizers");
  if (it == json.end() || !it->is_array()) return InputError("field 'pretokenizers': expected a list");
  for (size_t i = 0; i < it->size(); ++i) {
    const Status status = ParseStage((*it)[i], chain);
    if (!status.ok()) return status.error().At(fmt::format("pretokenizers[{}]", i));
  }
  return {};
}

Status ParseSplit(const Json& json, PreTokenizerChain* chain) {
  PLANISH_TRY(const Behavior behavior, ParseBehavior(json));
  PLANISH_TRY(const bool invert, JsonBool(json, "invert", false));
  const auto it = json.find("pattern");
  if (it == json.end() || !it->is_object() || it->size() != 1 || !it->begin().value().is_string()) {
    return InputError("field 'pattern': expected {\"Regex\": text} or {\"String\": text}");
  }
  const auto& text = it->begin().value().get_ref<const std::string&>();
  if (it->begin().key() == "Regex") {
    PLANISH_TRY(Regex regex, Regex::Compile(text));
    chain->stages.push_back(std::make_unique<RegexSplit>(std::move(regex), text, behavior, invert));
    return {};
  }
  if (it->begin().key() != "String") {
    return InputError(
        fmt::format("field 'pattern': unknown kind '{}', expected Regex or String", it->begin().key()));
  }
  if (text.empty()) return InputError("field 'pattern': an empty String matches nothing");
  chain->stages.push_back(std::make_unique<StringSplit>(text, behavior, invert));
  return {};
}

Status ParseDigits(const Json& json, PreTokenizerChain* chain) {
  PLANISH_TRY(const bool individual, JsonBool(json, "individual_digits", false));
  chain->stages.push_back(std::make_unique<DigitsSplit>(individual));
  return {};
}

Status ParseByteLevel(const Json& json, PreTokenizerChain* chain) {
  PLANISH_TRY(const bool add_prefix_space, JsonBool(json, "add_prefix_space", true));
  PLANISH_TRY(const bool use_regex, JsonBool(json, "use_regex", true));
  if (add_prefix_space || use_regex) {
    chain->stages.push_back(std::make_unique<ByteLevelSplit>(add_prefix_space, use_regex));
  }
  chain->byte_level = true;
  return {};
}

Status ParseMetaspace(const Json& json, PreTokenizerChain* chain) {
  using Prepend = MetaspaceSplit::Prepend;
  PLANISH_TRY(std::string replacement, JsonString(json, "replacement", "\xE2\x96\x81"));
  if (replacement.empty() || replacement.size() > 4) {
    return InputError("field 'replacement': expected one character");
  }
  PLANISH_TRY(const bool old_form, JsonBool(json, "add_prefix_space", true));
  PLANISH_TRY(const std::string scheme, JsonString(json, "prepend_scheme", old_form ? "always" : "never"));
  PLANISH_TRY(const bool split, JsonBool(json, "split", true));
  for (const auto& [name, prepend] :
       {std::pair{"always", Prepend::kAlways}, {"first", Prepend::kFirst}, {"never", Prepend::kNever}}) {
    if (scheme != name) continue;
    chain->stages.push_back(std::make_unique<MetaspaceSplit>(std::move(replacement), prepend, split));
    return {};
  }
  return InputError(
      fmt::format("field 'prepend_scheme': expected always, first or never, found '{}'", scheme));
}

bool IsPunctuation(uint32_t c) {
  const bool ascii = c < 0x80 && ((c >= 0x21 && c <= 0x2F) || (c >= 0x3A && c <= 0x40) ||
                                  (c >= 0x5B && c <= 0x60) || (c >= 0x7B && c <= 0x7E));
  return ascii || (CharClassTable::Get()[c] & kPunctuation) != 0;
}

Status ParsePunctuation(const Json& json, PreTokenizerChain* chain) {
  Behavior behavior = Behavior::kIsolated;
  if (json.contains("behavior")) {
    PLANISH_TRY(behavior, ParseBehavior(json));
  }
  chain->stages.push_back(std::make_unique<CharacterSplit>(IsPunctuation, behavior));
  return {};
}

Status ParseWhitespaceSplit(const Json&, PreTokenizerChain* chain) {
  chain->stages.push_back(std::make_unique<CharacterSplit>(IsWhiteSpace, Behavior::kRemoved));
  return {};
}

Status ParseWhitespace(const Json&, PreTokenizerChain* chain) {
  // Of another regex library in the reference than the patterns of files: its \\w.
  constexpr char kWord[] =
      "\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}\\x{24b6}-\\x{24e9}\\x{1f130}-\\x{1f149}\\x{1f150}-\\x{1f169}"
      "\\x{1f170}-\\x{1f189}\\x{200c}\\x{200d}";
  const std::string pattern = fmt::format("[{0}]+|[^{0}\\s]+", kWord);
  PLANISH_TRY(Regex regex, Regex::Compile(pattern));
  chain->stages.push_back(std::make_unique<RegexSplit>(std::move(regex), pattern, Behavior::kRemoved, true));
  return {};
}

Status ParseBert(const Json& json, PreTokenizerChain* chain) {
  PLANISH_RETURN_IF_ERROR(ParseWhitespaceSplit(json, chain));
  chain->stages.push_back(std::make_unique<CharacterSplit>(IsPunctuation, Behavior::kIsolated));
  return {};
}

Status ParseDelimiter(const Json& json, PreTokenizerChain* chain) {
  PLANISH_TRY(const std::string delimiter, JsonString(json, "delimiter"));
  if (delimiter.empty()) return InputError("field 'delimiter' is empty");
  chain->stages.push_back(std::make_unique<StringSplit>(delimiter, Behavior::kRemoved, false));
  return {};
}

Status ParseScripts(const Json&, PreTokenizerChain* chain) {
  chain->stages.push_back(std::make_unique<ScriptSplit>());
  return {};
}

constexpr std::pair<const char*, Status (*)(const Json&, PreTokenizerChain*)> kJsonPreTokenizers[] = {
    {"Sequence", ParseSequence},     {"Split", ParseSplit},
    {"Digits", ParseDigits},         {"ByteLevel", ParseByteLevel},
    {"Metaspace", ParseMetaspace},   {"Punctuation", ParsePunctuation},
    {"Whitespace", ParseWhitespace}, {"WhitespaceSplit", ParseWhitespaceSplit},
    {"BertPreTokenizer", ParseBert}, {"CharDelimiterSplit", ParseDelimiter},
    {"UnicodeScripts", ParseScripts}};

Status ParseStage(const Json& json, PreTokenizerChain* chain) {
  if (!json.is_object()) return InputError("expected an object");
  const auto type = JsonString(json, "type");
  if (!type.ok()) return type.error();
  if (chain->byte_level && (*type == "ByteLevel" || *type == "Metaspace")) {
    return InputError(fmt::format(
        "'{}' behind ByteLevel is not supported: it would write in an alphabet that stands for bytes",
        *type));
  }
  if (chain->byte_level && !chain->in_alphabet && *type != "Sequence") {
    chain->stages.push_back(std::make_unique<ToAlphabet>());
    chain->in_alphabet = true;
  }
  std::string known;
  for (const auto& [name, parse] : kJsonPreTokenizers) {
    known.append(known.empty() ? "" : ", ").append(name);
    if (*type != name) continue;
    const Status status = parse(json, chain);
    return status.ok() ? status : status.error().At(*type);
  }
  return InputError(fmt::format("type '{}' is not supported (known: {})", *type, known));
}

}  // namespace

bool NextStage::operator()(std::string_view piece) const {
  if (piece.empty()) return true;
  if (rest_.empty()) {
    sink_->Word(piece);
    return true;
  }
  return rest_[0]->Split(piece, NextStage(rest_.subspan(1), sink_, error_, origin_), error_);
}

Result<PreTokenizerChain> PreTokenizerChain::Parse(const Json& json) {
  PreTokenizerChain chain;
  if (json.is_null()) return chain;
  const Status status = ParseStage(json, &chain);
  if (!status.ok()) return status.error().At("pre_tokenizer");
  if (chain.in_alphabet) chain.stages.push_back(std::make_unique<FromAlphabet>());
  return chain;
}

Status PreTokenizerChain::Split(std::string_view piece, WordSink* sink, bool at_start) const {
  Error error;
  if (!NextStage(stages, sink, &error, at_start ? piece.data() : nullptr)(piece)) return error;
  return {};
}

}  // namespace planish

#include "formats/tokenizer_split.h"

#include <fmt/format.h>

#include <optional>
#include <string>
#include <utility>

#include "formats/tokenizer_regex.h"
#include "formats/tokenizer_scan.h"
#include "formats/tokenizer_unicode.h"

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

constexpr std::pair<const char*, Status (*)(const Json&, PreTokenizerChain*)> kTypes[] = {
    {"Sequence", ParseSequence},
    {"Split", ParseSplit},
    {"Digits", ParseDigits},
    {"ByteLevel", ParseByteLevel}};

Status ParseStage(const Json& json, PreTokenizerChain* chain) {
  if (!json.is_object()) return InputError("expected an object");
  const auto type = JsonString(json, "type");
  if (!type.ok()) return type.error();
  if (chain->byte_level) {
    return InputError(fmt::format("'{}' behind ByteLevel is not supported: ByteLevel must be last", *type));
  }
  for (const auto& [name, parse] : kTypes) {
    if (*type != name) continue;
    const Status status = parse(json, chain);
    return status.ok() ? status : status.error().At(*type);
  }
  return InputError(
      fmt::format("type '{}' is not supported (known: Sequence, Split, Digits, ByteLevel)", *type));
}

}  // namespace

bool NextStage::operator()(std::string_view piece) const {
  if (piece.empty()) return true;
  if (rest_.empty()) {
    sink_->Word(piece);
    return true;
  }
  return rest_[0]->Split(piece, NextStage(rest_.subspan(1), sink_, error_), error_);
}

Result<PreTokenizerChain> PreTokenizerChain::Parse(const Json& json) {
  PreTokenizerChain chain;
  if (json.is_null()) return chain;
  const Status status = ParseStage(json, &chain);
  if (!status.ok()) return status.error().At("pre_tokenizer");
  return chain;
}

Status PreTokenizerChain::Split(std::string_view piece, WordSink* sink) const {
  Error error;
  if (!NextStage(stages, sink, &error)(piece)) return error;
  return {};
}

}  // namespace planish

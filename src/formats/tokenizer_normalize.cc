#include "formats/tokenizer_normalize.h"

#include <fmt/format.h>

#include <optional>
#include <utility>

#include "formats/tokenizer_regex.h"

namespace planish {
namespace {

// How large a text of `bytes` may grow: replacements in sequence could multiply it without bound.
// Real normalizers write at most some twenty bytes for a character.
size_t ExpansionLimit(size_t bytes) { return bytes * 32 + (size_t{1} << 16); }

Error TooLarge(size_t before) {
  return InputError(fmt::format("the tokenizer's normalizer expands {} bytes of text beyond {}", before,
                                ExpansionLimit(before)));
}

class Prepend : public Normalizer {
 public:
  explicit Prepend(std::string prefix) : prefix_(std::move(prefix)) {}
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
    if (!fits) return TooLarge(text.size());
    return out.append(text, done);
  }

 private:
  std::string pattern_;
  std::optional<Regex> regex_;
  std::string content_;
};

Status ParseStep(const Json& json, NormalizerChain* chain);

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
  chain->steps.push_back(std::make_unique<Prepend>(std::move(prefix)));
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

constexpr std::pair<const char*, Status (*)(const Json&, NormalizerChain*)> kTypes[] = {
    {"Sequence", ParseSequence}, {"Prepend", ParsePrepend}, {"Replace", ParseReplace}};

Status ParseStep(const Json& json, NormalizerChain* chain) {
  if (!json.is_object()) return InputError("expected an object");
  const auto type = JsonString(json, "type");
  if (!type.ok()) return type.error();
  for (const auto& [name, parse] : kTypes) {
    if (*type != name) continue;
    const Status status = parse(json, chain);
    return status.ok() ? status : status.error().At(*type);
  }
  return InputError(fmt::format("type '{}' is not supported (known: Sequence, Prepend, Replace)", *type));
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
    if (text.size() > ExpansionLimit(before)) return TooLarge(before);
  }
  return text;
}

}  // namespace planish

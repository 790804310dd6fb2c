#include "formats/sentencepiece_normalizer.h"

#include <utility>

#include "formats/tokenizer_unicode.h"

namespace planish {

Result<SentencePieceNormalizer> SentencePieceNormalizer::Make(const SentencePieceModel& model) {
  SentencePieceNormalizer normalizer;
  normalizer.options_ = model.normalization;
  normalizer.options_.charsmap.clear();
  if (!model.normalization.charsmap.empty()) {
    PLANISH_TRY(normalizer.map_, CharsMap::Parse(model.normalization.charsmap));
  }
  for (int c = 0; c < 128; ++c) {
    normalizer.plain_[c] =
        c != ' ' && (!normalizer.map_ || normalizer.map_->KeepsAscii(static_cast<char>(c)));
  }
  for (size_t id = 0; id < model.pieces.size(); ++id) {
    const Piece& piece = model.pieces[id];
    if (piece.type != PieceType::kUserDefined) continue;
    normalizer.user_defined_.Add({.id = static_cast<int32_t>(id), .content = piece.text}, piece.text);
    if (const auto first = static_cast<uint8_t>(piece.text[0]); first < 128) normalizer.plain_[first] = false;
  }
  return normalizer;
}

std::string_view SentencePieceNormalizer::Prefix(std::string_view text, size_t* length) const {
  *length = user_defined_.MatchLength(text, 0);
  if (*length > 0) return text.substr(0, *length);
  if (map_) {
    const CharsMap::Match match = map_->Longest(text);
    *length = match.length;
    if (match.length > 0) return match.replacement;
  }
  *length = Utf8Length(text[0]);
  return text.substr(0, *length);
}

size_t SentencePieceNormalizer::PlainPrefix(std::string_view text) const {
  size_t i = 0;
  // The last one may combine with what follows.
  while (i + 1 < text.size() && static_cast<uint8_t>(text[i]) < 128 &&
         static_cast<uint8_t>(text[i + 1]) < 128 && plain_[static_cast<uint8_t>(text[i])]) {
    ++i;
  }
  return i;
}

Result<std::string> SentencePieceNormalizer::Apply(std::string input) const {
  const bool trim = options_.remove_extra_whitespaces;
  const std::string_view space = options_.escape_whitespaces ? "\xE2\x96\x81" : " ";
  std::string_view text = input;
  size_t length = 0;
  while (trim && !text.empty() && Prefix(text, &length) == " ") text.remove_prefix(length);
  if (text.empty()) return std::string();

  std::string out;
  out.reserve(text.size() + text.size() / 2 + 8);
  if (options_.add_dummy_prefix && !options_.treat_whitespace_as_suffix) out.append(space);
  const size_t limit = ExpansionLimit(input.size());
  bool after_space = trim;
  while (!text.empty()) {
    if (const size_t plain = PlainPrefix(text)) {
      out.append(text.substr(0, plain));
      text.remove_prefix(plain);
      after_space = false;
    }
    std::string_view part = Prefix(text, &length);
    while (after_space && part.starts_with(' ')) part.remove_prefix(1);
    if (!part.empty()) {
      for (const char c : part) c == ' ' ? out.append(space) : out.append(1, c);
      after_space = trim && part.ends_with(' ');
    }
    text.remove_prefix(length);
    if (out.size() > limit) return ExpandsBeyond(input.size());
  }
  if (trim) {
    size_t end = out.size();
    while (std::string_view(out).substr(0, end).ends_with(space)) end -= space.size();
    out.resize(end);
  }
  if (options_.add_dummy_prefix && options_.treat_whitespace_as_suffix) out.append(space);
  return out;
}

}  // namespace planish

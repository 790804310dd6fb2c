#include "formats/tokenizer_added.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "formats/tokenizer_unicode.h"

namespace planish {
namespace {

// Bounds the work per byte of text: a search looks at most this far ahead.
constexpr size_t kMaxContentBytes = 1024;

Result<AddedToken> ParseOne(const Json& json) {
  if (!json.is_object()) return InputError("expected an object");
  AddedToken token;
  PLANISH_TRY(token.content, JsonString(json, "content"));
  PLANISH_TRY(token.id, ParseTokenId(json.contains("id") ? json["id"] : Json(), "field 'id'"));
  PLANISH_TRY(token.special, JsonBool(json, "special", false));
  PLANISH_TRY(token.normalized, JsonBool(json, "normalized", !token.special));
  PLANISH_TRY(token.single_word, JsonBool(json, "single_word", false));
  PLANISH_TRY(token.lstrip, JsonBool(json, "lstrip", false));
  PLANISH_TRY(token.rstrip, JsonBool(json, "rstrip", false));
  if (token.content.size() > kMaxContentBytes) {
    return InputError(
        fmt::format("content of {} bytes; at most {} are accepted", token.content.size(), kMaxContentBytes));
  }
  return token;
}

// Start of the character that ends at `end` > 0.
size_t CharacterBefore(std::string_view text, size_t end) {
  do {
    --end;
  } while ((static_cast<uint8_t>(text[end]) & 0xC0) == 0x80);
  return end;
}

bool WordCharacterAt(std::string_view text, size_t at) {
  size_t length = 0;
  return (CharClassTable::Get()[Utf8Decode(text.data() + at, &length)] & kWord) != 0;
}

bool TouchesWord(std::string_view text, size_t begin, size_t end) {
  return (begin > 0 && WordCharacterAt(text, CharacterBefore(text, begin))) ||
         (end < text.size() && WordCharacterAt(text, end));
}

// `begin` moved over white space to the left, not beyond `limit`.
size_t StripLeft(std::string_view text, size_t begin, size_t limit) {
  size_t length = 0;
  while (begin > limit) {
    const size_t before = CharacterBefore(text, begin);
    if (!IsWhiteSpace(Utf8Decode(text.data() + before, &length))) break;
    begin = before;
  }
  return begin;
}

size_t StripRight(std::string_view text, size_t end) {
  size_t length = 0;
  while (end < text.size() && IsWhiteSpace(Utf8Decode(text.data() + end, &length))) end += length;
  return end;
}

}  // namespace

Result<std::vector<AddedToken>> ParseAddedTokens(const Json& json, const Vocabulary& model,
                                                 Vocabulary* extra) {
  std::vector<AddedToken> tokens;
  if (json.is_null()) return tokens;
  if (!json.is_array()) return InputError("added_tokens: expected a list");
  for (size_t i = 0; i < json.size(); ++i) {
    const std::string place = fmt::format("added_tokens[{}]", i);
    auto token = ParseOne(json[i]);
    if (!token.ok()) return token.error().At(place);
    const auto known = model.Find(token->content);
    const auto holder = model.Token(token->id);
    if (known && *known != token->id) {
      return InputError(fmt::format("{}: '{}' has id {}, but {} in the model's vocabulary", place,
                                    token->content, token->id, *known));
    }
    if (holder && *holder != token->content) {
      return InputError(fmt::format("{}: '{}' has id {}, which is '{}' in the model's vocabulary", place,
                                    token->content, token->id, *holder));
    }
    if (!known) {
      const Status status = extra->Add(token->content, token->id);
      if (!status.ok()) return status.error().At(place);
    }
    tokens.push_back(*std::move(token));
  }
  return tokens;
}

void AddedTokenMatcher::Add(const AddedToken& token, std::string pattern) {
  if (pattern.empty()) return;
  const auto first = static_cast<uint8_t>(pattern[0]);
  if (!std::exchange(starts_[first], true)) {
    roots_[first] = static_cast<int32_t>(nodes_.size());
    nodes_.push_back({.byte = pattern[0]});
  }
  int32_t node = roots_[first];
  for (const char byte : std::string_view(pattern).substr(1)) {
    int32_t child = Child(node, byte);
    if (child < 0) {
      child = static_cast<int32_t>(nodes_.size());
      nodes_.push_back({.sibling = nodes_[node].first_child, .byte = byte});
      nodes_[node].first_child = child;
    }
    node = child;
  }
  // Two tokens may look alike once normalized; the first one stands.
  if (nodes_[node].pattern < 0) nodes_[node].pattern = static_cast<int32_t>(patterns_.size());
  patterns_.push_back({token, std::move(pattern)});
}

int32_t AddedTokenMatcher::Child(int32_t node, char byte) const {
  int32_t child = nodes_[node].first_child;
  while (child >= 0 && nodes_[child].byte != byte) child = nodes_[child].sibling;
  return child;
}

int32_t AddedTokenMatcher::Longest(std::string_view text, size_t at) const {
  int32_t node = roots_[static_cast<uint8_t>(text[at])];
  int32_t longest = -1;
  while (node >= 0) {
    if (nodes_[node].pattern >= 0) longest = nodes_[node].pattern;
    if (++at == text.size()) break;
    node = Child(node, text[at]);
  }
  return longest;
}

std::vector<AddedTokenMatcher::Piece> AddedTokenMatcher::Split(std::string_view text,
                                                               bool recognize_special) const {
  std::vector<Piece> pieces;
  size_t done = 0;
  for (size_t at = 0; !patterns_.empty() && at < text.size();) {
    const int32_t found = starts_[static_cast<uint8_t>(text[at])] ? Longest(text, at) : -1;
    if (found < 0) {
      ++at;
      continue;
    }
    const AddedToken& token = patterns_[found].token;
    size_t begin = at, end = at + patterns_[found].text.size();
    at = end;
    // A match that does not count still uses up its text, as in the reference.
    if (token.special && !recognize_special) continue;
    if (token.single_word && TouchesWord(text, begin, end)) continue;
    if (token.lstrip) begin = StripLeft(text, begin, done);
    if (token.rstrip) end = StripRight(text, end);
    if (begin > done) pieces.push_back({text.substr(done, begin - done), -1});
    pieces.push_back({text.substr(begin, end - begin), token.id});
    done = end;
  }
  if (done < text.size()) pieces.push_back({text.substr(done), -1});
  return pieces;
}

}  // namespace planish

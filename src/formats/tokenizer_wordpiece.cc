#include "formats/tokenizer_wordpiece.h"

#include <fmt/format.h>

#include <algorithm>

namespace planish {
namespace {

// Matching is quadratic in the length of a word.
constexpr int64_t kMaxCharacters = 1024;

bool IsContinuation(char byte) { return (static_cast<uint8_t>(byte) & 0xC0) == 0x80; }

}  // namespace

Status WordPieceModel::ParseVocabulary(const Json& json, const char* default_unknown) {
  const auto it = json.find("vocab");
  if (it == json.end() || !it->is_object()) return InputError("vocab: expected an object {token: id}");
  for (const auto& [token, value] : it->items()) {
    PLANISH_TRY(const int32_t id, ParseTokenId(value, fmt::format("vocab['{}']", token)));
    const Status status = vocabulary_.Add(token, id);
    if (!status.ok()) return status.error().At("vocab");
  }
  PLANISH_TRY(const std::string unk, JsonString(json, "unk_token", default_unknown));
  const auto id = vocabulary_.Find(unk);
  if (!id) return InputError(fmt::format("unk_token '{}' is not in the vocabulary", unk));
  unk_ = *id;
  return {};
}

Result<WordPieceModel> WordPieceModel::ParseWordLevel(const Json& json) {
  WordPieceModel model;
  model.whole_words_ = true;
  PLANISH_RETURN_IF_ERROR(model.ParseVocabulary(json, "<unk>"));
  return model;
}

Result<WordPieceModel> WordPieceModel::Parse(const Json& json) {
  WordPieceModel model;
  PLANISH_RETURN_IF_ERROR(model.ParseVocabulary(json, "[UNK]"));
  PLANISH_TRY(model.prefix_, JsonString(json, "continuing_subword_prefix", "##"));
  PLANISH_TRY(model.max_characters_, JsonInt(json, "max_input_chars_per_word", 100));
  if (model.max_characters_ < 0 || model.max_characters_ > kMaxCharacters) {
    return InputError(
        fmt::format("max_input_chars_per_word {} is not in [0, {}]", model.max_characters_, kMaxCharacters));
  }
  return model;
}

std::unique_ptr<WordModel::Scratch> WordPieceModel::MakeScratch() const {
  return std::make_unique<WordPieceScratch>();
}

void WordPieceModel::EncodeWord(std::string_view word, WordModel::Scratch* scratch,
                                std::vector<int32_t>* ids) const {
  if (whole_words_) {
    ids->push_back(vocabulary_.Find(word).value_or(unk_));
    return;
  }
  const auto characters = std::ranges::count_if(word, [](char c) { return !IsContinuation(c); });
  const size_t before = ids->size();
  std::string& piece = static_cast<WordPieceScratch*>(scratch)->piece;
  size_t start = 0;
  while (characters <= max_characters_ && start < word.size()) {
    size_t end = word.size();
    std::optional<int32_t> found;
    piece.assign(start > 0 ? std::string_view(prefix_) : std::string_view()).append(word.substr(start));
    while (end > start && !(found = vocabulary_.Find(piece))) {
      do {
        --end;
        piece.pop_back();
      } while (end > start && IsContinuation(word[end]));
    }
    if (!found) break;
    ids->push_back(*found);
    start = end;
  }
  if (start == word.size()) return;
  ids->resize(before);
  ids->push_back(unk_);
}

}  // namespace planish

// The normalization of SentencePiece models: character map, spaces, the dummy space in front.
#pragma once

#include <optional>
#include <string>

#include "formats/sentencepiece.h"
#include "formats/tokenizer_added.h"
#include "formats/tokenizer_charsmap.h"
#include "formats/tokenizer_normalize.h"

namespace planish {

class SentencePieceNormalizer : public Normalizer {
 public:
  // User-defined pieces pass through unchanged. Errors: a broken character map.
  static Result<SentencePieceNormalizer> Make(const SentencePieceModel& model);
  Result<std::string> Apply(std::string text) const override;

 private:
  SentencePieceNormalizer() = default;
  // What the beginning of `text` (not empty) becomes; *length: the bytes of it that are used up.
  std::string_view Prefix(std::string_view text, size_t* length) const;
  // Bytes at the start of `text` that stay as they are: no spaces, no rules, no user-defined pieces.
  size_t PlainPrefix(std::string_view text) const;

  std::optional<CharsMap> map_;
  AddedTokenMatcher user_defined_;
  bool plain_[128] = {};  // ASCII characters that stay as they are before another one
  PieceNormalization options_;
};

}  // namespace planish

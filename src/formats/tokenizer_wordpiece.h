// WordPiece, as in BERT: the longest known piece first, then the longest known continuation. And WordLevel:
// whole words only.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "base/result.h"
#include "formats/tokenizer_model.h"

namespace planish {

class WordPieceModel : public WordModel {
 public:
  // `json` is the "model" object. Errors name the field.
  static Result<WordPieceModel> Parse(const Json& json);
  // Of type WordLevel: the same without pieces.
  static Result<WordPieceModel> ParseWordLevel(const Json& json);

  std::unique_ptr<WordModel::Scratch> MakeScratch() const override;
  // A word that cannot be covered, or is longer than the model's limit, is one unknown.
  void EncodeWord(std::string_view word, WordModel::Scratch* scratch,
                  std::vector<int32_t>* ids) const override;
  const Vocabulary& vocabulary() const override { return vocabulary_; }

 private:
  struct WordPieceScratch : Scratch {
    std::string piece;
  };
  Status ParseVocabulary(const Json& json, const char* default_unknown);

  Vocabulary vocabulary_;
  bool whole_words_ = false;
  int32_t unk_ = 0;
  std::string prefix_;            // of continuations
  int64_t max_characters_ = 100;  // of a word
};

}  // namespace planish

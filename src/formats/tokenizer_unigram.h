// Unigram language model over pieces: the "model" of type Unigram in tokenizer.json, and SentencePiece models
// of that kind.
//
// A word is cut into the pieces whose scores (log-probabilities) sum to the most: one pass from left
// to right keeps the best way to reach each character boundary, as in the optimized encoder of
// SentencePiece. O(n * longest piece). Where no piece reaches over a boundary, all ways meet: what lies
// before is written, so that the table stays short whatever the length of the text.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "base/result.h"
#include "formats/sentencepiece.h"
#include "formats/tokenizer_model.h"

namespace planish {

class UnigramModel : public WordModel {
 public:
  // `json` is the "model" object. Errors name the field.
  static Result<UnigramModel> Parse(const Json& json);
  // The model must have passed its Check. Errors: strings that two pieces share.
  static Result<UnigramModel> FromPieces(const SentencePieceModel& pieces);

  std::unique_ptr<WordModel::Scratch> MakeScratch() const override;
  void EncodeWord(std::string_view word, WordModel::Scratch* scratch,
                  std::vector<int32_t>* ids) const override;
  const Vocabulary& vocabulary() const override { return vocabulary_; }

 private:
  // A node of the trie of pieces; its children are a range of `children_`, sorted by byte.
  struct Node {
    int32_t id = -1;  // piece that ends here
    uint32_t first = 0;
    uint32_t count = 0;
  };
  struct Child {
    uint8_t byte;
    uint32_t node;
  };
  // The best way to a boundary: its last piece.
  struct Best {
    double score = 0;
    int32_t start = -1, id = 0;  // start -1: not reached
  };
  struct UnigramScratch : Scratch {
    std::vector<Best> best;  // of the boundaries from where the ways last met
    std::vector<Best> path;
  };

  void BuildTrie(const std::vector<bool>& matched);
  void FillFallback();
  int64_t Step(uint32_t node, uint8_t byte) const;
  void Offer(double score, size_t start, int32_t id, Best* best) const;
  size_t OfferPieces(std::string_view word, size_t base, size_t start, std::vector<Best>* best) const;
  void AppendPath(std::string_view text, UnigramScratch* work, std::vector<int32_t>* ids) const;
  void AppendUnknown(std::string_view text, std::vector<int32_t>* ids) const;

  Vocabulary vocabulary_;
  std::vector<double> scores_;
  double unknown_score_ = 0;
  int32_t unk_ = 0;
  bool byte_fallback_ = false;
  bool from_pieces_ = false;  // sums are floats, as in SentencePiece: ties depend on it
  std::array<int32_t, 256> fallback_{};
  std::vector<Node> nodes_;
  std::vector<Child> children_;
  std::array<uint32_t, 256> roots_{};  // node of a first byte, 0: none
};

}  // namespace planish

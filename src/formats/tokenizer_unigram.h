// Unigram language model over pieces: the "model" of type Unigram in tokenizer.json.
//
// A word is cut into the pieces whose scores (log-probabilities) sum to the most: one pass from left
// to right keeps the best way to reach each character boundary, as in the optimized encoder of
// SentencePiece. O(n * longest piece).
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "base/result.h"
#include "formats/tokenizer_model.h"

namespace planish {

class UnigramModel : public WordModel {
 public:
  // `json` is the "model" object. Errors name the field.
  static Result<UnigramModel> Parse(const Json& json);

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
  struct Best {
    double score;
    int32_t start, id;  // start -1: not reached
  };
  struct UnigramScratch : Scratch {
    std::vector<Best> best;
    std::vector<Best> path;
  };

  void BuildTrie();
  int64_t Step(uint32_t node, uint8_t byte) const;
  void AppendUnknown(std::string_view text, std::vector<int32_t>* ids) const;

  Vocabulary vocabulary_;
  std::vector<double> scores_;
  double unknown_score_ = 0;
  int32_t unk_ = 0;
  bool byte_fallback_ = false;
  std::array<int32_t, 256> fallback_{};
  std::vector<Node> nodes_;
  std::vector<Child> children_;
  std::array<uint32_t, 256> roots_{};  // node of a first byte, 0: none
};

}  // namespace planish

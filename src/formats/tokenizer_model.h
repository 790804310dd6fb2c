// What every tokenizer model does: words to token ids. The kinds are in tokenizer_bpe.h,
// tokenizer_unigram.h and tokenizer_wordpiece.h.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "formats/tokenizer_vocabulary.h"

namespace planish {

class WordModel {
 public:
  // Working memory of one thread at a time.
  class Scratch {
   public:
    virtual ~Scratch() = default;
  };
  virtual ~WordModel() = default;
  virtual std::unique_ptr<Scratch> MakeScratch() const = 0;
  // Appends the ids of one word (not empty, valid UTF-8 unless byte-level). `scratch` comes from
  // MakeScratch of the same model.
  virtual void EncodeWord(std::string_view word, Scratch* scratch, std::vector<int32_t>* ids) const = 0;
  virtual const Vocabulary& vocabulary() const = 0;
};

}  // namespace planish

// Pre-tokenizers: they cut a piece of text into the words that the model encodes one by one.
// A new type is one class and one line of the table at the end of tokenizer_split.cc.
#pragma once

#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "base/result.h"

namespace planish {

// Receives the words in order. They are views that hold only during the call.
class WordSink {
 public:
  virtual ~WordSink() = default;
  virtual void Word(std::string_view word) = 0;
};

class PreTokenizer;
using PreTokenizers = std::vector<std::unique_ptr<const PreTokenizer>>;

// What comes after a pre-tokenizer: those behind it, then the sink.
class NextStage {
 public:
  NextStage(std::span<const std::unique_ptr<const PreTokenizer>> rest, WordSink* sink, Error* error,
            const char* origin)
      : rest_(rest), sink_(sink), error_(error), origin_(origin) {}
  // Empty pieces vanish. False: stop, a later stage has set *error.
  bool operator()(std::string_view piece) const;
  // True for a piece that stands at the start of the whole text.
  bool AtStart(std::string_view piece) const { return piece.data() == origin_; }

 private:
  std::span<const std::unique_ptr<const PreTokenizer>> rest_;
  WordSink* sink_;
  Error* error_;
  const char* origin_;
};

class PreTokenizer {
 public:
  virtual ~PreTokenizer() = default;
  // Cuts `piece` (valid UTF-8, not empty) and hands on the parts. False after an error, which goes
  // to *error, or after `next` returned false.
  virtual bool Split(std::string_view piece, const NextStage& next, Error* error) const = 0;
};

struct PreTokenizerChain {
  PreTokenizers stages;
  // The words' bytes stand for the characters of the byte-level alphabet. The mapping itself is
  // left to the model, which reads its vocabulary in bytes.
  bool byte_level = false;
  // Stages behind ByteLevel cut in that alphabet, characters in two where it makes several of one.
  bool in_alphabet = false;

  // From the "pre_tokenizer" member; null is an empty chain: every piece is one word.
  static Result<PreTokenizerChain> Parse(const Json& json);
  // `at_start`: nothing stands before the piece in the text.
  Status Split(std::string_view piece, WordSink* sink, bool at_start = true) const;
};

// The regex of the ByteLevel pre-tokenizer.
extern const char kGpt2Pattern[];

}  // namespace planish

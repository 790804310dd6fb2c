// Tokenizers of Hugging Face tokenizer.json files, SentencePiece tokenizer.model files and GGUF metadata:
// text to token ids and back. Supported: BPE (byte-level or on characters, with byte fallback), Unigram,
// WordPiece, WordLevel; what a file asks for beyond that is refused by name when it is read
// (docs/tokenizers.md).
//
// A Tokenizer never changes after it is read; any number of threads may use it at once.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace planish {

struct TokenizerFiles;
struct SentencePieceModel;

class Tokenizer {
 public:
  // Reads what tokenizer_files.h finds in the folder or GGUF file.
  static Result<std::shared_ptr<const Tokenizer>> Load(const std::string& path);
  static Result<std::shared_ptr<const Tokenizer>> FromFiles(const TokenizerFiles& files,
                                                            const std::string& name);
  // Reads the text of a tokenizer.json; `name` stands in front of errors.
  static Result<std::shared_ptr<const Tokenizer>> Parse(std::string_view json, const std::string& name);
  // Of a SentencePiece model that has passed its Check. `added_tokens`: a list as in tokenizer.json, or
  // empty.
  static Result<std::shared_ptr<const Tokenizer>> FromPieces(const SentencePieceModel& model,
                                                             std::string_view added_tokens,
                                                             const std::string& name);

  // Token ids of a text. add_special: with the ids its post-processor puts around (BOS, EOS).
  // recognize_special: special tokens spelled out in the text become their ids; otherwise they are
  // encoded as text, as is right for text from users. Errors: not UTF-8 (with the byte offset),
  // more than 1 GiB, a hostile regex of the file that gives up.
  Result<std::vector<int32_t>> Encode(std::string_view utf8, bool add_special = false,
                                      bool recognize_special = true) const;
  // Text of the ids; what is not UTF-8 becomes U+FFFD, ids without token become nothing. The control pieces
  // of SentencePiece models have no text.
  std::string Decode(std::span<const int32_t> ids, bool skip_special = false) const;

  // What one token contributes to a text, before invalid UTF-8 is replaced; empty for ids without
  // token.
  std::string TokenBytes(int32_t id) const;
  // Highest id + 1, counting added tokens. An embedding may have more rows.
  int64_t vocab_size() const;
  // Id of a token by its string in the file (byte-level tokens in their alphabet).
  std::optional<int32_t> TokenId(std::string_view token) const;
  bool IsSpecial(int32_t id) const;

  ~Tokenizer();

 private:
  friend class StreamDecoder;
  struct Impl;
  Tokenizer();
  std::unique_ptr<Impl> impl_;
};

// Decodes ids as they come. What Push returns ends at a character boundary: the bytes of an
// incomplete character wait for the next id. All results together equal Decode of all ids, except
// where fallback bytes form no character: there the number of U+FFFD can differ.
class StreamDecoder {
 public:
  // `tokenizer` must live as long.
  explicit StreamDecoder(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}
  std::string Push(int32_t id);
  // The end of the text: what is still held back, as U+FFFD. The decoder is as new then.
  std::string Flush();

 private:
  const Tokenizer& tokenizer_;
  std::string PushSteps(int32_t id);
  std::string PushContext(int32_t id);

  std::string held_;
  std::vector<std::string> pending_;  // tokens of a decoder with steps, not yet text
  bool first_ = true;
  bool leading_ = true;  // there is no text yet
};

}  // namespace planish

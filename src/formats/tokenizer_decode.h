// Decoders of tokenizer.json, and the ids that a post-processor puts around a text.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "base/result.h"

namespace planish {

// How token strings become text. Every supported decoder maps each token to bytes on its own; the
// text is their concatenation, with U+FFFD for what is not UTF-8.
struct Decoder {
  bool byte_level = false;
  // Between tokens: a file without decoder separates them by spaces.
  std::string separator;

  // From the "decoder" member. A new type is one line of the table in tokenizer_decode.cc.
  static Result<Decoder> Parse(const Json& json);
  // The bytes a token contributes.
  std::string Bytes(std::string_view token) const;
};

// TemplateProcessing for a single text: ids before and after its own.
struct PostProcessor {
  std::vector<int32_t> prefix, suffix;
  // From the "post_processor" member; ids must be below `vocab_size`.
  static Result<PostProcessor> Parse(const Json& json, int64_t vocab_size);
};

}  // namespace planish

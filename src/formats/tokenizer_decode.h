// Decoders of tokenizer.json, and the ids that a post-processor puts around a text.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "base/result.h"

namespace planish {

// One step of a decoder that rewrites a list of token strings.
struct DecodeStep {
  enum Kind { kReplace, kByteFallback, kFuse, kStrip, kMetaspace, kWordPiece, kBpe, kCtc } kind = kFuse;
  // kReplace, kStrip (from: the character), kMetaspace, kWordPiece (prefix), kBpe (from: the suffix), kCtc
  // (from: the padding, to: the delimiter of words).
  std::string from, to;
  int64_t start = 0, stop = 0;  // kStrip
  bool flag = false;            // kMetaspace: drop at the start; kWordPiece, kCtc: clean up
};

// What vanishes of the space symbols with which tokens at the start of a text begin (SentencePiece): nothing,
// that of the first token, or one of each token until there is text.
enum class LeadingSpace { kKeep, kDropOne, kDropEach };

// How token strings become text. Of the simple kind, each token maps to bytes on its own and the text
// is their concatenation, with U+FFFD for what is not UTF-8. Others have steps, in which a token's
// text can depend on whether it is the first, and bytes of fallback tokens join to characters.
struct Decoder {
  bool byte_level = false;
  // Between tokens: a file without decoder separates them by spaces.
  std::string separator;
  std::vector<DecodeStep> steps;               // empty: the simple kind
  LeadingSpace leading = LeadingSpace::kKeep;  // simple kind
  bool each_byte = false;                      // simple kind: one U+FFFD for every byte that is not UTF-8

  // From the "decoder" member. A new type is one line of the table in tokenizer_decode.cc.
  static Result<Decoder> Parse(const Json& json);
  bool simple() const { return steps.empty(); }
  // With the one step kBpe, a token's text depends on whether it is the last; with kCtc, on the one before
  // it.
  bool Is(DecodeStep::Kind kind) const { return steps.size() == 1 && steps[0].kind == kind; }
  // The bytes a token contributes (behind others).
  std::string Bytes(std::string_view token) const;
  // With steps: the text of consecutive tokens; `first`: nothing stands before them.
  std::string Text(std::vector<std::string> tokens, bool first) const;
  // Of a decoder with the one step kBpe or kCtc: the text of one token.
  std::string BpeText(std::string token, bool last) const;
  std::string CtcText(std::string token, const std::string* previous) const;
};

// The byte of a token <0xNN>.
std::optional<uint8_t> FallbackByte(std::string_view token);

// TemplateProcessing, BertProcessing or RobertaProcessing for a single text: ids before and after its
// own.
struct PostProcessor {
  std::vector<int32_t> prefix, suffix;
  // From the "post_processor" member; ids must be below `vocab_size`.
  static Result<PostProcessor> Parse(const Json& json, int64_t vocab_size);
};

}  // namespace planish

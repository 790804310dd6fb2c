// SentencePiece model files (tokenizer.model): pieces with scores, and how a text is normalized first.
// https://github.com/google/sentencepiece, src/sentencepiece_model.proto
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace planish {

// By their numbers in files; GGUF has the same.
enum class PieceType : int32_t {
  kNormal = 1,
  kUnknown = 2,
  kControl = 3,      // has no text: never found in one, decodes to nothing
  kUserDefined = 4,  // found in texts before anything else
  kUnused = 5,       // may be a step of merging, but is never a result
  kByte = 6,         // <0xNN>
};

struct Piece {
  std::string text;  // valid UTF-8, spaces as U+2581
  float score = 0;
  PieceType type = PieceType::kNormal;
};

// The characters' map and the treatment of spaces.
struct PieceNormalization {
  std::string charsmap;  // formats/tokenizer_charsmap.h; empty: none
  bool add_dummy_prefix = true;
  bool remove_extra_whitespaces = true;
  bool escape_whitespaces = true;           // spaces become U+2581
  bool treat_whitespace_as_suffix = false;  // the dummy goes behind the text
};

struct SentencePieceModel {
  enum class Kind : int32_t { kUnigram = 1, kBpe = 2 };
  Kind kind = Kind::kUnigram;
  std::vector<Piece> pieces;  // index = id
  bool byte_fallback = false;
  PieceNormalization normalization;
  std::string unk_surface = " \xE2\x81\x87 ";      // what an unknown decodes to
  int32_t unk = -1, bos = -1, eos = -1, pad = -1;  // ids; -1: none
  // Not in the file: whether encoding puts these ids around a text.
  bool add_bos = false, add_eos = false;

  // Errors name the field or piece: broken messages, kinds WORD and CHAR, a denormalizer, pieces that are
  // empty, too long, given twice or not UTF-8, scores that are not finite, no unknown piece, byte pieces that
  // are not all there.
  static Result<SentencePieceModel> Parse(std::string_view file);
  // The same checks for a model from elsewhere; sets `unk`.
  Status Check();
  std::string Write() const;
};

}  // namespace planish

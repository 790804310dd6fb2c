// The tokenizer in the metadata of a GGUF file as the files of a model's folder; and back.
//
// "tokenizer.ggml.model" names the kind: gpt2 (byte-level BPE), llama (SentencePiece BPE, merging by scores),
// t5 (unigram), bert (WordPiece).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "formats/gguf.h"
#include "formats/tokenizer_files.h"

namespace planish {

// The kind of a model that knows ids only.
inline constexpr const char* kGgufNoTokenizer = "no_vocab";

// The file's own copy of tokenizer.json if it has one; else one made of its byte-level tokens and merges or
// its WordPiece tokens, or a tokenizer.model made of its pieces. Errors: a tokenizer or pre-tokenizer that
// cannot be expressed, named; lists of different lengths.
Result<TokenizerFiles> TokenizerFilesOf(const GgufFile& file);

// What the tokenizer of a file is and which of its keys it is read from, in a line for people: "llama, 32000
// tokens", "tokenizer.huggingface.json (BPE, 4096 tokens)". With a copy of tokenizer.json a kind or split of
// other keys that is not known here does no harm, and is named. Errors: as Tokenizer::Load; a copy that is
// of another kind than the keys or has ids beyond their tokens.
Result<std::string> DescribeGgufTokenizer(const GgufFile& file);

// Ids of special tokens, -1: none.
struct GgufTokenIds {
  int64_t bos = -1, eos = -1, pad = -1;
};

// Adds the keys of a tokenizer for the `vocab` rows of an embedding. The text of
// a tokenizer.json is among them, so that this program reads back exactly what it wrote. Returns notes on
// what other programs will do differently. Errors: a kind of tokenizer that has no keys, a split that other
// programs have no name for, ids beyond the embedding.
Result<std::vector<std::string>> AddTokenizer(const TokenizerFiles& files, int64_t vocab,
                                              const GgufTokenIds& ids, GgufMetadata& metadata);
// The keys of a model without a tokenizer.
void AddNoTokenizer(const GgufTokenIds& ids, GgufMetadata& metadata);

}  // namespace planish

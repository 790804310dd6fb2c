// How texts are split before byte-level merging, by the name that GGUF files give it ("tokenizer.ggml.pre").
#pragma once

#include <array>
#include <span>
#include <string>

#include "base/json.h"

namespace planish {

struct GgufSplit {
  std::array<const char*, 7> patterns{};  // one after another; null: no more
  bool digits = false;                    // each digit alone, first
  bool gpt2 = false;                      // the byte-level pre-tokenizer's own pattern, last
};

struct GgufPreTokenizer {
  const char* name;
  const GgufSplit* split;
  bool ignore_merges = false;  // words of the vocabulary are taken whole
  bool add_bos = false;        // where the file does not say
};

// All names, one that files are written with before others that mean the same.
std::span<const GgufPreTokenizer> GgufPreTokenizers();

// The "pre_tokenizer" of a tokenizer.json that splits so.
OrderedJson PreTokenizerJson(const GgufSplit& split);

// True when such a "pre_tokenizer" splits so.
bool SplitsLike(const Json& pre_tokenizer, const GgufSplit& split);

}  // namespace planish

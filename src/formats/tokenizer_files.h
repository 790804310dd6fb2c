// The files that define a tokenizer, from a model's folder or from the metadata of a GGUF file.
#pragma once

#include <string>

#include "base/json.h"
#include "base/result.h"
#include "formats/sentencepiece.h"

namespace planish {

// Contents; empty: there is none.
struct TokenizerFiles {
  std::string json;          // tokenizer.json; with it, tokenizer.model and added_tokens.json do not matter
  std::string model;         // tokenizer.model
  std::string config;        // tokenizer_config.json
  std::string added_tokens;  // added_tokens.json
};

// Of a folder: tokenizer.json, or one made of vocab.json and merges.txt (GPT-2), or tokenizer.model with what
// stands beside it. Errors: none of these; a GGUF file's tokenizer that cannot be expressed so, named.
Result<TokenizerFiles> ReadTokenizerFiles(const std::string& path);

// What stands beside a tokenizer.model decides add_bos and add_eos: its tokenizer_config.json (add_bos_token,
// add_eos_token, or what its tokenizer_class does without them), else whether the model is of the kind of
// Llama (BPE: a BOS) or of T5 (unigram: an EOS). Returns further tokens as a list like "added_tokens" of
// tokenizer.json.
Result<std::string> ApplyTokenizerConfig(const TokenizerFiles& files, SentencePieceModel* model);

// Appends to "added_tokens" of a parsed tokenizer.json the entries of "added_tokens_decoder" of files.config
// whose id is not among them, as transformers' fast tokenizers do. True: there were some. Errors: an entry
// that cannot be read; one whose id has another text in tokenizer.json, or whose text another id: both are
// named.
Result<bool> AddConfigTokens(const TokenizerFiles& files, Json* tokenizer_json);

// A tokenizer.json for the files of GPT-2: {token: id} and lines of "left right".
Result<std::string> Gpt2TokenizerJson(const std::string& vocab_json, const std::string& merges_txt);

}  // namespace planish

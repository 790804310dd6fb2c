// The tokenizer in the metadata of a GGUF file, as the text of a tokenizer.json; and back.
#pragma once

#include <string>

#include "base/json.h"
#include "formats/gguf.h"
#include "formats/tokenizer_files.h"

namespace planish {

// The file's own copy of tokenizer.json if it has one; else one made from its byte-level tokens and merges.
// Errors: a tokenizer or pre-tokenizer that cannot be expressed, named.
Result<std::string> TokenizerJsonOf(const GgufFile& file);
Result<TokenizerFiles> TokenizerFilesOf(const GgufFile& file);

// Keys of a byte-level tokenizer.json for `vocab` rows of an embedding (the text itself among them, so that
// this program reads back exactly what it wrote). Errors: another kind of tokenizer, a split that other
// programs have no name for.
Status AddTokenizer(const std::string& json, int64_t vocab, int64_t bos, int64_t eos, GgufMetadata& metadata);

}  // namespace planish

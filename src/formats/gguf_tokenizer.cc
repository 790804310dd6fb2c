#include "formats/gguf_tokenizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>

#include "base/json.h"
#include "base/names.h"
#include "formats/gguf_pretokenizers.h"
#include "formats/tokenizer.h"
#include "formats/tokenizer_vocabulary.h"

namespace planish {
namespace {

constexpr const char* kCopy = "tokenizer.huggingface.json";

// What the kinds have in common.
struct Tokens {
  std::vector<std::string> text;
  std::vector<PieceType> types;
  int64_t size() const { return static_cast<int64_t>(text.size()); }
  const std::string& operator[](int64_t id) const { return text[static_cast<size_t>(id)]; }
  bool Has(int64_t id) const { return id >= 0 && id < size(); }
};

Result<Tokens> ReadTokens(const GgufFile& file) {
  Tokens tokens;
  PLANISH_TRY(tokens.text, file.Strings("tokenizer.ggml.tokens"));
  if (tokens.size() > kMaxTokenId) {
    return InputError(
        fmt::format("tokenizer.ggml.tokens: {} tokens; at most {} are accepted", tokens.size(), kMaxTokenId));
  }
  tokens.types.assign(tokens.text.size(), PieceType::kNormal);
  if (!file.Has("tokenizer.ggml.token_type")) return tokens;
  PLANISH_TRY(const auto types, file.Numbers("tokenizer.ggml.token_type"));
  if (types.size() != tokens.text.size()) {
    return InputError(
        fmt::format("tokenizer.ggml.token_type: {} types for {} tokens", types.size(), tokens.text.size()));
  }
  for (size_t i = 0; i < types.size(); ++i) {
    // Some writers leave 0 (undefined) where nothing is special.
    if (!(types[i] >= 0 && types[i] <= 6)) {
      return InputError(
          fmt::format("tokenizer.ggml.token_type: type {} of token {} is not in [0, 6]", types[i], i));
    }
    if (types[i] >= 1) tokens.types[i] = static_cast<PieceType>(static_cast<int32_t>(types[i]));
  }
  return tokens;
}

OrderedJson AddedTokensJson(const Tokens& tokens) {
  OrderedJson added = OrderedJson::array();
  for (size_t i = 0; i < tokens.text.size(); ++i) {
    const PieceType type = tokens.types[i];
    if (type != PieceType::kControl && type != PieceType::kUserDefined) continue;
    added.push_back({{"id", i},
                     {"content", tokens.text[i]},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", type == PieceType::kControl}});
  }
  return added;
}

// A "post_processor" that puts the tokens of these ids around a text; -1: none.
OrderedJson Around(const Tokens& tokens, int64_t before, int64_t after) {
  if (!tokens.Has(before) && !tokens.Has(after)) return nullptr;
  OrderedJson single = OrderedJson::array(), specials = OrderedJson::object();
  const auto add = [&](int64_t id) {
    if (!tokens.Has(id)) return;
    single.push_back({{"SpecialToken", {{"id", tokens[id]}, {"type_id", 0}}}});
    specials[tokens[id]] = {{"id", tokens[id]}, {"ids", {id}}, {"tokens", {tokens[id]}}};
  };
  add(before);
  single.push_back({{"Sequence", {{"id", "A"}, {"type_id", 0}}}});
  add(after);
  return {{"type", "TemplateProcessing"},
          {"single", single},
          {"pair",
           {{{"Sequence", {{"id", "A"}, {"type_id", 0}}}}, {{"Sequence", {{"id", "B"}, {"type_id", 1}}}}}},
          {"special_tokens", specials}};
}

// The ids that `add` and `id` keys put before (after) a text.
Result<int64_t> EndId(const GgufFile& file, const char* name, bool add_default, int64_t id_default) {
  PLANISH_TRY(const bool add, file.Bool(fmt::format("tokenizer.ggml.add_{}_token", name), add_default));
  PLANISH_TRY(const int64_t id, file.Int(fmt::format("tokenizer.ggml.{}_token_id", name), id_default));
  return add ? id : -1;
}

Result<std::string> ByteLevelJson(const GgufFile& file) {
  PLANISH_TRY(const std::string pre, file.String("tokenizer.ggml.pre", "gpt-2"));
  const auto known = GgufPreTokenizers();
  const auto found = std::ranges::find_if(known, [&](const auto& entry) { return pre == entry.name; });
  if (found == known.end()) {
    return InputError(fmt::format("tokenizer.ggml.pre '{}' is not known", Abbreviate(pre)));
  }
  PLANISH_TRY(const Tokens tokens, ReadTokens(file));
  PLANISH_TRY(const auto merges, file.Strings("tokenizer.ggml.merges"));
  OrderedJson json, vocab = OrderedJson::object();
  for (size_t i = 0; i < tokens.text.size(); ++i) {
    if (tokens.types[i] != PieceType::kUnused) vocab[tokens.text[i]] = i;
  }
  PLANISH_TRY(const int64_t before, EndId(file, "bos", found->add_bos, -1));
  PLANISH_TRY(const int64_t after, EndId(file, "eos", false, -1));
  json["version"] = "1.0";
  json["added_tokens"] = AddedTokensJson(tokens);
  json["normalizer"] = nullptr;
  json["pre_tokenizer"] = PreTokenizerJson(*found->split);
  json["post_processor"] = Around(tokens, before, after);
  json["decoder"] = {
      {"type", "ByteLevel"}, {"add_prefix_space", true}, {"trim_offsets", true}, {"use_regex", true}};
  json["model"] = {{"type", "BPE"},
                   {"dropout", nullptr},
                   {"unk_token", nullptr},
                   {"continuing_subword_prefix", nullptr},
                   {"end_of_word_suffix", nullptr},
                   {"fuse_unk", false},
                   {"byte_fallback", false},
                   {"ignore_merges", found->ignore_merges},
                   {"vocab", vocab},
                   {"merges", merges}};
  return DumpJson(json);
}

// Tokens that begin a word have a space symbol in front, others stand for "##" and themselves.
Result<std::string> WordPieceJson(const GgufFile& file) {
  PLANISH_TRY(Tokens tokens, ReadTokens(file));
  OrderedJson vocab = OrderedJson::object();
  bool cased = false;
  for (size_t i = 0; i < tokens.text.size(); ++i) {
    std::string& token = tokens.text[i];
    const bool bracketed = token.starts_with('[') && token.ends_with(']');
    if (token.starts_with(kSpaceSymbol)) {
      token.erase(0, kSpaceSymbol.size());
    } else if (!bracketed && tokens.types[i] == PieceType::kNormal) {
      token.insert(0, "##");
    }
    if (tokens.types[i] == PieceType::kUnused) continue;
    if (vocab.contains(token)) {
      return InputError(fmt::format("tokenizer.ggml.tokens: '{}' stands there twice", Abbreviate(token)));
    }
    vocab[token] = i;
    cased |= !bracketed && tokens.types[i] == PieceType::kNormal &&
             std::ranges::any_of(token, [](char c) { return c >= 'A' && c <= 'Z'; });
  }
  PLANISH_TRY(const int64_t unk, file.Int("tokenizer.ggml.unknown_token_id", 100));
  if (!tokens.Has(unk)) {
    return InputError(
        fmt::format("tokenizer.ggml.unknown_token_id {} is not one of {} tokens", unk, tokens.size()));
  }
  PLANISH_TRY(const int64_t cls, file.Int("tokenizer.ggml.cls_token_id", 101));
  PLANISH_TRY(const int64_t before, EndId(file, "bos", true, cls));
  PLANISH_TRY(const bool add_separator, file.Bool("tokenizer.ggml.add_sep_token", true));
  // The key is spelled so.
  PLANISH_TRY(const int64_t separator, file.Int("tokenizer.ggml.seperator_token_id", 102));
  const OrderedJson json = {{"version", "1.0"},
                            {"added_tokens", AddedTokensJson(tokens)},
                            {"normalizer",
                             {{"type", "BertNormalizer"},
                              {"clean_text", true},
                              {"handle_chinese_chars", true},
                              {"strip_accents", nullptr},
                              {"lowercase", !cased}}},
                            {"pre_tokenizer", {{"type", "BertPreTokenizer"}}},
                            {"post_processor", Around(tokens, before, add_separator ? separator : -1)},
                            {"decoder", {{"type", "WordPiece"}, {"prefix", "##"}, {"cleanup", true}}},
                            {"model",
                             {{"type", "WordPiece"},
                              {"unk_token", tokens[unk]},
                              {"continuing_subword_prefix", "##"},
                              {"max_input_chars_per_word", 100},
                              {"vocab", vocab}}}};
  return DumpJson(json);
}

Status ReadCharsmap(const GgufFile& file, std::string* charsmap) {
  constexpr const char* kKey = "tokenizer.ggml.precompiled_charsmap";
  const auto it = file.metadata().find(kKey);
  if (it == file.metadata().end()) return {};
  const GgufValue& value = it->second;
  if (value.kind != GgufKind::kArray || (value.element != GgufKind::kU8 && value.element != GgufKind::kI8)) {
    return InputError(fmt::format("{}: expected an array of bytes, found {} of {}", kKey,
                                  GgufKindName(value.kind), GgufKindName(value.element)));
  }
  charsmap->assign(reinterpret_cast<const char*>(value.bytes.data()), value.bytes.size());
  return {};
}

// Rows of the embedding that no token has, as writers name them.
bool IsPadding(const Tokens& tokens, size_t id) {
  return tokens.types[id] == PieceType::kUnused && tokens.text[id] == fmt::format("[PAD{}]", id);
}

Result<TokenizerFiles> PieceFiles(const GgufFile& file, SentencePieceModel::Kind kind) {
  PLANISH_TRY(Tokens tokens, ReadTokens(file));
  PLANISH_TRY(const auto scores, file.Numbers("tokenizer.ggml.scores"));
  if (scores.size() != tokens.text.size()) {
    return InputError(
        fmt::format("tokenizer.ggml.scores: {} scores for {} tokens", scores.size(), tokens.text.size()));
  }
  while (!tokens.text.empty() && IsPadding(tokens, tokens.text.size() - 1)) tokens.text.pop_back();
  const bool bpe = kind == SentencePieceModel::Kind::kBpe;
  SentencePieceModel model{.kind = kind};
  for (size_t i = 0; i < tokens.text.size(); ++i) {
    model.pieces.push_back({tokens.text[i], static_cast<float>(scores[i]), tokens.types[i]});
    model.byte_fallback |= tokens.types[i] == PieceType::kByte;
  }
  const auto is_unknown = [](const Piece& piece) { return piece.type == PieceType::kUnknown; };
  PLANISH_TRY(const int64_t unk, file.Int("tokenizer.ggml.unknown_token_id", bpe ? 0 : 2));
  if (std::ranges::none_of(model.pieces, is_unknown) && tokens.Has(unk)) {
    model.pieces[static_cast<size_t>(unk)].type = PieceType::kUnknown;
  }
  PieceNormalization& normalization = model.normalization;
  PLANISH_RETURN_IF_ERROR(ReadCharsmap(file, &normalization.charsmap));
  PLANISH_TRY(normalization.add_dummy_prefix, file.Bool("tokenizer.ggml.add_space_prefix", true));
  PLANISH_TRY(normalization.remove_extra_whitespaces,
              file.Bool("tokenizer.ggml.remove_extra_whitespaces", false));
  PLANISH_RETURN_IF_ERROR(model.Check());
  TokenizerFiles files;
  files.model = model.Write();
  Json config;
  for (const auto& [name, add, id] : {std::tuple{"bos", bpe, bpe ? 1 : -1}, {"eos", !bpe, bpe ? 2 : 1}}) {
    PLANISH_TRY(const bool added, file.Bool(fmt::format("tokenizer.ggml.add_{}_token", name), add));
    PLANISH_TRY(const int64_t token, file.Int(fmt::format("tokenizer.ggml.{}_token_id", name), id));
    config[fmt::format("add_{}_token", name)] = added;
    if (tokens.Has(token)) config[fmt::format("{}_token", name)] = tokens[token];
  }
  files.config = DumpJson(config);
  return files;
}

}  // namespace

Result<TokenizerFiles> TokenizerFilesOf(const GgufFile& file) {
  TokenizerFiles files;
  if (file.Has(kCopy)) {
    PLANISH_TRY(files.json, file.String(kCopy));
    return files;
  }
  PLANISH_TRY(const std::string model, file.String("tokenizer.ggml.model"));
  if (model == "llama") return PieceFiles(file, SentencePieceModel::Kind::kBpe);
  if (model == "t5") return PieceFiles(file, SentencePieceModel::Kind::kUnigram);
  if (model == kGgufNoTokenizer) {
    return InputError(
        "the file has no tokenizer (tokenizer.ggml.model is no_vocab); give ids, or put the "
        "file into a folder beside a tokenizer.json");
  }
  if (model != "gpt2" && model != "bert") {
    return InputError(fmt::format("tokenizer.ggml.model '{}' cannot be read, only gpt2, llama, t5 and bert",
                                  Abbreviate(model)));
  }
  PLANISH_TRY(files.json, model == "gpt2" ? ByteLevelJson(file) : WordPieceJson(file));
  return files;
}

namespace {

// The kinds of keys and the types of model in a tokenizer.json that have them.
constexpr std::pair<const char*, const char*> kKinds[] = {
    {"gpt2", "BPE"}, {"llama", "BPE"}, {"t5", "Unigram"}, {"bert", "WordPiece"}};

bool KnownSplit(const std::string& pre) {
  return std::ranges::any_of(GgufPreTokenizers(), [&](const auto& entry) { return pre == entry.name; });
}

// A copy of tokenizer.json beside the keys.
Result<std::string> DescribeCopy(const GgufFile& file, const std::string& json, const Tokenizer& tokenizer) {
  PLANISH_TRY(const std::string kind, file.String("tokenizer.ggml.model", ""));
  PLANISH_TRY(const std::string pre, file.String("tokenizer.ggml.pre", ""));
  PLANISH_TRY(const Json parsed, ParseJson(json));
  const Json type = JsonMember(JsonMember(parsed, "model"), "type");
  const auto* known = std::ranges::find_if(kKinds, [&](const auto& k) { return kind == k.first; });
  if (known != std::end(kKinds) && type.is_string() && type != known->second) {
    return InputError(fmt::format("{}: a model of type {}, but tokenizer.ggml.model '{}' means {}", kCopy,
                                  Abbreviate(DumpJson(type)), kind, known->second));
  }
  const auto tokens = file.metadata().find("tokenizer.ggml.tokens");
  if (tokens != file.metadata().end() && tokens->second.kind == GgufKind::kArray &&
      tokens->second.count < tokenizer.vocab_size()) {
    return InputError(fmt::format("{}: ids up to {}, but there are {} tokenizer.ggml.tokens", kCopy,
                                  tokenizer.vocab_size() - 1, tokens->second.count));
  }
  std::string text =
      fmt::format("{} ({}{} tokens)", kCopy, type.is_string() ? type.get<std::string>() + ", " : "",
                  tokenizer.vocab_size());
  if (known == std::end(kKinds) && !kind.empty() && kind != kGgufNoTokenizer) {
    text += fmt::format("; tokenizer.ggml.model '{}' is not known here, nor needed", Abbreviate(kind));
  } else if (kind == "gpt2" && !pre.empty() && !KnownSplit(pre)) {
    text += fmt::format("; tokenizer.ggml.pre '{}' is not known here, nor needed", Abbreviate(pre));
  }
  return text;
}

}  // namespace

Result<std::string> DescribeGgufTokenizer(const GgufFile& file) {
  PLANISH_TRY(const std::string kind, file.String("tokenizer.ggml.model", kGgufNoTokenizer));
  const bool copy = file.Has(kCopy);
  if (!copy && kind == kGgufNoTokenizer) return std::string("none, ids only");
  PLANISH_TRY(const TokenizerFiles files, TokenizerFilesOf(file));
  PLANISH_TRY(const auto tokenizer, Tokenizer::FromFiles(files, copy ? kCopy : "tokenizer.ggml"));
  if (copy) return DescribeCopy(file, files.json, *tokenizer);
  PLANISH_TRY(const std::string pre, file.String("tokenizer.ggml.pre", ""));
  return fmt::format("{}{}, {} tokens", kind, kind == "gpt2" && !pre.empty() ? " split as " + pre : "",
                     tokenizer->vocab_size());
}

}  // namespace planish

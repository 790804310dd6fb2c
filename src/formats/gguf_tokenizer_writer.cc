#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include "base/json.h"
#include "base/names.h"
#include "formats/gguf_pretokenizers.h"
#include "formats/gguf_tokenizer.h"
#include "formats/tokenizer_decode.h"
#include "formats/tokenizer_vocabulary.h"

namespace planish {
namespace {

using Notes = std::vector<std::string>;

// The rows of the embedding as they are filled in.
struct Rows {
  std::vector<std::string> tokens;
  std::vector<int32_t> types;
  std::vector<float> scores;

  explicit Rows(int64_t count)
      : types(static_cast<size_t>(count), static_cast<int32_t>(PieceType::kUnused)),
        scores(static_cast<size_t>(count)) {
    for (int64_t i = 0; i < count; ++i) tokens.push_back(fmt::format("[PAD{}]", i));
  }
  Status Set(const std::string& token, const Json& id, PieceType type) {
    if (!id.is_number_integer() || id < 0 || id >= tokens.size()) {
      return InputError(fmt::format("id {} of '{}': the embedding has {} rows", Abbreviate(DumpJson(id)),
                                    Abbreviate(token), tokens.size()));
    }
    tokens[id.get<size_t>()] = token;
    types[id.get<size_t>()] = static_cast<int32_t>(type);
    return {};
  }
  void Write(const char* model, bool with_scores, GgufMetadata& metadata) const {
    metadata.String("tokenizer.ggml.model", model);
    metadata.Strings("tokenizer.ggml.tokens", tokens);
    metadata.Ints("tokenizer.ggml.token_type", types);
    if (with_scores) metadata.Floats("tokenizer.ggml.scores", scores);
  }
};

Status SetVocabulary(const Json& vocab, Rows* rows) {
  if (!vocab.is_object()) return InputError("model: expected an object 'vocab'");
  for (const auto& [token, id] : vocab.items())
    PLANISH_RETURN_IF_ERROR(rows->Set(token, id, PieceType::kNormal));
  return {};
}

Status SetAddedTokens(const Json& json, Rows* rows) {
  for (const Json& token : JsonMember(json, "added_tokens")) {
    if (!token.is_object()) return InputError("added_tokens: expected objects");
    PLANISH_TRY(const std::string content, JsonString(token, "content"));
    PLANISH_TRY(const bool special, JsonBool(token, "special", false));
    const PieceType type = special ? PieceType::kControl : PieceType::kUserDefined;
    PLANISH_RETURN_IF_ERROR(rows->Set(content, JsonMember(token, "id"), type));
  }
  return {};
}

Result<std::vector<std::pair<std::string, std::string>>> ReadMerges(const Json& model) {
  std::vector<std::pair<std::string, std::string>> merges;
  for (const auto& merge : JsonMember(model, "merges")) {
    if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
      merges.emplace_back(merge[0].get<std::string>(), merge[1].get<std::string>());
      continue;
    }
    const std::string text = merge.is_string() ? merge.get<std::string>() : "";
    const size_t space = text.find(' ');
    if (space == std::string::npos) return InputError("merges: expected pairs of tokens");
    merges.emplace_back(text.substr(0, space), text.substr(space + 1));
  }
  return merges;
}

void AddIds(const GgufTokenIds& ids, GgufMetadata& metadata) {
  if (ids.bos >= 0) metadata.Int("tokenizer.ggml.bos_token_id", ids.bos);
  if (ids.eos >= 0) metadata.Int("tokenizer.ggml.eos_token_id", ids.eos);
  if (ids.pad >= 0) metadata.Int("tokenizer.ggml.padding_token_id", ids.pad);
}

void AddEnds(const PostProcessor& post, const GgufTokenIds& ids, GgufMetadata& metadata) {
  AddIds(ids, metadata);
  metadata.Bool("tokenizer.ggml.add_bos_token", !post.prefix.empty());
  metadata.Bool("tokenizer.ggml.add_eos_token", !post.suffix.empty());
}

Status AddByteLevel(const Json& json, const Json& model, Rows rows, GgufMetadata& metadata) {
  PLANISH_TRY(const bool ignore_merges, JsonBool(model, "ignore_merges", false));
  const auto known = GgufPreTokenizers();
  const Json pre = JsonMember(json, "pre_tokenizer");
  const auto found = std::ranges::find_if(known, [&](const auto& entry) {
    return entry.ignore_merges == ignore_merges && SplitsLike(pre, *entry.split);
  });
  if (found == known.end()) return InputError("its pre_tokenizer is none that GGUF files have a name for");
  PLANISH_TRY(const auto merges, ReadMerges(model));
  std::vector<std::string> lines;
  for (const auto& [left, right] : merges) lines.push_back(left + " " + right);
  rows.Write("gpt2", false, metadata);
  metadata.String("tokenizer.ggml.pre", found->name);
  metadata.Strings("tokenizer.ggml.merges", lines);
  return {};
}

// How a tokenizer of characters treats spaces: whether one is put in front; nullopt: not as SentencePiece
// does.
std::optional<bool> SpacePrefix(const Json& json) {
  const Json normalizer = JsonMember(json, "normalizer"), pre = JsonMember(json, "pre_tokenizer");
  if (JsonMember(pre, "type") == "Metaspace") {
    const Json scheme = JsonMember(pre, "prepend_scheme");
    return scheme.is_null() ? JsonMember(pre, "add_prefix_space") != false : scheme != "never";
  }
  bool prepend = false, replace = false;
  const Json steps =
      JsonMember(normalizer, "type") == "Sequence" ? JsonMember(normalizer, "normalizers") : Json{normalizer};
  for (const Json& step : steps) {
    prepend |= JsonMember(step, "type") == "Prepend" && JsonMember(step, "prepend") == kSpaceSymbol;
    replace |= JsonMember(step, "type") == "Replace" &&
               JsonMember(JsonMember(step, "pattern"), "String") == " " &&
               JsonMember(step, "content") == kSpaceSymbol;
  }
  return replace ? std::optional(prepend) : std::nullopt;
}

// True when joining by scores does what the merges do: every cut of a token in two known ones is a merge, and
// merges of one token stand together.
bool ScoresDecide(const std::vector<std::pair<std::string, std::string>>& merges, const Json& vocab) {
  const std::set<std::pair<std::string, std::string>> known(merges.begin(), merges.end());
  std::set<std::string> joined;
  for (size_t i = 0; i < merges.size(); ++i) {
    const std::string token = merges[i].first + merges[i].second;
    const bool fresh = i == 0 || token != merges[i - 1].first + merges[i - 1].second;
    if (fresh && !joined.insert(token).second) return false;
    for (size_t at = 1; fresh && at < token.size(); ++at) {
      const std::string left = token.substr(0, at), right = token.substr(at);
      if (vocab.contains(left) && vocab.contains(right) && !known.contains({left, right})) return false;
    }
  }
  return true;
}

Result<Notes> AddCharacterBpe(const Json& json, const Json& model, Rows rows, GgufMetadata& metadata) {
  const auto prefix = SpacePrefix(json);
  if (!prefix) return InputError("its normalizer and pre_tokenizer are none that GGUF files have keys for");
  PLANISH_TRY(const auto merges, ReadMerges(model));
  const Json vocab = JsonMember(model, "vocab");
  // Tokens that no merge makes come last.
  for (float& score : rows.scores) score = -static_cast<float>(merges.size());
  for (size_t i = merges.size(); i > 0; --i) {
    const auto id = vocab.find(merges[i - 1].first + merges[i - 1].second);
    if (id != vocab.end()) rows.scores[id->get<size_t>()] = -static_cast<float>(i - 1);
  }
  const Json unk = JsonMember(model, "unk_token");
  for (size_t i = 0; i < rows.tokens.size(); ++i) {
    if (rows.tokens[i] == unk) {
      rows.types[i] = static_cast<int32_t>(PieceType::kUnknown);
      metadata.Int("tokenizer.ggml.unknown_token_id", static_cast<int64_t>(i));
    } else if (FallbackByte(rows.tokens[i]) && JsonMember(model, "byte_fallback") == true) {
      rows.types[i] = static_cast<int32_t>(PieceType::kByte);
    }
  }
  rows.Write("llama", true, metadata);
  metadata.Bool("tokenizer.ggml.add_space_prefix", *prefix);
  if (ScoresDecide(merges, vocab)) return Notes();
  return Notes{
      "tokenizer: its merges are not those that scores of pieces give; other programs may cut some words "
      "otherwise"};
}

Status AddUnigram(const Json& json, const Json& model, Rows rows, GgufMetadata& metadata) {
  const auto prefix = SpacePrefix(json);
  if (!prefix) return InputError("its normalizer and pre_tokenizer are none that GGUF files have keys for");
  int64_t id = 0;
  for (const Json& piece : JsonMember(model, "vocab")) {
    if (!piece.is_array() || piece.size() != 2 || !piece[0].is_string() || !piece[1].is_number()) {
      return InputError("model: vocab: expected [piece, score]");
    }
    const auto text = piece[0].get<std::string>();
    const bool byte = FallbackByte(text) && JsonMember(model, "byte_fallback") == true;
    PLANISH_RETURN_IF_ERROR(rows.Set(text, id, byte ? PieceType::kByte : PieceType::kNormal));
    rows.scores[static_cast<size_t>(id++)] = piece[1].get<float>();
  }
  PLANISH_RETURN_IF_ERROR(SetAddedTokens(json, &rows));
  const Json unk = JsonMember(model, "unk_id");
  if (unk.is_number_integer() && unk >= 0 && unk < rows.tokens.size()) {
    rows.types[unk.get<size_t>()] = static_cast<int32_t>(PieceType::kUnknown);
    metadata.Int("tokenizer.ggml.unknown_token_id", unk.get<int64_t>());
  }
  rows.Write("t5", true, metadata);
  metadata.Bool("tokenizer.ggml.add_space_prefix", *prefix);
  return {};
}

Status AddWordPiece(const Json& json, const Json& model, Rows rows, const PostProcessor& post,
                    GgufMetadata& metadata) {
  if (JsonMember(JsonMember(json, "normalizer"), "type") != "BertNormalizer" ||
      JsonMember(JsonMember(json, "pre_tokenizer"), "type") != "BertPreTokenizer") {
    return InputError("WordPiece without BERT's normalizer and pre_tokenizer has no keys in GGUF");
  }
  PLANISH_TRY(const std::string unk, JsonString(model, "unk_token", "[UNK]"));
  for (size_t i = 0; i < rows.tokens.size(); ++i) {
    std::string& token = rows.tokens[i];
    if (token == unk) metadata.Int("tokenizer.ggml.unknown_token_id", static_cast<int64_t>(i));
    if (token.starts_with("##")) {
      token.erase(0, 2);
    } else if (!(token.starts_with('[') && token.ends_with(']'))) {
      token.insert(0, kSpaceSymbol);
    }
  }
  rows.Write("bert", false, metadata);
  if (!post.prefix.empty()) metadata.Int("tokenizer.ggml.cls_token_id", post.prefix[0]);
  if (!post.suffix.empty()) metadata.Int("tokenizer.ggml.seperator_token_id", post.suffix[0]);
  metadata.Bool("tokenizer.ggml.add_sep_token", !post.suffix.empty());
  return {};
}

// `text`: what `json` was read from.
Result<Notes> AddJson(const Json& json, const std::string& text, int64_t vocab, const GgufTokenIds& ids,
                      GgufMetadata& metadata) {
  const Json model = JsonMember(json, "model");
  if (!model.is_object()) return InputError("expected an object 'model'");
  PLANISH_TRY(const PostProcessor post, PostProcessor::Parse(JsonMember(json, "post_processor"), vocab));
  Rows rows(vocab);
  Notes notes;
  if (JsonMember(model, "vocab").is_array()) {
    PLANISH_RETURN_IF_ERROR(AddUnigram(json, model, std::move(rows), metadata));
  } else {
    PLANISH_RETURN_IF_ERROR(SetVocabulary(JsonMember(model, "vocab"), &rows));
    PLANISH_RETURN_IF_ERROR(SetAddedTokens(json, &rows));
    if (!JsonMember(model, "merges").is_array()) {
      if (JsonMember(model, "type") != "WordPiece") {
        return InputError("expected a model with merges (BPE), Unigram or WordPiece");
      }
      PLANISH_RETURN_IF_ERROR(AddWordPiece(json, model, std::move(rows), post, metadata));
    } else if (JsonMember(JsonMember(json, "decoder"), "type") == "ByteLevel") {
      PLANISH_RETURN_IF_ERROR(AddByteLevel(json, model, std::move(rows), metadata));
    } else {
      PLANISH_TRY(notes, AddCharacterBpe(json, model, std::move(rows), metadata));
    }
  }
  AddEnds(post, ids, metadata);
  metadata.String("tokenizer.huggingface.json", text);
  return notes;
}

Result<Notes> AddPieces(const TokenizerFiles& files, int64_t vocab, GgufTokenIds ids,
                        GgufMetadata& metadata) {
  PLANISH_TRY(SentencePieceModel model, SentencePieceModel::Parse(files.model));
  PLANISH_TRY(const std::string added_tokens, ApplyTokenizerConfig(files, &model));
  PLANISH_TRY(const Json added, ParseJson(added_tokens));
  const PieceNormalization& normalization = model.normalization;
  if (!normalization.escape_whitespaces || normalization.treat_whitespace_as_suffix) {
    return InputError("GGUF has no keys for spaces that stay spaces or stand behind words");
  }
  Rows rows(vocab);
  for (size_t i = 0; i < model.pieces.size(); ++i) {
    const Piece& piece = model.pieces[i];
    PLANISH_RETURN_IF_ERROR(rows.Set(piece.text, i, piece.type));
    rows.scores[i] = piece.score;
  }
  for (const Json& token : added) {
    if (JsonMember(token, "id").is_number_integer() && token["id"] < model.pieces.size()) continue;
    PLANISH_RETURN_IF_ERROR(SetAddedTokens({{"added_tokens", Json::array({token})}}, &rows));
  }
  const bool bpe = model.kind == SentencePieceModel::Kind::kBpe;
  rows.Write(bpe ? "llama" : "t5", true, metadata);
  metadata.Int("tokenizer.ggml.unknown_token_id", model.unk);
  metadata.Bool("tokenizer.ggml.add_space_prefix", normalization.add_dummy_prefix);
  metadata.Bool("tokenizer.ggml.remove_extra_whitespaces", normalization.remove_extra_whitespaces);
  if (!normalization.charsmap.empty()) {
    metadata.Bytes("tokenizer.ggml.precompiled_charsmap", normalization.charsmap);
  }
  PostProcessor post;
  if (model.add_bos && model.bos >= 0) post.prefix = {model.bos};
  if (model.add_eos && model.eos >= 0) post.suffix = {model.eos};
  if (model.bos >= 0) ids.bos = model.bos;
  if (model.eos >= 0) ids.eos = model.eos;
  AddEnds(post, ids, metadata);
  if (!bpe || (normalization.charsmap.empty() && !normalization.remove_extra_whitespaces)) return Notes();
  return Notes{"tokenizer: other programs ignore its character map and keep extra spaces"};
}

}  // namespace

Result<Notes> AddTokenizer(const TokenizerFiles& files, int64_t vocab, const GgufTokenIds& ids,
                           GgufMetadata& metadata) {
  if (files.json.empty()) {
    auto notes = AddPieces(files, vocab, ids, metadata);
    if (!notes.ok()) return notes.error().At("tokenizer.model");
    return notes;
  }
  auto json = ParseJson(files.json);
  if (!json.ok()) return json.error().At("tokenizer.json");
  PLANISH_TRY(const bool added, AddConfigTokens(files, &*json));
  auto notes = AddJson(*json, added ? DumpJson(*json) : files.json, vocab, ids, metadata);
  if (!notes.ok()) return notes.error().At("tokenizer.json");
  return notes;
}

void AddNoTokenizer(const GgufTokenIds& ids, GgufMetadata& metadata) {
  metadata.String("tokenizer.ggml.model", kGgufNoTokenizer);
  AddIds(ids, metadata);
}

}  // namespace planish

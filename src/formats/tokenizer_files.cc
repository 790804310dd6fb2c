#include "formats/tokenizer_files.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <unordered_map>
#include <unordered_set>

#include "base/file.h"
#include "base/json.h"
#include "base/names.h"
#include "formats/gguf_folder.h"
#include "formats/gguf_tokenizer.h"
#include "formats/tokenizer_vocabulary.h"

namespace planish {
namespace {

// The largest tokenizers have some 256,000 tokens and files of 35 MB.
constexpr int64_t kMaxFileBytes = int64_t{512} << 20;

Status Located(Status status, const std::string& place) {
  return status.ok() ? status : status.error().At(place);
}

// The file's content, or nothing where there is no such file.
Status ReadIfThere(const std::string& folder, const char* name, std::string* content) {
  const std::string path = JoinPath(folder, name);
  if (!FileExists(path)) return {};
  PLANISH_TRY(*content, ReadTextFile(path, kMaxFileBytes));
  return {};
}

// An object from the text of a file; empty text: an empty object.
Result<Json> ParseObject(const std::string& text, const char* name) {
  if (text.empty()) return Json::object();
  auto json = ParseJson(text);
  if (!json.ok()) return json.error().At(name);
  if (!json->is_object()) return InputError(fmt::format("{}: expected an object", name));
  return json;
}

// "bos_token" and the like: a string or {"content": string}.
std::optional<std::string> NamedToken(const Json& config, const char* key) {
  const auto it = config.find(key);
  if (it == config.end()) return std::nullopt;
  const auto content = it->is_object() ? it->find("content") : it->end();
  const Json& text = it->is_object() && content != it->end() ? *content : *it;
  if (!text.is_string()) return std::nullopt;
  return text.get<std::string>();
}

Json AddedTokenEntry(const std::string& content, int64_t id, bool special) {
  return {{"id", id},        {"content", content},  {"single_word", false}, {"lstrip", false},
          {"rstrip", false}, {"normalized", false}, {"special", special}};
}

// Of added_tokens_decoder ({"id": token}), or else of added_tokens.json ({token: id}).
Result<Json> AddedTokens(const Json& config, const Json& added_tokens) {
  Json list = Json::array();
  const auto decoder = config.find("added_tokens_decoder");
  if (decoder == config.end()) {
    for (const auto& [token, id] : added_tokens.items()) {
      if (!id.is_number_integer()) {
        return InputError(fmt::format("added_tokens.json: '{}': expected an id, found {}", Abbreviate(token),
                                      Abbreviate(DumpJson(id))));
      }
      list.push_back(AddedTokenEntry(token, id.get<int64_t>(), false));
    }
    return list;
  }
  if (!decoder->is_object())
    return InputError("tokenizer_config.json: added_tokens_decoder: expected an object");
  for (const auto& [key, token] : decoder->items()) {
    const bool digits = !key.empty() && key.size() < 10 &&
                        std::ranges::all_of(key, [](char c) { return c >= '0' && c <= '9'; });
    if (!digits || !token.is_object()) {
      return InputError(
          fmt::format("tokenizer_config.json: added_tokens_decoder['{}']: expected an id and an object",
                      Abbreviate(key)));
    }
    Json item = token;
    item["id"] = std::stoll(key);
    list.push_back(std::move(item));
  }
  return list;
}

// What a tokenizer.json says of some tokens, both ways.
struct KnownTokens {
  std::unordered_map<int64_t, std::string> text;
  std::unordered_map<std::string, int64_t> id;

  void Note(const std::string& token, const Json& number) {
    if (!number.is_number_integer()) return;  // an error where the tokenizer is read
    text.emplace(number.get<int64_t>(), token);
    id.emplace(token, number.get<int64_t>());
  }
};

KnownTokens AddedIn(const Json& tokenizer_json) {
  KnownTokens known;
  const Json list = JsonMember(tokenizer_json, "added_tokens");
  for (const Json& token : list.is_array() ? list : Json::array()) {
    const Json content = JsonMember(token, "content");
    if (content.is_string()) known.Note(content.get<std::string>(), JsonMember(token, "id"));
  }
  return known;
}

// Adds the tokens of the vocabulary, {token: id} or [[token, score]], that have an id or text of `entries`.
void NoteVocabulary(const Json& tokenizer_json, const Json& entries, KnownTokens& known) {
  std::unordered_set<int64_t> ids;
  std::unordered_set<std::string> texts;
  for (const Json& entry : entries) {
    ids.insert(entry["id"].get<int64_t>());
    texts.insert(entry["content"].get<std::string>());
  }
  const auto model = tokenizer_json.find("model");
  if (model == tokenizer_json.end() || !model->is_object()) return;
  const auto vocab = model->find("vocab");
  if (vocab == model->end()) return;
  const auto note = [&](const std::string& token, const Json& id) {
    if (!id.is_number_integer()) return;
    if (ids.contains(id.get<int64_t>()) || texts.contains(token)) known.Note(token, id);
  };
  if (vocab->is_object()) {
    for (const auto& [token, id] : vocab->items()) note(token, id);
  } else if (vocab->is_array()) {
    for (size_t i = 0; i < vocab->size(); ++i) {
      const Json& piece = (*vocab)[i];
      if (piece.is_array() && !piece.empty() && piece[0].is_string()) note(piece[0].get<std::string>(), i);
    }
  }
}

std::string DecoderPlace(int64_t id) {
  return fmt::format("tokenizer_config.json: added_tokens_decoder['{}']", id);
}

// The entries of added_tokens_decoder, each with an id and a text that can be.
Result<Json> CheckedEntries(const Json& config) {
  PLANISH_TRY(Json entries, AddedTokens(config, Json::object()));
  for (const Json& entry : entries) {
    const std::string place = DecoderPlace(entry["id"].get<int64_t>());
    PLANISH_RETURN_IF_ERROR(ParseTokenId(entry["id"], place));
    const auto content = JsonString(entry, "content");
    if (!content.ok()) return content.error().At(place);
  }
  return entries;
}

struct ClassDefault {
  const char* name;
  bool bos, eos;
};
constexpr ClassDefault kClasses[] = {{"Llama", true, false}, {"CodeLlama", true, false},
                                     {"Gemma", true, false}, {"T5", false, true},
                                     {"Mbart", false, true}, {"Pegasus", false, true}};

}  // namespace

Result<std::string> Gpt2TokenizerJson(const std::string& vocab_json, const std::string& merges_txt) {
  PLANISH_TRY(const Json vocab, ParseObject(vocab_json, "vocab.json"));
  Json merges = Json::array();
  for (size_t at = 0; at < merges_txt.size();) {
    const size_t end = std::min(merges_txt.find('\n', at), merges_txt.size());
    std::string line = merges_txt.substr(at, end - at);
    if (line.ends_with('\r')) line.pop_back();
    if (!line.empty() && !(at == 0 && line.starts_with("#version"))) merges.push_back(std::move(line));
    at = end + 1;
  }
  Json added = Json::array();
  constexpr const char* kEnd = "<|endoftext|>";
  if (const auto it = vocab.find(kEnd); it != vocab.end() && it->is_number_integer()) {
    added.push_back(AddedTokenEntry(kEnd, it->get<int64_t>(), true));
  }
  const Json json = {
      {"added_tokens", added},
      {"normalizer", nullptr},
      {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", true}}},
      {"post_processor", nullptr},
      {"decoder", {{"type", "ByteLevel"}}},
      {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", merges}}}};
  return DumpJson(json);
}

Result<TokenizerFiles> ReadTokenizerFiles(const std::string& path) {
  TokenizerFiles files;
  PLANISH_TRY(const std::string gguf_path, GgufWithTokenizer(path));
  if (!gguf_path.empty()) {
    PLANISH_TRY(const auto gguf, GgufFile::Open(gguf_path));
    auto found = TokenizerFilesOf(*gguf);
    if (!found.ok()) return found.error().At(gguf_path);
    return found;
  }
  PLANISH_RETURN_IF_ERROR(ReadIfThere(path, "tokenizer_config.json", &files.config));
  PLANISH_RETURN_IF_ERROR(ReadIfThere(path, "tokenizer.json", &files.json));
  if (!files.json.empty()) return files;
  PLANISH_RETURN_IF_ERROR(ReadIfThere(path, "tokenizer.model", &files.model));
  if (!files.model.empty()) {
    PLANISH_RETURN_IF_ERROR(ReadIfThere(path, "added_tokens.json", &files.added_tokens));
    return files;
  }
  std::string vocab, merges;
  PLANISH_RETURN_IF_ERROR(ReadIfThere(path, "vocab.json", &vocab));
  PLANISH_RETURN_IF_ERROR(ReadIfThere(path, "merges.txt", &merges));
  if (vocab.empty() || merges.empty()) {
    return InputError(fmt::format(
        "{}: no tokenizer: expected tokenizer.json, tokenizer.model, or vocab.json with merges.txt", path));
  }
  auto json = Gpt2TokenizerJson(vocab, merges);
  if (!json.ok()) return json.error().At(path);
  files.json = *std::move(json);
  return files;
}

Result<bool> AddConfigTokens(const TokenizerFiles& files, Json* tokenizer_json) {
  PLANISH_TRY(const Json config, ParseObject(files.config, "tokenizer_config.json"));
  if (!tokenizer_json->is_object() || !config.contains("added_tokens_decoder")) return false;
  PLANISH_TRY(const Json entries, CheckedEntries(config));
  KnownTokens known = AddedIn(*tokenizer_json);
  Json fresh = Json::array();
  for (const Json& entry : entries) {
    if (!known.text.contains(entry["id"].get<int64_t>())) fresh.push_back(entry);
  }
  if (!fresh.empty()) NoteVocabulary(*tokenizer_json, fresh, known);
  for (const Json& entry : entries) {
    const auto id = entry["id"].get<int64_t>();
    const auto content = entry["content"].get<std::string>();
    const auto text = known.text.find(id);
    if (text != known.text.end() && text->second != content) {
      return InputError(fmt::format("{}: found '{}', but tokenizer.json has '{}' for this id",
                                    DecoderPlace(id), Abbreviate(content), Abbreviate(text->second)));
    }
    const auto other = known.id.find(content);
    if (other != known.id.end() && other->second != id) {
      return InputError(fmt::format("{}: found '{}', but tokenizer.json has id {} for it", DecoderPlace(id),
                                    Abbreviate(content), other->second));
    }
  }
  Json& list = (*tokenizer_json)["added_tokens"];
  if (fresh.empty() || !(list.is_null() || list.is_array())) return false;
  for (Json& entry : fresh) list.push_back(std::move(entry));
  return true;
}

Result<std::string> ApplyTokenizerConfig(const TokenizerFiles& files, SentencePieceModel* model) {
  PLANISH_TRY(const Json config, ParseObject(files.config, "tokenizer_config.json"));
  PLANISH_TRY(const Json added_tokens, ParseObject(files.added_tokens, "added_tokens.json"));
  const bool bpe = model->kind == SentencePieceModel::Kind::kBpe;
  ClassDefault defaults{"", bpe, !bpe};
  auto class_name = JsonString(config, "tokenizer_class", "");
  if (!class_name.ok()) return class_name.error().At("tokenizer_config.json");
  std::string name = std::move(class_name).value();
  for (const char* end : {"Fast", "Tokenizer"}) {
    if (name.ends_with(end)) name.resize(name.size() - std::string_view(end).size());
  }
  for (const ClassDefault& known : kClasses) {
    if (name == known.name) defaults = known;
  }
  const auto flag = [&](const char* key, bool fallback, bool* to) -> Status {
    PLANISH_TRY(*to, JsonBool(config, key, fallback));
    return {};
  };
  PLANISH_RETURN_IF_ERROR(
      Located(flag("add_bos_token", defaults.bos, &model->add_bos), "tokenizer_config.json"));
  PLANISH_RETURN_IF_ERROR(
      Located(flag("add_eos_token", defaults.eos, &model->add_eos), "tokenizer_config.json"));
  for (const auto& [key, id] : {std::pair{"bos_token", &model->bos}, {"eos_token", &model->eos}}) {
    const auto token = NamedToken(config, key);
    const auto piece = std::ranges::find_if(model->pieces, [&](const Piece& p) { return token == p.text; });
    if (piece != model->pieces.end()) *id = static_cast<int32_t>(piece - model->pieces.begin());
  }
  PLANISH_TRY(const Json list, AddedTokens(config, added_tokens));
  return DumpJson(list);
}

}  // namespace planish

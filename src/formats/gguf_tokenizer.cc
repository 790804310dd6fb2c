#include "formats/gguf_tokenizer.h"

#include <fmt/format.h>

#include "base/names.h"

namespace planish {
namespace {

// How texts are split before merging, by the name that GGUF files give it.
struct Split {
  const char* name;
  const char* pattern;  // null: the byte-level pre-tokenizer's own
  bool single_digits;   // each digit alone, first
  bool ignore_merges;   // words of the vocabulary are taken whole
};
constexpr const char* kLlama3 =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| "
    "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
constexpr const char* kQwen2 =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| "
    "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
constexpr Split kSplits[] = {
    {"gpt-2", nullptr, false, false},    {"smollm", nullptr, true, false},
    {"llama-bpe", kLlama3, false, true}, {"smaug-bpe", kLlama3, false, false},
    {"dbrx", kLlama3, false, false},     {"qwen2", kQwen2, false, false},
};

OrderedJson PreTokenizer(const Split& split) {
  OrderedJson list = OrderedJson::array();
  if (split.single_digits) list.push_back({{"type", "Digits"}, {"individual_digits", true}});
  if (split.pattern != nullptr) {
    list.push_back({{"type", "Split"},
                    {"pattern", {{"Regex", split.pattern}}},
                    {"behavior", "Isolated"},
                    {"invert", false}});
  }
  list.push_back({{"type", "ByteLevel"},
                  {"add_prefix_space", false},
                  {"trim_offsets", true},
                  {"use_regex", split.pattern == nullptr}});
  return {{"type", "Sequence"}, {"pretokenizers", list}};
}

// A member, or null if there is none or `object` is none.
Json Member(const Json& object, const char* key) {
  const auto it = object.is_object() ? object.find(key) : object.end();
  return it == object.end() ? Json() : *it;
}

// True when the pre-tokenizer splits as `split` does.
bool Splits(const Json& pre, const Split& split) {
  const Json inner = Member(pre, "pretokenizers");
  const Json list = Member(pre, "type") == "Sequence" ? inner : Json::array({pre});
  const Json wanted = Json::parse(DumpJson(PreTokenizer(split)))["pretokenizers"];
  if (!list.is_array() || list.size() != wanted.size()) return false;
  for (size_t i = 0; i < list.size(); ++i) {
    for (const char* key : {"type", "pattern", "individual_digits", "use_regex", "add_prefix_space"}) {
      if (Member(list[i], key) != Member(wanted[i], key)) return false;
    }
  }
  return true;
}

constexpr int32_t kNormal = 1, kControl = 3, kUserDefined = 4, kUnused = 5;

}  // namespace

Result<std::string> TokenizerJsonOf(const GgufFile& file) {
  if (file.Has("tokenizer.huggingface.json")) return file.String("tokenizer.huggingface.json");
  PLANISH_TRY(const std::string model, file.String("tokenizer.ggml.model"));
  if (model != "gpt2") {
    return InputError(fmt::format("tokenizer.ggml.model '{}' cannot be read yet, only gpt2 (byte-level)",
                                  Abbreviate(model)));
  }
  PLANISH_TRY(const std::string pre, file.String("tokenizer.ggml.pre", "gpt-2"));
  const Split* split = nullptr;
  for (const auto& known : kSplits) {
    if (pre == known.name) split = &known;
  }
  if (split == nullptr) {
    return InputError(fmt::format("tokenizer.ggml.pre '{}' is not known", Abbreviate(pre)));
  }
  PLANISH_TRY(const auto tokens, file.Strings("tokenizer.ggml.tokens"));
  PLANISH_TRY(const auto merges, file.Strings("tokenizer.ggml.merges"));
  std::vector<double> types;
  if (file.Has("tokenizer.ggml.token_type")) {
    PLANISH_TRY(types, file.Numbers("tokenizer.ggml.token_type"));
  }
  types.resize(tokens.size(), kNormal);
  OrderedJson json, added = OrderedJson::array(), vocab = OrderedJson::object();
  for (size_t i = 0; i < tokens.size(); ++i) {
    const auto type = static_cast<int32_t>(types[i]);
    if (type == kUnused) continue;
    vocab[tokens[i]] = i;
    if (type != kControl && type != kUserDefined) continue;
    added.push_back({{"id", i},
                     {"content", tokens[i]},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", type == kControl}});
  }
  json["version"] = "1.0";
  json["added_tokens"] = added;
  json["normalizer"] = nullptr;
  json["pre_tokenizer"] = PreTokenizer(*split);
  json["post_processor"] = nullptr;
  PLANISH_TRY(const bool add_bos,
              file.Bool("tokenizer.ggml.add_bos_token", std::string(split->name) == "llama-bpe"));
  PLANISH_TRY(const int64_t bos, file.Int("tokenizer.ggml.bos_token_id", -1));
  if (add_bos && bos >= 0 && bos < static_cast<int64_t>(tokens.size())) {
    const std::string& text = tokens[static_cast<size_t>(bos)];
    json["post_processor"] = {
        {"type", "TemplateProcessing"},
        {"single",
         {{{"SpecialToken", {{"id", text}, {"type_id", 0}}}}, {{"Sequence", {{"id", "A"}, {"type_id", 0}}}}}},
        {"pair",
         {{{"Sequence", {{"id", "A"}, {"type_id", 0}}}}, {{"Sequence", {{"id", "B"}, {"type_id", 1}}}}}},
        {"special_tokens", {{text, {{"id", text}, {"ids", {bos}}, {"tokens", {text}}}}}}};
  }
  json["decoder"] = {
      {"type", "ByteLevel"}, {"add_prefix_space", true}, {"trim_offsets", true}, {"use_regex", true}};
  json["model"] = {{"type", "BPE"},
                   {"dropout", nullptr},
                   {"unk_token", nullptr},
                   {"continuing_subword_prefix", nullptr},
                   {"end_of_word_suffix", nullptr},
                   {"fuse_unk", false},
                   {"byte_fallback", false},
                   {"ignore_merges", split->ignore_merges},
                   {"vocab", vocab},
                   {"merges", merges}};
  return DumpJson(json);
}

Result<TokenizerFiles> TokenizerFilesOf(const GgufFile& file) {
  TokenizerFiles files;
  PLANISH_TRY(files.json, TokenizerJsonOf(file));
  return files;
}

Status AddTokenizer(const std::string& text, int64_t vocab, int64_t bos, int64_t eos,
                    GgufMetadata& metadata) {
  PLANISH_TRY(const Json json, ParseJson(text));
  const Json model = Member(json, "model"), vocabulary = Member(model, "vocab");
  PLANISH_TRY(const bool ignore_merges,
              JsonBool(model.is_object() ? model : Json::object(), "ignore_merges", false));
  if (!vocabulary.is_object() || !Member(model, "merges").is_array()) {
    return InputError("tokenizer.json: expected a model with vocab and merges (BPE)");
  }
  const Split* split = nullptr;
  for (const auto& known : kSplits) {
    if (split == nullptr && known.ignore_merges == ignore_merges &&
        Splits(Member(json, "pre_tokenizer"), known)) {
      split = &known;
    }
  }
  if (split == nullptr) {
    return InputError("tokenizer.json: its pre_tokenizer is none that GGUF files have a name for");
  }
  std::vector<std::string> tokens;
  std::vector<int32_t> types(static_cast<size_t>(vocab), kUnused);
  for (int64_t i = 0; i < vocab; ++i) tokens.push_back(fmt::format("[PAD{}]", i));
  const auto add = [&](const std::string& token, const Json& id, int32_t type) -> Status {
    if (!id.is_number_integer() || id < 0 || id >= vocab) {
      return InputError(fmt::format("tokenizer.json: id {} of '{}': the embedding has {} rows",
                                    Abbreviate(DumpJson(id)), Abbreviate(token), vocab));
    }
    tokens[id.get<size_t>()] = token;
    types[id.get<size_t>()] = type;
    return {};
  };
  for (const auto& [token, id] : vocabulary.items()) PLANISH_RETURN_IF_ERROR(add(token, id, kNormal));
  for (const Json& token : Member(json, "added_tokens")) {
    if (!token.is_object()) return InputError("tokenizer.json: added_tokens: expected objects");
    PLANISH_TRY(const std::string content, JsonString(token, "content"));
    PLANISH_TRY(const bool special, JsonBool(token, "special", false));
    PLANISH_RETURN_IF_ERROR(add(content, Member(token, "id"), special ? kControl : kUserDefined));
  }
  std::vector<std::string> merges;
  for (const auto& merge : Member(model, "merges")) {
    if (merge.is_string()) {
      merges.push_back(merge.get<std::string>());
    } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
      merges.push_back(merge[0].get<std::string>() + " " + merge[1].get<std::string>());
    } else {
      return InputError("tokenizer.json: merges: expected pairs of tokens");
    }
  }
  metadata.String("tokenizer.ggml.model", "gpt2");
  metadata.String("tokenizer.ggml.pre", split->name);
  metadata.Strings("tokenizer.ggml.tokens", tokens);
  metadata.Ints("tokenizer.ggml.token_type", types);
  metadata.Strings("tokenizer.ggml.merges", merges);
  if (bos >= 0) metadata.Int("tokenizer.ggml.bos_token_id", bos);
  if (eos >= 0) metadata.Int("tokenizer.ggml.eos_token_id", eos);
  metadata.Bool("tokenizer.ggml.add_bos_token",
                DumpJson(Member(json, "post_processor")).find("SpecialToken\"") != std::string::npos);
  metadata.String("tokenizer.huggingface.json", text);
  return {};
}

}  // namespace planish

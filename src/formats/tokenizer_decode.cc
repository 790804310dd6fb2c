#include "formats/tokenizer_decode.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "formats/tokenizer_unicode.h"
#include "formats/tokenizer_vocabulary.h"

namespace planish {
namespace {

// Bounds what a token can grow to.
constexpr size_t kMaxReplacement = 64;

// Calls `parse` for each object of the list `key`, with its place in errors.
template <typename Parse>
Status ForEach(const Json& json, const char* key, const Parse& parse) {
  const auto it = json.find(key);
  if (it == json.end() || !it->is_array()) return InputError(fmt::format("field '{}': expected a list", key));
  for (size_t i = 0; i < it->size(); ++i) {
    const Status status = parse((*it)[i]);
    if (!status.ok()) return status.error().At(fmt::format("{}[{}]", key, i));
  }
  return {};
}

void ReplaceAll(std::string_view from, std::string_view to, std::string* text) {
  std::string out;
  size_t done = 0;
  for (size_t at = text->find(from); at != std::string::npos; at = text->find(from, done)) {
    out.append(*text, done, at - done).append(to);
    done = at + from.size();
  }
  if (done > 0) *text = out.append(*text, done);
}

// Undoes the spaces that tokenization put before punctuation and contractions, as the reference does.
void CleanUp(std::string* text) {
  for (const auto& [from, to] : {std::pair{" .", "."},
                                 {" ?", "?"},
                                 {" !", "!"},
                                 {" ,", ","},
                                 {" ' ", "'"},
                                 {" n't", "n't"},
                                 {" 'm", "'m"},
                                 {" do not", " don't"},
                                 {" 's", "'s"},
                                 {" 've", "'ve"},
                                 {" 're", "'re"}}) {
    ReplaceAll(from, to, text);
  }
}

// Runs of byte tokens become their characters, or one U+FFFD a byte if the run is not UTF-8.
void JoinBytes(std::vector<std::string>* tokens) {
  std::vector<std::string> joined;
  for (size_t i = 0; i < tokens->size();) {
    std::string run;
    size_t end = i;
    for (std::optional<uint8_t> byte; end < tokens->size() && (byte = FallbackByte((*tokens)[end])); ++end) {
      run.push_back(static_cast<char>(*byte));
    }
    if (end == i) {
      joined.push_back(std::move((*tokens)[i++]));
      continue;
    }
    if (FindInvalidUtf8(run)) {
      joined.insert(joined.end(), run.size(), "\xEF\xBF\xBD");
    } else {
      joined.push_back(std::move(run));
    }
    i = end;
  }
  *tokens = std::move(joined);
}

void StripToken(const DecodeStep& step, bool leading, std::string* token) {
  for (int64_t n = 0; leading && n < step.start && token->starts_with(step.from); ++n) {
    *token = token->substr(step.from.size());
  }
  for (int64_t n = 0; n < step.stop && token->ends_with(step.from); ++n) {
    *token = token->substr(0, token->size() - step.from.size());
  }
}

void WordPieceToken(const DecodeStep& step, bool first, std::string* token) {
  if (!first && token->starts_with(step.from)) {
    *token = token->substr(step.from.size());
  } else if (!first) {
    *token = fmt::format(" {}", *token);
  }
  if (step.flag) CleanUp(token);
}

Status ParseDecoder(const Json& json, Decoder* decoder);

Status ParseDecoderSequence(const Json& json, Decoder* decoder) {
  return ForEach(json, "decoders", [&](const Json& part) { return ParseDecoder(part, decoder); });
}
Status ParseByteLevel(const Json&, Decoder* decoder) {
  decoder->byte_level = true;
  return {};
}
// Alone it joins the tokens, which the concatenation does anyway.
Status ParseFuse(const Json&, Decoder* decoder) {
  if (!decoder->steps.empty()) decoder->steps.push_back({.kind = DecodeStep::kFuse});
  return {};
}
Status ParseReplace(const Json& json, Decoder* decoder) {
  DecodeStep step{.kind = DecodeStep::kReplace};
  const auto it = json.find("pattern");
  if (it == json.end() || !it->is_object() || !it->contains("String") || !(*it)["String"].is_string()) {
    return InputError("Replace: field 'pattern': expected {\"String\": text}");
  }
  step.from = (*it)["String"].get<std::string>();
  if (step.from.empty()) return InputError("Replace: field 'pattern': an empty String matches nothing");
  PLANISH_TRY(step.to, JsonString(json, "content"));
  if (step.to.size() > kMaxReplacement) {
    return InputError(fmt::format("Replace: content of {} bytes; at most {} are accepted", step.to.size(),
                                  kMaxReplacement));
  }
  decoder->steps.push_back(std::move(step));
  return {};
}
Status ParseByteFallback(const Json&, Decoder* decoder) {
  decoder->steps.push_back({.kind = DecodeStep::kByteFallback});
  return {};
}
Status ParseStrip(const Json& json, Decoder* decoder) {
  DecodeStep step{.kind = DecodeStep::kStrip};
  PLANISH_TRY(step.from, JsonString(json, "content"));
  PLANISH_TRY(step.start, JsonInt(json, "start", 0));
  PLANISH_TRY(step.stop, JsonInt(json, "stop", 0));
  if (step.from.empty() || step.start < 0 || step.stop < 0) {
    return InputError("Strip: expected a character 'content' and counts 'start' and 'stop' of 0 or more");
  }
  const bool fused = std::ranges::any_of(
      decoder->steps, [](const DecodeStep& before) { return before.kind == DecodeStep::kFuse; });
  if (fused && step.stop > 0) return InputError("Strip: 'stop' behind Fuse is not supported, expected 0");
  decoder->steps.push_back(std::move(step));
  return {};
}
Status ParseMetaspace(const Json& json, Decoder* decoder) {
  DecodeStep step{.kind = DecodeStep::kMetaspace, .to = " "};
  PLANISH_TRY(step.from, JsonString(json, "replacement", "\xE2\x96\x81"));
  PLANISH_TRY(const bool old_form, JsonBool(json, "add_prefix_space", true));
  PLANISH_TRY(const std::string scheme, JsonString(json, "prepend_scheme", old_form ? "always" : "never"));
  if (step.from.empty()) return InputError("Metaspace: field 'replacement' is empty");
  step.flag = scheme != "never";
  decoder->steps.push_back(std::move(step));
  return {};
}
Status ParseWordPiece(const Json& json, Decoder* decoder) {
  DecodeStep step{.kind = DecodeStep::kWordPiece};
  PLANISH_TRY(step.from, JsonString(json, "prefix", "##"));
  PLANISH_TRY(step.flag, JsonBool(json, "cleanup", true));
  decoder->steps.push_back(std::move(step));
  return {};
}

Status ParseBpe(const Json& json, Decoder* decoder) {
  DecodeStep step{.kind = DecodeStep::kBpe};
  PLANISH_TRY(step.from, JsonString(json, "suffix", "</w>"));
  if (step.from.empty()) return InputError("BPEDecoder: field 'suffix' is empty");
  decoder->steps.push_back(std::move(step));
  return {};
}
Status ParseCtc(const Json& json, Decoder* decoder) {
  DecodeStep step{.kind = DecodeStep::kCtc};
  PLANISH_TRY(step.from, JsonString(json, "pad_token", "<pad>"));
  PLANISH_TRY(step.to, JsonString(json, "word_delimiter_token", "|"));
  PLANISH_TRY(step.flag, JsonBool(json, "cleanup", true));
  if (step.from.empty() || step.to.empty()) {
    return InputError("CTC: field 'pad_token' or 'word_delimiter_token' is empty");
  }
  decoder->steps.push_back(std::move(step));
  return {};
}

constexpr std::pair<const char*, Status (*)(const Json&, Decoder*)> kDecoders[] = {
    {"Sequence", ParseDecoderSequence},
    {"ByteLevel", ParseByteLevel},
    {"Fuse", ParseFuse},
    {"Replace", ParseReplace},
    {"ByteFallback", ParseByteFallback},
    {"Strip", ParseStrip},
    {"Metaspace", ParseMetaspace},
    {"WordPiece", ParseWordPiece},
    {"BPEDecoder", ParseBpe},
    {"CTC", ParseCtc}};

Status ParseDecoder(const Json& json, Decoder* decoder) {
  if (!json.is_object()) return InputError("expected an object");
  const auto type = JsonString(json, "type");
  if (!type.ok()) return type.error();
  std::string known;
  for (const auto& [name, parse] : kDecoders) {
    if (*type == name) return parse(json, decoder);
    known.append(known.empty() ? "" : ", ").append(name);
  }
  return InputError(fmt::format("type '{}' is not supported (known: {})", *type, known));
}

Status AppendSpecial(const Json& json, const Json& part, int64_t vocab_size, std::vector<int32_t>* ids) {
  if (!part.is_object()) return InputError("SpecialToken: expected an object");
  PLANISH_TRY(const std::string name, JsonString(part, "id"));
  const auto specials = json.find("special_tokens");
  if (specials == json.end() || !specials->is_object() || !specials->contains(name) ||
      !(*specials)[name].is_object()) {
    return InputError(fmt::format("special token '{}' is not among special_tokens", name));
  }
  return ForEach((*specials)[name], "ids", [&](const Json& value) -> Status {
    PLANISH_TRY(const int32_t id, ParseTokenId(value, fmt::format("special token '{}'", name)));
    if (id >= vocab_size) {
      return InputError(
          fmt::format("special token '{}': id {} is beyond the vocabulary of {}", name, id, vocab_size));
    }
    ids->push_back(id);
    return {};
  });
}

Status ParseTemplate(const Json& json, int64_t vocab_size, PostProcessor* post) {
  std::vector<int32_t> before, after;
  int sequences = 0;
  PLANISH_RETURN_IF_ERROR(ForEach(json, "single", [&](const Json& part) -> Status {
    if (part.is_object() && part.contains("Sequence")) {
      ++sequences;
      return {};
    }
    if (part.is_object() && part.contains("SpecialToken")) {
      return AppendSpecial(json, part["SpecialToken"], vocab_size, sequences == 0 ? &before : &after);
    }
    return InputError("expected {\"SpecialToken\": ...} or {\"Sequence\": ...}");
  }));
  if (sequences != 1) return InputError(fmt::format("single holds {} sequences, expected 1", sequences));
  post->prefix.insert(post->prefix.begin(), before.begin(), before.end());
  post->suffix.insert(post->suffix.end(), after.begin(), after.end());
  return {};
}

// "cls": [token, id] before the text, "sep": [token, id] behind it.
Status ParseClsSep(const Json& json, int64_t vocab_size, PostProcessor* post) {
  for (const auto& [key, ids] : {std::pair{"cls", &post->prefix}, {"sep", &post->suffix}}) {
    const auto it = json.find(key);
    if (it == json.end() || !it->is_array() || it->size() != 2) {
      return InputError(fmt::format("field '{}': expected [token, id]", key));
    }
    PLANISH_TRY(const int32_t id, ParseTokenId((*it)[1], key));
    if (id >= vocab_size) {
      return InputError(fmt::format("{}: id {} is beyond the vocabulary of {}", key, id, vocab_size));
    }
    ids->push_back(id);
  }
  return {};
}

Status ParsePost(const Json& json, int64_t vocab_size, PostProcessor* post) {
  if (!json.is_object()) return InputError("expected an object");
  PLANISH_TRY(const std::string type, JsonString(json, "type"));
  Status status;
  if (type == "ByteLevel") return {};  // moves offsets only
  if (type == "Sequence") {
    return ForEach(json, "processors", [&](const Json& part) { return ParsePost(part, vocab_size, post); });
  }
  if (type == "BertProcessing" || type == "RobertaProcessing") {
    const Status parsed = ParseClsSep(json, vocab_size, post);
    return parsed.ok() ? parsed : parsed.error().At(type);
  }
  if (type != "TemplateProcessing") {
    return InputError(
        fmt::format("type '{}' is not supported (known: Sequence, ByteLevel, TemplateProcessing, "
                    "BertProcessing, RobertaProcessing)",
                    type));
  }
  status = ParseTemplate(json, vocab_size, post);
  return status.ok() ? status : status.error().At(type);
}

}  // namespace

Result<Decoder> Decoder::Parse(const Json& json) {
  Decoder decoder;
  if (json.is_null()) {
    decoder.separator = " ";
    return decoder;
  }
  const Status status = ParseDecoder(json, &decoder);
  if (!status.ok()) return status.error().At("decoder");
  if (decoder.byte_level && !decoder.simple()) {
    return InputError("decoder: ByteLevel together with other steps is not supported");
  }
  for (const DecodeStep& step : decoder.steps) {
    const bool alone = step.kind == DecodeStep::kBpe || step.kind == DecodeStep::kCtc;
    if (alone && decoder.steps.size() > 1) {
      return InputError("decoder: BPEDecoder or CTC together with other steps is not supported");
    }
  }
  return decoder;
}

std::optional<uint8_t> FallbackByte(std::string_view token) {
  const auto digit = [](char c) {
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                  : -1;
  };
  if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') return std::nullopt;
  const int high = digit(token[3]), low = digit(token[4]);
  if (high < 0 || low < 0) return std::nullopt;
  return static_cast<uint8_t>(high * 16 + low);
}

std::string Decoder::BpeText(std::string token, bool last) const {
  ReplaceAll(steps[0].from, last ? "" : " ", &token);
  return token;
}

// A token that repeats the one before it is the same sound held longer.
std::string Decoder::CtcText(std::string token, const std::string* previous) const {
  if (previous != nullptr && *previous == token) return {};
  ReplaceAll(steps[0].from, "", &token);
  if (!steps[0].flag) return token;
  CleanUp(&token);
  ReplaceAll(steps[0].to, " ", &token);
  return token;
}

std::string Decoder::Text(std::vector<std::string> tokens, bool first) const {
  std::string text;
  if (Is(DecodeStep::kBpe) || Is(DecodeStep::kCtc)) {
    for (size_t i = 0; i < tokens.size(); ++i) {
      text += Is(DecodeStep::kBpe) ? BpeText(tokens[i], i + 1 == tokens.size())
                                   : CtcText(tokens[i], i > 0 ? &tokens[i - 1] : nullptr);
    }
    return text;
  }
  bool fused = false;
  for (const DecodeStep& step : steps) {
    if (step.kind == DecodeStep::kByteFallback) JoinBytes(&tokens);
    if (step.kind == DecodeStep::kFuse) {
      std::string all;
      for (const std::string& token : tokens) all += token;
      tokens.assign(1, std::move(all));
      fused = true;
    }
    for (size_t i = 0; i < tokens.size(); ++i) {
      const bool start = first && i == 0;
      if (step.kind == DecodeStep::kReplace) ReplaceAll(step.from, step.to, &tokens[i]);
      if (step.kind == DecodeStep::kStrip) StripToken(step, start || !fused, &tokens[i]);
      if (step.kind == DecodeStep::kMetaspace) {
        ReplaceAll(step.from, start && step.flag ? "" : step.to, &tokens[i]);
      }
      if (step.kind == DecodeStep::kWordPiece) WordPieceToken(step, start, &tokens[i]);
    }
  }
  for (const std::string& token : tokens) text += token;
  return text;
}

std::string Decoder::Bytes(std::string_view token) const {
  if (!simple()) {
    const auto byte = FallbackByte(token);
    const bool joins = std::ranges::any_of(
        steps, [](const DecodeStep& step) { return step.kind == DecodeStep::kByteFallback; });
    if (byte && joins) return std::string(1, static_cast<char>(*byte));
    return Text({std::string(token)}, false);
  }
  if (byte_level) {
    if (auto bytes = AlphabetToBytes(token)) return *std::move(bytes);
  }
  return std::string(token);
}

Result<PostProcessor> PostProcessor::Parse(const Json& json, int64_t vocab_size) {
  PostProcessor post;
  if (json.is_null()) return post;
  const Status status = ParsePost(json, vocab_size, &post);
  if (!status.ok()) return status.error().At("post_processor");
  return post;
}

}  // namespace planish

#include "formats/tokenizer_decode.h"

#include <fmt/format.h>

#include <utility>

#include "formats/tokenizer_unicode.h"
#include "formats/tokenizer_vocabulary.h"

namespace planish {
namespace {

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

Status ParseDecoder(const Json& json, Decoder* decoder);

Status ParseDecoderSequence(const Json& json, Decoder* decoder) {
  return ForEach(json, "decoders", [&](const Json& part) { return ParseDecoder(part, decoder); });
}
Status ParseByteLevel(const Json&, Decoder* decoder) {
  decoder->byte_level = true;
  return {};
}
// Joins the tokens, which the concatenation does anyway.
Status ParseFuse(const Json&, Decoder*) { return {}; }

constexpr std::pair<const char*, Status (*)(const Json&, Decoder*)> kDecoders[] = {
    {"Sequence", ParseDecoderSequence}, {"ByteLevel", ParseByteLevel}, {"Fuse", ParseFuse}};

Status ParseDecoder(const Json& json, Decoder* decoder) {
  if (!json.is_object()) return InputError("expected an object");
  const auto type = JsonString(json, "type");
  if (!type.ok()) return type.error();
  for (const auto& [name, parse] : kDecoders) {
    if (*type == name) return parse(json, decoder);
  }
  return InputError(fmt::format("type '{}' is not supported (known: Sequence, ByteLevel, Fuse)", *type));
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

Status ParsePost(const Json& json, int64_t vocab_size, PostProcessor* post) {
  if (!json.is_object()) return InputError("expected an object");
  PLANISH_TRY(const std::string type, JsonString(json, "type"));
  Status status;
  if (type == "ByteLevel") return {};  // moves offsets only
  if (type == "Sequence") {
    return ForEach(json, "processors", [&](const Json& part) { return ParsePost(part, vocab_size, post); });
  }
  if (type != "TemplateProcessing") {
    return InputError(
        fmt::format("type '{}' is not supported (known: Sequence, ByteLevel, TemplateProcessing)", type));
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
  return decoder;
}

std::string Decoder::Bytes(std::string_view token) const {
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

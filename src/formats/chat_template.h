// The chat template of a model: where it is found, what it is given, and the ids of what it renders.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/json.h"
#include "formats/gguf.h"
#include "formats/template.h"
#include "formats/tokenizer.h"

namespace planish {

struct ChatOptions {
  bool add_generation_prompt = true;
  OrderedJson tools;                          // a list of JSON schemas; null: none
  OrderedJson extra = OrderedJson::object();  // further variables by name, enable_thinking for example
  std::optional<TemplateTime> now;            // for templates that print the date
};

// The templates of a model as they are stored, for conversions: not parsed.
struct StoredTemplates {
  std::vector<std::pair<std::string, std::string>> named;  // name, text; "default": what is used unless told
  OrderedJson special_tokens = OrderedJson::object();      // bos_token, eos_token, ...: their texts
};
// Of a model folder or GGUF file; none is no error. Errors: files that cannot be read.
Result<StoredTemplates> ReadStoredTemplates(const std::string& model_path);
// Adds tokenizer.chat_template, tokenizer.chat_template.NAME and the list of names tokenizer.chat_templates.
// Characters of names besides letters and digits become '_', as in llama.cpp's converter.
void AddTemplates(const StoredTemplates& templates, GgufMetadata& metadata);
// Writes chat_template.jinja and additional_chat_templates/NAME.jinja, names changed in the same way.
Status WriteTemplates(const StoredTemplates& templates, const std::string& folder);

// Never changes after it is loaded; any number of threads may use it at once.
class ChatTemplate {
 public:
  // The template of a model folder or GGUF file. Folders: chat_template.jinja, else chat_template.json, else
  // `chat_template` of tokenizer_config.json (a string, or a list of named ones). `name` picks one of several
  // (also additional_chat_templates/NAME.jinja, and tokenizer.chat_template.NAME of GGUF files); empty: the
  // one named "default". Errors: there is none, with the places looked at and the names found; what
  // Template::Parse refuses.
  static Result<ChatTemplate> Load(const std::string& model_path, const std::string& name = "");
  // A template in a file of its own, with the special tokens of the model.
  static Result<ChatTemplate> LoadFile(const std::string& model_path, const std::string& template_path);

  // `messages`: a list of {"role": ..., "content": ..., ...}; a content of null is as if not there. Errors:
  // as of Template::Render, with the template's place in front.
  Result<std::string> Render(const OrderedJson& messages, const ChatOptions& options) const;
  // Ids of a rendered text: special tokens that it spells out become their ids, and none is added, so that a
  // template that writes the BOS token gets it once.
  static Result<std::vector<int32_t>> Encode(const Tokenizer& tokenizer, std::string_view rendered);

  // Tokens that end an answer: the model's eos_token, and the special token that the template puts behind an
  // assistant's message.
  std::vector<int32_t> EndTokens(const Tokenizer& tokenizer) const;

  // Where it was found, for messages.
  const std::string& place() const { return place_; }
  // bos_token, eos_token, ...: the variables a template is given besides the messages.
  const OrderedJson& special_tokens() const { return special_tokens_; }

 private:
  ChatTemplate(std::string place, Template parsed, OrderedJson special_tokens)
      : place_(std::move(place)), template_(std::move(parsed)), special_tokens_(std::move(special_tokens)) {}
  std::string place_;
  Template template_;
  OrderedJson special_tokens_;
};

}  // namespace planish

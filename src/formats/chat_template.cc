#include "formats/chat_template.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <map>

#include "base/file.h"
#include "base/names.h"
#include "formats/gguf.h"
#include "formats/gguf_folder.h"

namespace planish {
namespace {

constexpr int64_t kMaxConfigBytes = int64_t{64} << 20;

struct Source {
  std::string place, text;
};
// Templates by name, in the order found; the first of a name counts.
struct Found {
  std::vector<std::pair<std::string, Source>> named;
  OrderedJson special_tokens = OrderedJson::object();

  void Add(const std::string& name, Source source) {
    if (Get(name) == nullptr) named.emplace_back(name, std::move(source));
  }
  const Source* Get(const std::string& name) const {
    const auto it = std::ranges::find(named, name, &std::pair<std::string, Source>::first);
    return it == named.end() ? nullptr : &it->second;
  }
};

constexpr const char* kDefault = "default";
constexpr const char* kGgufTemplate = "tokenizer.chat_template";
constexpr const char* kTokens[] = {"bos_token", "eos_token", "unk_token", "sep_token",
                                   "pad_token", "cls_token", "mask_token"};

Result<Json> ReadConfig(const std::string& path) {
  PLANISH_TRY(const std::string text, ReadTextFile(path, kMaxConfigBytes));
  auto json = ParseJson(text);
  if (!json.ok()) return json.error().At(path);
  if (!json->is_object()) return InputError(path + ": expected an object");
  return json;
}

// `chat_template`: a string, or a list of {"name", "template"}.
Status ReadTemplates(const Json& config, const std::string& path, Found& found) {
  const auto it = config.find("chat_template");
  if (it == config.end() || it->is_null()) return {};
  const std::string place = path + ": chat_template";
  if (it->is_string()) {
    found.Add(kDefault, {place, it->get<std::string>()});
    return {};
  }
  const std::string wanted = "expected a string or a list of {name, template}";
  if (!it->is_array()) return InputError(fmt::format("{}: {}, found {}", place, wanted, it->type_name()));
  for (size_t i = 0; i < it->size(); ++i) {
    const Json& entry = (*it)[i];
    const std::string at = fmt::format("{}: entry {}", place, i);
    if (!entry.is_object()) return InputError(fmt::format("{}: {}, found {}", at, wanted, entry.type_name()));
    const auto name = JsonString(entry, "name"), text = JsonString(entry, "template");
    if (!name.ok()) return name.error().At(at);
    if (!text.ok()) return text.error().At(at);
    found.Add(*name, {fmt::format("{}: '{}'", place, Abbreviate(*name, 60)), *text});
  }
  return {};
}

// A special token is its text, or an object with `content`; empty ones are as if not there.
std::string TokenText(const Json& token) {
  if (token.is_string()) return token.get<std::string>();
  const auto content = token.is_object() ? token.find("content") : token.end();
  if (!token.is_object() || content == token.end() || !content->is_string()) return "";
  return content->get<std::string>();
}

void ReadTokens(const Json& config, OrderedJson& tokens) {
  const auto add = [&](const std::string& name, const Json& token) {
    const std::string text = TokenText(token);
    if (!text.empty() && !tokens.contains(name)) tokens[name] = text;
  };
  for (const char* name : kTokens) {
    if (const auto it = config.find(name); it != config.end()) add(name, *it);
  }
  const auto extra = config.find("extra_special_tokens");
  if (extra == config.end() || !extra->is_object()) return;
  for (const auto& [name, token] : extra->items()) add(name, token);
}

Result<Found> SearchFolder(const std::string& folder, const std::string& name) {
  Found found;
  const std::string jinja = JoinPath(folder, "chat_template.jinja");
  if (FileExists(jinja)) {
    PLANISH_TRY(std::string text, ReadTextFile(jinja, kMaxConfigBytes));
    found.Add(kDefault, {jinja, std::move(text)});
  }
  const bool plain_name = name.find('/') == std::string::npos;
  const std::string additional = JoinPath(folder, "additional_chat_templates/" + name + ".jinja");
  if (!name.empty() && plain_name && FileExists(additional)) {
    PLANISH_TRY(std::string text, ReadTextFile(additional, kMaxConfigBytes));
    found.Add(name, {additional, std::move(text)});
  }
  for (const char* file : {"chat_template.json", "tokenizer_config.json", "special_tokens_map.json"}) {
    const std::string path = JoinPath(folder, file);
    if (!FileExists(path)) continue;
    PLANISH_TRY(const Json config, ReadConfig(path));
    PLANISH_RETURN_IF_ERROR(ReadTemplates(config, path, found));
    ReadTokens(config, found.special_tokens);
  }
  return found;
}

Result<Found> SearchGguf(const std::string& path) {
  PLANISH_TRY(const auto file, GgufFile::Open(path));
  Found found;
  const std::string key = kGgufTemplate;
  for (const auto& [name, value] : file->metadata()) {
    const bool is_default = name == key;
    if (!is_default && !name.starts_with(key + ".")) continue;
    auto text = file->String(name);
    if (!text.ok()) return text.error().At(path);
    found.Add(is_default ? kDefault : name.substr(key.size() + 1), {path + ": " + name, std::move(*text)});
  }
  if (!file->Has("tokenizer.ggml.tokens")) return found;
  auto tokens = file->Strings("tokenizer.ggml.tokens");
  if (!tokens.ok()) return tokens.error().At(path);
  constexpr std::pair<const char*, const char*> kIds[] = {
      {"bos", "bos_token"},       {"eos", "eos_token"},     {"unknown", "unk_token"},
      {"seperator", "sep_token"}, {"padding", "pad_token"}, {"mask", "mask_token"}};  // spelled so there
  for (const auto& [gguf_name, name] : kIds) {
    const auto id = file->Int(fmt::format("tokenizer.ggml.{}_token_id", gguf_name), -1);
    if (!id.ok()) return id.error().At(path);
    if (*id >= 0 && *id < static_cast<int64_t>(tokens->size())) {
      found.special_tokens[name] = (*tokens)[static_cast<size_t>(*id)];
    }
  }
  return found;
}

// Of a folder that holds none but a GGUF file, that file's.
Result<Found> Search(const std::string& model_path, const std::string& name) {
  if (FileExists(model_path)) return SearchGguf(model_path);
  PLANISH_TRY(Found found, SearchFolder(model_path, name));
  if (!found.named.empty()) return found;
  PLANISH_TRY(const std::string gguf, GgufOfFolder(model_path));
  if (gguf.empty()) return found;
  PLANISH_TRY(Found inside, SearchGguf(gguf));
  for (const auto& [token, text] : found.special_tokens.items()) inside.special_tokens[token] = text;
  return inside;
}

// "additional_chat_templates/NAME.jinja" of a folder.
constexpr const char* kAdditional = "additional_chat_templates";
Result<std::vector<std::string>> AdditionalNames(const std::string& folder) {
  std::vector<std::string> names;
  const std::string path = JoinPath(folder, kAdditional);
  std::error_code error;
  if (!std::filesystem::is_directory(path, error)) return names;
  for (auto it = std::filesystem::directory_iterator(path, error);
       it != std::filesystem::directory_iterator(); it.increment(error)) {
    if (error) break;
    if (it->path().extension() == ".jinja") names.push_back(it->path().stem().string());
  }
  if (error) return InputError(fmt::format("{}: cannot list: {}", path, error.message()));
  std::ranges::sort(names);
  return names;
}

// A name as GGUF keys and files have it.
std::string PlainName(std::string name) {
  std::ranges::replace_if(
      name, [](unsigned char c) { return std::isalnum(c) == 0; }, '_');
  return name;
}

// Every template under its plain name; the first of a name counts.
std::map<std::string, std::string> PlainNames(const StoredTemplates& templates) {
  std::map<std::string, std::string> plain;
  for (const auto& [name, text] : templates.named) plain.emplace(PlainName(name), text);
  plain.erase("");
  return plain;
}

// A message without content has no such member, as transformers has it since version 5.
OrderedJson WithoutNullContent(const OrderedJson& messages) {
  OrderedJson kept = messages;
  for (OrderedJson& message : kept) {
    const bool null = message.is_object() && message.contains("content") && message["content"].is_null();
    if (null) message.erase("content");
  }
  return kept;
}

Result<Template> ParseSource(const Source& source) {
  auto parsed = Template::Parse(source.text);
  if (!parsed.ok()) return parsed.error().At(source.place);
  return parsed;
}

}  // namespace

Result<StoredTemplates> ReadStoredTemplates(const std::string& model_path) {
  PLANISH_TRY(Found found, Search(model_path, ""));
  if (!FileExists(model_path)) {
    PLANISH_TRY(const auto names, AdditionalNames(model_path));
    for (const std::string& name : names) {
      const std::string path = JoinPath(model_path, fmt::format("{}/{}.jinja", kAdditional, name));
      PLANISH_TRY(std::string text, ReadTextFile(path, kMaxConfigBytes));
      found.Add(name, {path, std::move(text)});
    }
  }
  StoredTemplates stored;
  for (auto& [name, source] : found.named) stored.named.emplace_back(name, std::move(source.text));
  stored.special_tokens = std::move(found.special_tokens);
  return stored;
}

void AddTemplates(const StoredTemplates& templates, GgufMetadata& metadata) {
  std::vector<std::string> names;
  for (const auto& [name, text] : PlainNames(templates)) {
    if (name == kDefault) {
      metadata.String(kGgufTemplate, text);
    } else {
      metadata.String(fmt::format("{}.{}", kGgufTemplate, name), text);
      names.push_back(name);
    }
  }
  if (!names.empty()) metadata.Strings("tokenizer.chat_templates", names);
}

Status WriteTemplates(const StoredTemplates& templates, const std::string& folder) {
  for (const auto& [name, text] : PlainNames(templates)) {
    if (name == kDefault) {
      PLANISH_RETURN_IF_ERROR(WriteFileAtomically(JoinPath(folder, "chat_template.jinja"), text));
      continue;
    }
    const std::string additional = JoinPath(folder, kAdditional);
    PLANISH_RETURN_IF_ERROR(MakeDirectories(additional));
    PLANISH_RETURN_IF_ERROR(WriteFileAtomically(JoinPath(additional, name + ".jinja"), text));
  }
  return {};
}

Result<ChatTemplate> ChatTemplate::Load(const std::string& model_path, const std::string& name) {
  PLANISH_TRY(Found found, Search(model_path, name));
  const std::string wanted = name.empty() ? kDefault : name;
  const Source* source = found.Get(wanted);
  if (source == nullptr && !found.named.empty()) {
    std::vector<std::string> names;
    for (const auto& one : found.named) names.push_back(Abbreviate(one.first, 60));
    return InputError(fmt::format("{}: there is no chat template '{}'; found: {}", model_path, wanted,
                                  fmt::join(names, ", ")));
  }
  if (source == nullptr) {
    return InputError(
        fmt::format("{}: found no chat template; looked at {}. Give one in a file, or continue plain "
                    "text with `generate`",
                    model_path,
                    FileExists(model_path) ? "tokenizer.chat_template"
                                           : "chat_template.jinja, chat_template.json and "
                                             "chat_template of tokenizer_config.json"));
  }
  PLANISH_TRY(Template parsed, ParseSource(*source));
  return ChatTemplate(source->place, std::move(parsed), std::move(found.special_tokens));
}

Result<ChatTemplate> ChatTemplate::LoadFile(const std::string& model_path, const std::string& template_path) {
  PLANISH_TRY(Found found, Search(model_path, ""));
  PLANISH_TRY(std::string text, ReadTextFile(template_path, kMaxConfigBytes));
  PLANISH_TRY(Template parsed, ParseSource({template_path, std::move(text)}));
  return ChatTemplate(template_path, std::move(parsed), std::move(found.special_tokens));
}

Result<std::string> ChatTemplate::Render(const OrderedJson& messages, const ChatOptions& options) const {
  TemplateInput input;
  input.now = options.now;
  input.variables = special_tokens_;
  input.variables["messages"] = WithoutNullContent(messages);
  input.variables["tools"] = options.tools;
  input.variables["documents"] = nullptr;
  input.variables["add_generation_prompt"] = options.add_generation_prompt;
  for (const auto& [name, value] : options.extra.items()) input.variables[name] = value;
  auto text = template_.Render(input);
  if (!text.ok()) return text.error().At(place_);
  return text;
}

Result<std::vector<int32_t>> ChatTemplate::Encode(const Tokenizer& tokenizer, std::string_view rendered) {
  return tokenizer.Encode(rendered, /*add_special=*/false, /*recognize_special=*/true);
}

std::vector<int32_t> ChatTemplate::EndTokens(const Tokenizer& tokenizer) const {
  std::vector<int32_t> ids;
  if (const auto eos = special_tokens_.find("eos_token"); eos != special_tokens_.end()) {
    if (const auto id = tokenizer.TokenId(eos->get<std::string>())) ids.push_back(*id);
  }
  const std::string mark = "planish:answer";
  const OrderedJson messages = {{{"role", "user"}, {"content", "question"}},
                                {{"role", "assistant"}, {"content", mark}}};
  ChatOptions options;
  options.add_generation_prompt = false;
  options.now = TemplateTime{};
  const auto text = Render(messages, options);
  const size_t at = text.ok() ? text->rfind(mark) : std::string::npos;
  if (at == std::string::npos) return ids;  // a template that refuses this conversation shows no end
  const auto behind = Encode(tokenizer, std::string_view(*text).substr(at + mark.size()));
  if (!behind.ok() || behind->empty() || !tokenizer.IsSpecial(behind->front())) return ids;
  if (std::ranges::find(ids, behind->front()) == ids.end()) ids.push_back(behind->front());
  return ids;
}

}  // namespace planish

#include "model/folder.h"

#include "base/file.h"
#include "formats/chat_template.h"
#include "formats/gguf_folder.h"
#include "formats/tokenizer_files.h"
#include "model/family.h"

namespace planish {
namespace {

// Copied as they are when the source has them.
constexpr const char* kCompanions[] = {"generation_config.json",
                                       "tokenizer.json",
                                       "tokenizer_config.json",
                                       "special_tokens_map.json",
                                       "tokenizer.model",
                                       "vocab.json",
                                       "merges.txt",
                                       "added_tokens.json"};

}  // namespace

Status CarryCompanions(const Model& model, const std::string& folder) {
  for (const char* name : kCompanions) {
    const std::string path = JoinPath(model.path, name);
    if (!FileExists(path)) continue;
    PLANISH_TRY(const std::string content, ReadTextFile(path));
    PLANISH_RETURN_IF_ERROR(WriteFileAtomically(JoinPath(folder, name), content));
  }
  PLANISH_TRY(const StoredTemplates templates, ReadStoredTemplates(model.path));
  PLANISH_RETURN_IF_ERROR(WriteTemplates(templates, folder));
  PLANISH_TRY(const std::string gguf, GgufWithTokenizer(model.path));
  PLANISH_TRY(const bool has_tokenizer, HasTokenizer(model.path));
  if (gguf.empty() || !has_tokenizer) return {};
  PLANISH_TRY(const TokenizerFiles files, ReadTokenizerFiles(model.path));
  for (const auto& [name, content] :
       {std::pair{"tokenizer.json", &files.json}, {"tokenizer.model", &files.model}}) {
    if (!content->empty()) PLANISH_RETURN_IF_ERROR(WriteFileAtomically(JoinPath(folder, name), *content));
  }
  if (FileExists(JoinPath(folder, "tokenizer_config.json"))) return {};
  // The special tokens, which templates use by name.
  OrderedJson config = {{"tokenizer_class", "PreTrainedTokenizerFast"}};
  if (!files.config.empty()) config = OrderedJson::parse(files.config);
  for (const auto& [name, token] : templates.special_tokens.items()) {
    if (!config.contains(name)) config[name] = token;
  }
  return WriteFileAtomically(JoinPath(folder, "tokenizer_config.json"), DumpJson(config, 1) + "\n");
}

Result<OrderedJson> OriginalConfig(const Model& model, const std::string& dtype) {
  OrderedJson config = OrderedJson::parse(DumpJson(model.config));
  config.erase("quantization_config");
  const auto scaling = config.find("rope_scaling");
  if (scaling != config.end() && scaling->is_object() && scaling->value("rope_type", "") == "factors") {
    return InputError(
        "rope_scaling: the file states frequencies one by one (rope_freqs.weight), which config.json cannot; "
        "convert to GGUF, or start from the original model");
  }
  config[config.contains("dtype") ? "dtype" : "torch_dtype"] = dtype;  // newer and older name
  if (!config.contains("architectures")) {
    const Family* family = FindFamily(config.value("model_type", ""));
    if (family != nullptr) config["architectures"] = {family->architecture};
  }
  return config;
}

Status WriteConfig(const OrderedJson& config, const std::string& folder) {
  return WriteFileAtomically(JoinPath(folder, "config.json"), DumpJson(config, 1) + "\n");
}

}  // namespace planish

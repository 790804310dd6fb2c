#include "model/family.h"

#include <fmt/format.h>

#include <algorithm>
#include <string_view>
#include <vector>

#include "base/names.h"

namespace planish {
namespace {

// Fields that some family here reads, and fields that change nothing about a forward pass.
constexpr std::string_view kUnderstood[] = {"architectures",        "attention_bias",
                                            "attention_dropout",    "auto_map",
                                            "bos_token_id",         "dtype",
                                            "eos_token_id",         "head_dim",
                                            "hidden_act",           "hidden_size",
                                            "initializer_range",    "intermediate_size",
                                            "layer_types",          "max_position_embeddings",
                                            "max_window_layers",    "mlp_bias",
                                            "model_type",           "num_attention_heads",
                                            "num_hidden_layers",    "num_key_value_heads",
                                            "pad_token_id",         "partial_rotary_factor",
                                            "pretraining_tp",       "rms_norm_eps",
                                            "rope_parameters",      "rope_scaling",
                                            "rope_theta",           "sliding_window",
                                            "tie_word_embeddings",  "torch_dtype",
                                            "transformers_version", "use_cache",
                                            "use_sliding_window",   "vocab_size"};

// What sets an unknown family's config apart: fields nobody here would read, at most eight.
std::vector<std::string> UnreadFields(const Json& config) {
  std::vector<std::string> unread;
  for (const auto& [key, value] : config.items()) {
    if (key.starts_with("_") || value.is_null() ||
        std::ranges::find(kUnderstood, key) != std::end(kUnderstood))
      continue;
    if (unread.size() < 8) unread.push_back(Abbreviate(key, 40));
  }
  return unread;
}

}  // namespace

const Family* FindFamily(const std::string& model_type) {
  for (const Family* family : AllFamilies()) {
    if (model_type == family->model_type || (family->also != nullptr && model_type == family->also))
      return family;
  }
  return nullptr;
}

Result<Program> BuildProgram(const Json& config) {
  if (!config.is_object()) return InputError("expected a JSON object");
  PLANISH_TRY(const std::string type, JsonString(config, "model_type"));
  if (config.contains("quantization_config") && config["quantization_config"].is_object()) {
    PLANISH_TRY(const std::string method,
                JsonString(config["quantization_config"], "quant_method", "unnamed"));
    if (method != "planish") {
      return InputError(fmt::format(
          "the checkpoint is already compressed with '{}', which cannot be read yet; use the original model",
          Abbreviate(method)));
    }
  }
  if (const Family* family = FindFamily(type)) return family->build(config);
  std::vector<std::string> known;
  const Family* nearest = nullptr;
  for (const Family* family : AllFamilies()) {
    known.push_back(family->model_type);
    if (nearest == nullptr ||
        EditDistance(type, family->model_type) < EditDistance(type, nearest->model_type)) {
      nearest = family;
    }
  }
  std::string message =
      fmt::format("model_type '{}' is not known; known: {}; the nearest is '{}' ({})", Abbreviate(type),
                  fmt::join(known, ", "), nearest->model_type, nearest->summary);
  const auto unread = UnreadFields(config);
  if (!unread.empty()) message += fmt::format(", which has no {}", fmt::join(unread, ", "));
  return InputError(message);
}

}  // namespace planish

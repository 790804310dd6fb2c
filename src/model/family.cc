#include "model/family.h"

#include <fmt/format.h>

#include <algorithm>
#include <string_view>
#include <vector>

#include "base/names.h"
#include "layer/quantized.h"

namespace planish {
namespace {

// Fields that some family here reads, and fields that change nothing about a forward pass.
constexpr std::string_view kUnderstood[] = {"_remove_final_layer_norm",
                                            "_sliding_window_pattern",
                                            "activation",
                                            "activation_function",
                                            "architectures",
                                            "attention_bias",
                                            "attention_dropout",
                                            "attention_multiplier",
                                            "attn_logit_softcapping",
                                            "attn_pdrop",
                                            "auto_map",
                                            "bias",
                                            "bos_token_id",
                                            "conv_kernel",
                                            "decoder_sparse_step",
                                            "do_layer_norm_before",
                                            "dtype",
                                            "embd_pdrop",
                                            "embedding_multiplier",
                                            "enable_bias",
                                            "eos_token_id",
                                            "expand",
                                            "ffn_dim",
                                            "ffn_hidden_size",
                                            "final_logit_softcapping",
                                            "first_k_dense_replace",
                                            "head_dim",
                                            "hidden_act",
                                            "hidden_activation",
                                            "hidden_dropout",
                                            "hidden_size",
                                            "initializer_range",
                                            "intermediate_size",
                                            "kv_lora_rank",
                                            "layer_norm_eps",
                                            "layer_norm_epsilon",
                                            "layer_types",
                                            "logit_scale",
                                            "logits_scaling",
                                            "max_position_embeddings",
                                            "max_window_layers",
                                            "mlp_bias",
                                            "mlp_only_layers",
                                            "model_type",
                                            "moe_intermediate_size",
                                            "moe_layer_freq",
                                            "multi_query",
                                            "n_embd",
                                            "n_group",
                                            "n_groups",
                                            "n_head",
                                            "n_inner",
                                            "n_layer",
                                            "n_positions",
                                            "n_routed_experts",
                                            "n_shared_experts",
                                            "new_decoder_architecture",
                                            "no_rope_layer_interval",
                                            "no_rope_layers",
                                            "norm_epsilon",
                                            "norm_topk_prob",
                                            "num_attention_heads",
                                            "num_experts",
                                            "num_experts_per_tok",
                                            "num_heads",
                                            "num_hidden_layers",
                                            "num_key_value_heads",
                                            "num_kv_heads",
                                            "num_ln_in_parallel_attn",
                                            "num_local_experts",
                                            "original_max_position_embeddings",
                                            "output_router_logits",
                                            "pad_token_id",
                                            "parallel_attn",
                                            "partial_rotary_factor",
                                            "pretraining_tp",
                                            "q_lora_rank",
                                            "qk_nope_head_dim",
                                            "qk_rope_head_dim",
                                            "qk_layernorm",
                                            "qkv_bias",
                                            "query_pre_attn_scalar",
                                            "resid_pdrop",
                                            "residual_multiplier",
                                            "rms_norm_eps",
                                            "rope_local_base_freq",
                                            "rope_parameters",
                                            "rope_scaling",
                                            "rope_theta",
                                            "rotary_emb_base",
                                            "rotary_pct",
                                            "routed_scaling_factor",
                                            "router_aux_loss_coef",
                                            "scale_attn_by_inverse_layer_idx",
                                            "scale_attn_weights",
                                            "shared_expert_intermediate_size",
                                            "sliding_window",
                                            "sliding_window_pattern",
                                            "state_size",
                                            "text_config",
                                            "tie_word_embeddings",
                                            "time_step_limit",
                                            "topk_group",
                                            "topk_method",
                                            "torch_dtype",
                                            "transformers_version",
                                            "use_bias",
                                            "use_cache",
                                            "use_conv_bias",
                                            "use_parallel_residual",
                                            "use_qk_norm",
                                            "use_qkv_bias",
                                            "use_sliding_window",
                                            "v_head_dim",
                                            "vocab_size",
                                            "word_embed_proj_dim"};

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
    if (method != "planish" && !IsQuantizedMethod(method)) {
      return InputError(
          fmt::format("the checkpoint is already compressed with '{}', which cannot be read (gptq, awq and "
                      "compressed-tensors can); use the original model",
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

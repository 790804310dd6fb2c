// The table of families in GGUF files, and the names of their tensors. Adding a family is a row here.
#include <fmt/format.h>

#include <algorithm>

#include "base/names.h"
#include "model/gguf_family.h"

namespace planish {
namespace {

using Kind = GgufKey::Kind;
using Rows = GgufFamily::Rows;

// ---- names

constexpr GgufName kTop[] = {
    {"token_embd", "model.embed_tokens"}, {"output_norm", "model.norm"}, {"output", "lm_head"}};
constexpr GgufName kLayer[] = {{"attn_norm", "input_layernorm"},    {"attn_q", "self_attn.q_proj"},
                               {"attn_k", "self_attn.k_proj"},      {"attn_v", "self_attn.v_proj"},
                               {"attn_output", "self_attn.o_proj"}, {"attn_q_norm", "self_attn.q_norm"},
                               {"attn_k_norm", "self_attn.k_norm"}, {"ffn_norm", "post_attention_layernorm"},
                               {"ffn_gate", "mlp.gate_proj"},       {"ffn_up", "mlp.up_proj"},
                               {"ffn_down", "mlp.down_proj"}};
constexpr GgufName kMixtralLayer[] = {{"attn_norm", "input_layernorm"},
                                      {"attn_q", "self_attn.q_proj"},
                                      {"attn_k", "self_attn.k_proj"},
                                      {"attn_v", "self_attn.v_proj"},
                                      {"attn_output", "self_attn.o_proj"},
                                      {"ffn_norm", "post_attention_layernorm"},
                                      {"ffn_gate_inp", "block_sparse_moe.gate"},
                                      {"ffn_gate_exps", "block_sparse_moe.experts.*.w1"},
                                      {"ffn_up_exps", "block_sparse_moe.experts.*.w3"},
                                      {"ffn_down_exps", "block_sparse_moe.experts.*.w2"}};
constexpr GgufName kQwenMoeLayer[] = {{"attn_norm", "input_layernorm"},
                                      {"attn_q", "self_attn.q_proj"},
                                      {"attn_k", "self_attn.k_proj"},
                                      {"attn_v", "self_attn.v_proj"},
                                      {"attn_output", "self_attn.o_proj"},
                                      {"attn_q_norm", "self_attn.q_norm"},
                                      {"attn_k_norm", "self_attn.k_norm"},
                                      {"ffn_norm", "post_attention_layernorm"},
                                      {"ffn_gate_inp", "mlp.gate"},
                                      {"ffn_gate_exps", "mlp.experts.*.gate_proj"},
                                      {"ffn_up_exps", "mlp.experts.*.up_proj"},
                                      {"ffn_down_exps", "mlp.experts.*.down_proj"},
                                      {"ffn_gate_inp_shexp", "mlp.shared_expert_gate"},
                                      {"ffn_gate_shexp", "mlp.shared_expert.gate_proj"},
                                      {"ffn_up_shexp", "mlp.shared_expert.up_proj"},
                                      {"ffn_down_shexp", "mlp.shared_expert.down_proj"}};
constexpr GgufName kGemmaLayer[] = {{"attn_norm", "input_layernorm"},
                                    {"attn_q", "self_attn.q_proj"},
                                    {"attn_k", "self_attn.k_proj"},
                                    {"attn_v", "self_attn.v_proj"},
                                    {"attn_output", "self_attn.o_proj"},
                                    {"attn_q_norm", "self_attn.q_norm"},
                                    {"attn_k_norm", "self_attn.k_norm"},
                                    {"post_attention_norm", "post_attention_layernorm"},
                                    {"ffn_norm", "pre_feedforward_layernorm"},
                                    {"post_ffw_norm", "post_feedforward_layernorm"},
                                    {"ffn_gate", "mlp.gate_proj"},
                                    {"ffn_up", "mlp.up_proj"},
                                    {"ffn_down", "mlp.down_proj"}};
constexpr GgufName kOlmo2Layer[] = {{"attn_q", "self_attn.q_proj"},
                                    {"attn_k", "self_attn.k_proj"},
                                    {"attn_v", "self_attn.v_proj"},
                                    {"attn_output", "self_attn.o_proj"},
                                    {"attn_q_norm", "self_attn.q_norm"},
                                    {"attn_k_norm", "self_attn.k_norm"},
                                    {"post_attention_norm", "post_attention_layernorm"},
                                    {"post_ffw_norm", "post_feedforward_layernorm"},
                                    {"ffn_gate", "mlp.gate_proj"},
                                    {"ffn_up", "mlp.up_proj"},
                                    {"ffn_down", "mlp.down_proj"}};
constexpr GgufName kPhi3Layer[] = {
    {"attn_norm", "input_layernorm"},    {"attn_qkv", "self_attn.qkv_proj"},
    {"attn_output", "self_attn.o_proj"}, {"ffn_norm", "post_attention_layernorm"},
    {"ffn_up", "mlp.gate_up_proj"},      {"ffn_down", "mlp.down_proj"}};
constexpr GgufName kStarcoder2Layer[] = {{"attn_norm", "input_layernorm"},
                                         {"attn_q", "self_attn.q_proj"},
                                         {"attn_k", "self_attn.k_proj"},
                                         {"attn_v", "self_attn.v_proj"},
                                         {"attn_output", "self_attn.o_proj"},
                                         {"ffn_norm", "post_attention_layernorm"},
                                         {"ffn_up", "mlp.c_fc"},
                                         {"ffn_down", "mlp.c_proj"}};
constexpr GgufName kGpt2Top[] = {{"token_embd", "transformer.wte"},
                                 {"position_embd", "transformer.wpe"},
                                 {"output_norm", "transformer.ln_f"},
                                 {"output", "lm_head"}};
constexpr GgufName kGpt2Layer[] = {{"attn_norm", "ln_1"},          {"attn_qkv", "attn.c_attn"},
                                   {"attn_output", "attn.c_proj"}, {"ffn_norm", "ln_2"},
                                   {"ffn_up", "mlp.c_fc"},         {"ffn_down", "mlp.c_proj"}};
constexpr GgufName kNeoxTop[] = {{"token_embd", "gpt_neox.embed_in"},
                                 {"output_norm", "gpt_neox.final_layer_norm"},
                                 {"output", "embed_out"}};
constexpr GgufName kNeoxLayer[] = {
    {"attn_norm", "input_layernorm"},   {"attn_qkv", "attention.query_key_value"},
    {"attn_output", "attention.dense"}, {"ffn_norm", "post_attention_layernorm"},
    {"ffn_up", "mlp.dense_h_to_4h"},    {"ffn_down", "mlp.dense_4h_to_h"}};
constexpr GgufName kFalconTop[] = {{"token_embd", "transformer.word_embeddings"},
                                   {"output_norm", "transformer.ln_f"},
                                   {"output", "lm_head"}};
constexpr GgufName kFalconLayer[] = {{"attn_norm", "input_layernorm"},
                                     {"attn_qkv", "self_attention.query_key_value"},
                                     {"attn_output", "self_attention.dense"},
                                     {"ffn_up", "mlp.dense_h_to_4h"},
                                     {"ffn_down", "mlp.dense_4h_to_h"}};
constexpr GgufName kFalconTwoNormsLayer[] = {{"attn_norm", "ln_mlp"},
                                             {"attn_norm_2", "ln_attn"},
                                             {"attn_qkv", "self_attention.query_key_value"},
                                             {"attn_output", "self_attention.dense"},
                                             {"ffn_up", "mlp.dense_h_to_4h"},
                                             {"ffn_down", "mlp.dense_4h_to_h"}};

constexpr GgufName kDeepseekLayer[] = {{"attn_norm", "input_layernorm"},
                                       {"attn_q", "self_attn.q_proj"},
                                       {"attn_q_a", "self_attn.q_a_proj"},
                                       {"attn_q_a_norm", "self_attn.q_a_layernorm"},
                                       {"attn_q_b", "self_attn.q_b_proj"},
                                       {"attn_kv_a_mqa", "self_attn.kv_a_proj_with_mqa"},
                                       {"attn_kv_a_norm", "self_attn.kv_a_layernorm"},
                                       {"attn_kv_b", "self_attn.kv_b_proj"},
                                       {"attn_output", "self_attn.o_proj"},
                                       {"ffn_norm", "post_attention_layernorm"},
                                       {"ffn_gate", "mlp.gate_proj"},
                                       {"ffn_up", "mlp.up_proj"},
                                       {"ffn_down", "mlp.down_proj"},
                                       {"ffn_gate_inp", "mlp.gate"},
                                       {"ffn_gate_exps", "mlp.experts.*.gate_proj"},
                                       {"ffn_up_exps", "mlp.experts.*.up_proj"},
                                       {"ffn_down_exps", "mlp.experts.*.down_proj"},
                                       {"ffn_gate_shexp", "mlp.shared_experts.gate_proj"},
                                       {"ffn_up_shexp", "mlp.shared_experts.up_proj"},
                                       {"ffn_down_shexp", "mlp.shared_experts.down_proj"}};
constexpr GgufName kMambaTop[] = {
    {"token_embd", "backbone.embeddings"}, {"output_norm", "backbone.norm_f"}, {"output", "lm_head"}};
constexpr GgufName kMambaLayer[] = {{"attn_norm", "norm"},
                                    {"ssm_in", "mixer.in_proj"},
                                    {"ssm_conv1d", "mixer.conv1d", GgufName::Form::kKernels},
                                    {"ssm_norm", "mixer.norm", GgufName::Form::kGroups},
                                    {"ssm_out", "mixer.out_proj"}};
constexpr GgufName kMambaWhole[] = {{"ssm_a", "mixer.A_log", GgufName::Form::kNegatedPowers},
                                    {"ssm_d", "mixer.D", GgufName::Form::kColumn},
                                    {"ssm_dt.bias", "mixer.dt_bias"}};

// ---- keys, fields without a choice, flags

constexpr GgufKey kWindowKey[] = {{Kind::kInt, "attention.sliding_window", "sliding_window", nullptr}};
constexpr GgufKey kQwen2MoeKeys[] = {
    {Kind::kInt, "expert_feed_forward_length", "moe_intermediate_size", "1408"},
    {Kind::kInt, "expert_shared_feed_forward_length", "shared_expert_intermediate_size", "5632"}};
constexpr GgufKey kQwen3MoeKeys[] = {
    {Kind::kInt, "expert_feed_forward_length", "moe_intermediate_size", "768"}};
constexpr GgufKey kGemma2Keys[] = {
    {Kind::kInt, "attention.sliding_window", "sliding_window", "4096"},
    {Kind::kFloat, "attn_logit_softcapping", "attn_logit_softcapping", "50.0"},
    {Kind::kFloat, "final_logit_softcapping", "final_logit_softcapping", "30.0"}};
constexpr GgufKey kGemma3Keys[] = {{Kind::kInt, "attention.sliding_window", "sliding_window", "4096"},
                                   {Kind::kFloat, "rope.freq_base_swa", "rope_local_base_freq", "10000.0"}};
constexpr GgufKey kGraniteKeys[] = {{Kind::kFloat, "attention.scale", "attention_multiplier", "1.0"},
                                    {Kind::kFloat, "embedding_scale", "embedding_multiplier", "1.0"},
                                    {Kind::kFloat, "residual_scale", "residual_multiplier", "1.0"},
                                    {Kind::kFloat, "logit_scale", "logits_scaling", "1.0"}};
constexpr GgufKey kCohereKeys[] = {{Kind::kFloat, "logit_scale", "logit_scale", "0.0625"}};
constexpr GgufKey kStablelmKeys[] = {
    {Kind::kBool, "use_parallel_residual", "use_parallel_residual", "false"}};
constexpr GgufKey kNeoxKeys[] = {{Kind::kBool, "use_parallel_residual", "use_parallel_residual", "true"}};
constexpr GgufKey kDeepseekKeys[] = {
    {Kind::kInt, "leading_dense_block_count", "first_k_dense_replace", "0"},
    {Kind::kInt, "expert_feed_forward_length", "moe_intermediate_size", "1407"},
    {Kind::kInt, "expert_shared_count", "n_shared_experts", "0"},
    {Kind::kFloat, "expert_weights_scale", "routed_scaling_factor", "1.0"}};
constexpr GgufKey kMambaKeys[] = {{Kind::kInt, "ssm.conv_kernel", "conv_kernel", "4"},
                                  {Kind::kInt, "ssm.state_size", "state_size", "128"},
                                  {Kind::kInt, "ssm.group_count", "n_groups", "8"}};

constexpr GgufImplied kSilu[] = {{"hidden_act", "\"silu\"", "\"silu\""}};
constexpr GgufImplied kQwenMoeImplied[] = {{"hidden_act", "\"silu\"", "\"silu\""},
                                           {"decoder_sparse_step", "1", "1"},
                                           {"use_sliding_window", "false", "false"}};
constexpr GgufImplied kQwenImplied[] = {{"hidden_act", "\"silu\"", "\"silu\""},
                                        {"use_sliding_window", "false", "false"}};
constexpr GgufImplied kGemmaImplied[] = {
    {"hidden_activation", "\"gelu_pytorch_tanh\"", "\"gelu_pytorch_tanh\""},
    {"attention_bias", "false", "false"}};
constexpr GgufImplied kGemma3Implied[] = {
    {"hidden_activation", "\"gelu_pytorch_tanh\"", "\"gelu_pytorch_tanh\""},
    {"attention_bias", "false", "false"},
    {"attn_logit_softcapping", "null", "null"},
    {"final_logit_softcapping", "null", "null"}};
constexpr GgufImplied kGpt2Implied[] = {{"activation_function", "\"gelu_new\"", "\"gelu_new\""},
                                        {"scale_attn_by_inverse_layer_idx", "false", "false"}};
constexpr GgufImplied kNeoxImplied[] = {{"hidden_act", "\"gelu\"", "\"gelu\""}};
constexpr GgufImplied kFalconImplied[] = {{"activation", "\"gelu\"", "\"gelu\""},
                                          {"parallel_attn", "true", "true"}};
constexpr GgufImplied kStarcoder2Implied[] = {
    {"hidden_act", "\"gelu_pytorch_tanh\"", "\"gelu_pytorch_tanh\""}};

constexpr GgufImplied kDeepseekImplied[] = {{"hidden_act", "\"silu\"", "\"silu\""},
                                            {"attention_bias", "false", "false"},
                                            {"mlp_bias", "false", "false"},
                                            {"moe_layer_freq", "1", "1"}};
constexpr GgufImplied kMambaImplied[] = {
    {"hidden_act", "\"silu\"", "\"silu\""},
    {"use_bias", "false", "false"},
    {"use_conv_bias", "true", "true"},
    {"rms_norm", "true", "true"},
    {"time_step_limit", R"([0.0, {"__float__": "Infinity"}])", R"([0.0, {"__float__": "Infinity"}])"}};

constexpr GgufName kLlamaFlags[] = {{"blk.0.attn_q.bias", "attention_bias"},
                                    {"blk.0.ffn_up.bias", "mlp_bias"}};
constexpr GgufName kAttentionFlag[] = {{"blk.0.attn_q.bias", "attention_bias"}};
constexpr GgufName kStablelmFlags[] = {{"blk.0.attn_q.bias", "use_qkv_bias"}};
constexpr GgufName kNeoxFlags[] = {{"blk.0.attn_qkv.bias", "attention_bias"}};
constexpr GgufName kFalconNewFlags[] = {{"blk.0.attn_qkv.bias", "bias"},
                                        {"blk.0.attn_norm.weight", "new_decoder_architecture"}};
constexpr GgufName kStarcoder2Flags[] = {{"blk.0.attn_q.bias", "use_bias"}};
constexpr GgufName kCohereFlags[] = {{"blk.0.attn_q.bias", "attention_bias"},
                                     {"blk.0.attn_q_norm.weight", "use_qk_norm"}};

constexpr GgufSizes kGpt2Sizes = {"n_embd", "n_layer", "n_inner", "n_head", nullptr, "n_positions"};
constexpr GgufSizes kNeoxSizes = {.kv_heads = nullptr};
constexpr GgufSizes kFalconSizes = {.inter = "ffn_hidden_size", .kv_heads = "num_kv_heads"};

constexpr GgufFamily kFamilies[] = {
    {.family = "mixtral",
     .model_type = "mixtral",
     .arch = "llama",
     .key = "expert_count",
     .top = kTop,
     .layer = kMixtralLayer,
     .keys = kWindowKey,
     .implied = kSilu,
     .rows = Rows::kPairs,
     .theta = "1000000.0",
     .head_dim = true,
     .experts = "num_local_experts",
     .normalized = true,
     .rope_freqs = true,
     .rope_factors = true},
    {.family = "mistral",
     .model_type = "mistral",
     .arch = "llama",
     .key = "attention.sliding_window",
     .top = kTop,
     .layer = kLayer,
     .keys = kWindowKey,
     .implied = kSilu,
     .rows = Rows::kPairs,
     .head_dim = true,
     .rope_freqs = true,
     .rope_factors = true},
    {.family = "llama",
     .model_type = "llama",
     .arch = "llama",
     .top = kTop,
     .layer = kLayer,
     .implied = kSilu,
     .flags = kLlamaFlags,
     .rows = Rows::kPairs,
     .head_dim = true,
     .rope_freqs = true,
     .rope_factors = true},
    // A Mistral without a window is a Llama to whoever reads the file.
    {.family = "mistral",
     .model_type = "llama",
     .arch = "llama",
     .top = kTop,
     .layer = kLayer,
     .implied = kSilu,
     .rows = Rows::kPairs,
     .head_dim = true,
     .rope_freqs = true,
     .rope_factors = true},
    {.family = "qwen2",
     .model_type = "qwen2",
     .arch = "qwen2",
     .top = kTop,
     .layer = kLayer,
     .implied = kQwenImplied},
    {.family = "qwen3",
     .model_type = "qwen3",
     .arch = "qwen3",
     .top = kTop,
     .layer = kLayer,
     .implied = kQwenImplied,
     .flags = kAttentionFlag,
     .head_dim = true},
    {.family = "qwen2_moe",
     .model_type = "qwen2_moe",
     .arch = "qwen2moe",
     .top = kTop,
     .layer = kQwenMoeLayer,
     .keys = kQwen2MoeKeys,
     .implied = kQwenMoeImplied,
     .experts = "num_experts"},
    {.family = "qwen3_moe",
     .model_type = "qwen3_moe",
     .arch = "qwen3moe",
     .top = kTop,
     .layer = kQwenMoeLayer,
     .keys = kQwen3MoeKeys,
     .implied = kQwenMoeImplied,
     .flags = kAttentionFlag,
     .head_dim = true,
     .experts = "num_experts",
     .normalized = true},
    {.family = "gemma2",
     .model_type = "gemma2",
     .arch = "gemma2",
     .top = kTop,
     .layer = kGemmaLayer,
     .keys = kGemma2Keys,
     .implied = kGemmaImplied,
     .norm_plus = 1,
     .head_dim = true},
    {.family = "gemma3",
     .model_type = "gemma3_text",
     .arch = "gemma3",
     .top = kTop,
     .layer = kGemmaLayer,
     .keys = kGemma3Keys,
     .implied = kGemma3Implied,
     .norm_plus = 1,
     .theta = "1000000.0",
     .head_dim = true},
    {.family = "olmo2",
     .model_type = "olmo2",
     .arch = "olmo2",
     .top = kTop,
     .layer = kOlmo2Layer,
     .implied = kSilu,
     .flags = kAttentionFlag},
    {.family = "phi3",
     .model_type = "phi3",
     .arch = "phi3",
     .top = kTop,
     .layer = kPhi3Layer,
     .keys = kWindowKey,
     .implied = kSilu,
     .partial = true,
     .rope_factors = true},
    {.family = "granite",
     .model_type = "granite",
     .arch = "granite",
     .top = kTop,
     .layer = kLayer,
     .keys = kGraniteKeys,
     .implied = kSilu,
     .flags = kLlamaFlags,
     .rows = Rows::kPairs,
     .rope_freqs = true,
     .rope_factors = true},
    {.family = "smollm3",
     .model_type = "smollm3",
     .arch = "smollm3",
     .top = kTop,
     .layer = kLayer,
     .implied = kQwenImplied,
     .flags = kLlamaFlags,
     .rows = Rows::kPairs,
     .theta = "2000000.0",
     .unrotated_every = 4},
    {.family = "cohere",
     .model_type = "cohere",
     .arch = "command-r",
     .top = kTop,
     .layer = kLayer,
     .keys = kCohereKeys,
     .implied = kSilu,
     .flags = kCohereFlags,
     .eps = "layer_norm_eps",
     .layer_norm = true},
    {.family = "stablelm",
     .model_type = "stablelm",
     .arch = "stablelm",
     .top = kTop,
     .layer = kLayer,
     .keys = kStablelmKeys,
     .implied = kSilu,
     .flags = kStablelmFlags,
     .eps = "layer_norm_eps",
     .layer_norm = true,
     .partial = true},
    {.family = "starcoder2",
     .model_type = "starcoder2",
     .arch = "starcoder2",
     .top = kTop,
     .layer = kStarcoder2Layer,
     .keys = kWindowKey,
     .implied = kStarcoder2Implied,
     .flags = kStarcoder2Flags,
     .eps = "norm_epsilon",
     .layer_norm = true},
    {.family = "gpt2",
     .model_type = "gpt2",
     .arch = "gpt2",
     .top = kGpt2Top,
     .layer = kGpt2Layer,
     .layer_prefix = "transformer.h.",
     .sizes = kGpt2Sizes,
     .implied = kGpt2Implied,
     .eps = "layer_norm_epsilon",
     .layer_norm = true,
     .theta = nullptr},
    {.family = "gpt_neox",
     .model_type = "gpt_neox",
     .arch = "gptneox",
     .top = kNeoxTop,
     .layer = kNeoxLayer,
     .layer_prefix = "gpt_neox.layers.",
     .sizes = kNeoxSizes,
     .keys = kNeoxKeys,
     .implied = kNeoxImplied,
     .flags = kNeoxFlags,
     .eps = "layer_norm_eps",
     .layer_norm = true,
     .rows = Rows::kGroups,
     .partial = true},
    // Files do not tell the older layouts of q, k and v from the newer: all have q, k and v one after the
    // other.
    {.family = "falcon",
     .model_type = "falcon",
     .arch = "falcon",
     .tensor = "blk.0.attn_norm_2.weight",
     .top = kFalconTop,
     .layer = kFalconTwoNormsLayer,
     .layer_prefix = "transformer.h.",
     .sizes = kFalconSizes,
     .implied = kFalconImplied,
     .flags = kFalconNewFlags,
     .eps = "layer_norm_epsilon",
     .layer_norm = true,
     .rows = Rows::kGroups},
    {.family = "falcon",
     .model_type = "falcon",
     .arch = "falcon",
     .top = kFalconTop,
     .layer = kFalconLayer,
     .layer_prefix = "transformer.h.",
     .sizes = kFalconSizes,
     .implied = kFalconImplied,
     .flags = kFalconNewFlags,
     .eps = "layer_norm_epsilon",
     .layer_norm = true,
     .rows = Rows::kGroups},
    {.family = "deepseek_v2",
     .model_type = "deepseek_v2",
     .arch = "deepseek2",
     .top = kTop,
     .layer = kDeepseekLayer,
     .keys = kDeepseekKeys,
     .implied = kDeepseekImplied,
     .experts = "n_routed_experts",
     .latent = true},
    {.family = "mamba2",
     .model_type = "mamba2",
     .arch = "mamba2",
     .top = kMambaTop,
     .layer = kMambaLayer,
     .whole = kMambaWhole,
     .layer_prefix = "backbone.layers.",
     .keys = kMambaKeys,
     .implied = kMambaImplied,
     .eps = "layer_norm_epsilon",
     .theta = nullptr,
     .scan = true},
};

// ---- names both ways

constexpr std::string_view kPrefix = "blk.";

// Matches `text` to a pattern with at most one star, which takes digits; the number, -1 without a star.
std::optional<int64_t> MatchNumber(std::string_view text, std::string_view pattern) {
  const size_t star = pattern.find('*');
  if (star == std::string_view::npos) return text == pattern ? std::optional<int64_t>(-1) : std::nullopt;
  const std::string_view before = pattern.substr(0, star), after = pattern.substr(star + 1);
  if (text.size() <= before.size() + after.size() || !text.starts_with(before) || !text.ends_with(after)) {
    return std::nullopt;
  }
  const std::string_view digits = text.substr(before.size(), text.size() - before.size() - after.size());
  if (digits.size() > 5 || digits.find_first_not_of("0123456789") != std::string_view::npos)
    return std::nullopt;
  return std::stoll(std::string(digits));
}

// "N.rest" -> its two halves, if N is a number of at most 4 digits.
bool SplitLayer(std::string_view text, std::string& number, std::string& rest) {
  const size_t dot = text.find('.');
  if (dot == std::string_view::npos || dot == 0 || dot > 4) return false;
  number = text.substr(0, dot);
  rest = text.substr(dot + 1);
  return number.find_first_not_of("0123456789") == std::string::npos;
}

bool SplitSuffix(const std::string& name, std::string& stem, std::string& suffix) {
  const size_t dot = name.rfind('.');
  if (dot == std::string::npos) return false;
  stem = name.substr(0, dot);
  suffix = name.substr(dot);
  return suffix == ".weight" || suffix == ".bias";
}

std::optional<GgufPlace> PlaceOf(const GgufFamily& family, const std::string& name) {
  std::string stem, suffix, number, rest;
  const std::string_view prefix = family.layer_prefix;
  if (name.starts_with(prefix) && SplitLayer(std::string_view(name).substr(prefix.size()), number, rest)) {
    for (const GgufName& n : family.whole) {
      if (rest == n.hf) return GgufPlace{"blk." + number + "." + n.gguf, -1};
    }
  }
  if (!SplitSuffix(name, stem, suffix)) return std::nullopt;
  if (stem.starts_with(prefix) && SplitLayer(std::string_view(stem).substr(prefix.size()), number, rest)) {
    for (const GgufName& n : family.layer) {
      const auto expert = MatchNumber(rest, n.hf);
      if (expert) return GgufPlace{"blk." + number + "." + n.gguf + suffix, *expert};
    }
    return std::nullopt;
  }
  for (const GgufName& n : family.top) {
    if (stem == n.hf) return GgufPlace{n.gguf + suffix, -1};
  }
  return std::nullopt;
}

}  // namespace

std::span<const GgufFamily> AllGgufFamilies() { return kFamilies; }

const GgufFamily* GgufFamilyOf(const Program& program) {
  for (const GgufFamily& family : kFamilies) {
    if (program.family != family.family) continue;
    const bool window = std::string_view(family.key != nullptr ? family.key : "").ends_with("window");
    const auto has = [&](const char* tensor) {
      return std::ranges::any_of(program.vectors, [&](const VectorSlot& slot) {
        const auto place = GgufPlaceOf(family, program, slot.name);
        return place && place->name == tensor;
      });
    };
    const auto slides = [&] {
      for (const Block& block : program.blocks) {
        for (const Op& op : block.ops) {
          const auto* attention = std::get_if<AttentionOp>(&op.body);
          if (attention != nullptr && attention->shape.window > 0) return true;
        }
      }
      return false;
    };
    if (family.tensor != nullptr && !has(family.tensor)) continue;
    if (window && !slides()) continue;
    return &family;
  }
  return nullptr;
}

Result<const GgufFamily*> GgufFamilyOf(const GgufFile& file) {
  PLANISH_TRY(const std::string arch, file.String("general.architecture"));
  std::vector<std::string> known;
  for (const GgufFamily& family : kFamilies) {
    if (std::ranges::find(known, family.arch) == known.end()) known.emplace_back(family.arch);
    if (arch != family.arch) continue;
    if (family.tensor != nullptr && file.Find(family.tensor) == nullptr) continue;
    if (family.key != nullptr) {
      PLANISH_TRY(const int64_t value, file.Int(arch + "." + family.key, 0));
      if (value <= 0) continue;
    }
    return &family;
  }
  return InputError(
      fmt::format("general.architecture '{}': expected one of {}", Abbreviate(arch), fmt::join(known, ", ")));
}

std::optional<GgufPlace> GgufPlaceOf(const GgufFamily& family, const Program& program,
                                     const std::string& name) {
  if (auto place = PlaceOf(family, name)) return place;
  for (const auto& [prefix, other] : program.prefixes) {
    if (!name.starts_with(other)) continue;
    if (auto place = PlaceOf(family, prefix + name.substr(other.size()))) return place;
  }
  return std::nullopt;
}

std::optional<std::string> HfNameOf(const GgufFamily& family, const std::string& name) {
  std::string stem, suffix, number, rest;
  if (name.starts_with(kPrefix) && SplitLayer(std::string_view(name).substr(kPrefix.size()), number, rest)) {
    for (const GgufName& n : family.whole) {
      if (rest == n.gguf) return family.layer_prefix + number + "." + n.hf;
    }
  }
  if (!SplitSuffix(name, stem, suffix)) return std::nullopt;
  if (stem.starts_with(kPrefix) && SplitLayer(std::string_view(stem).substr(kPrefix.size()), number, rest)) {
    for (const GgufName& n : family.layer) {
      if (rest == n.gguf) return family.layer_prefix + number + "." + n.hf + suffix;
    }
    return std::nullopt;
  }
  for (const GgufName& n : family.top) {
    if (stem == n.gguf) return n.hf + suffix;
  }
  return std::nullopt;
}

int64_t GgufRowOrder::Source(int64_t row, int64_t rows) const {
  if (kind == Rows::kPairs) {
    const int64_t width = rows / heads, in_head = row % width;
    return row - in_head + in_head % 2 * (width / 2) + in_head / 2;
  }
  if (kind == Rows::kGroups) {
    const int64_t width = rows / (heads + 2 * kv_heads), per = heads / kv_heads;
    const int64_t head = row / width, in_head = row % width;
    if (head < heads) return (head / per * (per + 2) + head % per) * width + in_head;
    const int64_t other = head - heads;  // k of all groups, then v
    return (other % kv_heads * (per + 2) + per + other / kv_heads) * width + in_head;
  }
  return row;
}

bool GgufRowOrder::Fits(int64_t rows) const {
  if (kind == Rows::kPairs) return heads > 0 && rows % (2 * heads) == 0;
  if (kind == Rows::kGroups) {
    return kv_heads > 0 && heads % kv_heads == 0 && rows % (heads + 2 * kv_heads) == 0;
  }
  return true;
}

GgufRowOrder RowOrderOf(const GgufFamily& family, const std::string& gguf_name, int64_t heads,
                        int64_t kv_heads) {
  const auto is = [&](const char* part) { return gguf_name.find(part) != std::string::npos; };
  if (family.rows == Rows::kPairs && is(".attn_q.")) return {Rows::kPairs, heads, kv_heads};
  if (family.rows == Rows::kPairs && is(".attn_k.")) return {Rows::kPairs, kv_heads, kv_heads};
  if (family.rows == Rows::kGroups && is(".attn_qkv.")) return {Rows::kGroups, heads, kv_heads};
  return {};
}

GgufName::Form FormOf(const GgufFamily& family, const std::string& gguf_name) {
  std::string stem, suffix, number, rest;
  if (!gguf_name.starts_with(kPrefix) ||
      !SplitLayer(std::string_view(gguf_name).substr(kPrefix.size()), number, rest)) {
    return GgufName::Form::kPlain;
  }
  for (const GgufName& n : family.whole) {
    if (rest == n.gguf) return n.form;
  }
  if (!SplitSuffix(rest, stem, suffix) || suffix != ".weight") return GgufName::Form::kPlain;
  for (const GgufName& n : family.layer) {
    if (stem == n.gguf) return n.form;
  }
  return GgufName::Form::kPlain;
}

bool StoresPlus(const GgufFamily& family, const std::string& gguf_name) {
  return family.norm_plus != 0 && gguf_name.ends_with("_norm.weight");
}

}  // namespace planish

// GGUF's descriptions (model/gguf_family.h) that many families share: names of tensors, keys, fields without
// a choice, flags. What one family has for itself is in its own file.
#pragma once

#include "model/gguf_family.h"

namespace planish {

inline constexpr GgufName kDecoderTop[] = {
    {"token_embd", "model.embed_tokens"}, {"output_norm", "model.norm"}, {"output", "lm_head"}};
inline constexpr GgufName kDecoderLayer[] = {
    {"attn_norm", "input_layernorm"},    {"attn_q", "self_attn.q_proj"},
    {"attn_k", "self_attn.k_proj"},      {"attn_v", "self_attn.v_proj"},
    {"attn_output", "self_attn.o_proj"}, {"attn_q_norm", "self_attn.q_norm"},
    {"attn_k_norm", "self_attn.k_norm"}, {"ffn_norm", "post_attention_layernorm"},
    {"ffn_gate", "mlp.gate_proj"},       {"ffn_up", "mlp.up_proj"},
    {"ffn_down", "mlp.down_proj"}};
inline constexpr GgufKey kWindowKey[] = {
    {GgufKey::Kind::kInt, "attention.sliding_window", "sliding_window", nullptr}};
inline constexpr GgufImplied kSiluImplied[] = {{"hidden_act", "\"silu\"", "\"silu\""}};
// Where windows are an option that is off.
inline constexpr GgufImplied kSiluFullImplied[] = {{"hidden_act", "\"silu\"", "\"silu\""},
                                                   {"use_sliding_window", "false", "false"}};
inline constexpr GgufName kLlamaFlags[] = {{"blk.0.attn_q.bias", "attention_bias"},
                                           {"blk.0.ffn_up.bias", "mlp_bias"}};
inline constexpr GgufName kAttentionFlag[] = {{"blk.0.attn_q.bias", "attention_bias"}};

}  // namespace planish

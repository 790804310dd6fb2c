// What the second and third Gemma share.
#pragma once

#include "model/arch/decoder.h"
#include "model/gguf_family.h"

namespace planish {

// Norms times 1 + w before and after both branches, embeddings times sqrt(hidden), scores times
// query_pre_attn_scalar^-0.5, soft caps, GELU gates, tied head.
Result<DecoderSpec> ReadGemma(const Config& config, const char* family, const DecoderDefaults& defaults,
                              double attention_cap, double logit_cap);

inline constexpr GgufName kGemmaLayer[] = {{"attn_norm", "input_layernorm"},
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

}  // namespace planish

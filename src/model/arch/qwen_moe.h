// What the Qwen families with experts share.
#pragma once

#include "model/arch/expert_mlp.h"
#include "model/gguf_family.h"

namespace planish {

struct QwenExperts {
  ExpertsSpec experts;
  std::vector<bool> sparse;  // by layer: with experts, or with a plain gated MLP of intermediate_size
};
// num_experts (or num_local_experts), num_experts_per_tok, moe_intermediate_size, norm_topk_prob, and which
// layers have experts: decoder_sparse_step, mlp_only_layers.
struct QwenExpertDefaults {
  int64_t experts, chosen, inter;
};
Result<QwenExperts> ReadQwenExperts(const Config& config, const DecoderSpec& spec,
                                    const QwenExpertDefaults& defaults);

inline constexpr GgufName kQwenMoeLayer[] = {{"attn_norm", "input_layernorm"},
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
inline constexpr GgufImplied kQwenMoeImplied[] = {{"hidden_act", "\"silu\"", "\"silu\""},
                                                  {"decoder_sparse_step", "1", "1"},
                                                  {"use_sliding_window", "false", "false"}};

}  // namespace planish

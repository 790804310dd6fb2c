// What the Qwen families with experts share.
#pragma once

#include "model/arch/expert_mlp.h"

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
Result<QwenExperts> ReadQwenExperts(const Json& config, const DecoderSpec& spec,
                                    const QwenExpertDefaults& defaults);

}  // namespace planish

#include "model/arch/expert_mlp.h"
#include "model/arch/gguf_names.h"
#include "model/family.h"

namespace planish::mixtral {
namespace {

Result<Program> BuildMixtral(const Config& config) {
  PLANISH_TRY(DecoderSpec spec, ReadDecoder(config, "mixtral", {32000, 4096, 14336, 32, 32, 8, 131072, 0}));
  PLANISH_TRY(spec.eps, ReadEpsilon(config, "rms_norm_eps", 1e-5));
  PLANISH_RETURN_IF_ERROR(ReadPlainWindow(config, 0, spec));
  PLANISH_RETURN_IF_ERROR(ReadRotation(config, spec, {.theta = 1e6}));
  ExpertsSpec experts;
  PLANISH_TRY(experts.route.experts, ReadSize(config, "num_local_experts", 8, kMaxExperts));
  PLANISH_TRY(experts.route.chosen, ReadSize(config, "num_experts_per_tok", 2, kMaxExperts));
  Require(config, "mixtral", "norm_topk_prob", true);
  experts.route.normalize = true;
  experts.inter = spec.inter;
  experts.router = "block_sparse_moe.gate";
  experts.experts = "block_sparse_moe.experts.";
  experts.gate = "w1";
  experts.up = "w3";
  experts.down = "w2";
  PLANISH_RETURN_IF_ERROR(CheckExperts(spec, experts));
  spec.mlp = [experts](BlockBuilder& b, const DecoderSpec& s, int64_t, const std::string& prefix, ValueId x) {
    return ExpertMlp(b, s, experts, prefix, x);
  };
  return BuildDecoder(config, std::move(spec));
}

constexpr GgufName kGgufLayer[] = {{"attn_norm", "input_layernorm"},
                                   {"attn_q", "self_attn.q_proj"},
                                   {"attn_k", "self_attn.k_proj"},
                                   {"attn_v", "self_attn.v_proj"},
                                   {"attn_output", "self_attn.o_proj"},
                                   {"ffn_norm", "post_attention_layernorm"},
                                   {"ffn_gate_inp", "block_sparse_moe.gate"},
                                   {"ffn_gate_exps", "block_sparse_moe.experts.*.w1"},
                                   {"ffn_up_exps", "block_sparse_moe.experts.*.w3"},
                                   {"ffn_down_exps", "block_sparse_moe.experts.*.w2"}};
constexpr GgufFamily kGguf[] = {{.model_type = "mixtral",
                                 .arch = "llama",
                                 .rank = 2,
                                 .key = "expert_count",
                                 .top = kDecoderTop,
                                 .layer = kGgufLayer,
                                 .keys = kWindowKey,
                                 .implied = kSiluImplied,
                                 .rows = GgufFamily::Rows::kPairs,
                                 .theta = "1000000.0",
                                 .head_dim = true,
                                 .window_unread = true,
                                 .experts = "num_local_experts",
                                 .normalized = true,
                                 .rope_freqs = true,
                                 .rope_factors = true}};

}  // namespace

extern const Family kFamily;
const Family kFamily = {"mixtral", "MixtralForCausalLM",
                        "mistral with experts, weights normalized over the chosen ones", BuildMixtral, kGguf};

}  // namespace planish::mixtral

#include "model/arch/decoder.h"
#include "model/arch/gguf_names.h"
#include "model/family.h"

namespace planish::olmo2 {
namespace {

Result<Program> BuildOlmo2(const Config& config) {
  PLANISH_TRY(DecoderSpec spec, ReadDecoder(config, "olmo2", {50304, 4096, 11008, 32, 32, 0, 2048, 0}));
  PLANISH_TRY(spec.eps, ReadEpsilon(config, "rms_norm_eps", 1e-5));
  PLANISH_RETURN_IF_ERROR(ReadAttentionBias(config, spec));
  spec.names.attention_norm = spec.names.mlp_norm = "";
  spec.names.after_attention = "post_attention_layernorm";
  spec.names.after_mlp = "post_feedforward_layernorm";
  UseQkNorm(config, DecoderSpec::QkNorm::kWidth, spec);
  return BuildDecoder(config, std::move(spec));
}

constexpr GgufName kGgufLayer[] = {{"attn_q", "self_attn.q_proj"},
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
constexpr GgufFamily kGguf[] = {{.model_type = "olmo2",
                                 .arch = "olmo2",
                                 .top = kDecoderTop,
                                 .layer = kGgufLayer,
                                 .implied = kSiluImplied,
                                 .flags = kAttentionFlag}};

}  // namespace

extern const Family kFamily;
const Family kFamily = {"olmo2", "Olmo2ForCausalLM",
                        "llama with norms after the branches only, and on all heads of q and k together",
                        BuildOlmo2, kGguf};

}  // namespace planish::olmo2

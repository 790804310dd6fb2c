#include "model/arch/decoder.h"
#include "model/arch/gguf_names.h"
#include "model/family.h"

namespace planish::stablelm {
namespace {

Result<Program> BuildStablelm(const Config& config) {
  PLANISH_TRY(DecoderSpec spec,
              ReadDecoderSizes(config, "stablelm", {50304, 2560, 6912, 32, 32, 32, 4096, 0}));
  spec.norm = NormKind::kLayer;
  PLANISH_TRY(spec.eps, ReadEpsilon(config, "layer_norm_eps", 1e-5));
  PLANISH_TRY(spec.activation, ReadActivation(config));
  PLANISH_TRY(spec.tied, config.Bool("tie_word_embeddings", false));
  PLANISH_TRY(spec.qkv_bias, config.Bool("use_qkv_bias", false));
  PLANISH_TRY(spec.parallel, config.Bool("use_parallel_residual", false));
  if (spec.parallel) spec.names.mlp_norm = "";
  PLANISH_TRY(const bool qk_norm, config.Bool("qk_layernorm", false));
  if (qk_norm) spec.qk_norm = DecoderSpec::QkNorm::kHead;
  spec.names.q_norm = "self_attn.q_layernorm.norms.*";
  spec.names.k_norm = "self_attn.k_layernorm.norms.*";
  PLANISH_RETURN_IF_ERROR(ReadRotation(config, spec, {.partial = 0.25}));
  return BuildDecoder(config, std::move(spec));
}

constexpr GgufName kGgufLayer[] = {{"attn_norm", "input_layernorm"},
                                   {"attn_q", "self_attn.q_proj"},
                                   {"attn_k", "self_attn.k_proj"},
                                   {"attn_v", "self_attn.v_proj"},
                                   {"attn_output", "self_attn.o_proj"},
                                   {"attn_q_norm", "self_attn.q_layernorm.norms.*"},
                                   {"attn_k_norm", "self_attn.k_layernorm.norms.*"},
                                   {"ffn_norm", "post_attention_layernorm"},
                                   {"ffn_gate", "mlp.gate_proj"},
                                   {"ffn_up", "mlp.up_proj"},
                                   {"ffn_down", "mlp.down_proj"}};
constexpr GgufKey kGgufKeys[] = {
    {GgufKey::Kind::kBool, "use_parallel_residual", "use_parallel_residual", "false"}};
constexpr GgufName kGgufFlags[] = {{"blk.0.attn_q.bias", "use_qkv_bias"},
                                   {"blk.0.attn_q_norm.weight", "qk_layernorm"}};
constexpr GgufFamily kGguf[] = {{.model_type = "stablelm",
                                 .arch = "stablelm",
                                 .top = kDecoderTop,
                                 .layer = kGgufLayer,
                                 .keys = kGgufKeys,
                                 .implied = kSiluImplied,
                                 .flags = kGgufFlags,
                                 .eps = "layer_norm_eps",
                                 .layer_norm = true,
                                 .partial = true,
                                 .differs = "norms of heads (`qk_layernorm`) in one tensor a layer"}};

}  // namespace

extern const Family kFamily;
const Family kFamily = {
    "stablelm", "StableLmForCausalLM",
    "llama with LayerNorm, also on the heads of q and k, and rotation of a quarter of each head",
    BuildStablelm, kGguf};

}  // namespace planish::stablelm

#include "model/arch/decoder.h"
#include "model/arch/gguf_names.h"
#include "model/family.h"

namespace planish::starcoder2 {
namespace {

Result<Program> BuildStarcoder2(const Config& config) {
  PLANISH_TRY(DecoderSpec spec,
              ReadDecoderSizes(config, "starcoder2", {49152, 3072, 12288, 30, 24, 2, 4096, 0}));
  spec.norm = NormKind::kLayer;
  PLANISH_TRY(spec.eps, ReadEpsilon(config, "norm_epsilon", 1e-5));
  PLANISH_TRY(spec.activation, ReadActivation(config, "hidden_act", "gelu_pytorch_tanh"));
  PLANISH_TRY(spec.tied, config.Bool("tie_word_embeddings", true));
  PLANISH_TRY(const bool bias, config.Bool("use_bias", true));
  spec.qkv_bias = spec.o_bias = spec.mlp_bias = bias;
  // What files have beside the class's own fields, which win.
  config.LeaveAside({"activation_function"});
  Require(config, "starcoder2", "mlp_type", "default");
  Require(config, "starcoder2", "norm_type", "layer_norm");
  const Json* eps = config.Find("norm_epsilon");
  Require(config, "starcoder2", "layer_norm_epsilon", eps == nullptr ? Json(1e-5) : *eps);
  spec.names.gate = "";
  spec.names.up = "mlp.c_fc";
  spec.names.down = "mlp.c_proj";
  PLANISH_RETURN_IF_ERROR(ReadPlainWindow(config, 0, spec));
  return BuildDecoder(config, std::move(spec));
}

constexpr GgufName kGgufLayer[] = {{"attn_norm", "input_layernorm"},
                                   {"attn_q", "self_attn.q_proj"},
                                   {"attn_k", "self_attn.k_proj"},
                                   {"attn_v", "self_attn.v_proj"},
                                   {"attn_output", "self_attn.o_proj"},
                                   {"ffn_norm", "post_attention_layernorm"},
                                   {"ffn_up", "mlp.c_fc"},
                                   {"ffn_down", "mlp.c_proj"}};
constexpr GgufImplied kGgufImplied[] = {{"hidden_act", "\"gelu_pytorch_tanh\"", "\"gelu_pytorch_tanh\""}};
constexpr GgufName kGgufFlags[] = {{"blk.0.attn_q.bias", "use_bias"}};
constexpr GgufFamily kGguf[] = {{.model_type = "starcoder2",
                                 .arch = "starcoder2",
                                 .top = kDecoderTop,
                                 .layer = kGgufLayer,
                                 .keys = kWindowKey,
                                 .implied = kGgufImplied,
                                 .flags = kGgufFlags,
                                 .eps = "norm_epsilon",
                                 .layer_norm = true,
                                 .window_unread = true}};

}  // namespace

extern const Family kFamily;
const Family kFamily = {"starcoder2", "Starcoder2ForCausalLM",
                        "LayerNorm, biases everywhere, a plain MLP with GELU, sliding windows",
                        BuildStarcoder2, kGguf};

}  // namespace planish::starcoder2

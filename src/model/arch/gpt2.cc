#include "model/arch/decoder.h"
#include "model/family.h"

namespace planish::gpt2 {
namespace {

// The usual sizes under names of its own.
Result<DecoderSpec> ReadSizes(const Config& config) {
  const Config usual = config.Renamed({{"hidden_size", "n_embd"},
                                       {"intermediate_size", "n_inner"},
                                       {"num_hidden_layers", "n_layer"},
                                       {"num_attention_heads", "n_head"},
                                       {"max_position_embeddings", "n_positions"}});
  const char* width = config.Has("n_embd") ? "n_embd" : "hidden_size";
  PLANISH_TRY(const int64_t hidden, ReadSize(config, width, 768, kMaxDimension / 4));
  PLANISH_TRY(DecoderSpec spec,
              ReadDecoderSizes(usual, "gpt2", {50257, 768, 4 * hidden, 12, 12, kNoField, 1024, kNoField}));
  Require(config, "gpt2", "n_ctx", spec.max_positions);  // an older name
  spec.position_rows = spec.max_positions;
  return spec;
}

Result<Program> BuildGpt2(const Config& config) {
  Require(config, "gpt2", "add_cross_attention", false);
  PLANISH_TRY(DecoderSpec spec, ReadSizes(config));
  spec.norm = NormKind::kLayer;
  PLANISH_TRY(spec.eps, ReadEpsilon(config, "layer_norm_epsilon", 1e-5));
  PLANISH_TRY(spec.activation, ReadActivation(config, "activation_function", "gelu_new"));
  PLANISH_TRY(spec.tied, config.Bool("tie_word_embeddings", true));
  spec.qkv_bias = spec.o_bias = spec.mlp_bias = true;
  spec.transposed = true;
  auto& n = spec.names;
  n.embed = "transformer.wte";
  n.positions = "transformer.wpe";
  n.layer = "transformer.h.";
  n.final_norm = "transformer.ln_f";
  n.attention_norm = "ln_1";
  n.mlp_norm = "ln_2";
  n.qkv = "attn.c_attn";
  n.o = "attn.c_proj";
  n.gate = "";
  n.up = "mlp.c_fc";
  n.down = "mlp.c_proj";
  PLANISH_TRY(const bool scaled, config.Bool("scale_attn_weights", true));
  if (!scaled) spec.attention_scale = 1;
  PLANISH_TRY(spec.scale_by_layer, config.Bool("scale_attn_by_inverse_layer_idx", false));
  PLANISH_TRY(Program program, BuildDecoder(config, std::move(spec)));
  program.prefixes = {{"transformer.", ""}};
  program.beside.insert(program.beside.end(), {"*.attn.bias", "*.attn.masked_bias"});  // the causal mask
  return program;
}

constexpr GgufName kGgufTop[] = {{"token_embd", "transformer.wte"},
                                 {"position_embd", "transformer.wpe"},
                                 {"output_norm", "transformer.ln_f"},
                                 {"output", "lm_head"}};
constexpr GgufName kGgufLayer[] = {{"attn_norm", "ln_1"},          {"attn_qkv", "attn.c_attn"},
                                   {"attn_output", "attn.c_proj"}, {"ffn_norm", "ln_2"},
                                   {"ffn_up", "mlp.c_fc"},         {"ffn_down", "mlp.c_proj"}};
constexpr GgufImplied kGgufImplied[] = {{"activation_function", "\"gelu_new\"", "\"gelu_new\""},
                                        {"scale_attn_by_inverse_layer_idx", "false", "false"}};
constexpr GgufSizes kGgufSizes = {"n_embd", "n_layer", "n_inner", "n_head", nullptr, "n_positions"};
constexpr GgufFamily kGguf[] = {{.model_type = "gpt2",
                                 .arch = "gpt2",
                                 .top = kGgufTop,
                                 .layer = kGgufLayer,
                                 .layer_prefix = "transformer.h.",
                                 .sizes = kGgufSizes,
                                 .implied = kGgufImplied,
                                 .eps = "layer_norm_epsilon",
                                 .layer_norm = true,
                                 .theta = nullptr,
                                 .transposed = true}};

}  // namespace

extern const Family kFamily;
const Family kFamily = {"gpt2", "GPT2LMHeadModel",
                        "learned positions, LayerNorm, biases, weights stored [in, out], fused q, k, v, GELU",
                        BuildGpt2, kGguf};

}  // namespace planish::gpt2

#include "model/arch/decoder.h"
#include "model/family.h"

namespace planish::gpt_neox {
namespace {

Result<Program> BuildGptNeox(const Config& config) {
  PLANISH_TRY(DecoderSpec spec,
              ReadDecoderSizes(config, "gpt_neox", {50432, 6144, 24576, 44, 64, kNoField, 2048, kNoField}));
  spec.norm = NormKind::kLayer;
  PLANISH_TRY(spec.eps, ReadEpsilon(config, "layer_norm_eps", 1e-5));
  PLANISH_TRY(spec.activation, ReadActivation(config, "hidden_act", "gelu"));
  PLANISH_TRY(spec.tied, config.Bool("tie_word_embeddings", false));
  PLANISH_TRY(spec.parallel, config.Bool("use_parallel_residual", true));
  PLANISH_RETURN_IF_ERROR(ReadAttentionBias(config, spec, /*fallback=*/true));
  spec.mlp_bias = true;
  spec.fused_qkv = FusedQkv::kByGroup;
  auto& n = spec.names;
  n.embed = "gpt_neox.embed_in";
  n.layer = "gpt_neox.layers.";
  n.final_norm = "gpt_neox.final_layer_norm";
  n.head = "embed_out";
  n.qkv = "attention.query_key_value";
  n.o = "attention.dense";
  n.gate = "";
  n.up = "mlp.dense_h_to_4h";
  n.down = "mlp.dense_4h_to_h";
  PLANISH_RETURN_IF_ERROR(ReadRotation(
      config, spec, {.partial = 0.25, .older_theta = "rotary_emb_base", .older_partial = "rotary_pct"}));
  PLANISH_TRY(Program program, BuildDecoder(config, std::move(spec)));
  program.beside.insert(program.beside.end(), {"*.attention.bias", "*.attention.masked_bias"});  // the mask
  return program;
}

constexpr GgufName kGgufTop[] = {{"token_embd", "gpt_neox.embed_in"},
                                 {"output_norm", "gpt_neox.final_layer_norm"},
                                 {"output", "embed_out"}};
constexpr GgufName kGgufLayer[] = {
    {"attn_norm", "input_layernorm"},   {"attn_qkv", "attention.query_key_value"},
    {"attn_output", "attention.dense"}, {"ffn_norm", "post_attention_layernorm"},
    {"ffn_up", "mlp.dense_h_to_4h"},    {"ffn_down", "mlp.dense_4h_to_h"}};
constexpr GgufKey kGgufKeys[] = {
    {GgufKey::Kind::kBool, "use_parallel_residual", "use_parallel_residual", "true"}};
constexpr GgufImplied kGgufImplied[] = {{"hidden_act", "\"gelu\"", "\"gelu\""}};
constexpr GgufName kGgufFlags[] = {{"blk.0.attn_qkv.bias", "attention_bias"}};
constexpr GgufSizes kGgufSizes = {.kv_heads = nullptr};
constexpr GgufFamily kGguf[] = {{.model_type = "gpt_neox",
                                 .arch = "gptneox",
                                 .top = kGgufTop,
                                 .layer = kGgufLayer,
                                 .layer_prefix = "gpt_neox.layers.",
                                 .sizes = kGgufSizes,
                                 .keys = kGgufKeys,
                                 .implied = kGgufImplied,
                                 .flags = kGgufFlags,
                                 .eps = "layer_norm_eps",
                                 .layer_norm = true,
                                 .rows = GgufFamily::Rows::kGroups,
                                 .partial = true}};

}  // namespace

extern const Family kFamily;
const Family kFamily = {
    "gpt_neox", "GPTNeoXForCausalLM",
    "LayerNorm, both branches in parallel, q, k, v of each head together, rotation of a quarter of it",
    BuildGptNeox, kGguf};

}  // namespace planish::gpt_neox

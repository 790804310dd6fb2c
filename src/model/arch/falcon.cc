#include "model/arch/decoder.h"
#include "model/family.h"

namespace planish::falcon {
namespace {

Result<DecoderSpec> ReadSizes(const Config& config, bool newer) {
  PLANISH_TRY(const int64_t hidden, ReadSize(config, "hidden_size", 4544, kMaxDimension / 4));
  PLANISH_TRY(DecoderSpec spec,
              ReadDecoderSizes(config.Renamed({{"intermediate_size", "ffn_hidden_size"}}), "falcon",
                               {65024, 4544, 4 * hidden, 32, 71, kNoField, 2048, kNoField}));
  PLANISH_TRY(const bool multi_query, config.Bool("multi_query", true));
  // Three ways to lay out q, k and v: one head of k and v behind all of q, every head's three together, or
  // every group's.
  PLANISH_TRY(const int64_t kv_heads, ReadSize(config, "num_kv_heads", spec.heads));
  if (!newer && !multi_query) Require(config, "falcon", "num_kv_heads", spec.heads);
  spec.kv_heads = newer || !multi_query ? kv_heads : 1;
  spec.fused_qkv = !newer && multi_query ? FusedQkv::kParts : FusedQkv::kByGroup;
  PLANISH_RETURN_IF_ERROR(CheckHeads(spec.heads, spec.kv_heads, spec.head_dim));
  return spec;
}

Status ReadLayout(const Config& config, bool newer, DecoderSpec& spec) {
  PLANISH_TRY(const bool parallel, config.Bool("parallel_attn", true));
  PLANISH_TRY(const int64_t norms, ReadSize(config, "num_ln_in_parallel_attn", newer ? 2 : 1, 2));
  spec.parallel = newer || parallel;
  if (newer && norms == 2) {
    spec.names.attention_norm = "ln_attn";
    spec.names.mlp_norm = "ln_mlp";
  } else if (spec.parallel) {
    spec.names.mlp_norm = "";
  }
  return {};
}

Result<Program> BuildFalcon(const Config& config) {
  PLANISH_TRY(const bool newer, config.Bool("new_decoder_architecture", false));
  PLANISH_TRY(DecoderSpec spec, ReadSizes(config, newer));
  Require(config, "falcon", "alibi", false);
  spec.norm = NormKind::kLayer;
  PLANISH_TRY(spec.eps, ReadEpsilon(config, "layer_norm_epsilon", 1e-5));
  PLANISH_TRY(spec.activation, ReadActivation(config, "activation", "gelu"));
  PLANISH_TRY(spec.tied, config.Bool("tie_word_embeddings", true));
  PLANISH_TRY(const bool bias, config.Bool("bias", false));
  spec.qkv_bias = spec.o_bias = spec.mlp_bias = bias;
  auto& n = spec.names;
  n.embed = "transformer.word_embeddings";
  n.layer = "transformer.h.";
  n.final_norm = "transformer.ln_f";
  n.qkv = "self_attention.query_key_value";
  n.o = "self_attention.dense";
  n.gate = "";
  n.up = "mlp.dense_h_to_4h";
  n.down = "mlp.dense_4h_to_h";
  PLANISH_RETURN_IF_ERROR(ReadLayout(config, newer, spec));
  return BuildDecoder(config, std::move(spec));
}

constexpr GgufName kGgufTop[] = {{"token_embd", "transformer.word_embeddings"},
                                 {"output_norm", "transformer.ln_f"},
                                 {"output", "lm_head"}};
constexpr GgufName kGgufLayer[] = {{"attn_norm", "input_layernorm"},
                                   {"attn_qkv", "self_attention.query_key_value"},
                                   {"attn_output", "self_attention.dense"},
                                   {"ffn_up", "mlp.dense_h_to_4h"},
                                   {"ffn_down", "mlp.dense_4h_to_h"}};
constexpr GgufName kGgufTwoNormsLayer[] = {{"attn_norm", "ln_mlp"},
                                           {"attn_norm_2", "ln_attn"},
                                           {"attn_qkv", "self_attention.query_key_value"},
                                           {"attn_output", "self_attention.dense"},
                                           {"ffn_up", "mlp.dense_h_to_4h"},
                                           {"ffn_down", "mlp.dense_4h_to_h"}};
constexpr GgufImplied kGgufImplied[] = {{"activation", "\"gelu\"", "\"gelu\""},
                                        {"parallel_attn", "true", "true"},
                                        {"num_ln_in_parallel_attn", "1", nullptr}};
constexpr GgufImplied kGgufTwoNormsImplied[] = {{"activation", "\"gelu\"", "\"gelu\""},
                                                {"parallel_attn", "true", "true"},
                                                {"num_ln_in_parallel_attn", "2", nullptr}};
constexpr GgufName kGgufFlags[] = {{"blk.0.attn_qkv.bias", "bias"},
                                   {"blk.0.attn_norm.weight", "new_decoder_architecture"}};
constexpr GgufSizes kGgufSizes = {.inter = "ffn_hidden_size", .kv_heads = "num_kv_heads"};
// Files do not tell the older layouts of q, k and v from the newer: all have q, k and v one after the other.
constexpr GgufFamily kOneNorm = {.model_type = "falcon",
                                 .arch = "falcon",
                                 .top = kGgufTop,
                                 .layer = kGgufLayer,
                                 .layer_prefix = "transformer.h.",
                                 .sizes = kGgufSizes,
                                 .implied = kGgufImplied,
                                 .flags = kGgufFlags,
                                 .eps = "layer_norm_epsilon",
                                 .layer_norm = true,
                                 .rows = GgufFamily::Rows::kGroups};
constexpr GgufFamily TwoNorms() {
  GgufFamily two = kOneNorm;
  two.rank = 1;
  two.tensor = "blk.0.attn_norm_2.weight";
  two.layer = kGgufTwoNormsLayer;
  two.implied = kGgufTwoNormsImplied;
  return two;
}
constexpr GgufFamily kGguf[] = {TwoNorms(), kOneNorm};

}  // namespace

extern const Family kFamily;
const Family kFamily = {
    "falcon", "FalconForCausalLM",
    "LayerNorm, both branches in parallel, fused q, k, v with one or few heads of k and v, GELU", BuildFalcon,
    kGguf};

}  // namespace planish::falcon

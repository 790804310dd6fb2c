#include "model/arch/decoder.h"
#include "model/family.h"

namespace planish::opt {
namespace {

Result<Program> BuildOpt(const Config& config) {
  PLANISH_TRY(DecoderSpec spec, ReadDecoderSizes(config.Renamed({{"intermediate_size", "ffn_dim"}}), "opt",
                                                 {50272, 768, 3072, 12, 12, kNoField, 2048, kNoField}));
  Require(config, "opt", "layer_norm_elementwise_affine", true);
  Require(config, "opt", "learned_embeddings", true);  // of Galactica's files
  spec.norm = NormKind::kLayer;
  spec.eps = 1e-5f;
  PLANISH_TRY(spec.activation, ReadActivation(config, "activation_function", "relu"));
  PLANISH_TRY(spec.tied, config.Bool("tie_word_embeddings", true));
  PLANISH_TRY(const bool bias, config.Bool("enable_bias", true));
  spec.qkv_bias = spec.o_bias = spec.mlp_bias = bias;
  auto& n = spec.names;
  n.embed = "model.decoder.embed_tokens";
  n.positions = "model.decoder.embed_positions";
  n.layer = "model.decoder.layers.";
  n.final_norm = "model.decoder.final_layer_norm";
  n.attention_norm = "self_attn_layer_norm";
  n.mlp_norm = "final_layer_norm";
  n.o = "self_attn.out_proj";
  n.gate = "";
  n.up = "fc1";
  n.down = "fc2";
  spec.position_offset = 2;  // the rows of padding
  spec.position_rows = spec.max_positions + spec.position_offset;
  PLANISH_TRY(const bool norm_first, config.Bool("do_layer_norm_before", true));
  PLANISH_TRY(const bool no_final_norm, config.Bool("_remove_final_layer_norm", false));
  spec.norm_after_sum = !norm_first;
  if (!norm_first || no_final_norm) n.final_norm = "";
  PLANISH_TRY(spec.embed_width, ReadSize(config, "word_embed_proj_dim", spec.hidden));
  if (spec.embed_width != spec.hidden) {
    spec.project_in = "model.decoder.project_in";
    spec.project_out = "model.decoder.project_out";
  }
  PLANISH_TRY(Program program, BuildDecoder(config, std::move(spec)));
  program.prefixes = {{"model.decoder.", "decoder."}};
  program.beside.emplace_back("model.decoder.version");
  return program;
}

}  // namespace

extern const Family kFamily;
const Family kFamily = {"opt", "OPTForCausalLM",
                        "learned positions, LayerNorm, biases, a plain MLP with ReLU", BuildOpt};

}  // namespace planish::opt

#include "model/arch/decoder.h"
#include "model/arch/gguf_names.h"
#include "model/family.h"

namespace planish::cohere {
namespace {

Result<Program> BuildCohere(const Config& config) {
  PLANISH_TRY(DecoderSpec spec,
              ReadDecoderSizes(config, "cohere", {256000, 8192, 22528, 40, 64, 0, 8192, 0}));
  spec.norm = NormKind::kLayerNoBias;
  PLANISH_TRY(spec.eps, ReadEpsilon(config, "layer_norm_eps", 1e-5));
  PLANISH_TRY(spec.activation, ReadActivation(config));
  PLANISH_TRY(spec.tied, config.Bool("tie_word_embeddings", true));
  PLANISH_RETURN_IF_ERROR(ReadAttentionBias(config, spec));
  PLANISH_TRY(const bool qk_norm, config.Bool("use_qk_norm", false));
  if (qk_norm) spec.qk_norm = DecoderSpec::QkNorm::kHead;  // with weights of its own for every head
  spec.parallel = true;
  spec.names.mlp_norm = "";
  PLANISH_TRY(spec.logit_scale, ReadFactor(config, "logit_scale", 0.0625));
  PLANISH_RETURN_IF_ERROR(ReadRotation(config, spec, {.pairing = RopePairing::kAdjacent}));
  return BuildDecoder(config, std::move(spec));
}

constexpr GgufKey kGgufKeys[] = {{GgufKey::Kind::kFloat, "logit_scale", "logit_scale", "0.0625"}};
constexpr GgufName kGgufFlags[] = {{"blk.0.attn_q.bias", "attention_bias"},
                                   {"blk.0.attn_q_norm.weight", "use_qk_norm"}};
constexpr GgufFamily kGguf[] = {{.model_type = "cohere",
                                 .arch = "command-r",
                                 .top = kDecoderTop,
                                 .layer = kDecoderLayer,
                                 .keys = kGgufKeys,
                                 .implied = kSiluImplied,
                                 .flags = kGgufFlags,
                                 .eps = "layer_norm_eps",
                                 .layer_norm = true}};

}  // namespace

extern const Family kFamily;
const Family kFamily = {"cohere", "CohereForCausalLM",
                        "LayerNorm without bias, both branches in parallel on one norm, rotation of "
                        "adjacent pairs, scaled logits",
                        BuildCohere, kGguf};

}  // namespace planish::cohere

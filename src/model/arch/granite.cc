#include "model/arch/decoder.h"
#include "model/arch/gguf_names.h"
#include "model/family.h"

namespace planish::granite {
namespace {

Result<Program> BuildGranite(const Config& config) {
  PLANISH_TRY(DecoderSpec spec, ReadDecoder(config, "granite", {32000, 4096, 11008, 32, 32, 0, 2048, 0}));
  PLANISH_RETURN_IF_ERROR(ReadAttentionBias(config, spec));
  PLANISH_TRY(spec.mlp_bias, config.Bool("mlp_bias", false));
  PLANISH_TRY(spec.embed_scale, ReadFactor(config, "embedding_multiplier", 1));
  PLANISH_TRY(spec.attention_scale, ReadFactor(config, "attention_multiplier", 1));
  PLANISH_TRY(spec.residual_scale, ReadFactor(config, "residual_multiplier", 1));
  PLANISH_TRY(const float divisor, ReadFactor(config, "logits_scaling", 1));
  spec.logit_scale = 1.0f / divisor;
  return BuildDecoder(config, std::move(spec));
}

constexpr GgufKey kGgufKeys[] = {{GgufKey::Kind::kFloat, "attention.scale", "attention_multiplier", "1.0"},
                                 {GgufKey::Kind::kFloat, "embedding_scale", "embedding_multiplier", "1.0"},
                                 {GgufKey::Kind::kFloat, "residual_scale", "residual_multiplier", "1.0"},
                                 {GgufKey::Kind::kFloat, "logit_scale", "logits_scaling", "1.0"}};
constexpr GgufFamily kGguf[] = {{.model_type = "granite",
                                 .arch = "granite",
                                 .top = kDecoderTop,
                                 .layer = kDecoderLayer,
                                 .keys = kGgufKeys,
                                 .implied = kSiluImplied,
                                 .flags = kLlamaFlags,
                                 .rows = GgufFamily::Rows::kPairs,
                                 .rope_freqs = true,
                                 .rope_factors = true}};

}  // namespace

extern const Family kFamily;
const Family kFamily = {"granite", "GraniteForCausalLM",
                        "llama with factors on embeddings, scores, branches and logits", BuildGranite, kGguf};

}  // namespace planish::granite

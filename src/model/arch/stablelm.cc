#include "model/arch/decoder.h"
#include "model/family.h"

namespace planish {
namespace {

Result<Program> BuildStablelm(const Json& config) {
  PLANISH_TRY(DecoderSpec spec,
              ReadDecoderSizes(config, "stablelm", {50304, 2560, 6912, 32, 32, 32, 4096, 0}));
  PLANISH_RETURN_IF_ERROR(Require(config, "stablelm", "qk_layernorm", false));
  spec.norm = NormKind::kLayer;
  PLANISH_TRY(spec.eps, ReadEpsilon(config, "layer_norm_eps", 1e-5));
  PLANISH_TRY(spec.activation, ReadActivation(config));
  PLANISH_TRY(spec.tied, JsonBool(config, "tie_word_embeddings", false));
  PLANISH_TRY(spec.qkv_bias, JsonBool(config, "use_qkv_bias", false));
  PLANISH_TRY(spec.parallel, JsonBool(config, "use_parallel_residual", false));
  if (spec.parallel) spec.names.mlp_norm = "";
  PLANISH_RETURN_IF_ERROR(ReadRotation(config, spec, 10000, 0.25));
  return BuildDecoder(config, std::move(spec));
}

}  // namespace

extern const Family kFamily_stablelm;
const Family kFamily_stablelm = {"stablelm", "llama with LayerNorm and rotation of a quarter of each head",
                                 BuildStablelm};

}  // namespace planish

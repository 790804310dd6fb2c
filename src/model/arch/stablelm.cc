#include "model/arch/decoder.h"
#include "model/arch/gguf_names.h"
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

constexpr GgufKey kGgufKeys[] = {
    {GgufKey::Kind::kBool, "use_parallel_residual", "use_parallel_residual", "false"}};
constexpr GgufName kGgufFlags[] = {{"blk.0.attn_q.bias", "use_qkv_bias"}};
constexpr GgufFamily kGguf[] = {{.model_type = "stablelm",
                                 .arch = "stablelm",
                                 .top = kDecoderTop,
                                 .layer = kDecoderLayer,
                                 .keys = kGgufKeys,
                                 .implied = kSiluImplied,
                                 .flags = kGgufFlags,
                                 .eps = "layer_norm_eps",
                                 .layer_norm = true,
                                 .partial = true}};

}  // namespace

extern const Family kFamily_stablelm;
const Family kFamily_stablelm = {"stablelm", "llama with LayerNorm and rotation of a quarter of each head",
                                 BuildStablelm, kGguf};

}  // namespace planish

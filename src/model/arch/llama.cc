#include "model/arch/decoder.h"
#include "model/arch/gguf_names.h"
#include "model/family.h"

namespace planish {
namespace {

Result<Program> BuildLlama(const Json& config) {
  PLANISH_TRY(DecoderSpec spec, ReadDecoder(config, "llama", {32000, 4096, 11008, 32, 32, 0, 2048, 0}));
  PLANISH_TRY(spec.qkv_bias, JsonBool(config, "attention_bias", false));
  spec.o_bias = spec.qkv_bias;
  PLANISH_TRY(spec.mlp_bias, JsonBool(config, "mlp_bias", false));
  return BuildDecoder(config, std::move(spec));
}

constexpr GgufFamily kGguf[] = {{.model_type = "llama",
                                 .arch = "llama",
                                 .top = kDecoderTop,
                                 .layer = kDecoderLayer,
                                 .implied = kSiluImplied,
                                 .flags = kLlamaFlags,
                                 .rows = GgufFamily::Rows::kPairs,
                                 .head_dim = true,
                                 .rope_freqs = true,
                                 .rope_factors = true}};

}  // namespace

extern const Family kFamily_llama;
const Family kFamily_llama = {"llama", "RMSNorm, rotary positions, gated MLP, grouped-query attention",
                              BuildLlama, kGguf};

}  // namespace planish

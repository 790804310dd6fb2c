#include "model/arch/decoder.h"
#include "model/arch/gguf_names.h"
#include "model/family.h"

namespace planish::llama {
namespace {

Result<Program> BuildLlama(const Config& config) {
  PLANISH_TRY(DecoderSpec spec, ReadDecoder(config, "llama", {32000, 4096, 11008, 32, 32, 0, 2048, 0}));
  PLANISH_RETURN_IF_ERROR(ReadAttentionBias(config, spec));
  Require(config, "llama", "activation", "swiglu");  // of Falcon 3's files
  PLANISH_TRY(spec.mlp_bias, config.Bool("mlp_bias", false));
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

extern const Family kFamily;
const Family kFamily = {"llama", "LlamaForCausalLM",
                        "RMSNorm, rotary positions, gated MLP, grouped-query attention", BuildLlama, kGguf};

}  // namespace planish::llama

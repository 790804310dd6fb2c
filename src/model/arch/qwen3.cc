#include "model/arch/decoder.h"
#include "model/arch/gguf_names.h"
#include "model/family.h"

namespace planish::qwen3 {
namespace {

Result<Program> BuildQwen3(const Config& config) {
  PLANISH_TRY(DecoderSpec spec, ReadDecoder(config, "qwen3", {151936, 4096, 22016, 32, 32, 32, 32768, 128}));
  PLANISH_RETURN_IF_ERROR(ReadAttentionBias(config, spec));
  UseQkNorm(config, DecoderSpec::QkNorm::kHead, spec);
  PLANISH_RETURN_IF_ERROR(ReadOptionalWindows(config, spec));
  return BuildDecoder(config, std::move(spec));
}

constexpr GgufFamily kGguf[] = {{.model_type = "qwen3",
                                 .arch = "qwen3",
                                 .top = kDecoderTop,
                                 .layer = kDecoderLayer,
                                 .implied = kSiluFullImplied,
                                 .flags = kAttentionFlag,
                                 .head_dim = true}};

}  // namespace

extern const Family kFamily;
const Family kFamily = {"qwen3", "Qwen3ForCausalLM", "llama with RMSNorm on the heads of q and k", BuildQwen3,
                        kGguf};

}  // namespace planish::qwen3

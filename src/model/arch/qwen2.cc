#include "model/arch/decoder.h"
#include "model/arch/gguf_names.h"
#include "model/family.h"

namespace planish {
namespace {

Result<Program> BuildQwen2(const Json& config) {
  PLANISH_TRY(DecoderSpec spec, ReadDecoder(config, "qwen2", {151936, 4096, 22016, 32, 32, 32, 32768, 0}));
  spec.qkv_bias = true;
  PLANISH_RETURN_IF_ERROR(ReadOptionalWindows(config, spec));
  return BuildDecoder(config, std::move(spec));
}

constexpr GgufFamily kGguf[] = {{.model_type = "qwen2",
                                 .arch = "qwen2",
                                 .top = kDecoderTop,
                                 .layer = kDecoderLayer,
                                 .implied = kSiluFullImplied}};

}  // namespace

extern const Family kFamily_qwen2;
const Family kFamily_qwen2 = {"qwen2", "llama with biases on q, k and v", BuildQwen2, kGguf};

}  // namespace planish

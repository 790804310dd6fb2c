#include "model/arch/decoder.h"
#include "model/family.h"

namespace planish {
namespace {

Result<Program> BuildStarcoder2(const Json& config) {
  PLANISH_TRY(DecoderSpec spec,
              ReadDecoderSizes(config, "starcoder2", {49152, 3072, 12288, 30, 24, 2, 4096, 0}));
  spec.norm = NormKind::kLayer;
  PLANISH_TRY(spec.eps, ReadEpsilon(config, "norm_epsilon", 1e-5));
  PLANISH_TRY(spec.activation, ReadActivation(config, "hidden_act", "gelu_pytorch_tanh"));
  PLANISH_TRY(spec.tied, JsonBool(config, "tie_word_embeddings", true));
  PLANISH_TRY(const bool bias, JsonBool(config, "use_bias", true));
  spec.qkv_bias = spec.o_bias = spec.mlp_bias = bias;
  spec.names.gate = "";
  spec.names.up = "mlp.c_fc";
  spec.names.down = "mlp.c_proj";
  PLANISH_RETURN_IF_ERROR(ReadPlainWindow(config, 0, spec));
  return BuildDecoder(config, std::move(spec));
}

}  // namespace

extern const Family kFamily_starcoder2;
const Family kFamily_starcoder2 = {
    "starcoder2", "LayerNorm, biases everywhere, a plain MLP with GELU, sliding windows", BuildStarcoder2};

}  // namespace planish

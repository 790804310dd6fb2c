#include "model/arch/decoder.h"
#include "model/arch/gguf_names.h"
#include "model/family.h"

namespace planish::phi3 {
namespace {

Result<Program> BuildPhi3(const Config& config) {
  PLANISH_TRY(DecoderSpec spec, ReadDecoder(config, "phi3", {32064, 3072, 8192, 32, 32, 0, 4096, 0}));
  PLANISH_TRY(spec.eps, ReadEpsilon(config, "rms_norm_eps", 1e-5));
  // Of files; nothing reads them.
  for (const char* field : {"full_attn_mod", "interpolate_factor"}) {
    Require(config, "phi3", field, 1);
  }
  spec.names.qkv = "self_attn.qkv_proj";
  spec.names.gate_up = "mlp.gate_up_proj";
  PLANISH_RETURN_IF_ERROR(ReadPlainWindow(config, 0, spec));
  return BuildDecoder(config, std::move(spec));
}

constexpr GgufName kGgufLayer[] = {
    {"attn_norm", "input_layernorm"},    {"attn_qkv", "self_attn.qkv_proj"},
    {"attn_output", "self_attn.o_proj"}, {"ffn_norm", "post_attention_layernorm"},
    {"ffn_up", "mlp.gate_up_proj"},      {"ffn_down", "mlp.down_proj"}};
constexpr GgufFamily kGguf[] = {{.model_type = "phi3",
                                 .arch = "phi3",
                                 .top = kDecoderTop,
                                 .layer = kGgufLayer,
                                 .keys = kWindowKey,
                                 .implied = kSiluImplied,
                                 .partial = true,
                                 .gate_up = true,
                                 .window_unread = true,
                                 .rope_factors = true}};

}  // namespace

extern const Family kFamily;
const Family kFamily = {"phi3", "Phi3ForCausalLM",
                        "llama with q, k, v in one tensor and gate and up in another, longrope", BuildPhi3,
                        kGguf};

}  // namespace planish::phi3

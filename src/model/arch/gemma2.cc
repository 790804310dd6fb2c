#include "model/arch/gemma.h"
#include "model/arch/gguf_names.h"
#include "model/family.h"

namespace planish::gemma2 {
namespace {

Result<Program> BuildGemma2(const Config& config) {
  PLANISH_TRY(DecoderSpec spec, ReadGemma(config, "gemma2", {256000, 2304, 9216, 26, 8, 4, 8192, 256},
                                          /*attention_cap=*/50, /*logit_cap=*/30));
  const Json* window = config.Find("sliding_window");
  Require(config, "gemma2", "sliding_window_size",
          window == nullptr ? Json(4096) : *window);  // an older name
  PLANISH_TRY(const auto sliding, SlidingLayers(config, spec.layers, [](int64_t i) { return i % 2 == 0; }));
  PLANISH_RETURN_IF_ERROR(SetWindows(config, sliding, 4096, spec));
  return BuildDecoder(config, std::move(spec));
}

constexpr GgufKey kGgufKeys[] = {
    {GgufKey::Kind::kInt, "attention.sliding_window", "sliding_window", "4096"},
    {GgufKey::Kind::kFloat, "attn_logit_softcapping", "attn_logit_softcapping", "50.0", "null"},
    {GgufKey::Kind::kFloat, "final_logit_softcapping", "final_logit_softcapping", "30.0", "null"}};
constexpr GgufImplied kGgufImplied[] = {
    {"hidden_activation", "\"gelu_pytorch_tanh\"", "\"gelu_pytorch_tanh\""},
    {"attention_bias", "false", "false"}};
constexpr GgufFamily kGguf[] = {{.model_type = "gemma2",
                                 .arch = "gemma2",
                                 .top = kDecoderTop,
                                 .layer = kGemmaLayer,
                                 .keys = kGgufKeys,
                                 .implied = kGgufImplied,
                                 .norm_plus = 1,
                                 .head_dim = true,
                                 .windows = GgufFamily::Windows::kAlternate,
                                 .largest_layers = 46}};

}  // namespace

extern const Family kFamily;
const Family kFamily = {
    "gemma2", "Gemma2ForCausalLM",
    "llama with norms after the branches too, soft caps, every other layer sliding, scaled embeddings",
    BuildGemma2, kGguf};

}  // namespace planish::gemma2

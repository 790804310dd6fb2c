#include "model/arch/gemma.h"

#include <cmath>

namespace planish {

Result<DecoderSpec> ReadGemma(const Config& config, const char* family, const DecoderDefaults& defaults,
                              double attention_cap, double logit_cap) {
  PLANISH_TRY(DecoderSpec spec, ReadDecoderSizes(config, family, defaults));
  Require(config, family, "use_bidirectional_attention", false);
  spec.norm = NormKind::kRmsPlusOne;
  spec.names.after_attention = "post_attention_layernorm";
  spec.names.mlp_norm = "pre_feedforward_layernorm";
  spec.names.after_mlp = "post_feedforward_layernorm";
  PLANISH_TRY(spec.eps, ReadEpsilon(config, "rms_norm_eps", 1e-6));
  // The class reads hidden_activation alone; files have the older name beside it, some of them with the exact
  // GELU, and mean this one.
  if (const Json* older = config.Find("hidden_act"); older != nullptr && *older != "gelu") {
    Require(config, family, "hidden_act", "gelu_pytorch_tanh");
  }
  PLANISH_TRY(spec.activation, ReadActivation(config, "hidden_activation", "gelu_pytorch_tanh"));
  PLANISH_TRY(spec.tied, config.Bool("tie_word_embeddings", true));
  PLANISH_RETURN_IF_ERROR(ReadAttentionBias(config, spec));
  // Rounded to bf16, in which the models were trained.
  spec.embed_scale = ToFloat(ToBF16(static_cast<float>(std::sqrt(static_cast<double>(spec.hidden)))));
  PLANISH_TRY(const float scalar, ReadFactor(config, "query_pre_attn_scalar", 256));
  if (scalar < 0) return InputError("query_pre_attn_scalar: expected a positive number");
  spec.attention_scale = 1.0f / std::sqrt(scalar);
  PLANISH_TRY(spec.attention_cap, ReadCap(config, "attn_logit_softcapping", attention_cap));
  PLANISH_TRY(spec.logit_cap, ReadCap(config, "final_logit_softcapping", logit_cap));
  return spec;
}

}  // namespace planish

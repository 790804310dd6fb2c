// What the second and third Gemma share.
#pragma once

#include "model/arch/decoder.h"

namespace planish {

// Norms times 1 + w before and after both branches, embeddings times sqrt(hidden), scores times
// query_pre_attn_scalar^-0.5, soft caps, GELU gates, tied head.
Result<DecoderSpec> ReadGemma(const Json& config, const char* family, const DecoderDefaults& defaults,
                              const Json& default_caps);

}  // namespace planish

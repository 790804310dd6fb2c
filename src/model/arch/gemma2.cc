#include "model/arch/gemma.h"
#include "model/family.h"

namespace planish {
namespace {

Result<Program> BuildGemma2(const Json& config) {
  PLANISH_TRY(DecoderSpec spec,
              ReadGemma(config, "gemma2", {256000, 2304, 9216, 26, 8, 4, 8192, 256},
                        {{"attn_logit_softcapping", 50.0}, {"final_logit_softcapping", 30.0}}));
  PLANISH_TRY(const int64_t window, ReadSize(config, "sliding_window", 4096));
  PLANISH_TRY(const auto sliding, SlidingLayers(config, spec.layers, [](int64_t i) { return i % 2 == 0; }));
  for (size_t i = 0; i < sliding.size(); ++i) spec.windows[i] = sliding[i] ? window : 0;
  return BuildDecoder(config, std::move(spec));
}

}  // namespace

extern const Family kFamily_gemma2;
const Family kFamily_gemma2 = {
    "gemma2",
    "llama with norms after the branches too, soft caps, every other layer sliding, scaled embeddings",
    BuildGemma2};

}  // namespace planish

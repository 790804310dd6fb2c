#include "model/arch/decoder.h"
#include "model/arch/gguf_names.h"
#include "model/family.h"

namespace planish::mistral {
namespace {

Result<Program> BuildMistral(const Config& config) {
  PLANISH_TRY(DecoderSpec spec, ReadDecoder(config, "mistral", {32000, 4096, 14336, 32, 32, 8, 131072, 0}));
  PLANISH_RETURN_IF_ERROR(ReadPlainWindow(config, 4096, spec));
  return BuildDecoder(config, std::move(spec));
}

// Without a window it is a Llama to whoever reads the file.
constexpr GgufFamily kFull = {.model_type = "llama",
                              .arch = "llama",
                              .rank = -1,
                              .top = kDecoderTop,
                              .layer = kDecoderLayer,
                              .implied = kSiluImplied,
                              .rows = GgufFamily::Rows::kPairs,
                              .head_dim = true,
                              .rope_freqs = true,
                              .rope_factors = true};
constexpr GgufFamily Windowed() {
  GgufFamily windowed = kFull;
  windowed.model_type = "mistral";
  windowed.rank = 1;
  windowed.key = "attention.sliding_window";
  windowed.keys = kWindowKey;
  windowed.window_unread = true;
  return windowed;
}
constexpr GgufFamily kGguf[] = {Windowed(), kFull};

}  // namespace

extern const Family kFamily;
const Family kFamily = {"mistral", "MistralForCausalLM", "llama with sliding-window attention", BuildMistral,
                        kGguf};

}  // namespace planish::mistral

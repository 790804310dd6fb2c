#include "model/arch/decoder.h"
#include "model/family.h"

namespace planish {
namespace {

Result<Program> BuildMistral(const Json& config) {
  PLANISH_TRY(DecoderSpec spec, ReadDecoder(config, "mistral", {32000, 4096, 14336, 32, 32, 8, 131072, 0}));
  PLANISH_RETURN_IF_ERROR(ReadPlainWindow(config, 4096, spec));
  return BuildDecoder(config, std::move(spec));
}

}  // namespace

extern const Family kFamily_mistral;
const Family kFamily_mistral = {"mistral", "llama with sliding-window attention", BuildMistral};

}  // namespace planish

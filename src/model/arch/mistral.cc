#include "model/arch/decoder.h"
#include "model/family.h"

namespace planish {
namespace {

Result<Program> Build(const Json& config) {
  PLANISH_TRY(DecoderSpec spec, ReadDecoder(config, "mistral", {32000, 4096, 14336, 32, 32, 8, 131072, 0}));
  // null means full attention; a missing key means the class default.
  const bool full = config.contains("sliding_window") && config["sliding_window"].is_null();
  if (!full) {
    PLANISH_TRY(const int64_t window, JsonInt(config, "sliding_window", 4096));
    PLANISH_RETURN_IF_ERROR(ReadWindows(config, window, 0, spec));
  }
  return BuildDecoder(config, spec);
}

}  // namespace

extern const Family kFamily_mistral;
const Family kFamily_mistral = {"mistral", "llama with sliding-window attention", Build};

}  // namespace planish

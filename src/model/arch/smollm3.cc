#include <fmt/format.h>

#include "base/names.h"
#include "model/arch/decoder.h"
#include "model/arch/gguf_names.h"
#include "model/family.h"

namespace planish::smollm3 {
namespace {

// `no_rope_layers` lists 1 for layers that rotate and 0 for those that do not; without it every
// `no_rope_layer_interval`-th layer does not.
Status ReadUnrotated(const Config& config, DecoderSpec& spec) {
  PLANISH_TRY(const int64_t interval, ReadSize(config, "no_rope_layer_interval", 4));
  if (const Json* list = config.Find("no_rope_layers"); list != nullptr) {
    if (!list->is_array()) return InputError("field 'no_rope_layers': expected a list");
    if (list->size() != spec.ropes.size()) {
      return InputError(
          fmt::format("no_rope_layers has {} entries for {} layers", list->size(), spec.ropes.size()));
    }
    for (size_t i = 0; i < list->size(); ++i) {
      if ((*list)[i] != 0 && (*list)[i] != 1) {
        return InputError(fmt::format("no_rope_layers[{}]: expected 0 or 1, found {}", i,
                                      Abbreviate(DumpJson((*list)[i]))));
      }
      spec.ropes[i] = (*list)[i] == 1 ? 0 : -1;
    }
    return {};
  }
  for (size_t i = 0; i < spec.ropes.size(); ++i) {
    spec.ropes[i] = (static_cast<int64_t>(i) + 1) % interval == 0 ? -1 : 0;
  }
  return {};
}

Result<Program> BuildSmollm3(const Config& config) {
  PLANISH_TRY(DecoderSpec spec, ReadDecoder(config, "smollm3", {128256, 2048, 11008, 36, 16, 4, 32768, 0}));
  PLANISH_TRY(spec.tied, config.Bool("tie_word_embeddings", true));
  PLANISH_RETURN_IF_ERROR(ReadAttentionBias(config, spec));
  PLANISH_TRY(spec.mlp_bias, config.Bool("mlp_bias", false));
  PLANISH_RETURN_IF_ERROR(ReadRotation(config, spec, {.theta = 2e6}));
  PLANISH_RETURN_IF_ERROR(ReadUnrotated(config, spec));
  PLANISH_TRY(const bool slides, config.Bool("use_sliding_window", false));
  config.LeaveAside({"max_window_layers"});  // the class writes and does not read it
  if (config.Find("sliding_window") == nullptr || !slides) {
    PLANISH_RETURN_IF_ERROR(NoWindows(config, spec));
  } else {
    PLANISH_TRY(const auto sliding, SlidingLayers(config, spec.layers, [&](int64_t i) {
                  return spec.ropes[static_cast<size_t>(i)] < 0;
                }));
    PLANISH_RETURN_IF_ERROR(SetWindows(config, sliding, 4096, spec));
  }
  return BuildDecoder(config, std::move(spec));
}

constexpr GgufFamily kGguf[] = {{.model_type = "smollm3",
                                 .arch = "smollm3",
                                 .top = kDecoderTop,
                                 .layer = kDecoderLayer,
                                 .implied = kSiluFullImplied,
                                 .flags = kLlamaFlags,
                                 .rows = GgufFamily::Rows::kPairs,
                                 .theta = "2000000.0",
                                 .unrotated_every = 4}};

}  // namespace

extern const Family kFamily;
const Family kFamily = {"smollm3", "SmolLM3ForCausalLM", "llama with some layers that do not rotate",
                        BuildSmollm3, kGguf};

}  // namespace planish::smollm3

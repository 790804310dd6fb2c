// The reading half of decoder.h.
#include <fmt/format.h>

#include <algorithm>

#include "base/names.h"
#include "model/arch/decoder.h"
#include "model/rope.h"

namespace planish {

Result<DecoderSpec> ReadDecoderSizes(const Config& config, const char* family, const DecoderDefaults& d) {
  DecoderSpec spec;
  spec.family = family;
  PLANISH_TRY(spec.vocab, ReadSize(config, "vocab_size", d.vocab));
  PLANISH_TRY(spec.hidden, ReadSize(config, "hidden_size", d.hidden));
  PLANISH_TRY(spec.inter, ReadSize(config, "intermediate_size", d.inter));
  PLANISH_TRY(spec.layers, ReadSize(config, "num_hidden_layers", d.layers, kMaxLayers));
  PLANISH_TRY(spec.heads, ReadSize(config, "num_attention_heads", d.heads));
  spec.kv_heads = d.kv_heads > 0 ? d.kv_heads : spec.heads;
  if (d.kv_heads == kNoField) {
    PLANISH_RETURN_IF_ERROR(Require(config, family, "num_key_value_heads", spec.kv_heads));
  } else {
    PLANISH_TRY(spec.kv_heads, ReadSize(config, "num_key_value_heads", spec.kv_heads));
  }
  const int64_t usual_dim = d.head_dim > 0 ? d.head_dim : spec.hidden / spec.heads;
  if (d.head_dim == kNoField) PLANISH_RETURN_IF_ERROR(Require(config, family, "head_dim", usual_dim));
  PLANISH_TRY(spec.head_dim, ReadSize(config, "head_dim", usual_dim, 4096));
  PLANISH_RETURN_IF_ERROR(CheckHeads(spec.heads, spec.kv_heads, spec.head_dim));
  PLANISH_TRY(spec.max_positions,
              ReadSize(config, "max_position_embeddings", d.max_positions, kMaxPositions));
  spec.windows.assign(static_cast<size_t>(spec.layers), 0);
  return spec;
}

Result<DecoderSpec> ReadDecoder(const Config& config, const char* family, const DecoderDefaults& d) {
  PLANISH_TRY(DecoderSpec spec, ReadDecoderSizes(config, family, d));
  PLANISH_TRY(spec.eps, ReadEpsilon(config, "rms_norm_eps", 1e-6));
  PLANISH_TRY(spec.activation, ReadActivation(config));
  PLANISH_TRY(spec.tied, config.Bool("tie_word_embeddings", false));
  return spec;
}

Status ReadRotation(const Config& config, DecoderSpec& spec, double theta, double partial,
                    RopePairing pairing) {
  PLANISH_TRY(
      RopeTable rope,
      ReadRope(
          config, spec.head_dim,
          {.theta = theta, .max_positions = spec.max_positions, .partial = partial, .pairing = pairing}));
  spec.rope_tables = {std::move(rope)};
  spec.ropes.assign(static_cast<size_t>(spec.layers), 0);
  return {};
}

Result<std::vector<bool>> SlidingLayers(const Config& config, int64_t layers,
                                        const std::function<bool(int64_t)>& slides) {
  const Json* types = config.Find("layer_types");
  const bool listed = types != nullptr;
  if (listed && !types->is_array()) return InputError("field 'layer_types': expected a list");
  if (listed && static_cast<int64_t>(types->size()) != layers) {
    return InputError(fmt::format("layer_types has {} entries for {} layers", types->size(), layers));
  }
  std::vector<bool> sliding;
  for (int64_t i = 0; i < layers; ++i) {
    if (!listed) {
      sliding.push_back(slides(i));
      continue;
    }
    const Json& type = (*types)[static_cast<size_t>(i)];
    if (type != "sliding_attention" && type != "full_attention") {
      return InputError(fmt::format("layer_types[{}]: expected full_attention or sliding_attention, found {}",
                                    i, Abbreviate(DumpJson(type))));
    }
    sliding.push_back(type == "sliding_attention");
  }
  return sliding;
}

Status ReadWindows(const Config& config, int64_t window, int64_t first_sliding, DecoderSpec& spec) {
  if (window < 1) return InputError(fmt::format("sliding_window: expected at least 1, found {}", window));
  PLANISH_TRY(const auto sliding,
              SlidingLayers(config, spec.layers, [&](int64_t i) { return i >= first_sliding; }));
  for (size_t i = 0; i < sliding.size(); ++i) spec.windows[i] = sliding[i] ? window : 0;
  return {};
}

Status NoWindows(const Config& config, const DecoderSpec& spec) {
  PLANISH_TRY(const auto sliding, SlidingLayers(config, spec.layers, [](int64_t) { return false; }));
  const auto first = std::ranges::find(sliding, true);
  if (first == sliding.end()) return {};
  return InputError(fmt::format(
      "layer_types[{}] is sliding_attention, but use_sliding_window and sliding_window give no window",
      first - sliding.begin()));
}

Status ReadOptionalWindows(const Config& config, DecoderSpec& spec) {
  PLANISH_TRY(const bool sliding, config.Bool("use_sliding_window", false));
  PLANISH_TRY(const int64_t window, config.Int("sliding_window", 4096));
  PLANISH_TRY(const int64_t first_sliding, config.Int("max_window_layers", 28));
  return sliding ? ReadWindows(config, window, first_sliding, spec) : NoWindows(config, spec);
}

Status ReadPlainWindow(const Config& config, int64_t fallback, DecoderSpec& spec) {
  if (config.Has("sliding_window") ? config.Find("sliding_window") == nullptr : fallback == 0) return {};
  PLANISH_TRY(const int64_t window, config.Int("sliding_window", fallback));
  return ReadWindows(config, window, 0, spec);
}

}  // namespace planish

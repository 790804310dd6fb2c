// The reading half of decoder.h.
#include <fmt/format.h>

#include <algorithm>

#include "base/names.h"
#include "model/arch/decoder.h"

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
    Require(config, family, "num_key_value_heads", spec.kv_heads);
  } else {
    PLANISH_TRY(spec.kv_heads, ReadSize(config, "num_key_value_heads", spec.kv_heads));
  }
  const int64_t usual_dim = d.head_dim > 0 ? d.head_dim : spec.hidden / spec.heads;
  if (d.head_dim == kNoField) Require(config, family, "head_dim", usual_dim);
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

Status ReadRotation(const Config& config, DecoderSpec& spec, RopeDefaults defaults) {
  Require(config, spec.family, "rope_interleave", defaults.pairing == RopePairing::kAdjacent);
  defaults.max_positions = spec.max_positions;
  PLANISH_TRY(RopeTable rope, ReadRope(config, spec.head_dim, defaults));
  spec.rope_tables = {std::move(rope)};
  spec.ropes.assign(static_cast<size_t>(spec.layers), 0);
  return {};
}

Status ReadAttentionBias(const Config& config, DecoderSpec& spec, bool fallback) {
  PLANISH_TRY(spec.qkv_bias, config.Bool("attention_bias", fallback));
  spec.o_bias = spec.qkv_bias;
  return {};
}

void UseQkNorm(const Config& config, DecoderSpec::QkNorm kind, DecoderSpec& spec) {
  for (const char* field : {"use_qk_norm", "qk_norm", "qk_layernorm"}) {
    Require(config, spec.family, field, true);
  }
  spec.qk_norm = kind;
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

Status SetWindows(const Config& config, const std::vector<bool>& sliding, int64_t fallback,
                  DecoderSpec& spec) {
  const bool null = config.Has("sliding_window") && config.Find("sliding_window") == nullptr;
  const auto first = std::ranges::find(sliding, true);
  if (null && first == sliding.end()) return {};
  if (null) {
    return InputError(fmt::format("field 'sliding_window': null, but layer {} slides; expected a width",
                                  first - sliding.begin()));
  }
  PLANISH_TRY(const int64_t window, ReadSize(config, "sliding_window", fallback, kMaxPositions));
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
  PLANISH_TRY(const bool asked, config.Bool("use_sliding_window", false));
  PLANISH_TRY(const int64_t first_sliding, config.Int("max_window_layers", 28));
  const bool null = config.Has("sliding_window") && config.Find("sliding_window") == nullptr;
  if (!asked || null) return NoWindows(config, spec);
  PLANISH_TRY(const auto sliding,
              SlidingLayers(config, spec.layers, [&](int64_t i) { return i >= first_sliding; }));
  return SetWindows(config, sliding, 4096, spec);
}

Status ReadPlainWindow(const Config& config, int64_t fallback, DecoderSpec& spec) {
  if (config.Has("sliding_window") ? config.Find("sliding_window") == nullptr : fallback == 0) {
    return NoWindows(config, spec);
  }
  PLANISH_TRY(const auto sliding, SlidingLayers(config, spec.layers, [](int64_t) { return true; }));
  return SetWindows(config, sliding, fallback, spec);
}

}  // namespace planish

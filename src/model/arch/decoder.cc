#include "model/arch/decoder.h"

#include <fmt/format.h>

#include <cmath>

#include "base/names.h"
#include "model/rope.h"

namespace planish {
namespace {

// Far above any published model; keeps products of sizes inside int64 and allocations sane.
constexpr int64_t kMaxDimension = int64_t{1} << 24;
constexpr int64_t kMaxLayers = 4096;

Result<int64_t> Size(const Json& config, const char* key, int64_t fallback, int64_t limit = kMaxDimension) {
  PLANISH_TRY(const int64_t value, JsonInt(config, key, fallback));
  if (value < 1 || value > limit) {
    return InputError(fmt::format("field '{}': expected 1 to {}, found {}", key, limit, value));
  }
  return value;
}

Result<Activation> ReadActivation(const Json& config) {
  PLANISH_TRY(const std::string name, JsonString(config, "hidden_act", "silu"));
  if (name == "silu" || name == "swish") return Activation::kSilu;
  if (name == "gelu_pytorch_tanh" || name == "gelu_new") return Activation::kGeluTanh;
  if (name == "gelu") return Activation::kGelu;
  if (name == "relu") return Activation::kRelu;
  return InputError(fmt::format(
      "hidden_act '{}' is not supported: expected silu, gelu, gelu_pytorch_tanh or relu", Abbreviate(name)));
}

Status ReadTokens(const Json& config, Program& program) {
  const auto add = [&](const Json& id) -> Status {
    if (!id.is_number_integer() || id < 0 || id >= program.vocab) {
      return InputError(fmt::format("eos_token_id: expected ids below {}, found {}", program.vocab,
                                    Abbreviate(DumpJson(id))));
    }
    program.eos_ids.push_back(id.get<int32_t>());
    return {};
  };
  if (config.contains("eos_token_id") && !config["eos_token_id"].is_null()) {
    const Json& eos = config["eos_token_id"];
    if (eos.is_array()) {
      for (const auto& id : eos) PLANISH_RETURN_IF_ERROR(add(id));
    } else {
      PLANISH_RETURN_IF_ERROR(add(eos));
    }
  }
  PLANISH_TRY(const int64_t bos, JsonInt(config, "bos_token_id", -1));
  // A cast to 32 bits would turn some numbers below -1 into ids.
  if (bos < -1 || bos >= program.vocab) {
    return InputError(
        fmt::format("bos_token_id: expected an id below {} or -1 for none, found {}", program.vocab, bos));
  }
  program.bos_id = static_cast<int32_t>(bos);
  return {};
}

void BuildLayer(const DecoderSpec& spec, int64_t index, Program& program) {
  const std::string prefix = fmt::format("model.layers.{}.", index);
  const std::string attention = prefix + "self_attn.", mlp = prefix + "mlp.";
  BlockBuilder b(program, fmt::format("layer {}", index));
  ValueId x = b.Input("x", spec.hidden);
  const ValueId h = b.RmsNorm(x, prefix + "input_layernorm.weight", spec.hidden, spec.eps);
  const int64_t q_width = spec.heads * spec.head_dim, kv_width = spec.kv_heads * spec.head_dim;
  ValueId q = b.Linear(h, "q", attention + "q_proj.weight", q_width, spec.qkv_bias);
  ValueId k = b.Linear(h, "k", attention + "k_proj.weight", kv_width, spec.qkv_bias);
  const ValueId v = b.Linear(h, "v", attention + "v_proj.weight", kv_width, spec.qkv_bias);
  if (spec.qk_norm) {
    q = b.RmsNorm(q, attention + "q_norm.weight", spec.head_dim, spec.eps);
    k = b.RmsNorm(k, attention + "k_norm.weight", spec.head_dim, spec.eps);
  }
  const AttentionShape shape{.heads = spec.heads,
                             .kv_heads = spec.kv_heads,
                             .head_dim = spec.head_dim,
                             .scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(spec.head_dim))),
                             .window = spec.windows[index]};
  const ValueId attended = b.Attention(b.Rope(q, 0), b.Rope(k, 0), v, shape);
  x = b.Add(x, b.Linear(attended, "o", attention + "o_proj.weight", spec.hidden, spec.o_bias));
  const ValueId m = b.RmsNorm(x, prefix + "post_attention_layernorm.weight", spec.hidden, spec.eps);
  const ValueId gate = b.Linear(m, "gate", mlp + "gate_proj.weight", spec.inter, spec.mlp_bias);
  const ValueId up = b.Linear(m, "up", mlp + "up_proj.weight", spec.inter, spec.mlp_bias);
  const ValueId gated = b.Gate(gate, up, spec.activation);
  b.Finish(b.Add(x, b.Linear(gated, "down", mlp + "down_proj.weight", spec.hidden, spec.mlp_bias)));
}

}  // namespace

Result<DecoderSpec> ReadDecoder(const Json& config, const char* family, const DecoderDefaults& d) {
  DecoderSpec spec;
  spec.family = family;
  PLANISH_TRY(spec.vocab, Size(config, "vocab_size", d.vocab));
  PLANISH_TRY(spec.hidden, Size(config, "hidden_size", d.hidden));
  PLANISH_TRY(spec.inter, Size(config, "intermediate_size", d.inter));
  PLANISH_TRY(spec.layers, Size(config, "num_hidden_layers", d.layers, kMaxLayers));
  PLANISH_TRY(spec.heads, Size(config, "num_attention_heads", d.heads));
  PLANISH_TRY(spec.kv_heads, Size(config, "num_key_value_heads", d.kv_heads == 0 ? spec.heads : d.kv_heads));
  if (spec.heads % spec.kv_heads != 0) {
    return InputError(fmt::format("num_attention_heads {} is no multiple of num_key_value_heads {}",
                                  spec.heads, spec.kv_heads));
  }
  const int64_t usual_dim = d.head_dim != 0 ? d.head_dim : spec.hidden / spec.heads;
  PLANISH_TRY(spec.head_dim, Size(config, "head_dim", usual_dim, 4096));
  if (spec.head_dim % 2 != 0) return InputError(fmt::format("head_dim {} is odd", spec.head_dim));
  if (spec.heads * spec.head_dim > kMaxDimension) {
    return InputError(fmt::format("{} heads of {} are too wide", spec.heads, spec.head_dim));
  }
  PLANISH_TRY(spec.max_positions, Size(config, "max_position_embeddings", d.max_positions, int64_t{1} << 31));
  PLANISH_TRY(const double eps, JsonNumber(config, "rms_norm_eps", 1e-6));
  spec.eps = static_cast<float>(eps);  // may round a tiny one to 0
  if (!(spec.eps > 0) || eps > 1) {
    return InputError(fmt::format("rms_norm_eps: expected in (0, 1], found {}", eps));
  }
  PLANISH_TRY(spec.activation, ReadActivation(config));
  PLANISH_TRY(spec.tied, JsonBool(config, "tie_word_embeddings", false));
  spec.windows.assign(static_cast<size_t>(spec.layers), 0);
  return spec;
}

Status ReadWindows(const Json& config, int64_t window, int64_t first_sliding, DecoderSpec& spec) {
  if (window < 1) return InputError(fmt::format("sliding_window: expected at least 1, found {}", window));
  const auto types = config.find("layer_types");
  const bool listed = types != config.end() && types->is_array();
  if (listed && static_cast<int64_t>(types->size()) != spec.layers) {
    return InputError(fmt::format("layer_types has {} entries for {} layers", types->size(), spec.layers));
  }
  for (int64_t i = 0; i < spec.layers; ++i) {
    bool sliding = i >= first_sliding;
    if (listed) {
      const Json& type = (*types)[static_cast<size_t>(i)];
      if (type != "sliding_attention" && type != "full_attention") {
        return InputError(
            fmt::format("layer_types[{}]: expected full_attention or sliding_attention, found {}", i,
                        Abbreviate(DumpJson(type))));
      }
      sliding = type == "sliding_attention";
    }
    spec.windows[static_cast<size_t>(i)] = sliding ? window : 0;
  }
  return {};
}

Status ReadOptionalWindows(const Json& config, DecoderSpec& spec) {
  PLANISH_TRY(const bool sliding, JsonBool(config, "use_sliding_window", false));
  if (sliding) {
    PLANISH_TRY(const int64_t window, JsonInt(config, "sliding_window", 4096));
    PLANISH_TRY(const int64_t first_sliding, JsonInt(config, "max_window_layers", 28));
    return ReadWindows(config, window, first_sliding, spec);
  }
  return {};
}

Result<Program> BuildDecoder(const Json& config, const DecoderSpec& spec) {
  Program program;
  program.family = spec.family;
  program.hidden = spec.hidden;
  program.vocab = spec.vocab;
  program.max_positions = spec.max_positions;
  PLANISH_RETURN_IF_ERROR(ReadTokens(config, program));
  PLANISH_TRY(RopeTable rope,
              ReadRope(config, spec.head_dim, {.theta = 10000, .max_positions = spec.max_positions}));
  program.ropes.push_back(std::move(rope));
  const LinearId table =
      AddLinear(program, "model.embed_tokens.weight", spec.vocab, spec.hidden, false, /*in_layer=*/false);
  BlockBuilder embed(program, "embed");
  embed.Finish(embed.Embed(table));
  for (int64_t i = 0; i < spec.layers; ++i) BuildLayer(spec, i, program);
  const LinearId head_linear =
      spec.tied ? table : AddLinear(program, "lm_head.weight", spec.vocab, spec.hidden, false, false);
  BlockBuilder head(program, "head");
  const ValueId x = head.RmsNorm(head.Input("x", spec.hidden), "model.norm.weight", spec.hidden, spec.eps);
  head.Finish(head.Linear(x, "logits", head_linear));
  return program;
}

}  // namespace planish

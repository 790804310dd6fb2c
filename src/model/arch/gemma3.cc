#include "model/arch/gemma.h"
#include "model/arch/gguf_names.h"
#include "model/family.h"
#include "model/rope.h"

namespace planish {
namespace {

// Global layers turn by rope_theta with its scaling, sliding ones by rope_local_base_freq.
Status ReadRotations(const Json& config, const std::vector<bool>& sliding, DecoderSpec& spec) {
  Json local = config;
  const bool nested = config.contains("rope_parameters") && config["rope_parameters"].is_object();
  if (!nested) {
    PLANISH_TRY(const double theta, JsonNumber(config, "rope_local_base_freq", 1e4));
    local["rope_theta"] = theta;
    local.erase("rope_scaling");
  }
  const RopeDefaults defaults{.theta = nested ? 1e4 : 1e6, .max_positions = spec.max_positions};
  PLANISH_TRY(RopeTable global,
              ReadRope(config, spec.head_dim, {.theta = 1e6, .max_positions = spec.max_positions}));
  PLANISH_TRY(RopeTable slow, ReadRope(local, spec.head_dim, defaults, "sliding_attention"));
  spec.rope_tables = {std::move(global), std::move(slow)};
  for (const bool slides : sliding) spec.ropes.push_back(slides ? 1 : 0);
  return {};
}

Result<Program> BuildText(const Json& config) {
  PLANISH_TRY(DecoderSpec spec,
              ReadGemma(config, "gemma3", {262208, 2304, 9216, 26, 8, 4, 131072, 256}, Json::object()));
  spec.qk_norm = DecoderSpec::QkNorm::kHead;
  spec.names.q_norm = "self_attn.q_norm";
  spec.names.k_norm = "self_attn.k_norm";
  PLANISH_TRY(const int64_t window, ReadSize(config, "sliding_window", 4096));
  PLANISH_TRY(const int64_t newer_pattern, ReadSize(config, "_sliding_window_pattern", 6));
  PLANISH_TRY(const int64_t pattern, ReadSize(config, "sliding_window_pattern", newer_pattern));
  PLANISH_TRY(const auto sliding,
              SlidingLayers(config, spec.layers, [&](int64_t i) { return (i + 1) % pattern != 0; }));
  for (size_t i = 0; i < sliding.size(); ++i) spec.windows[i] = sliding[i] ? window : 0;
  PLANISH_RETURN_IF_ERROR(ReadRotations(config, sliding, spec));
  PLANISH_TRY(Program program, BuildDecoder(config, std::move(spec)));
  program.prefixes = {{"model.", "language_model.model."},
                      {"model.", "model.language_model."},
                      {"lm_head.", "language_model.lm_head."}};
  return program;
}

Result<Program> BuildGemma3(const Json& config) {
  if (!config.contains("text_config")) return BuildText(config);
  // The wrapper around a vision model: the language model's fields are nested, stop tokens may be outside.
  if (!config["text_config"].is_object()) return InputError("field 'text_config': expected an object");
  Json text = config["text_config"];
  for (const char* key : {"eos_token_id", "bos_token_id", "tie_word_embeddings"}) {
    if (!text.contains(key) && config.contains(key)) text[key] = config[key];
  }
  return BuildText(text);
}

constexpr GgufKey kGgufKeys[] = {
    {GgufKey::Kind::kInt, "attention.sliding_window", "sliding_window", "4096"},
    {GgufKey::Kind::kFloat, "rope.freq_base_swa", "rope_local_base_freq", "10000.0"}};
constexpr GgufImplied kGgufImplied[] = {
    {"hidden_activation", "\"gelu_pytorch_tanh\"", "\"gelu_pytorch_tanh\""},
    {"attention_bias", "false", "false"},
    {"attn_logit_softcapping", "null", "null"},
    {"final_logit_softcapping", "null", "null"}};
constexpr GgufFamily kGguf[] = {{.model_type = "gemma3_text",
                                 .arch = "gemma3",
                                 .top = kDecoderTop,
                                 .layer = kGemmaLayer,
                                 .keys = kGgufKeys,
                                 .implied = kGgufImplied,
                                 .norm_plus = 1,
                                 .theta = "1000000.0",
                                 .head_dim = true,
                                 .windows = GgufFamily::Windows::kPattern,
                                 .largest_layers = 62}};

}  // namespace

extern const Family kFamily_gemma3;
const Family kFamily_gemma3 = {
    "gemma3_text",
    "gemma2 with norms on the heads of q and k, no soft caps, other rotations in sliding layers", BuildGemma3,
    kGguf, "gemma3"};

}  // namespace planish

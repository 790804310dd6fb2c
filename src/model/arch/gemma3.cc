#include "model/arch/gemma.h"
#include "model/arch/gguf_names.h"
#include "model/family.h"
#include "model/rope.h"

namespace planish::gemma3 {
namespace {

// Global layers turn by rope_theta with its scaling, sliding ones by rope_local_base_freq.
Status ReadRotations(const Config& config, const std::vector<bool>& sliding, DecoderSpec& spec) {
  PLANISH_TRY(RopeTable global,
              ReadRope(config, spec.head_dim, {.theta = 1e6, .max_positions = spec.max_positions}));
  const RopeDefaults local{.theta = 1e4,
                           .max_positions = spec.max_positions,
                           .theta_field = "rope_local_base_freq",
                           .scaled = false};
  PLANISH_TRY(RopeTable slow, ReadRope(config, spec.head_dim, local, "sliding_attention"));
  spec.rope_tables = {std::move(global), std::move(slow)};
  for (const bool slides : sliding) spec.ropes.push_back(slides ? 1 : 0);
  return {};
}

Result<Program> BuildText(const Config& config) {
  PLANISH_TRY(DecoderSpec spec,
              ReadGemma(config, "gemma3", {262208, 2304, 9216, 26, 8, 4, 131072, 256}, 0, 0));
  UseQkNorm(config, DecoderSpec::QkNorm::kHead, spec);
  PLANISH_TRY(const int64_t newer_pattern, ReadSize(config, "_sliding_window_pattern", 6));
  PLANISH_TRY(const int64_t pattern, ReadSize(config, "sliding_window_pattern", newer_pattern));
  PLANISH_TRY(const auto sliding,
              SlidingLayers(config, spec.layers, [&](int64_t i) { return (i + 1) % pattern != 0; }));
  PLANISH_RETURN_IF_ERROR(SetWindows(config, sliding, 4096, spec));
  PLANISH_RETURN_IF_ERROR(ReadRotations(config, sliding, spec));
  PLANISH_TRY(Program program, BuildDecoder(config, std::move(spec)));
  program.prefixes = {{"model.", "language_model.model."},
                      {"model.", "model.language_model."},
                      {"lm_head.", "language_model.lm_head."}};
  return program;
}

Result<Program> BuildGemma3(const Config& config) {
  const Json* inside = config.Find("text_config");
  if (inside == nullptr) return BuildText(config);
  // The wrapper around a vision model: the language model's fields are nested, stop tokens may be outside.
  if (!inside->is_object()) return InputError("field 'text_config': expected an object");
  Json text = *inside;
  for (const char* key : {"eos_token_id", "bos_token_id", "tie_word_embeddings"}) {
    if (const Json* outside = config.Find(key); outside != nullptr && !text.contains(key))
      text[key] = *outside;
  }
  // The vision model, whose tensors are not read.
  config.LeaveAside({"vision_config", "boi_token_index", "eoi_token_index", "image_token_index",
                     "boi_token_id", "eoi_token_id", "image_token_id", "mm_tokens_per_image"});
  PLANISH_TRY(Program program, BuildText(config.InPlaceOf("text_config", text)));
  program.beside.insert(program.beside.end(), {"vision_tower.*", "multi_modal_projector.*",
                                               "model.vision_tower.*", "model.multi_modal_projector.*"});
  return program;
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

extern const Family kFamily;
const Family kFamily = {
    "gemma3_text",
    "Gemma3ForCausalLM",
    "gemma2 with norms on the heads of q and k, no soft caps, other rotations in sliding layers",
    BuildGemma3,
    kGguf,
    "gemma3"};

}  // namespace planish::gemma3

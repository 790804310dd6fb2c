#include "model/arch/gguf_names.h"
#include "model/arch/qwen_moe.h"
#include "model/family.h"

namespace planish::qwen3_moe {
namespace {

Result<Program> BuildQwen3Moe(const Config& config) {
  PLANISH_TRY(DecoderSpec spec,
              ReadDecoder(config, "qwen3_moe", {151936, 2048, 6144, 24, 32, 4, 32768, 128}));
  PLANISH_RETURN_IF_ERROR(ReadAttentionBias(config, spec));
  UseQkNorm(config, DecoderSpec::QkNorm::kHead, spec);
  PLANISH_RETURN_IF_ERROR(ReadOptionalWindows(config, spec));
  Require(config, "qwen3_moe", "shared_expert_intermediate_size", 0);  // of Qwen3-Coder's files
  PLANISH_TRY(const QwenExperts qwen, ReadQwenExperts(config, spec, {128, 8, 768}));
  spec.mlp = [qwen](BlockBuilder& b, const DecoderSpec& s, int64_t layer, const std::string& prefix,
                    ValueId x) {
    if (qwen.sparse[static_cast<size_t>(layer)]) return ExpertMlp(b, s, qwen.experts, prefix, x);
    return PlainMlp(b, s, prefix, x);
  };
  return BuildDecoder(config, std::move(spec));
}

constexpr GgufKey kGgufKeys[] = {
    {GgufKey::Kind::kInt, "expert_feed_forward_length", "moe_intermediate_size", "768"}};
constexpr GgufFamily kGguf[] = {{.model_type = "qwen3_moe",
                                 .arch = "qwen3moe",
                                 .top = kDecoderTop,
                                 .layer = kQwenMoeLayer,
                                 .keys = kGgufKeys,
                                 .implied = kQwenMoeImplied,
                                 .flags = kAttentionFlag,
                                 .head_dim = true,
                                 .experts = "num_experts",
                                 .normalized = true}};

}  // namespace

extern const Family kFamily;
const Family kFamily = {"qwen3_moe", "Qwen3MoeForCausalLM", "qwen3 with experts", BuildQwen3Moe, kGguf};

}  // namespace planish::qwen3_moe

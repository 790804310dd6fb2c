#include "model/arch/gguf_names.h"
#include "model/arch/qwen_moe.h"
#include "model/family.h"

namespace planish::qwen2_moe {
namespace {

Result<Program> BuildQwen2Moe(const Config& config) {
  PLANISH_TRY(DecoderSpec spec, ReadDecoder(config, "qwen2_moe", {151936, 2048, 5632, 24, 16, 16, 32768, 0}));
  PLANISH_TRY(spec.qkv_bias, config.Bool("qkv_bias", true));
  PLANISH_RETURN_IF_ERROR(ReadOptionalWindows(config, spec));
  PLANISH_TRY(const QwenExperts qwen, ReadQwenExperts(config, spec, {60, 4, 1408}));
  PLANISH_TRY(const int64_t shared_inter, ReadSize(config, "shared_expert_intermediate_size", 5632));
  spec.mlp = [qwen, shared_inter](BlockBuilder& b, const DecoderSpec& s, int64_t layer,
                                  const std::string& prefix, ValueId x) {
    if (!qwen.sparse[static_cast<size_t>(layer)]) {
      return PlainMlp(b, s, prefix, x);
    }
    const ValueId routed = ExpertMlp(b, s, qwen.experts, prefix, x);
    const ValueId gate = b.Activate(KeptLinear(b, x, "shared gate", prefix + "mlp.shared_expert_gate", 1),
                                    Activation::kSigmoid);
    const ValueId common = GatedMlp(b, s, prefix + "mlp.shared_expert.", shared_inter, x);
    return b.Add(routed, b.RowScale(common, gate));
  };
  return BuildDecoder(config, std::move(spec));
}

constexpr GgufKey kGgufKeys[] = {
    {GgufKey::Kind::kInt, "expert_feed_forward_length", "moe_intermediate_size", "1408"},
    {GgufKey::Kind::kInt, "expert_shared_feed_forward_length", "shared_expert_intermediate_size", "5632"}};
constexpr GgufFamily kGguf[] = {{.model_type = "qwen2_moe",
                                 .arch = "qwen2moe",
                                 .top = kDecoderTop,
                                 .layer = kQwenMoeLayer,
                                 .keys = kGgufKeys,
                                 .implied = kQwenMoeImplied,
                                 .experts = "num_experts"}};

}  // namespace

extern const Family kFamily;
const Family kFamily = {"qwen2_moe", "Qwen2MoeForCausalLM",
                        "qwen2 with experts, and a shared one behind a gate", BuildQwen2Moe, kGguf};

}  // namespace planish::qwen2_moe

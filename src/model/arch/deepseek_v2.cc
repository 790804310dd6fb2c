#include <fmt/format.h>

#include <cmath>

#include "base/names.h"
#include "model/arch/expert_mlp.h"
#include "model/arch/gguf_names.h"
#include "model/family.h"
#include "model/rope.h"

namespace planish::deepseek_v2 {
namespace {

// Heads of q and k are `nope` unrotated dimensions, then `rope` rotated ones; the rotated part of k is one
// for all heads. Keys and values are made from a latent of kv_rank.
struct Latent {
  int64_t q_rank = 0;  // 0: q straight from the stream
  int64_t kv_rank = 0, nope = 0, rope = 0, value = 0;
  float scale = 0;
  bool bias = false;
};

constexpr int64_t kMaxRank = int64_t{1} << 20;

Result<Latent> ReadLatent(const Config& config, DecoderSpec& spec) {
  Latent latent;
  if (!config.Has("q_lora_rank") || config.Find("q_lora_rank") != nullptr) {
    PLANISH_TRY(latent.q_rank, ReadSize(config, "q_lora_rank", 1536, kMaxRank));
  }
  PLANISH_TRY(latent.kv_rank, ReadSize(config, "kv_lora_rank", 512, kMaxRank));
  PLANISH_TRY(latent.nope, ReadSize(config, "qk_nope_head_dim", 128, 4096));
  latent.rope = spec.head_dim;
  PLANISH_TRY(latent.value, ReadSize(config, "v_head_dim", 128, 4096));
  PLANISH_TRY(latent.bias, config.Bool("attention_bias", false));
  Require(config, "deepseek_v2", "head_dim", latent.rope);
  Require(config, "deepseek_v2", "qk_head_dim", latent.nope + latent.rope);
  PLANISH_RETURN_IF_ERROR(CheckHeads(spec.heads, spec.heads, 2 * (latent.nope + latent.rope + latent.value)));
  PLANISH_RETURN_IF_ERROR(ReadRotation(config, spec, {.pairing = RopePairing::kAdjacent}));
  double scale = 1.0 / std::sqrt(static_cast<double>(latent.nope + latent.rope));
  // yarn's scale of attention acts on the scores once more, through mscale_all_dim.
  const bool newer = config.Find("rope_parameters") != nullptr;
  PLANISH_TRY(const Config scaling, config.Object(newer ? "rope_parameters" : "rope_scaling"));
  PLANISH_TRY(const double all_dim, scaling.Number("mscale_all_dim", 0.0));
  PLANISH_TRY(const double factor, scaling.Number("factor", 1.0));
  if (all_dim != 0) scale *= YarnScale(factor, all_dim) * YarnScale(factor, all_dim);
  latent.scale = static_cast<float>(scale);
  return latent;
}

ValueId Projected(BlockBuilder& b, ValueId x, const std::string& name, const std::string& value_name,
                  int64_t out, bool bias = false) {
  return b.Linear(x, value_name, name + ".weight", out, bias);
}

ValueId LatentAttention(BlockBuilder& b, const DecoderSpec& spec, const Latent& latent, int64_t layer,
                        const std::string& prefix, ValueId x) {
  constexpr float kLatentEps = 1e-6f;  // of the latents' norms, whatever the config says of the others
  const int64_t heads = spec.heads, key = latent.nope + latent.rope, latents = latent.kv_rank + latent.rope;
  const int rope = spec.ropes[static_cast<size_t>(layer)];
  ValueId q = -1;
  if (latent.q_rank > 0) {
    const ValueId low = Projected(b, x, prefix + "q_a_proj", "q latent", latent.q_rank, latent.bias);
    const ValueId normed = b.RmsNorm(low, prefix + "q_a_layernorm.weight", latent.q_rank, kLatentEps);
    q = Projected(b, normed, prefix + "q_b_proj", "q", heads * key);
  } else {
    q = Projected(b, x, prefix + "q_proj", "q", heads * key);
  }
  const ValueId low = Projected(b, x, prefix + "kv_a_proj_with_mqa", "kv latent", latents, latent.bias);
  const ValueId shared = b.Slice(low, "rotated k", {latents, latent.kv_rank, latent.rope});
  const ValueId normed = b.RmsNorm(b.Slice(low, "kv", {latents, 0, latent.kv_rank}),
                                   prefix + "kv_a_layernorm.weight", latent.kv_rank, kLatentEps);
  const int64_t period = latent.nope + latent.value;
  const ValueId kv = Projected(b, normed, prefix + "kv_b_proj", "kv heads", heads * period);
  const ValueId k_own = b.Slice(kv, "k", {period, 0, latent.nope});
  const ValueId v = b.Slice(kv, "v", {period, latent.nope, latent.value});
  const ValueId k =
      b.Join("k", {heads, {latent.nope, latent.rope}}, {k_own, b.Rope(shared, {rope, latent.rope, 0})});
  const AttentionShape shape{
      .heads = heads, .kv_heads = heads, .head_dim = key, .scale = latent.scale, .value_dim = latent.value};
  const ValueId attended = b.Attention(b.Rope(q, {rope, key, latent.nope}), k, v, shape);
  return Projected(b, attended, prefix + "o_proj", "o", spec.hidden, latent.bias);
}

struct Mixture {
  ExpertsSpec experts;
  int64_t shared_inter = 0;            // of all shared experts together; 0: none
  int64_t first_sparse = 0, step = 1;  // which layers have experts
};

Result<Mixture> ReadMixture(const Config& config, const DecoderSpec& spec) {
  Mixture mixture;
  RouteShape& route = mixture.experts.route;
  Require(config, "deepseek_v2", "scoring_func", "softmax");
  PLANISH_TRY(route.experts, ReadSize(config, "n_routed_experts", 64, kMaxExperts));
  PLANISH_TRY(route.scale, ReadFactor(config, "routed_scaling_factor", 1));
  PLANISH_TRY(mixture.experts.inter, ReadSize(config, "moe_intermediate_size", 1407));
  PLANISH_TRY(mixture.first_sparse, config.Int("first_k_dense_replace", 0));
  PLANISH_TRY(mixture.step, ReadSize(config, "moe_layer_freq", 1));
  // A missing field is the class's default, null is none.
  PLANISH_TRY(const int64_t shared, config.Int("n_shared_experts", config.Has("n_shared_experts") ? 0 : 2));
  // Divided by their sum, weights are scaled in some programs and not in DeepSeek's own, where a single one
  // is not divided either.
  PLANISH_TRY(route.normalize, config.Bool("norm_topk_prob", false));
  PLANISH_TRY(const std::string method, config.String("topk_method", "greedy"));
  PLANISH_TRY(const int64_t groups, ReadSize(config, "n_group", 1, kMaxExperts));
  PLANISH_TRY(const int64_t open_groups, ReadSize(config, "topk_group", 1, kMaxExperts));
  if (method == "group_limited_greedy") {
    route.groups = groups;
    route.open_groups = open_groups;
  } else if (method != "greedy") {
    config.Refuse(fmt::format("topk_method '{}' is not supported: expected greedy or group_limited_greedy",
                              Abbreviate(method)));
  }
  // The class has no default for it.
  if (config.Find("num_experts_per_tok") == nullptr) {
    config.Refuse("field 'num_experts_per_tok' is missing");
  }
  PLANISH_TRY(route.chosen, ReadSize(config, "num_experts_per_tok", 1, kMaxExperts));
  if (route.normalize && (route.scale != 1 || route.chosen < 2)) {
    config.Refuse(fmt::format(
        "norm_topk_prob with routed_scaling_factor {} and num_experts_per_tok {}: programs differ in what it "
        "means; expected a factor of 1 and at least 2 experts",
        route.scale, route.chosen));
  }
  PLANISH_RETURN_IF_ERROR(CheckExperts(spec, mixture.experts));
  if (shared < 0 || shared > kMaxExperts || shared * mixture.experts.inter > kMaxDimension) {
    return InputError(
        fmt::format("n_shared_experts: {} of width {} do not fit", shared, mixture.experts.inter));
  }
  mixture.shared_inter = shared * mixture.experts.inter;
  return mixture;
}

Result<Program> BuildDeepseekV2(const Config& config) {
  PLANISH_TRY(DecoderSpec spec,
              ReadDecoderSizes(config.Renamed({{"head_dim", "qk_rope_head_dim"}}), "deepseek_v2",
                               {102400, 4096, 11008, 32, 32, kNoField, 2048, 64}));
  PLANISH_TRY(spec.eps, ReadEpsilon(config, "rms_norm_eps", 1e-6));
  PLANISH_TRY(spec.activation, ReadActivation(config));
  PLANISH_TRY(spec.tied, config.Bool("tie_word_embeddings", false));
  PLANISH_TRY(spec.mlp_bias, config.Bool("mlp_bias", false));
  PLANISH_TRY(const Latent latent, ReadLatent(config, spec));
  spec.attention = [latent](BlockBuilder& b, const DecoderSpec& s, int64_t layer, const std::string& prefix,
                            ValueId x) {
    return LatentAttention(b, s, latent, layer, prefix + "self_attn.", x);
  };
  PLANISH_TRY(const Mixture mixture, ReadMixture(config, spec));
  spec.mlp = [mixture](BlockBuilder& b, const DecoderSpec& s, int64_t layer, const std::string& prefix,
                       ValueId x) {
    if (layer < mixture.first_sparse || layer % mixture.step != 0) {
      return PlainMlp(b, s, prefix, x);
    }
    const ValueId routed = ExpertMlp(b, s, mixture.experts, prefix, x);
    if (mixture.shared_inter == 0) return routed;
    return b.Add(routed, GatedMlp(b, s, prefix + "mlp.shared_experts.", mixture.shared_inter, x));
  };
  return BuildDecoder(config, std::move(spec));
}

constexpr GgufName kGgufLayer[] = {{"attn_norm", "input_layernorm"},
                                   {"attn_q", "self_attn.q_proj"},
                                   {"attn_q_a", "self_attn.q_a_proj"},
                                   {"attn_q_a_norm", "self_attn.q_a_layernorm"},
                                   {"attn_q_b", "self_attn.q_b_proj"},
                                   {"attn_kv_a_mqa", "self_attn.kv_a_proj_with_mqa"},
                                   {"attn_kv_a_norm", "self_attn.kv_a_layernorm"},
                                   {"attn_kv_b", "self_attn.kv_b_proj"},
                                   {"attn_output", "self_attn.o_proj"},
                                   {"ffn_norm", "post_attention_layernorm"},
                                   {"ffn_gate", "mlp.gate_proj"},
                                   {"ffn_up", "mlp.up_proj"},
                                   {"ffn_down", "mlp.down_proj"},
                                   {"ffn_gate_inp", "mlp.gate"},
                                   {"ffn_gate_exps", "mlp.experts.*.gate_proj"},
                                   {"ffn_up_exps", "mlp.experts.*.up_proj"},
                                   {"ffn_down_exps", "mlp.experts.*.down_proj"},
                                   {"ffn_gate_shexp", "mlp.shared_experts.gate_proj"},
                                   {"ffn_up_shexp", "mlp.shared_experts.up_proj"},
                                   {"ffn_down_shexp", "mlp.shared_experts.down_proj"}};
constexpr GgufKey kGgufKeys[] = {
    {GgufKey::Kind::kInt, "leading_dense_block_count", "first_k_dense_replace", "0"},
    {GgufKey::Kind::kInt, "expert_feed_forward_length", "moe_intermediate_size", "1407"},
    {GgufKey::Kind::kInt, "expert_shared_count", "n_shared_experts", "2", "0"},
    {GgufKey::Kind::kFloat, "expert_weights_scale", "routed_scaling_factor", "1.0"}};
constexpr GgufImplied kGgufImplied[] = {{"hidden_act", "\"silu\"", "\"silu\""},
                                        {"attention_bias", "false", "false"},
                                        {"mlp_bias", "false", "false"},
                                        {"moe_layer_freq", "1", "1"}};
constexpr GgufFamily kGguf[] = {{.model_type = "deepseek_v2",
                                 .arch = "deepseek2",
                                 .top = kDecoderTop,
                                 .layer = kGgufLayer,
                                 .keys = kGgufKeys,
                                 .implied = kGgufImplied,
                                 .differs = "`kv_b_proj` in two: `attn_k_b`, every head's keys turned round "
                                            "[rank, nope], and `attn_v_b`, its values [value, rank]; files "
                                            "with one `attn_kv_b` are read too",
                                 .experts = "n_routed_experts",
                                 .latent = true}};

}  // namespace

extern const Family kFamily;
const Family kFamily = {
    "deepseek_v2", "DeepseekV2ForCausalLM",
    "keys and values through a narrow latent (MLA), shared and routed experts, routing by groups",
    BuildDeepseekV2, kGguf};

}  // namespace planish::deepseek_v2

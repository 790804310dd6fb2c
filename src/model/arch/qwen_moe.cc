#include "model/arch/qwen_moe.h"

#include <fmt/format.h>

#include "base/names.h"

namespace planish {

Result<QwenExperts> ReadQwenExperts(const Config& config, const DecoderSpec& spec,
                                    const QwenExpertDefaults& defaults) {
  QwenExperts qwen;
  RouteShape& route = qwen.experts.route;
  PLANISH_TRY(const int64_t local, ReadSize(config, "num_local_experts", defaults.experts, kMaxExperts));
  PLANISH_TRY(route.experts, ReadSize(config, "num_experts", local, kMaxExperts));
  PLANISH_TRY(route.chosen, ReadSize(config, "num_experts_per_tok", defaults.chosen, kMaxExperts));
  PLANISH_TRY(route.normalize, config.Bool("norm_topk_prob", false));
  PLANISH_TRY(qwen.experts.inter, ReadSize(config, "moe_intermediate_size", defaults.inter));
  PLANISH_RETURN_IF_ERROR(CheckExperts(spec, qwen.experts));
  PLANISH_TRY(const int64_t step, ReadSize(config, "decoder_sparse_step", 1));
  for (int64_t i = 0; i < spec.layers; ++i) qwen.sparse.push_back((i + 1) % step == 0);
  const Json* plain = config.Find("mlp_only_layers");
  if (plain == nullptr) return qwen;
  if (!plain->is_array()) return InputError("mlp_only_layers: expected a list of layers");
  for (const Json& layer : *plain) {
    if (!layer.is_number_integer() || layer < 0 || layer >= spec.layers) {
      return InputError(fmt::format("mlp_only_layers: expected layers below {}, found {}", spec.layers,
                                    Abbreviate(DumpJson(layer))));
    }
    qwen.sparse[layer.get<size_t>()] = false;
  }
  return qwen;
}

}  // namespace planish

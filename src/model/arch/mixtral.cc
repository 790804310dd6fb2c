#include "model/arch/expert_mlp.h"
#include "model/family.h"

namespace planish {
namespace {

Result<Program> BuildMixtral(const Json& config) {
  PLANISH_TRY(DecoderSpec spec, ReadDecoder(config, "mixtral", {32000, 4096, 14336, 32, 32, 8, 131072, 0}));
  PLANISH_TRY(spec.eps, ReadEpsilon(config, "rms_norm_eps", 1e-5));
  PLANISH_RETURN_IF_ERROR(ReadPlainWindow(config, 0, spec));
  PLANISH_RETURN_IF_ERROR(ReadRotation(config, spec, 1e6));
  ExpertsSpec experts;
  PLANISH_TRY(experts.route.experts, ReadSize(config, "num_local_experts", 8, kMaxExperts));
  PLANISH_TRY(experts.route.chosen, ReadSize(config, "num_experts_per_tok", 2, kMaxExperts));
  experts.route.normalize = true;
  experts.inter = spec.inter;
  experts.router = "block_sparse_moe.gate";
  experts.experts = "block_sparse_moe.experts.";
  experts.gate = "w1";
  experts.up = "w3";
  experts.down = "w2";
  PLANISH_RETURN_IF_ERROR(CheckExperts(spec, experts));
  spec.mlp = [experts](BlockBuilder& b, const DecoderSpec& s, int64_t, const std::string& prefix, ValueId x) {
    return ExpertMlp(b, s, experts, prefix, x);
  };
  return BuildDecoder(config, std::move(spec));
}

}  // namespace

extern const Family kFamily_mixtral;
const Family kFamily_mixtral = {"mixtral", "mistral with experts, weights normalized over the chosen ones",
                                BuildMixtral};

}  // namespace planish

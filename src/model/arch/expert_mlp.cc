#include "model/arch/expert_mlp.h"

#include <fmt/format.h>

namespace planish {
namespace {

// Published models have some 25,000; each makes three linears and a handful of operations.
constexpr int64_t kMaxListedExperts = int64_t{1} << 16;
// Of all experts together: with everything else the counts of a program stay inside int64.
constexpr double kMaxExpertWeights = 0x1p59;

}  // namespace

Status CheckExperts(const DecoderSpec& spec, const ExpertsSpec& experts) {
  const RouteShape& route = experts.route;
  if (route.experts % route.groups != 0 || route.open_groups > route.groups) {
    return InputError(fmt::format("experts: {} in {} groups of which {} are used do not fit together",
                                  route.experts, route.groups, route.open_groups));
  }
  const int64_t open = route.experts / route.groups * route.open_groups;
  if (route.chosen > open) {
    return InputError(
        fmt::format("num_experts_per_tok {} is more than the {} experts to choose from", route.chosen, open));
  }
  if (spec.layers * route.experts > kMaxListedExperts) {
    return InputError(fmt::format("{} layers of {} experts are too many", spec.layers, route.experts));
  }
  if (3.0 * static_cast<double>(spec.layers * route.experts) *
          static_cast<double>(spec.hidden * experts.inter) >
      kMaxExpertWeights) {
    return InputError(fmt::format("{} layers of {} experts [{}, {}] are too large", spec.layers,
                                  route.experts, experts.inter, spec.hidden));
  }
  return {};
}

ValueId KeptLinear(BlockBuilder& b, ValueId x, const std::string& value_name, const std::string& name,
                   int64_t out) {
  const LinearId id = AddLinear(b.program(), name + ".weight", out, b.width(x), false, /*in_layer=*/true);
  b.program().linears.back().keep = true;
  return b.Linear(x, value_name, id);
}

ValueId ExpertMlp(BlockBuilder& b, const DecoderSpec& spec, const ExpertsSpec& experts,
                  const std::string& prefix, ValueId x) {
  const int64_t count = experts.route.experts, inter = experts.inter;
  const ValueId logits = KeptLinear(b, x, "router", prefix + experts.router, count);
  const ValueId routing = b.Route(logits, experts.route);
  const auto linear = [&](ValueId from, int64_t expert, const std::string& name, int64_t out,
                          const std::string& bank, int64_t bank_rows, int64_t first_row) {
    const std::string weight = prefix + experts.experts + std::to_string(expert) + "." + name + ".weight";
    const LinearId id = AddLinear(b.program(), weight, out, b.width(from), false, /*in_layer=*/true);
    LinearSlot& slot = b.program().linears.back();
    slot.expert = static_cast<int>(expert);
    if (!bank.empty()) slot.bank = {prefix + bank, count, bank_rows, first_row};
    return b.Linear(from, name + " of " + std::to_string(expert), id);
  };
  std::vector<ValueId> inputs, middles, outputs;
  for (int64_t e = 0; e < count; ++e) inputs.push_back(b.Gather(x, routing, e));
  std::vector<std::pair<ValueId, ValueId>> gate_up;
  for (int64_t e = 0; e < count; ++e) {
    const ValueId from = inputs[static_cast<size_t>(e)];
    const ValueId gate = linear(from, e, experts.gate, inter, experts.bank_gate_up, 2 * inter, 0);
    gate_up.emplace_back(gate, linear(from, e, experts.up, inter, experts.bank_gate_up, 2 * inter, inter));
  }
  for (const auto& [gate, up] : gate_up) middles.push_back(b.Gate(gate, up, spec.activation));
  for (int64_t e = 0; e < count; ++e) {
    outputs.push_back(linear(middles[static_cast<size_t>(e)], e, experts.down, spec.hidden, experts.bank_down,
                             spec.hidden, 0));
  }
  return b.Combine(routing, outputs);
}

}  // namespace planish

// The MLP of decoders with experts: a router, gated MLPs of which each token passes a few, and the sum of
// what they give.
#pragma once

#include <string>

#include "model/arch/decoder.h"

namespace planish {

struct ExpertsSpec {
  RouteShape route;
  int64_t inter = 0;  // of one expert
  // Tensors of a layer, without ".weight"; of an expert: EXPERTS + number + "." + one of the three.
  std::string router = "mlp.gate", experts = "mlp.experts.", gate = "gate_proj", up = "up_proj",
              down = "down_proj";
  // Of checkpoints that keep all experts of a layer in one tensor [experts, rows, in], gate above up.
  std::string bank_gate_up = "mlp.experts.gate_up_proj", bank_down = "mlp.experts.down_proj";
};

// Checks what every such config has: counts, and that the layers' experts are not too many to list.
Status CheckExperts(const DecoderSpec& spec, const ExpertsSpec& experts);
// Operations in an order that keeps alike ones together: all gathers, then all that reads them, so that
// whoever walks the list can take a whole layer's experts in one go.
ValueId ExpertMlp(BlockBuilder& block, const DecoderSpec& spec, const ExpertsSpec& experts,
                  const std::string& prefix, ValueId x);
// A linear that is never compressed: a router, a gate.
ValueId KeptLinear(BlockBuilder& block, ValueId x, const std::string& value_name, const std::string& name,
                   int64_t out);

}  // namespace planish

// Rotary position parameters from a config, old and new spelling:
//   rope_theta + rope_scaling {type or rope_type, ...}              (transformers 4)
//   rope_parameters {rope_type, rope_theta, ...}, one or per layer type   (transformers 5)
// Kinds: default, linear, llama3, yarn. `dynamic` and `longrope` depend on the length of the whole
// sequence and are refused by name.
#pragma once

#include <string>

#include "base/json.h"
#include "model/program.h"

namespace planish {

struct RopeDefaults {
  double theta = 10000;
  int64_t max_positions = 2048;
};

// `layer_type` picks the entry when rope_parameters holds one object per layer type.
Result<RopeTable> ReadRope(const Json& config, int64_t head_dim, const RopeDefaults& defaults,
                           const std::string& layer_type = "full_attention");

}  // namespace planish

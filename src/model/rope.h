// Rotary position parameters from a config, old and new spelling:
//   rope_theta + rope_scaling {type or rope_type, ...}              (transformers 4)
//   rope_parameters {rope_type, rope_theta, ...}, one or per layer type   (transformers 5)
// Where both spellings are there they must agree. Kinds: default, linear, llama3, yarn, dynamic, longrope (or
// su).
//
// The last two depend on the length of the sequence: its last position in the forward pass, plus one. A
// forward pass over a whole sequence is the definition. With a cache, keys keep the rotation of the pass that
// made them, so a sequence that grows over `longer_than` tokens attends to keys of the short frequencies with
// queries of the long ones; whoever wants the definition runs the sequence again. RotatesAnewAt says where
// longrope needs it; dynamic would at every token, and is left with the keys it has, as in the programs it
// comes from.
#pragma once

#include <string>
#include <vector>

#include "model/config.h"
#include "model/program.h"

namespace planish {

struct RopeDefaults {
  double theta = 10000;
  int64_t max_positions = 2048;
  double partial = 1;  // part of head_dim that rotates
  RopePairing pairing = RopePairing::kHalves;
  const char* theta_field = "rope_theta";  // outside of rope_parameters
  // Names that older files have for it and for partial_rotary_factor; null: none.
  const char* older_theta = nullptr;
  const char* older_partial = nullptr;
  bool scaled = true;  // by rope_scaling
};

// `layer_type` picks the entry when rope_parameters holds one object per layer type.
Result<RopeTable> ReadRope(const Config& config, int64_t head_dim, const RopeDefaults& defaults,
                           const std::string& layer_type = "full_attention");

// Frequencies for a sequence of `length` tokens, [inv_freq.size()].
std::vector<double> RopeFrequencies(const RopeTable& rope, int64_t length);

// True when a sequence that grows to `length` tokens goes over to longrope's other frequencies.
bool RotatesAnewAt(const Program& program, int64_t length);

// 0.1 mscale ln(factor) + 1 for factors above 1: what yarn multiplies attention by.
double YarnScale(double factor, double mscale);

}  // namespace planish

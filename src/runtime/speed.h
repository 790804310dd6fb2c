// How fast an engine prefills and decodes, beside what the machine could do in the same minutes.
#pragma once

#include <vector>

#include "runtime/engine.h"
#include "runtime/machine_rates.h"

namespace planish {

struct SpeedOptions {
  int64_t prompt = 512;    // tokens of one prefill; 0: none
  int64_t generate = 128;  // steps of decoding, divided among the rounds
  std::vector<int64_t> depths = {0};
  int sequences = 1;  // decoded together, one token of each a step
  int rounds = 3;     // each between two readings of the bandwidth; the median counts
};

struct DepthSpeed {
  int64_t depth = 0;  // tokens in the cache when decoding starts
  double decode_tok_s = 0, prefill_tok_s = 0;
  double bytes_per_token = 0;  // packed weights once a step, and each sequence's keys and values, a token
  double bandwidth = 0;        // bytes a second, read from a buffer of the weights' size beside decoding
  double bandwidth_share = 0;  // of bytes_per_token * decode_tok_s in it
  double compute_share = 0;    // of decoding's multiply-adds in the peak of the factors' type
};

struct Speed {
  std::vector<Peak> peaks;
  std::vector<DepthSpeed> depths;
};

// Positions of a slot that the measurement needs.
int64_t CapacityFor(const SpeedOptions& options);

// The engine has `sequences` slots of CapacityFor positions. Token ids are arbitrary, keys and values of
// the tokens before a depth too. Errors: the machine's memory, interrupted.
Result<Speed> MeasureSpeed(const Context& context, const Model& model, Engine& engine,
                           const SpeedOptions& options);

}  // namespace planish

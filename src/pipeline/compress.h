// planish compress: block by block, site by site, resumable at every block.
#pragma once

#include <string>
#include <vector>

#include "base/context.h"
#include "model/model.h"
#include "pipeline/block_driver.h"
#include "pipeline/recipe.h"

namespace planish {

struct CompressRequest {
  std::string output;                // folder to make; must not exist
  bool restart = false;              // discard an unfinished run that differs
  int64_t state_memory = 256 << 20;  // bytes of hidden states kept in memory; the rest spills to disk
  // Statistics of the original stream, for independent mode: no forward pass is run. Must be of this
  // model and these windows. Null: taken as the run goes.
  const StatisticsFile* statistics = nullptr;
  double expected_macs = 0;  // of Estimate, for progress; 0: unknown
};

// What to expect, before any work.
struct Preflight {
  double macs = 0;           // multiply-adds: forward passes, Hessians, rounding
  double seconds = 0;        // at the rate of this machine
  double rate = 0;           // measured, multiply-adds per second
  int64_t memory_bytes = 0;  // peak resident, estimated
  int64_t output_bytes = 0;
};

struct CompressResult {
  OrderedJson layers = OrderedJson::array();  // a report a tensor, in order
  int resumed_at = 0;                         // first block of this process; 1 when nothing was there before
  bool already_done = false;                  // the output existed with the same fingerprint
  double macs = 0, seconds = 0;
  int64_t output_bytes = 0;
};

Result<Preflight> Estimate(const Context& context, const Model& model, const CalibrationSet& set,
                           const Recipe& recipe, const CompressRequest& request);

// Replaces the model's linears as it goes. Errors: the output exists, an unfinished run with other
// settings, non-finite weights or activations (named), disk full; interrupted, with what was done kept.
Result<CompressResult> Compress(const Context& context, Model& model, const CalibrationSet& set,
                                const Recipe& recipe, const CompressRequest& request);

// The table of a report for people.
std::string LayerTable(const OrderedJson& layers);

}  // namespace planish

// Takes the calibration set through one block, op by op over all windows, and stops at every site: its
// statistics come from the input it will really have, its linears are solved, and the pass goes on with
// the solved ones. Each operation runs once over the whole set (cheap ones between a restart point and
// a site, norms mostly, twice).
#pragma once

#include <functional>
#include <vector>

#include "calibrate/moments.h"
#include "calibrate/sites.h"
#include "model/forward.h"
#include "pipeline/state_store.h"

namespace planish {

// Windows of equal length in chunks that are run as one ragged batch.
struct CalibrationSet {
  std::vector<std::vector<int32_t>> windows;
  int64_t windows_per_chunk = 1;

  int64_t length() const { return static_cast<int64_t>(windows.front().size()); }
  int64_t chunks() const {
    return (static_cast<int64_t>(windows.size()) + windows_per_chunk - 1) / windows_per_chunk;
  }
  int64_t tokens() const { return static_cast<int64_t>(windows.size()) * length(); }
  Batch ChunkBatch(int64_t chunk) const;
  int64_t ChunkRows(int64_t chunk) const;
  // About 4,096 tokens a chunk.
  static CalibrationSet Make(std::vector<std::vector<int32_t>> windows);
};

// Where a pass stops and starts again: values alive before operation `op` are stored.
struct Cut {
  int op = 0;
  std::vector<ValueId> live;
};
// Values that must be kept to run the block from operation `op` on.
std::vector<ValueId> LiveBefore(const Block& block, int op);
// The cheapest cut from which the site's value can be made again without running a linear or attention.
Cut RestartCut(const Block& block, const Site& site);
// The largest number of floats a token needs at any cut of any block, block borders included.
int64_t WidestCut(const Program& program);

class BlockDriver {
 public:
  // `model` is read at every operation: replacing its linears between passes is how solving shows.
  BlockDriver(const Model& model, const CalibrationSet& set, StateStore& store)
      : model_(model), set_(set), store_(store), executor_(model) {}

  // Block 0: embeds every window into the store.
  Status Embed(const Context& context);

  using SolveSite = std::function<Status(const Site& site, Moments moments)>;
  // Sequential: solve(site) runs after the site's moments are complete and before anything behind it is
  // computed. The store holds the block's input before and its output after.
  Status Sequential(const Context& context, int block, const SolveSite& solve);
  // Independent: one pass with the linears as they are; then solve(site) for each.
  Status Independent(const Context& context, int block, const SolveSite& solve);

  // Called after each chunk with the multiply-adds it took; for progress.
  std::function<void(double macs)> on_work;

 private:
  Status LoadCut(const Block& block, const Cut& cut, int64_t chunk, Values& values);
  Status SaveCut(const Cut& cut, int64_t chunk, const Values& values);
  Status RunSpan(const Context& context, const Block& block, int first, int last, int64_t chunk, Cache& cache,
                 Values& values);
  const Model& model_;
  const CalibrationSet& set_;
  StateStore& store_;
  Executor executor_;
};

// Multiply-adds of one operation on `rows` tokens in windows of `length`.
double OpMacs(const Program& program, const Op& op, int64_t rows, int64_t length);

}  // namespace planish

// Takes the calibration set through one block, op by op over all windows, and stops at every site: its
// statistics come from the input it will really have, its linears are solved, and the pass goes on with
// the solved ones. Sites whose linears stand side by side, a layer's experts above all, are served by one
// pass. Each operation runs once over the whole set (cheap ones between a restart point and a site, norms
// mostly, twice).
//
// An expert that hardly any token was routed to (fewer than an eighth of the width of its input) says little
// by the tokens it saw. Its moments are taken over all tokens instead, each weighted by the router's score of
// the expert, as if all had been sent there; Moments::seen tells how many really were.
#pragma once

#include <functional>
#include <map>
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
// The cheapest cut from which the inputs of the group's sites can be made again without running a linear or
// attention; for experts no later than their gathers, where the router's input is at hand.
Cut RestartCut(const Block& block, const SiteGroup& group);
// The largest number of floats a token needs at any cut of any block, block borders included.
int64_t WidestCut(const Program& program);

class BlockDriver {
 public:
  // Moments of one pass take at most about this much memory; a group of more sites takes several passes.
  static constexpr int64_t kMomentBytes = int64_t{1} << 30;
  // An expert is rare when its tokens times this are fewer than the width of its input.
  static constexpr int64_t kRareFraction = 8;

  // `model` is read at every operation: replacing its linears between passes is how solving shows.
  BlockDriver(const Model& model, const CalibrationSet& set, StateStore& store)
      : model_(model), set_(set), store_(store), executor_(model) {}

  // Block 0: embeds every window into the store.
  Status Embed(const Context& context);

  using SolveSite = std::function<Status(const Site& site, Moments moments)>;
  // Sequential: solve(site) runs after the site's moments are complete and before anything behind it is
  // computed. The store holds the block's input before and its output after.
  Status Sequential(const Context& context, int block, const SolveSite& solve);
  // Independent: passes with the linears as they are; then solve(site) for each.
  Status Independent(const Context& context, int block, const SolveSite& solve);

  // Called after each chunk with the multiply-adds it took; for progress.
  std::function<void(double macs)> on_work;
  int64_t moment_bytes = kMomentBytes;

 private:
  // Sites of a pass, and their moments.
  struct Collection {
    std::vector<const Site*> sites;
    std::vector<Moments> moments;
  };
  // An expert of the block: its routing and its number.
  using Expert = std::pair<ValueId, int>;

  // Runs each(chunk, values) with the values stored at the cut.
  Status ForChunks(const Block& block, const Cut& cut,
                   const std::function<Status(int64_t chunk, Values& values)>& each);
  Status LoadCut(const Block& block, const Cut& cut, int64_t chunk, Values& values);
  Status SaveCut(const Block& block, const Cut& cut, int64_t chunk, const Values& values);
  Status RunSpan(const Context& context, const Block& block, int first, int last, int64_t chunk, Cache& cache,
                 Values& values);
  // Splits sites so that each part's moments fit in memory; there is always one part.
  std::vector<Collection> Split(const Block& block, const std::vector<const Site*>& sites) const;
  static void MakeMoments(const Block& block, Collection& collection);
  Status AddSite(const Context& context, const Site& site, const Values& values, Moments& moments);
  Status SolveAll(Collection collection, const SolveSite& solve);
  // Takes a group's sites through their passes and leaves the store at `to`.
  Status SolveGroup(const Context& context, const Block& block, const SiteGroup& group, const Cut& from,
                    const Cut& to, Cache& cache, const SolveSite& solve);

  bool IsRare(const Site& site) const { return rare_.contains({site.routing, site.expert}); }
  // Notes the experts whose inputs these are and that saw few tokens.
  void FindRare(const Block& block, const Collection& collection);
  // The sites of rare experts, out of the others and with empty moments.
  Collection TakeRare(const Block& block, Collection& from);
  // Adds all tokens of the chunk, weighted, to the sites of rare experts. `values`: before the gathers.
  Status AddForAllTokens(const Context& context, const Block& block, int64_t chunk, Cache& cache,
                         const Values& values, Collection& rare);

  const Model& model_;
  const CalibrationSet& set_;
  StateStore& store_;
  Executor executor_;
  std::vector<std::map<ValueId, int64_t>> rows_;  // by chunk: rows of stored values that are an expert's
  std::map<Expert, int64_t> rare_;                // of the block at work: tokens they saw
};

// Multiply-adds of one operation of the block on `rows` tokens in windows of `length`.
double OpMacs(const Program& program, const Block& block, const Op& op, int64_t rows, int64_t length);
// Tokens that reach the site of `rows`, as far as the program tells: an expert's share of them.
double ExpectedRows(const Block& block, const Site& site, int64_t rows);

}  // namespace planish

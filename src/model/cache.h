// What a model remembers of past tokens. Keys and values lie behind two calls: attention never sees their
// storage, so packed, paged, latent or shared caches are other kinds of Cache. State-space layers keep a
// state of fixed size instead, which every kind of cache holds alike.
#pragma once

#include <map>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "base/context.h"
#include "math/nn.h"
#include "tensor/view.h"

namespace planish {

// A ragged batch: tokens of several sequences, each a run of consecutive positions.
struct Batch {
  struct Run {
    int32_t slot = 0;  // cache slot of the sequence
    int64_t first_row = 0, rows = 0;
    int64_t first_position = 0;  // of its first row; everything before is in the cache
  };
  std::vector<int32_t> ids;
  std::vector<int32_t> positions;  // by row, as the runs say
  std::vector<Run> runs;

  int64_t rows() const { return static_cast<int64_t>(ids.size()); }
  // Adds a run.
  void Add(std::span<const int32_t> run_ids, int32_t slot, int64_t first_position);
  static Batch Of(std::span<const int32_t> ids, int32_t slot = 0, int64_t first_position = 0);
};

class Cache {
 public:
  virtual ~Cache() = default;
  // Stores the keys and values [rows, kv width] of the batch's tokens, after rotation.
  virtual Status Append(const Context& context, int layer, const Batch& batch, MatView<const float> k,
                        MatView<const float> v) = 0;
  // Attends the batch's queries to everything stored up to their positions.
  virtual Status Attend(const Context& context, int layer, const AttentionShape& shape, const Batch& batch,
                        MatView<const float> q, MatView<float> out) = 0;

  // The state of `size` floats that operation number `index` keeps for the run's sequence, for the caller to
  // advance over all of the run's rows: zeros when the run starts at position 0. Error: the run does not
  // start where the state is, for a state cannot go back.
  Result<std::span<float>> AdvanceState(int index, const Batch::Run& run, int64_t size);

 private:
  struct State {
    std::vector<float> values;
    int64_t position = 0;  // tokens it has seen
  };
  std::map<std::pair<int, int>, State> states_;  // by operation and slot
};

// fp32 keys and values in one array a layer and slot: the definition. Positions are overwritten
// when a run starts at or before them, so a slot is reused by starting again at position 0.
class DenseCache : public Cache {
 public:
  DenseCache(int layers, int slots, int64_t capacity);
  Status Append(const Context& context, int layer, const Batch& batch, MatView<const float> k,
                MatView<const float> v) override;
  Status Attend(const Context& context, int layer, const AttentionShape& shape, const Batch& batch,
                MatView<const float> q, MatView<float> out) override;

 private:
  struct Store {
    Mat<float> k, v;  // [capacity, kv width], made at the first append
  };
  Store& At(int layer, int slot) { return stores_[static_cast<size_t>(layer * slots_ + slot)]; }
  int layers_, slots_;
  int64_t capacity_;
  std::vector<Store> stores_;
};

}  // namespace planish

#include "model/cache.h"

#include <fmt/format.h>

#include <cstring>

namespace planish {

void Batch::Add(std::span<const int32_t> run_ids, int32_t slot, int64_t first_position) {
  runs.push_back({slot, rows(), static_cast<int64_t>(run_ids.size()), first_position});
  for (size_t i = 0; i < run_ids.size(); ++i) {
    ids.push_back(run_ids[i]);
    positions.push_back(static_cast<int32_t>(first_position) + static_cast<int32_t>(i));
  }
}

Batch Batch::Of(std::span<const int32_t> ids, int32_t slot, int64_t first_position) {
  Batch batch;
  batch.Add(ids, slot, first_position);
  return batch;
}

Result<std::span<float>> Cache::AdvanceState(int index, const Batch::Run& run, int64_t size) {
  State& state = states_[{index, run.slot}];
  if (run.first_position == 0) {
    state.values.assign(static_cast<size_t>(size), 0.0f);
  } else if (state.position != run.first_position || static_cast<int64_t>(state.values.size()) != size) {
    return InputError(fmt::format(
        "the run starts at position {}, but the state of the sequence is at {}: a state-space model "
        "goes on where it stopped, or starts again at 0",
        run.first_position, state.position));
  }
  state.position = run.first_position + run.rows;
  return std::span<float>(state.values);
}

DenseCache::DenseCache(int layers, int slots, int64_t capacity)
    : layers_(layers), slots_(slots), capacity_(capacity), stores_(static_cast<size_t>(layers * slots)) {}

Status DenseCache::Append(const Context&, int layer, const Batch& batch, MatView<const float> k,
                          MatView<const float> v) {
  PLANISH_CHECK(layer < layers_);
  for (const auto& run : batch.runs) {
    PLANISH_CHECK(run.slot < slots_);
    if (run.first_position + run.rows > capacity_) {
      return InputError(fmt::format("the sequence needs {} positions, the cache holds {}; raise --context",
                                    run.first_position + run.rows, capacity_));
    }
    Store& store = At(layer, run.slot);
    if (store.k.rows() == 0) {
      store.k.Resize(capacity_, k.cols);
      store.v.Resize(capacity_, v.cols);
    }
    for (int64_t i = 0; i < run.rows; ++i) {
      std::memcpy(store.k.row(run.first_position + i), k.row(run.first_row + i),
                  static_cast<size_t>(k.cols) * 4);
      std::memcpy(store.v.row(run.first_position + i), v.row(run.first_row + i),
                  static_cast<size_t>(v.cols) * 4);
    }
  }
  return {};
}

Status DenseCache::Attend(const Context& context, int layer, const AttentionShape& shape, const Batch& batch,
                          MatView<const float> q, MatView<float> out) {
  for (const auto& run : batch.runs) {
    Store& store = At(layer, run.slot);
    const int64_t keys = run.first_position + run.rows;
    CausalAttention(context, shape, q.Rows(run.first_row, run.rows),
                    std::as_const(store.k).view().Rows(0, keys), std::as_const(store.v).view().Rows(0, keys),
                    run.first_position, out.Rows(run.first_row, run.rows));
  }
  return {};
}

}  // namespace planish

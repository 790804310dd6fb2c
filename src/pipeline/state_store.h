// The values of the calibration set that are alive between two passes, one entry a chunk of
// windows: hidden states mostly, the biggest thing in memory after a block. They are kept in bf16
// or fp32, in memory up to a limit and in a spill file past it. The file is read and written, not
// mapped, so that it never counts as resident memory.
#pragma once

#include <string>
#include <vector>

#include "base/context.h"
#include "tensor/buffer.h"
#include "tensor/view.h"

namespace planish {

enum class StateType { kBF16, kF32 };

class StateStore {
 public:
  // `slot_bytes`: the largest entry; entry i spills to offset i * slot_bytes. The spill file is made
  // when first needed and unlinked at once, so nothing is left behind however the process ends.
  StateStore(StateType type, int64_t entries, int64_t slot_bytes, int64_t memory_limit_bytes,
             std::string spill_path);
  ~StateStore();
  StateStore(const StateStore&) = delete;
  StateStore& operator=(const StateStore&) = delete;

  static int64_t BytesPerValue(StateType type) { return type == StateType::kBF16 ? 2 : 4; }
  // Replaces entry i by these matrices, rounded to the store's type.
  Status Put(int64_t entry, const std::vector<MatView<const float>>& values);
  // Fills matrices whose shapes are those of the last Put; the entry stays.
  Status Get(int64_t entry, const std::vector<MatView<float>>& values) const;

  // All entries as one file, and back: what a resumed run starts from. Every entry must hold the
  // same number of bytes as when it was saved.
  Status Save(const std::string& path) const;
  Status Load(const std::string& path, const std::vector<int64_t>& entry_bytes);

 private:
  struct Entry {
    Buffer memory;
    int64_t bytes = 0;
    bool spilled = false;
  };
  Status Store(int64_t entry, Buffer data, int64_t bytes);
  Status ReadEntry(int64_t entry, std::span<std::byte> out) const;
  Status OpenSpill();
  StateType type_;
  int64_t slot_bytes_, limit_, in_memory_ = 0;
  std::string spill_path_;
  int spill_ = -1;
  std::vector<Entry> entries_;
};

}  // namespace planish

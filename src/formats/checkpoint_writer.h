// A model's tensors streamed into a folder of safetensors files: row panels, so that memory does not grow
// with the largest tensor, shards, and the index that loaders look for.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>

#include "base/context.h"
#include "base/result.h"
#include "formats/checkpoint.h"

namespace planish {

// The most a panel of a tensor holds, unless a single row is longer. Two are in memory: while one is written,
// the next is filled.
inline constexpr int64_t kTensorPanelBytes = int64_t{32} << 20;

// A tensor to be written and where its bytes come from. A row is a run along the last dimension: a tensor
// [a, b, c] has a * b rows of c elements, a vector or a scalar one row.
struct TensorSource {
  // Fills `out` with the stored bytes of rows [row, row + count). Called once for every panel, in order.
  using Fill = std::function<Status(int64_t row, int64_t count, std::span<std::byte> out)>;
  TensorSpec spec;
  Fill fill;                         // null: `bytes`
  std::span<const std::byte> bytes;  // of the whole tensor, in memory or mapped
};

struct TensorsWritten {
  int64_t tensors = 0, files = 0, bytes = 0;
};

// Writes model.safetensors, or shards of at most `shard_bytes` and their index, into an existing folder.
// Sources are filled shard by shard in the order of SafetensorsWriter::order. Progress is in bytes. Errors:
// those of SafetensorsWriter and of the sources; files already finished then remain, so write into an
// AtomicFolder.
Result<TensorsWritten> WriteTensors(const Context& context, std::span<const TensorSource> sources,
                                    const std::string& folder, int64_t shard_bytes = kDefaultShardBytes);

}  // namespace planish

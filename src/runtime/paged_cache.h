// Keys and values in pages of bf16 or int8: half or a quarter of the bytes of fp32, laid out so that
// attention reads them in the order it multiplies them (attend_kernels.h). What a cache of a server
// needs: memory grows by pages with the text, a page that no query will see again is given back.
#pragma once

#include <memory>
#include <vector>

#include "model/cache.h"
#include "model/program.h"
#include "runtime/attend_kernels.h"

namespace planish {

enum class CacheType { kBF16, kInt8 };

struct PagedCacheOptions {
  int slots = 1;
  int64_t capacity = 0;  // positions of a slot
  CacheType type = CacheType::kBF16;
};

class PagedCache : public Cache {
 public:
  // The shapes come from the program's attention operations.
  PagedCache(const Program& program, const PagedCacheOptions& options);

  // Keys and values are rounded to the cache's type; int8 has a scale for each key and head. A position is
  // overwritten when a run starts at or before it, but with a sliding window no further back than the
  // window's oldest page. Errors: the capacity is exceeded, a position that was given back, NaN or
  // infinity.
  Status Append(const Context& context, int layer, const Batch& batch, MatView<const float> k,
                MatView<const float> v) override;
  // Queries are rounded to bf16 after scaling. The same bits for any number of threads and any division of
  // the batch.
  Status Attend(const Context& context, int layer, const AttentionShape& shape, const Batch& batch,
                MatView<const float> q, MatView<float> out) override;

  // ---- the same in pieces, for callers with threads of their own ----

  // Makes the pages that the batch's positions need, and drops what the window leaves behind. Before
  // the pieces below, by one thread. Errors as of Append.
  Status Reserve(int layer, const Batch& batch);
  // Stores one head's key and value of one position. False: NaN or infinity.
  bool StoreHead(int layer, int slot, int64_t head, int64_t position, const float* k, const float* v);
  // One kv head's queries of one row of the batch over the part of its keys that lies in span number `span`
  // of kSpanKeys positions. q: the row's first query head of the group, [group, key_dim], unscaled;
  // partial: PartialFloats(layer) floats.
  void AttendSpan(Isa isa, int layer, int slot, int64_t head, int64_t position, int64_t span, const float* q,
                  float* partial) const;
  // Joins spans [first, last) of one kv head of one row, PartialFloats(layer) apart, to out [group,
  // value_dim].
  void JoinSpans(int layer, int64_t first, int64_t last, const float* partials, float* out) const;
  // Positions of a span: fixed, so that sums do not depend on the number of threads.
  static constexpr int64_t kSpanKeys = 2 * attend::kPageKeys;
  int64_t PartialFloats(int layer) const;
  // Spans [first, last) that a query at `position` sees.
  struct Spans {
    int64_t first, last;
  };
  Spans SpansOf(int layer, int64_t position) const;

  const AttentionShape& shape(int layer) const { return layers_[static_cast<size_t>(layer)].shape; }
  // Bytes of all pages in use.
  int64_t bytes() const;
  // Bytes of keys and values that one token at `position` reads, all layers.
  int64_t BytesRead(int64_t position) const;

 private:
  struct Layer {
    AttentionShape shape;
    int64_t key_dim = 0, value_dim = 0;  // padded, of a head
    int64_t head_bytes = 0, page_bytes = 0;
  };
  struct Slot {
    std::vector<std::byte*> pages;  // by position / kPageKeys; null: not there
  };
  const Slot& SlotOf(int layer, int slot) const {
    return slots_[static_cast<size_t>(layer * num_slots_ + slot)];
  }
  Slot& SlotOf(int layer, int slot) { return slots_[static_cast<size_t>(layer * num_slots_ + slot)]; }
  std::byte* NewPage(int64_t bytes);
  attend::PageHead HeadOf(const Layer& layer, const std::byte* page, int64_t head) const;
  static const attend::Kernels& Kernels(Isa isa);
  void AttendTile(Isa isa, int layer, const Batch::Run& run, int64_t head, int64_t first_query,
                  MatView<const float> q, MatView<float> out) const;

  PagedCacheOptions options_;
  int num_slots_;
  std::vector<Layer> layers_;
  std::vector<Slot> slots_;
  struct Free {
    int64_t bytes;
    std::byte* page;
  };
  std::vector<Free> free_;
  std::vector<Buffer> slabs_;
  int64_t slab_used_ = 0;
  int64_t bytes_in_use_ = 0;
};

}  // namespace planish

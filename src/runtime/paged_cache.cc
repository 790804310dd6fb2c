#include "runtime/paged_cache.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

namespace planish {
namespace {

using attend::kKeyLanes;
using attend::kMaxQueries;
using attend::kPageKeys;

// Slabs are large enough for huge pages.
constexpr int64_t kSlabBytes = int64_t{8} << 20;
constexpr float kNone = -std::numeric_limits<float>::infinity();

int64_t ElementBytes(CacheType type) { return type == CacheType::kBF16 ? 2 : 1; }
// Scales of keys and values of one head.
int64_t ScaleBytes(CacheType type) { return type == CacheType::kBF16 ? 0 : 2 * kPageKeys * 4; }

uint32_t Bf16Bits(float x) { return ToBF16(x).bits; }

// Pairs of bf16 of q * scale; a missing last element is 0.
void PackQuery(const float* q, int64_t dim, float scale, int64_t padded, uint32_t* pairs) {
  for (int64_t i = 0; i < padded / 2; ++i) {
    const uint32_t low = 2 * i < dim ? Bf16Bits(q[2 * i] * scale) : 0;
    const uint32_t high = 2 * i + 1 < dim ? Bf16Bits(q[2 * i + 1] * scale) : 0;
    pairs[i] = low | high << 16;
  }
}

// A softmax over some keys: [max, sum, out...] of each query. Adds `from` to `into`.
void Merge(const float* from, int64_t value_dim, float* into) {
  if (from[0] == kNone) return;
  const float max = std::max(from[0], into[0]);
  const float a = into[0] == kNone ? 0.0f : std::exp(into[0] - max), b = std::exp(from[0] - max);
  into[0] = max;
  into[1] = into[1] * a + from[1] * b;
  for (int64_t d = 2; d < 2 + value_dim; ++d) into[d] = into[d] * a + from[d] * b;
}

// Element e of dimension d of key t, in the order of PageHead.
int64_t KeyIndex(int64_t t, int64_t d, int64_t key_dim) {
  return t / kKeyLanes * kKeyLanes * key_dim + d / 2 * 2 * kKeyLanes + t % kKeyLanes * 2 + d % 2;
}
int64_t ValueIndex(int64_t t, int64_t d, int64_t value_dim) { return t / 2 * 2 * value_dim + 2 * d + t % 2; }

float LargestOf(const float* x, int64_t count) {
  float largest = 0;
  for (int64_t i = 0; i < count; ++i) largest = std::max(largest, std::fabs(x[i]));
  return largest;
}

bool AllFinite(const float* x, int64_t count) {
  float sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += x[i] * 0.0f;
  return sum == 0;
}

// Queries of one kv head and the state of their softmax, [max, sum, out...] each.
class QueryBlock {
 public:
  QueryBlock(const AttentionShape& shape, int64_t key_dim, int64_t value_dim)
      : shape_(shape), key_dim_(key_dim), value_dim_(value_dim) {}

  void Clear() { positions_.clear(), q_.clear(); }
  // q [head_dim] of a token at `position`.
  void Add(const float* q, int64_t position) {
    positions_.push_back(position);
    q_.resize(q_.size() + static_cast<size_t>(key_dim_ / 2));
    PackQuery(q, shape_.head_dim, shape_.scale, key_dim_, q_.data() + q_.size() - key_dim_ / 2);
  }
  int count() const { return static_cast<int>(positions_.size()); }
  int64_t position(int i) const { return positions_[static_cast<size_t>(i)]; }

  // The softmax over the keys of one span, from nothing; then results holds it.
  template <class PageOf>
  void Attend(const attend::Kernels& kernels, CacheType type, int64_t span, const PageOf& page_of) {
    const size_t n = positions_.size();
    max_.assign(n, kNone), sum_.assign(n, 0.0f), out_.assign(n * static_cast<size_t>(value_dim_), 0.0f);
    begin_.resize(n), end_.resize(n);
    const attend::Queries queries{count(),        key_dim_,    value_dim_,  q_.data(),
                                  shape_.softcap, max_.data(), sum_.data(), out_.data()};
    constexpr int64_t kPages = PagedCache::kSpanKeys / kPageKeys;
    for (int64_t page = span * kPages; page < (span + 1) * kPages; ++page) {
      bool any = false;
      for (size_t i = 0; i < n; ++i) {
        const int64_t last = positions_[i] + 1 - page * kPageKeys;
        const int64_t first = shape_.window > 0 ? last - shape_.window : 0;
        begin_[i] = static_cast<int32_t>(std::clamp<int64_t>(first, 0, kPageKeys));
        end_[i] = static_cast<int32_t>(std::clamp<int64_t>(last, 0, kPageKeys));
        any = any || begin_[i] < end_[i];
      }
      if (!any) continue;
      const auto kernel = type == CacheType::kBF16 ? kernels.bf16_page : kernels.int8_page;
      kernel(page_of(page), queries, begin_.data(), end_.data());
    }
  }
  // [max, sum, out...] of query i.
  void Result(int i, float* to) const {
    to[0] = max_[static_cast<size_t>(i)];
    to[1] = sum_[static_cast<size_t>(i)];
    std::copy_n(out_.data() + i * value_dim_, value_dim_, to + 2);
  }

 private:
  AttentionShape shape_;
  int64_t key_dim_, value_dim_;
  std::vector<int64_t> positions_;
  std::vector<uint32_t> q_;
  std::vector<float> max_, sum_, out_;
  std::vector<int32_t> begin_, end_;
};

}  // namespace

PagedCache::PagedCache(const Program& program, const PagedCacheOptions& options)
    : options_(options), num_slots_(options.slots), layers_(static_cast<size_t>(program.cache_layers)) {
  PLANISH_CHECK(options.slots > 0 && options.capacity > 0) << options.slots << ", " << options.capacity;
  for (const Block& block : program.blocks) {
    for (const Op& op : block.ops) {
      const auto* attention = std::get_if<AttentionOp>(&op.body);
      if (attention == nullptr) continue;
      Layer& layer = layers_[static_cast<size_t>(attention->cache_layer)];
      layer.shape = attention->shape;
      layer.key_dim = (layer.shape.head_dim + 1) / 2 * 2;
      layer.value_dim = (layer.shape.head_dim + 15) / 16 * 16;
      layer.head_bytes = kPageKeys * (layer.key_dim + layer.value_dim) * ElementBytes(options.type) +
                         ScaleBytes(options.type);
      layer.head_bytes = (layer.head_bytes + 63) / 64 * 64;
      layer.page_bytes = layer.head_bytes * layer.shape.kv_heads;
    }
  }
  const int64_t pages = (options.capacity + kPageKeys - 1) / kPageKeys;
  slots_.resize(layers_.size() * static_cast<size_t>(num_slots_));
  for (Slot& slot : slots_) slot.pages.assign(static_cast<size_t>(pages), nullptr);
}

const attend::Kernels& PagedCache::Kernels(Isa isa) {
#if defined(__x86_64__)
  static const bool has_bf16 = CpuHas(CpuFeature::kAvx512Bf16);
  if (isa == Isa::kAvx512) return has_bf16 ? attend::kAvx512Bf16Kernels : attend::kAvx512Kernels;
  if (isa == Isa::kAvx2) return attend::kAvx2Kernels;
#endif
  return attend::kScalarKernels;
}

std::byte* PagedCache::NewPage(int64_t bytes) {
  bytes_in_use_ += bytes;
  for (size_t i = 0; i < free_.size(); ++i) {
    if (free_[i].bytes != bytes) continue;
    std::byte* page = free_[i].page;
    free_.erase(free_.begin() + static_cast<ptrdiff_t>(i));
    std::memset(page, 0, static_cast<size_t>(bytes));
    return page;
  }
  if (slabs_.empty() || slab_used_ + bytes > static_cast<int64_t>(slabs_.back().size())) {
    slabs_.emplace_back(static_cast<size_t>(std::max(kSlabBytes, bytes)));
    slab_used_ = 0;
  }
  std::byte* page = slabs_.back().data() + slab_used_;
  slab_used_ += bytes;
  std::memset(page, 0, static_cast<size_t>(bytes));
  return page;
}

Status PagedCache::Reserve(int layer_index, const Batch& batch) {
  const Layer& layer = layers_[static_cast<size_t>(layer_index)];
  for (const auto& run : batch.runs) {
    PLANISH_CHECK(run.slot < num_slots_);
    const int64_t end = run.first_position + run.rows;
    if (end > options_.capacity) {
      return InputError(fmt::format("the sequence needs {} positions, the cache holds {}; raise --context",
                                    end, options_.capacity));
    }
    auto& pages = SlotOf(layer_index, run.slot).pages;
    const int64_t window = layer.shape.window;
    const int64_t first_seen = window > 0 ? std::max<int64_t>(0, run.first_position - window + 1) : 0;
    for (int64_t p = first_seen / kPageKeys; p * kPageKeys < run.first_position; ++p) {
      if (pages[static_cast<size_t>(p)] == nullptr) {
        return InputError(
            fmt::format("position {} of the cache was given back when the window of {} left it; "
                        "start the sequence again",
                        p * kPageKeys, window));
      }
    }
    for (int64_t p = run.first_position / kPageKeys; p * kPageKeys < end; ++p) {
      std::byte*& page = pages[static_cast<size_t>(p)];
      if (page == nullptr) page = NewPage(layer.page_bytes);
    }
    // One page more than the window needs stays, so that a few tokens can be taken back.
    for (int64_t p = first_seen / kPageKeys - 2; p >= 0 && pages[static_cast<size_t>(p)] != nullptr; --p) {
      free_.push_back({layer.page_bytes, pages[static_cast<size_t>(p)]});
      pages[static_cast<size_t>(p)] = nullptr;
      bytes_in_use_ -= layer.page_bytes;
    }
  }
  return {};
}

attend::PageHead PagedCache::HeadOf(const Layer& layer, const std::byte* page, int64_t head) const {
  const std::byte* k = page + head * layer.head_bytes;
  const int64_t element = ElementBytes(options_.type);
  const std::byte* v = k + kPageKeys * layer.key_dim * element;
  const auto* scales = reinterpret_cast<const float*>(v + kPageKeys * layer.value_dim * element);
  return {k, v, scales, scales + kPageKeys};
}

bool PagedCache::StoreHead(int layer_index, int slot, int64_t head, int64_t position, const float* k,
                           const float* v) {
  const Layer& layer = layers_[static_cast<size_t>(layer_index)];
  const int64_t dim = layer.shape.head_dim, t = position % kPageKeys;
  if (!AllFinite(k, dim) || !AllFinite(v, dim)) return false;
  std::byte* page = SlotOf(layer_index, slot).pages[static_cast<size_t>(position / kPageKeys)];
  const attend::PageHead at = HeadOf(layer, page, head);
  if (options_.type == CacheType::kBF16) {
    auto* keys = const_cast<uint16_t*>(static_cast<const uint16_t*>(at.k));
    auto* values = const_cast<uint16_t*>(static_cast<const uint16_t*>(at.v));
    for (int64_t d = 0; d < dim; ++d) {
      keys[KeyIndex(t, d, layer.key_dim)] = ToBF16(k[d]).bits;
      values[ValueIndex(t, d, layer.value_dim)] = ToBF16(v[d]).bits;
    }
    return true;
  }
  auto* keys = const_cast<int8_t*>(static_cast<const int8_t*>(at.k));
  auto* values = const_cast<int8_t*>(static_cast<const int8_t*>(at.v));
  const float k_scale = LargestOf(k, dim) / 127, v_scale = LargestOf(v, dim) / 127;
  // A scale below the normal numbers has no finite inverse: such values count as zeros.
  const auto inverse = [](float scale) { return scale >= std::numeric_limits<float>::min() ? 1 / scale : 0; };
  const float k_inv = inverse(k_scale), v_inv = inverse(v_scale);
  for (int64_t d = 0; d < dim; ++d) {
    keys[KeyIndex(t, d, layer.key_dim)] = static_cast<int8_t>(std::nearbyint(k[d] * k_inv));
    values[ValueIndex(t, d, layer.value_dim)] = static_cast<int8_t>(std::nearbyint(v[d] * v_inv));
  }
  const_cast<float*>(at.k_scales)[t] = k_scale;
  const_cast<float*>(at.v_scales)[t] = v_scale;
  return true;
}

Status PagedCache::Append(const Context& context, int layer_index, const Batch& batch, MatView<const float> k,
                          MatView<const float> v) {
  PLANISH_RETURN_IF_ERROR(Reserve(layer_index, batch));
  const AttentionShape& shape = layers_[static_cast<size_t>(layer_index)].shape;
  PLANISH_CHECK(k.cols == shape.kv_heads * shape.head_dim) << k.cols;
  for (const auto& run : batch.runs) {
    std::atomic<int64_t> bad{-1};
    // Sixteen positions share cache lines of keys.
    const int64_t tile = kKeyLanes;
    context.pool->ParallelFor((run.rows + tile - 1) / tile, [&](int64_t task) {
      for (int64_t i = task * tile; i < std::min(run.rows, (task + 1) * tile); ++i) {
        for (int64_t head = 0; head < shape.kv_heads; ++head) {
          const int64_t at = head * shape.head_dim, row = run.first_row + i;
          if (!StoreHead(layer_index, run.slot, head, run.first_position + i, k.row(row) + at,
                         v.row(row) + at)) {
            bad.store(run.first_position + i);
          }
        }
      }
    });
    if (bad.load() >= 0) {
      return FailureError(
          fmt::format("a key or value of layer {} at position {} is not finite", layer_index, bad.load()));
    }
  }
  return {};
}

int64_t PagedCache::PartialFloats(int layer_index) const {
  const Layer& layer = layers_[static_cast<size_t>(layer_index)];
  return layer.shape.heads / layer.shape.kv_heads * (2 + layer.value_dim);
}

PagedCache::Spans PagedCache::SpansOf(int layer_index, int64_t position) const {
  const int64_t window = shape(layer_index).window;
  const int64_t first = window > 0 ? std::max<int64_t>(0, position - window + 1) : 0;
  return {first / kSpanKeys, position / kSpanKeys + 1};
}

void PagedCache::AttendSpan(Isa isa, int layer_index, int slot, int64_t head, int64_t position, int64_t span,
                            const float* q, float* partial) const {
  const Layer& layer = layers_[static_cast<size_t>(layer_index)];
  const auto& pages = SlotOf(layer_index, slot).pages;
  const int64_t group = layer.shape.heads / layer.shape.kv_heads;
  QueryBlock block(layer.shape, layer.key_dim, layer.value_dim);
  for (int64_t first = 0; first < group; first += kMaxQueries) {
    block.Clear();
    for (int64_t i = first; i < std::min(group, first + kMaxQueries); ++i) {
      block.Add(q + i * layer.shape.head_dim, position);
    }
    block.Attend(Kernels(isa), options_.type, span,
                 [&](int64_t page) { return HeadOf(layer, pages[static_cast<size_t>(page)], head); });
    for (int i = 0; i < block.count(); ++i) block.Result(i, partial + (first + i) * (2 + layer.value_dim));
  }
}

void PagedCache::JoinSpans(int layer_index, int64_t first, int64_t last, const float* partials,
                           float* out) const {
  const Layer& layer = layers_[static_cast<size_t>(layer_index)];
  const int64_t group = layer.shape.heads / layer.shape.kv_heads, stride = 2 + layer.value_dim;
  std::vector<float> joined(static_cast<size_t>(stride));
  for (int64_t i = 0; i < group; ++i) {
    std::fill(joined.begin(), joined.end(), 0.0f);
    joined[0] = kNone;
    for (int64_t span = first; span < last; ++span) {
      Merge(partials + (span - first) * PartialFloats(layer_index) + i * stride, layer.value_dim,
            joined.data());
    }
    for (int64_t d = 0; d < layer.shape.head_dim; ++d) {
      out[i * layer.shape.head_dim + d] = joined[static_cast<size_t>(2 + d)] / joined[1];
    }
  }
}

Status PagedCache::Attend(const Context& context, int layer_index, const AttentionShape& shape,
                          const Batch& batch, MatView<const float> q, MatView<float> out) {
  const int64_t group = shape.heads / shape.kv_heads;
  for (const auto& run : batch.runs) {
    const int64_t tiles = (run.rows * group + kMaxQueries - 1) / kMaxQueries;
    context.pool->ParallelFor(shape.kv_heads * tiles, [&](int64_t task) {
      AttendTile(context.isa, layer_index, run, task / tiles, task % tiles * kMaxQueries, q, out);
    });
  }
  return {};
}

// Query j of a kv head is query head j % group of the run's row j / group.
void PagedCache::AttendTile(Isa isa, int layer_index, const Batch::Run& run, int64_t head, int64_t first,
                            MatView<const float> q, MatView<float> out) const {
  const Layer& layer = layers_[static_cast<size_t>(layer_index)];
  const auto& pages = SlotOf(layer_index, run.slot).pages;
  const int64_t group = layer.shape.heads / layer.shape.kv_heads, dim = layer.shape.head_dim;
  const int64_t last = std::min(run.rows * group, first + kMaxQueries), stride = 2 + layer.value_dim;
  const auto column = [&](int64_t j) { return (head * group + j % group) * dim; };
  QueryBlock block(layer.shape, layer.key_dim, layer.value_dim);
  for (int64_t j = first; j < last; ++j) {
    block.Add(q.row(run.first_row + j / group) + column(j), run.first_position + j / group);
  }
  std::vector<float> joined(static_cast<size_t>(block.count() * stride), 0.0f);
  std::vector<float> part(static_cast<size_t>(stride));
  for (int i = 0; i < block.count(); ++i) joined[static_cast<size_t>(i * stride)] = kNone;
  const int64_t end = SpansOf(layer_index, block.position(block.count() - 1)).last;
  for (int64_t span = SpansOf(layer_index, block.position(0)).first; span < end; ++span) {
    block.Attend(Kernels(isa), options_.type, span,
                 [&](int64_t page) { return HeadOf(layer, pages[static_cast<size_t>(page)], head); });
    for (int i = 0; i < block.count(); ++i) {
      block.Result(i, part.data());
      Merge(part.data(), layer.value_dim, joined.data() + i * stride);
    }
  }
  for (int64_t j = first; j < last; ++j) {
    const float* from = joined.data() + (j - first) * stride;
    float* to = out.row(run.first_row + j / group) + column(j);
    for (int64_t d = 0; d < dim; ++d) to[d] = from[2 + d] / from[1];
  }
}

int64_t PagedCache::bytes() const { return bytes_in_use_; }

int64_t PagedCache::BytesRead(int64_t position) const {
  int64_t bytes = 0;
  for (const Layer& layer : layers_) {
    const int64_t window = layer.shape.window;
    const int64_t keys = window > 0 ? std::min(position + 1, window) : position + 1;
    const int64_t scales = options_.type == CacheType::kInt8 ? 8 : 0;
    bytes += keys * layer.shape.kv_heads *
             ((layer.key_dim + layer.value_dim) * ElementBytes(options_.type) + scales);
  }
  return bytes;
}

}  // namespace planish

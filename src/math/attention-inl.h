// Causal attention on F16x for one tile of queries: products by register-blocked micro-kernels, softmax in
// one pass over key tiles with running maximum and sum (Milakov and Gimelshein, "Online normalizer
// calculation for softmax", 2018; tiling as in Dao et al., "FlashAttention", 2022). Included by nn-inl.h.
//
// Bound: compute. Per query and 16 keys 2 * head_dim fused multiply-adds of vectors and one exponential of
// about 20 vector instructions, so at head_dim 64 the softmax costs about a sixth of the instructions.
//
// Order, for every query alone: q k^T is one chain over head_dim; keys are taken in tiles at multiples of
// kKeyTile; p v is one chain over the keys of a tile on top of the rescaled result; the sum of exponentials
// has 16 partial sums (key mod 16). Nothing of it depends on the other queries of the tile.
#pragma once

namespace planish {
namespace PLANISH_SIMD_NAMESPACE {
namespace {

// C [R, 16 V] (+)= A [R, depth] B [depth, 16 V].
template <int R, int V, bool kAddTo>
PLANISH_INLINE void ProductBlock(const float* a, int64_t a_stride, const float* b, int64_t b_stride,
                                 int64_t depth, float* c, int64_t c_stride) {
  F16x sum[R][V];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) sum[r][v] = kAddTo ? Load(c + r * c_stride + v * kLanes) : Set(0.0f);
  }
  for (int64_t d = 0; d < depth; ++d) {
    F16x row[V];
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) row[v] = Load(b + d * b_stride + v * kLanes);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const F16x x = Set(a[r * a_stride + d]);
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) sum[r][v] = Fma(x, row[v], sum[r][v]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) Store(sum[r][v], c + r * c_stride + v * kLanes);
  }
}

template <int V, bool kAddTo>
void ProductColumns(const float* a, int64_t a_stride, const float* b, int64_t b_stride, int64_t rows,
                    int64_t depth, float* c, int64_t c_stride) {
  int64_t r = 0;
  for (; r + kTileRows <= rows; r += kTileRows) {
    ProductBlock<kTileRows, V, kAddTo>(a + r * a_stride, a_stride, b, b_stride, depth, c + r * c_stride,
                                       c_stride);
  }
  for (; r < rows; ++r) {
    ProductBlock<1, V, kAddTo>(a + r * a_stride, a_stride, b, b_stride, depth, c + r * c_stride, c_stride);
  }
}

template <bool kAddTo>
PLANISH_INLINE void Product(const float* a, int64_t a_stride, const float* b, int64_t b_stride, int64_t rows,
                            int64_t depth, int64_t vectors, float* c, int64_t c_stride) {
  int64_t v = 0;
  for (; v + kTileVectors <= vectors; v += kTileVectors) {
    ProductColumns<kTileVectors, kAddTo>(a, a_stride, b + v * kLanes, b_stride, rows, depth, c + v * kLanes,
                                         c_stride);
  }
  for (; v < vectors; ++v) {
    ProductColumns<1, kAddTo>(a, a_stride, b + v * kLanes, b_stride, rows, depth, c + v * kLanes, c_stride);
  }
}

PLANISH_INLINE int64_t KeysInTile(const AttentionJob& job, int64_t tile) {
  const int64_t left = job.keys - tile * kKeyTile;
  return left < kKeyTile ? left : kKeyTile;
}

// packed[d * kKeyTile + key]. Shuffles of 4 x 4 blocks: about half a cycle per element.
void PackKeys(const AttentionJob& job, int64_t kv_head, int64_t tile, float* packed) {
  const int64_t count = KeysInTile(job, tile), whole = count / 4 * 4, dims = job.head_dim / 4 * 4;
  const float* from = job.k + tile * kKeyTile * job.k_stride + kv_head * job.head_dim;
  for (int64_t key = 0; key < whole; key += 4) {
    for (int64_t d = 0; d < dims; d += 4) {
      Transpose4x4(from + key * job.k_stride + d, job.k_stride, packed + d * kKeyTile + key, kKeyTile);
    }
  }
  for (int64_t d = 0; d < job.head_dim; ++d) {
    const int64_t begin = d < dims ? whole : 0;
    for (int64_t key = begin; key < kKeyTile; ++key) {
      packed[d * kKeyTile + key] = key < count ? from[key * job.k_stride + d] : 0.0f;
    }
  }
}

void PackValues(const AttentionJob& job, int64_t kv_head, int64_t tile, float* packed) {
  const int64_t count = KeysInTile(job, tile), padded = PaddedHeadDim(job.value_dim);
  const float* from = job.v + tile * kKeyTile * job.v_stride + kv_head * job.value_dim;
  for (int64_t key = 0; key < kKeyTile; ++key, packed += padded) {
    if (key >= count) {
      for (int64_t d = 0; d < padded; d += kLanes) Store(Set(0.0f), packed + d);
      continue;
    }
    ForVectors(job.value_dim, [=](int64_t i, int64_t tail) {
      Store(LoadPart(from + key * job.v_stride + i, tail), packed + i);
    });
  }
}

// Memory of one call of Attend, and where the call stands.
struct AttendState {
  float* q;       // [rows][head_dim], scaled
  float* out;     // [rows][padded], unnormalized
  float* scores;  // [rows][kKeyTile]; then exponentials
  float* sums;    // [rows][16]
  float* max;     // [rows]
  float* k;       // [head_dim][kKeyTile]
  float* v;       // [kKeyTile][padded]
  int64_t rows, padded;
};

inline void StartRows(const AttentionJob& job, const AttentionTile& tile, const AttendState& state) {
  const F16x scale = Set(job.softcap > 0 ? job.scale / job.softcap : job.scale);
  for (int64_t r = 0; r < state.rows; ++r) {
    const float* q = job.q + (tile.query + r % tile.queries) * job.q_stride +
                     (tile.head + r / tile.queries) * job.head_dim;
    float* to = state.q + r * job.head_dim;
    ForVectors(job.head_dim,
               [=](int64_t i, int64_t tail) { StorePart(Mul(LoadPart(q + i, tail), scale), to + i, tail); });
    for (int64_t d = 0; d < state.padded; d += kLanes) Store(Set(0.0f), state.out + r * state.padded + d);
    Store(Set(0.0f), state.sums + r * kLanes);
    // Below every finite score, and finite: a tile without visible keys then changes nothing.
    state.max[r] = -__FLT_MAX__;
  }
}

// Scores of one row to exponentials; keys visible: [first, last) of the tile, of which the vectors [hidden,
// vectors) are held.
inline void SoftmaxRow(const AttentionJob& job, const AttendState& state, int64_t r, int64_t first,
                       int64_t last, int64_t hidden, int64_t vectors) {
  float* scores = state.scores + r * kKeyTile;
  const bool masked = first > 0 || last < vectors * kLanes;
  constexpr float kIota[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  F16x maximum = Set(state.max[r]);
  for (int64_t v = hidden; v < vectors; ++v) {
    F16x s = Load(scores + v * kLanes);
    if (job.softcap > 0) s = Mul(Set(job.softcap), TanhF(s));
    if (masked) {
      const F16x index = Add(Load(kIota), Set(static_cast<float>(v * kLanes)));
      s = SelectLess(index, Set(static_cast<float>(last)), s, Set(-kInf));
      s = SelectLess(index, Set(static_cast<float>(first)), Set(-kInf), s);
    }
    if (masked || job.softcap > 0) Store(s, scores + v * kLanes);
    maximum = Max(s, maximum);
  }
  const float max = JoinMax(maximum);
  F16x sum = Load(state.sums + r * kLanes);
  if (max > state.max[r]) {  // else the factor is exp(0) = 1
    const F16x factor = ExpSmall(Set(state.max[r] - max));
    sum = Mul(sum, factor);
    float* out = state.out + r * state.padded;
    for (int64_t d = 0; d < state.padded; d += kLanes) Store(Mul(Load(out + d), factor), out + d);
    state.max[r] = max;
  }
  for (int64_t v = hidden; v < vectors; ++v) {
    const F16x e = ExpSmall(Sub(Load(scores + v * kLanes), Set(max)));
    Store(e, scores + v * kLanes);
    sum = Add(sum, e);
  }
  Store(sum, state.sums + r * kLanes);
}

inline void FinishRows(const AttentionJob& job, const AttentionTile& tile, const AttendState& state) {
  for (int64_t r = 0; r < state.rows; ++r) {
    const F16x inv = Set(1.0f / JoinSum(Load(state.sums + r * kLanes)));
    const float* from = state.out + r * state.padded;
    float* to = job.out + (tile.query + r % tile.queries) * job.out_stride +
                (tile.head + r / tile.queries) * job.value_dim;
    ForVectors(job.value_dim,
               [=](int64_t i, int64_t tail) { StorePart(Mul(Load(from + i), inv), to + i, tail); });
  }
}

void Attend(const AttentionJob& job, const AttentionTile& tile, float* scratch) {
  AttendState state;
  state.rows = tile.heads * tile.queries;
  state.padded = PaddedHeadDim(job.value_dim);
  state.out = scratch;
  state.scores = state.out + kRowTile * state.padded;
  state.sums = state.scores + kRowTile * kKeyTile;
  state.v = state.sums + kRowTile * kLanes;
  state.k = state.v + kKeyTile * state.padded;
  state.q = state.k + kKeyTile * job.head_dim;
  state.max = state.q + kRowTile * job.head_dim;
  StartRows(job, tile, state);

  const int64_t kv_head = tile.head / job.group, tiles = (job.keys + kKeyTile - 1) / kKeyTile;
  const int64_t position = job.first_position + tile.query;  // of the first query
  const int64_t last_position = position + tile.queries - 1;
  const int64_t window = job.window > 0 ? job.window : last_position + 1;
  const int64_t first_key = position - window + 1 > 0 ? position - window + 1 : 0;
  for (int64_t t = first_key / kKeyTile; t * kKeyTile <= last_position; ++t) {
    const int64_t begin = t * kKeyTile;
    const int64_t depth = last_position - begin + 1 < kKeyTile ? last_position - begin + 1 : kKeyTile;
    const int64_t vectors = (depth + kLanes - 1) / kLanes;
    // Vectors at the window's edge that none of the queries sees.
    const int64_t hidden = first_key > begin ? (first_key - begin) / kLanes : 0, skipped = hidden * kLanes;
    const float *k = state.k, *v = state.v;
    int64_t v_stride = state.padded;
    if (job.packed_k != nullptr) {
      k = job.packed_k + (kv_head * tiles + t) * kKeyTile * job.head_dim;
      v = job.packed_v + (kv_head * tiles + t) * kKeyTile * state.padded;
    } else {
      PackKeys(job, kv_head, t, state.k);
      if (state.padded == job.value_dim) {
        v = job.v + begin * job.v_stride + kv_head * job.value_dim;
        v_stride = job.v_stride;
      } else {
        PackValues(job, kv_head, t, state.v);
      }
    }
    Product<false>(state.q, job.head_dim, k + skipped, kKeyTile, state.rows, job.head_dim, vectors - hidden,
                   state.scores + skipped, kKeyTile);
    for (int64_t r = 0; r < state.rows; ++r) {
      const int64_t own = position + r % tile.queries - begin;  // this query's own key in the tile
      SoftmaxRow(job, state, r, own - window + 1, own + 1, hidden, vectors);
    }
    Product<true>(state.scores + skipped, kKeyTile, v + skipped * v_stride, v_stride, state.rows,
                  depth - skipped, state.padded / kLanes, state.out, state.padded);
  }
  FinishRows(job, tile, state);
}

}  // namespace
}  // namespace PLANISH_SIMD_NAMESPACE
}  // namespace planish

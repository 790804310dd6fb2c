// Causal attention on F16x for one tile of queries: products by register-blocked micro-kernels, softmax in
// one pass over key tiles with running maximum and sum (Milakov and Gimelshein, "Online normalizer
// calculation for softmax", 2018; tiling as in Dao et al., "FlashAttention", 2022). Included by nn-inl.h.
//
// Bound: compute. Per query and 16 keys 2 * head_dim fused multiply-adds of vectors and one exponential of
// about 20 vector instructions, so at head_dim 64 the softmax costs about a sixth of the instructions. At the
// two edges of what queries see, the diagonal and the beginning of a window, scores are made for the vectors
// of 16 keys that a query sees a part of, and values are summed over the keys that one of kTileRows queries
// sees: some 15 + 3 scores and 3 values a query more than are needed, of 256 in a window of that size.
//
// Order, for every query alone: q k^T is one chain over head_dim; keys are taken in tiles at multiples of
// kKeyTile; p v is one chain over the keys of a tile on top of the rescaled result; the sum of exponentials
// has 16 partial sums (key mod 16). Nothing of it depends on the other queries of the tile: keys that a query
// does not see count as probabilities of 0, whether they are left out or not.
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

// Rows [first, last) of C [.., 16 V] = A [.., depth] B [depth, 16 V].
template <int V>
void ProductColumns(const float* a, int64_t a_stride, const float* b, int64_t b_stride, int64_t first,
                    int64_t last, int64_t depth, float* c, int64_t c_stride) {
  int64_t r = first;
  for (; r + kTileRows <= last; r += kTileRows) {
    ProductBlock<kTileRows, V, false>(a + r * a_stride, a_stride, b, b_stride, depth, c + r * c_stride,
                                      c_stride);
  }
  for (; r < last; ++r) {
    ProductBlock<1, V, false>(a + r * a_stride, a_stride, b, b_stride, depth, c + r * c_stride, c_stride);
  }
}

PLANISH_INLINE int64_t KeysInTile(const AttentionJob& job, int64_t tile) {
  const int64_t left = job.keys - tile * kKeyTile;
  return left < kKeyTile ? left : kKeyTile;
}

// Rows of the matrices that tiles are read from are far apart: the hardware foresees the first lines of each
// only when it is there, so they are asked for some rows before.
constexpr int64_t kRowsAhead = 4;
PLANISH_INLINE void Prefetch(const float* row, int64_t floats) {
  for (int64_t i = 0; i < floats; i += 64 / 4) __builtin_prefetch(row + i, 0, 3);
}
PLANISH_INLINE void PrefetchToWrite(float* row, int64_t floats) {
  for (int64_t i = 0; i < floats; i += 64 / 4) __builtin_prefetch(row + i, 1, 2);
}

// packed[d * kKeyTile + key]. Shuffles of 4 x 4 blocks: about half a cycle per element.
void PackKeys(const AttentionJob& job, int64_t kv_head, int64_t tile, float* packed) {
  const int64_t count = KeysInTile(job, tile), whole = count / 4 * 4, dims = job.head_dim / 4 * 4;
  const float* from = job.k + tile * kKeyTile * job.k_stride + kv_head * job.head_dim;
  for (int64_t key = 0; key < whole; key += 4) {
    for (int64_t ahead = key + 4; ahead < key + 8 && ahead < count; ++ahead) {
      Prefetch(from + ahead * job.k_stride, job.head_dim);
    }
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
    if (key + kRowsAhead < count) Prefetch(from + (key + kRowsAhead) * job.v_stride, job.value_dim);
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

// Which keys of a tile which rows see.
struct Visible {
  int64_t begin, end;  // keys
};
struct TileView {
  int64_t own;     // the first query's own key in the tile, below 0 or above the tile too
  int64_t window;  // above all keys: none
  int64_t queries;
  bool by_row;  // rows are the queries of one head in order; else several heads', all treated alike
  // Of queries [first, last].
  PLANISH_INLINE Visible OfQueries(int64_t first, int64_t last) const {
    const int64_t begin = own + first - window + 1, end = own + last + 1;
    return {begin > 0 ? begin : 0, end < kKeyTile ? end : kKeyTile};
  }
  PLANISH_INLINE Visible OfRows(int64_t first, int64_t last) const {
    return by_row ? OfQueries(first, last) : OfQueries(0, queries - 1);
  }
};

// The scores of the rows that see a part of these 16 V keys: with several heads, all.
template <int V>
PLANISH_INLINE void ScoreColumns(const AttentionJob& job, const AttendState& state, const TileView& view,
                                 const float* k, int64_t key) {
  int64_t first = 0, last = state.rows;
  if (view.by_row) {
    const int64_t sees = key - view.own, gone = key + V * kLanes - 1 - view.own + view.window;
    first = sees > 0 ? sees / kTileRows * kTileRows : 0;
    const int64_t blocks = (gone + kTileRows - 1) / kTileRows * kTileRows;
    if (blocks < last) last = blocks;
  }
  ProductColumns<V>(state.q, job.head_dim, k + key, kKeyTile, first, last, job.head_dim, state.scores + key,
                    kKeyTile);
}
PLANISH_INLINE void Scores(const AttentionJob& job, const AttendState& state, const TileView& view,
                           const float* k, Visible keys) {
  int64_t key = keys.begin / kLanes * kLanes;
  for (; key + (kTileVectors - 1) * kLanes < keys.end; key += kTileVectors * kLanes) {
    ScoreColumns<kTileVectors>(job, state, view, k, key);
  }
  for (; key < keys.end; key += kLanes) ScoreColumns<1>(job, state, view, k, key);
}

template <int R, int V>
PLANISH_INLINE void SumValues(const AttendState& state, const TileView& view, const float* v,
                              int64_t v_stride, int64_t row, int64_t column) {
  const Visible keys = view.OfRows(row, row + R - 1);
  if (keys.begin >= keys.end) return;
  ProductBlock<R, V, true>(state.scores + row * kKeyTile + keys.begin, kKeyTile,
                           v + keys.begin * v_stride + column, v_stride, keys.end - keys.begin,
                           state.out + row * state.padded + column, state.padded);
}
template <int V>
PLANISH_INLINE void ValueColumns(const AttendState& state, const TileView& view, const float* v,
                                 int64_t v_stride, int64_t column) {
  int64_t row = 0;
  for (; row + kTileRows <= state.rows; row += kTileRows) {
    SumValues<kTileRows, V>(state, view, v, v_stride, row, column);
  }
  for (; row < state.rows; ++row) SumValues<1, V>(state, view, v, v_stride, row, column);
}
PLANISH_INLINE void Values(const AttendState& state, const TileView& view, const float* v, int64_t v_stride) {
  int64_t column = 0;
  for (; column + kTileVectors * kLanes <= state.padded; column += kTileVectors * kLanes) {
    ValueColumns<kTileVectors>(state, view, v, v_stride, column);
  }
  for (; column < state.padded; column += kLanes) ValueColumns<1>(state, view, v, v_stride, column);
}

inline void StartRows(const AttentionJob& job, const AttentionTile& tile, const AttendState& state) {
  const F16x scale = Set(job.softcap > 0 ? job.scale / job.softcap : job.scale);
  for (int64_t r = 0; r < state.rows; ++r) {
    const float* q = job.q + (tile.query + r % tile.queries) * job.q_stride +
                     (tile.head + r / tile.queries) * job.head_dim;
    if (r % tile.queries + kRowsAhead < tile.queries) Prefetch(q + kRowsAhead * job.q_stride, job.head_dim);
    PrefetchToWrite(job.out + (tile.query + r % tile.queries) * job.out_stride +
                        (tile.head + r / tile.queries) * job.value_dim,
                    job.value_dim);
    float* to = state.q + r * job.head_dim;
    ForVectors(job.head_dim,
               [=](int64_t i, int64_t tail) { StorePart(Mul(LoadPart(q + i, tail), scale), to + i, tail); });
    for (int64_t d = 0; d < state.padded; d += kLanes) Store(Set(0.0f), state.out + r * state.padded + d);
    Store(Set(0.0f), state.sums + r * kLanes);
    // Below every finite score, and finite: a tile without visible keys then changes nothing.
    state.max[r] = -__FLT_MAX__;
  }
}

PLANISH_INLINE F16x MaskedTo(F16x s, int64_t vector, Visible keys) {
  constexpr float kIota[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  const F16x index = Add(Load(kIota), Set(static_cast<float>(vector * kLanes)));
  s = SelectLess(index, Set(static_cast<float>(keys.end)), s, Set(-kInf));
  return SelectLess(index, Set(static_cast<float>(keys.begin)), Set(-kInf), s);
}

// Scores of one row, which sees `keys` of the tile, to exponentials. `held`: the keys whose exponentials are
// read afterwards; those that the row does not see become 0.
inline void SoftmaxRow(const AttentionJob& job, const AttendState& state, int64_t r, Visible keys,
                       Visible held) {
  float* scores = state.scores + r * kKeyTile;
  const int64_t first = keys.begin / kLanes, last = (keys.end + kLanes - 1) / kLanes;
  const int64_t held_first = held.begin / kLanes, held_last = (held.end + kLanes - 1) / kLanes;
  if (keys.begin >= keys.end) {
    for (int64_t v = held_first; v < held_last; ++v) Store(Set(0.0f), scores + v * kLanes);
    return;
  }
  for (int64_t v = held_first; v < first; ++v) Store(Set(0.0f), scores + v * kLanes);
  for (int64_t v = last; v < held_last; ++v) Store(Set(0.0f), scores + v * kLanes);
  F16x maximum = Set(state.max[r]);
  for (int64_t v = first; v < last; ++v) {
    F16x s = Load(scores + v * kLanes);
    if (job.softcap > 0) s = Mul(Set(job.softcap), TanhF(s));
    const bool masked = v * kLanes < keys.begin || (v + 1) * kLanes > keys.end;
    if (masked) s = MaskedTo(s, v, keys);
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
  for (int64_t v = first; v < last; ++v) {
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
    const TileView view{position - begin, window, tile.queries, tile.heads == 1};
    const float *k = state.k, *v = state.v;
    int64_t v_stride = state.padded;
    if (job.packed_k != nullptr) {
      const int64_t at = (kv_head - job.packed_head) * (tiles - job.packed_tile) + t - job.packed_tile;
      k = job.packed_k + at * kKeyTile * job.head_dim;
      v = job.packed_v + at * kKeyTile * state.padded;
    } else {
      PackKeys(job, kv_head, t, state.k);
      if (state.padded == job.value_dim) {
        v = job.v + begin * job.v_stride + kv_head * job.value_dim;
        v_stride = job.v_stride;
      } else {
        PackValues(job, kv_head, t, state.v);
      }
    }
    Scores(job, state, view, k, view.OfQueries(0, tile.queries - 1));
    for (int64_t r = 0; r < state.rows; ++r) {
      const int64_t query = r % tile.queries, block = r / kTileRows * kTileRows;
      const bool whole = block + kTileRows <= state.rows;  // see ValueColumns
      SoftmaxRow(job, state, r, view.OfQueries(query, query),
                 whole ? view.OfRows(block, block + kTileRows - 1) : view.OfRows(r, r));
    }
    Values(state, view, v, v_stride);
  }
  FinishRows(job, tile, state);
}

}  // namespace
}  // namespace PLANISH_SIMD_NAMESPACE
}  // namespace planish

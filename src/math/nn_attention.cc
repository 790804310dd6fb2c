// Splitting of causal attention over threads, and its gradient. The tile kernel is in attention-inl.h.
#include <algorithm>
#include <vector>

#include "base/check.h"
#include "math/gemm_scratch.h"
#include "math/nn.h"
#include "math/nn_dispatch.h"

namespace planish {
namespace {

// From this many queries on, keys are transposed and values padded once for all of them; below, each
// tile is packed where it is used.
constexpr int64_t kPackOnceQueries = 16;

void CheckShapes(const AttentionShape& shape, MatView<const float> q, MatView<const float> k,
                 MatView<const float> v, int64_t first_position, MatView<const float> out) {
  PLANISH_CHECK(shape.heads > 0 && shape.kv_heads > 0 && shape.heads % shape.kv_heads == 0)
      << shape.heads << " heads, " << shape.kv_heads << " kv heads";
  PLANISH_CHECK(shape.head_dim > 0 && shape.window >= 0 && shape.softcap >= 0);
  PLANISH_CHECK(q.cols == shape.heads * shape.head_dim && out.cols == shape.heads * shape.ValueDim() &&
                out.rows == q.rows)
      << "q " << q.rows << " x " << q.cols << ", out " << out.rows << " x " << out.cols;
  PLANISH_CHECK(first_position >= 0 && k.rows == first_position + q.rows && v.rows == k.rows)
      << k.rows << " keys, " << v.rows << " values, positions to " << first_position + q.rows;
  PLANISH_CHECK(k.cols == shape.kv_heads * shape.head_dim && v.cols == shape.kv_heads * shape.ValueDim())
      << k.cols << ", " << v.cols;
}

// All queries of the heads in `all`, divided over threads.
void AttendHeads(const Context& context, const AttentionJob& job, const AttentionTile& all,
                 int64_t heads_per_tile) {
  const NnKernels& kernels = KernelsFor(context);
  const int64_t queries_per_tile = kRowTile / heads_per_tile;
  const int64_t query_tiles = (all.queries + queries_per_tile - 1) / queries_per_tile;
  const int64_t scratch_size = AttentionScratchFloats(job.head_dim, job.value_dim);
  context.pool->ParallelFor(all.heads / heads_per_tile * query_tiles, [&](int64_t i) {
    gemm::Scratch memory(scratch_size);
    // Head by head, so that a head's packed tiles stay in cache; its longest rows first.
    AttentionTile tile;
    tile.head = all.head + i / query_tiles * heads_per_tile;
    tile.heads = heads_per_tile;
    tile.query = (query_tiles - 1 - i % query_tiles) * queries_per_tile;
    tile.queries = std::min(queries_per_tile, all.queries - tile.query);
    kernels.attend(job, tile, memory.data());
  });
}

// Keys transposed and values padded once for all queries, of as many kv heads at a time as fit in memory that
// stays in the caches and is kept from call to call: fresh pages cost as much as a fifth of a window's work.
void AttendPacked(const Context& context, const AttentionShape& shape, AttentionJob job, int64_t queries) {
  constexpr int64_t kPackedFloats = int64_t{1} << 18;  // a thread
  const NnKernels& kernels = KernelsFor(context);
  const int64_t key_tiles = (job.keys + kKeyTile - 1) / kKeyTile;
  // Keys before the first query's window are read by nobody.
  const int64_t first_tile =
      shape.window > 0 ? std::max<int64_t>(0, job.first_position - shape.window + 1) / kKeyTile : 0;
  const int64_t k_size = kKeyTile * shape.head_dim, v_size = kKeyTile * PaddedHeadDim(job.value_dim);
  const int64_t used = key_tiles - first_tile, head_size = used * (k_size + v_size);
  const int64_t at_once =
      std::clamp<int64_t>(kPackedFloats * context.pool->NumThreads() / head_size, 1, shape.kv_heads);
  gemm::Scratch packed(at_once * head_size);
  for (int64_t first = 0; first < shape.kv_heads; first += at_once) {
    const int64_t count = std::min(at_once, shape.kv_heads - first);
    float *packed_k = packed.data(), *packed_v = packed_k + count * used * k_size;
    context.pool->ParallelFor(count * used, [&](int64_t i) {
      const int64_t kv_head = first + i / used, tile = first_tile + i % used;
      kernels.pack_keys(job, kv_head, tile, packed_k + i * k_size);
      kernels.pack_values(job, kv_head, tile, packed_v + i * v_size);
    });
    job.packed_k = packed_k;
    job.packed_v = packed_v;
    job.packed_head = first;
    job.packed_tile = first_tile;
    AttendHeads(context, job, {first * job.group, count * job.group, 0, queries}, 1);
  }
}

}  // namespace

void CausalAttention(const Context& context, const AttentionShape& shape, MatView<const float> q,
                     MatView<const float> k, MatView<const float> v, int64_t first_position,
                     MatView<float> out) {
  CheckShapes(shape, q, k, v, first_position, out);
  if (q.rows == 0) return;
  AttentionJob job{q.data, k.data, v.data, out.data, q.stride, k.stride, v.stride, out.stride};
  job.keys = k.rows;
  job.first_position = first_position;
  job.head_dim = shape.head_dim;
  job.value_dim = shape.ValueDim();
  job.group = shape.heads / shape.kv_heads;
  job.window = shape.window;
  job.scale = shape.scale;
  job.softcap = shape.softcap;

  if (q.rows >= kPackOnceQueries) return AttendPacked(context, shape, job, q.rows);
  // Query heads of one kv head share its tiles, unless that would leave too little to split.
  int64_t heads_per_tile = 1;
  if (shape.kv_heads >= 4) {
    heads_per_tile = std::min<int64_t>(job.group, 16);
    while (job.group % heads_per_tile != 0) --heads_per_tile;
  }
  AttendHeads(context, job, {0, shape.heads, 0, q.rows}, heads_per_tile);
}

namespace {

// One query of one head: probabilities as the forward computes them (up to the order of sums), and the
// slope of the softcap.
struct ProbabilityRow {
  std::vector<float> probability;  // [visible keys]
  std::vector<float> cap_slope;    // [visible keys], 1 without softcap
};

// Eight chains, which the compiler keeps in vectors, joined in a fixed order.
double DotOfRows(const float* a, const float* b, int64_t n) {
  double s[8] = {};
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    for (int64_t l = 0; l < 8; ++l) s[l] += static_cast<double>(a[i + l]) * static_cast<double>(b[i + l]);
  }
  for (; i < n; ++i) s[i % 8] += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  for (int64_t width = 4; width > 0; width /= 2) {
    for (int64_t l = 0; l < width; ++l) s[l] += s[l + width];
  }
  return s[0];
}

void Probabilities(const NnKernels& kernels, const AttentionShape& shape, const float* q,
                   MatView<const float> k, int64_t first_key, int64_t count, ProbabilityRow& row) {
  std::vector<float>& p = row.probability;
  p.resize(static_cast<size_t>(count));
  row.cap_slope.assign(static_cast<size_t>(count), 1.0f);
  const double cap = shape.softcap > 0 ? shape.softcap : 1;
  for (size_t j = 0; j < p.size(); ++j) {
    const double dot = DotOfRows(q, k.row(first_key + static_cast<int64_t>(j)), shape.head_dim);
    p[j] = static_cast<float>(dot * shape.scale / cap);
  }
  if (shape.softcap > 0) {
    kernels.tanh(p.data(), p.data(), count);
    for (size_t j = 0; j < p.size(); ++j) {
      row.cap_slope[j] = 1.0f - p[j] * p[j];
      p[j] *= shape.softcap;
    }
  }
  const float max = *std::max_element(p.begin(), p.end());
  for (float& s : p) s -= max;
  kernels.exp(p.data(), p.data(), count);
  double sum = 0;
  for (float e : p) sum += static_cast<double>(e);
  const float inv = static_cast<float>(1 / sum);
  for (float& e : p) e *= inv;
}

// With P = softmax(S) and dP = d_out V^T: dS = P (dP - sum(P dP)); then d_q = dS K, d_k += dS^T q,
// d_v += P^T d_out. d_k and d_v are the double sums [keys, head_dim] of one kv head.
struct KvGradients {
  std::vector<double> k, v;
};
void QueryBackward(const AttentionShape& shape, const ProbabilityRow& row, int64_t first_key, const float* q,
                   MatView<const float> k, MatView<const float> v, const float* d_out, float* d_q,
                   KvGradients& sums) {
  const size_t count = row.probability.size(), dim = static_cast<size_t>(shape.head_dim);
  std::vector<double> d_p(count), d_q_sum(dim, 0.0);
  double mean = 0;
  for (size_t j = 0; j < count; ++j) {
    d_p[j] = DotOfRows(d_out, v.row(first_key + static_cast<int64_t>(j)), shape.head_dim);
    mean += static_cast<double>(row.probability[j]) * d_p[j];
  }
  for (size_t j = 0; j < count; ++j) {
    const int64_t key = first_key + static_cast<int64_t>(j);
    const double p = static_cast<double>(row.probability[j]);
    const double d_s = p * (d_p[j] - mean) * static_cast<double>(row.cap_slope[j]) * shape.scale;
    const float* k_row = k.row(key);
    double* d_k = sums.k.data() + static_cast<size_t>(key) * dim;
    double* d_v = sums.v.data() + static_cast<size_t>(key) * dim;
    for (size_t i = 0; i < dim; ++i) {
      d_q_sum[i] += d_s * static_cast<double>(k_row[i]);
      d_k[i] += d_s * static_cast<double>(q[i]);
      d_v[i] += p * static_cast<double>(d_out[i]);
    }
  }
  for (size_t i = 0; i < dim; ++i) d_q[i] = static_cast<float>(d_q_sum[i]);
}

}  // namespace

void CausalAttentionBackward(const Context& context, const AttentionShape& shape, MatView<const float> q,
                             MatView<const float> k, MatView<const float> v, int64_t first_position,
                             MatView<const float> d_out, MatView<float> d_q, MatView<float> d_k,
                             MatView<float> d_v) {
  CheckShapes(shape, q, k, v, first_position, d_out);
  PLANISH_CHECK(shape.ValueDim() == shape.head_dim) << "values as wide as keys only";
  PLANISH_CHECK(d_q.rows == q.rows && d_q.cols == q.cols);
  PLANISH_CHECK(d_k.rows == k.rows && d_k.cols == k.cols && d_v.rows == v.rows && d_v.cols == v.cols);
  const NnKernels& kernels = KernelsFor(context);
  const int64_t dim = shape.head_dim, group = shape.heads / shape.kv_heads;
  context.pool->ParallelFor(shape.kv_heads, [&](int64_t kv_head) {
    const MatView<const float> keys = k.Cols(kv_head * dim, dim), values = v.Cols(kv_head * dim, dim);
    const size_t size = static_cast<size_t>(k.rows * dim);
    KvGradients sums{std::vector<double>(size, 0.0), std::vector<double>(size, 0.0)};
    ProbabilityRow row;
    for (int64_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
      for (int64_t i = 0; i < q.rows; ++i) {
        const int64_t position = first_position + i;
        const int64_t first_key = shape.window > 0 ? std::max<int64_t>(0, position - shape.window + 1) : 0;
        const float* q_row = q.row(i) + head * dim;
        Probabilities(kernels, shape, q_row, keys, first_key, position - first_key + 1, row);
        QueryBackward(shape, row, first_key, q_row, keys, values, d_out.row(i) + head * dim,
                      d_q.row(i) + head * dim, sums);
      }
    }
    for (int64_t j = 0; j < k.rows; ++j) {
      for (int64_t i = 0; i < dim; ++i) {
        d_k(j, kv_head * dim + i) = static_cast<float>(sums.k[static_cast<size_t>(j * dim + i)]);
        d_v(j, kv_head * dim + i) = static_cast<float>(sums.v[static_cast<size_t>(j * dim + i)]);
      }
    }
  });
}

}  // namespace planish

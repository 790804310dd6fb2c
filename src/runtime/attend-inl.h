// The body of attend_kernels.h over F16x (math/simd-inl.h). A file that includes this has defined what
// simd-inl.h asks for, and PLANISH_ATTEND_TABLE; with PLANISH_ATTEND_BF16 products of bf16 pairs use the
// instruction for them.
//
// Roofline: a page is read once for all queries of a kv head. Decoding one token reads 2 (key_dim +
// value_dim) bytes a key for group * (key_dim + value_dim) multiply-adds, two to four a byte: memory binds
// for bf16 products (one vdpbf16ps, 32 multiply-adds, a cycle), and still does with fused multiply-adds up
// to about four query heads a kv head. The exponential is 16 keys wide, some 15 instructions.
#pragma once

#include <stdint.h>

#include "math/exp-inl.h"
#include "runtime/attend_kernels.h"

namespace planish {
namespace PLANISH_SIMD_NAMESPACE {
namespace {

using attend::kKeyLanes;
using attend::kPageKeys;
using attend::PageHead;
using attend::Queries;

PLANISH_INLINE float FloatOfBits(uint32_t bits) {
  float x;
  __builtin_memcpy(&x, &bits, 4);
  return x;
}
PLANISH_INLINE uint32_t BitsOfFloat(float x) {
  uint32_t bits;
  __builtin_memcpy(&bits, &x, 4);
  return bits;
}

// Sixteen pairs, apart: the first and the second of each.
struct Pairs {
  F16x first, second;
};

#if PLANISH_SIMD_BITS == 512
PLANISH_INLINE Pairs LoadBf16(const uint16_t* p) {
  const __m512i x = _mm512_loadu_si512(p);
  return {{_mm512_castsi512_ps(_mm512_slli_epi32(x, 16))},
          {_mm512_castsi512_ps(_mm512_and_si512(x, _mm512_set1_epi32(static_cast<int>(0xffff0000u))))}};
}
PLANISH_INLINE Pairs LoadInt8(const int8_t* p) {
  const __m512i x = _mm512_cvtepi16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  return {{_mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_slli_epi32(x, 24), 24))},
          {_mm512_cvtepi32_ps(_mm512_srai_epi32(x, 8))}};
}
#elif PLANISH_SIMD_BITS == 256
PLANISH_INLINE Pairs LoadBf16(const uint16_t* p) {
  const __m256i a = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  const __m256i b = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 16));
  const __m256i high = _mm256_set1_epi32(static_cast<int>(0xffff0000u));
  return {{_mm256_castsi256_ps(_mm256_slli_epi32(a, 16)), _mm256_castsi256_ps(_mm256_slli_epi32(b, 16))},
          {_mm256_castsi256_ps(_mm256_and_si256(a, high)), _mm256_castsi256_ps(_mm256_and_si256(b, high))}};
}
PLANISH_INLINE Pairs LoadInt8(const int8_t* p) {
  const __m256i a = _mm256_cvtepi16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  const __m256i b = _mm256_cvtepi16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 16)));
  return {{_mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(a, 24), 24)),
           _mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(b, 24), 24))},
          {_mm256_cvtepi32_ps(_mm256_srai_epi32(a, 8)), _mm256_cvtepi32_ps(_mm256_srai_epi32(b, 8))}};
}
#else
PLANISH_INLINE Pairs LoadBf16(const uint16_t* p) {
  float first[16], second[16];
  for (int i = 0; i < 16; ++i) {
    first[i] = FloatOfBits(static_cast<uint32_t>(p[2 * i]) << 16);
    second[i] = FloatOfBits(static_cast<uint32_t>(p[2 * i + 1]) << 16);
  }
  return {Load(first), Load(second)};
}
PLANISH_INLINE Pairs LoadInt8(const int8_t* p) {
  float first[16], second[16];
  for (int i = 0; i < 16; ++i) {
    first[i] = p[2 * i];
    second[i] = p[2 * i + 1];
  }
  return {Load(first), Load(second)};
}
#endif

// A way to hold pairs: Element in memory, Reg in a register, Weight what a pair of probabilities is
// multiplied as. DotKey's pair is of bf16.
struct ByFma {
  using Reg = Pairs;
  using Weight = float;
  static PLANISH_INLINE F16x DotKey(Reg k, uint32_t q, F16x sum) {
    const F16x low = Fma(k.first, Set(FloatOfBits(q << 16)), sum);
    return Fma(k.second, Set(FloatOfBits(q & 0xffff0000u)), low);
  }
  static PLANISH_INLINE F16x DotValue(Reg v, const Weight* p, F16x sum) {
    return Fma(v.second, Set(p[1]), Fma(v.first, Set(p[0]), sum));
  }
  static PLANISH_INLINE void StoreWeights(F16x p, Weight* to) { Store(p, to); }
};
struct Bf16 : ByFma {
  using Element = uint16_t;
  static constexpr bool kScaled = false;
  static PLANISH_INLINE Reg LoadPairs(const Element* p) { return LoadBf16(p); }
};
struct Int8 : ByFma {
  using Element = int8_t;
  static constexpr bool kScaled = true;
  static PLANISH_INLINE Reg LoadPairs(const Element* p) { return LoadInt8(p); }
};
#ifdef PLANISH_ATTEND_BF16
struct Bf16Dot {
  using Element = uint16_t;
  using Reg = __m512bh;
  using Weight = uint16_t;
  static constexpr bool kScaled = false;
  static PLANISH_INLINE Reg LoadPairs(const Element* p) { return (__m512bh)_mm512_loadu_si512(p); }
  static PLANISH_INLINE Reg Twice(uint32_t pair) {
    return (__m512bh)_mm512_set1_epi32(static_cast<int>(pair));
  }
  static PLANISH_INLINE F16x DotKey(Reg k, uint32_t q, F16x sum) {
    return {_mm512_dpbf16_ps(sum.v, k, Twice(q))};
  }
  static PLANISH_INLINE F16x DotValue(Reg v, const Weight* p, F16x sum) {
    uint32_t pair;
    __builtin_memcpy(&pair, p, 4);
    return {_mm512_dpbf16_ps(sum.v, v, Twice(pair))};
  }
  static PLANISH_INLINE void StoreWeights(F16x p, Weight* to) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), (__m256i)_mm512_cvtneps_pbh(p.v));
  }
};
using Bf16Page = Bf16Dot;
#else
using Bf16Page = Bf16;
#endif

// Queries and vectors of values whose sums stay in registers.
constexpr int kQueryBlock = 4, kValueBlock = PLANISH_SIMD_BITS == 512 ? 4 : 1;

// Scores of keys [16 first, 16 last) for Q queries: two chains a query hide the latency.
template <class T, int Q>
PLANISH_INLINE void Scores(const typename T::Element* k, int64_t pairs, const uint32_t* q, int64_t first,
                           int64_t last, float (*scores)[kPageKeys]) {
  for (int64_t block = first; block < last; ++block) {
    const typename T::Element* at = k + block * pairs * 2 * kKeyLanes;
    F16x even[Q], odd[Q];
#pragma GCC unroll 4
    for (int h = 0; h < Q; ++h) even[h] = odd[h] = Set(0.0f);
    int64_t i = 0;
    for (; i + 2 <= pairs; i += 2, at += 4 * kKeyLanes) {
      const typename T::Reg k0 = T::LoadPairs(at), k1 = T::LoadPairs(at + 2 * kKeyLanes);
#pragma GCC unroll 4
      for (int h = 0; h < Q; ++h) {
        even[h] = T::DotKey(k0, q[h * pairs + i], even[h]);
        odd[h] = T::DotKey(k1, q[h * pairs + i + 1], odd[h]);
      }
    }
    if (i < pairs) {
      const typename T::Reg k0 = T::LoadPairs(at);
#pragma GCC unroll 4
      for (int h = 0; h < Q; ++h) even[h] = T::DotKey(k0, q[h * pairs + i], even[h]);
    }
#pragma GCC unroll 4
    for (int h = 0; h < Q; ++h) Store(Add(even[h], odd[h]), scores[h] + block * kKeyLanes);
  }
}

PLANISH_INLINE F16x SoftCap(F16x x, float cap) {
  // cap tanh(x / cap) = cap - 2 cap / (exp(2 x / cap) + 1)
  const F16x e = ExpF(Mul(x, Set(2.0f / cap)));
  return Sub(Set(cap), Div(Set(2.0f * cap), Add(e, Set(1.0f))));
}

// Scores of one query to weights: exponentials relative to the new maximum, 0 in the vectors of [begin, end)
// outside it.
template <class T>
PLANISH_INLINE void Weigh(const PageHead& page, const Queries& queries, int i, int64_t begin, int64_t end,
                          float* scores, typename T::Weight* weights) {
  const int64_t first = begin / kKeyLanes, last = (end + kKeyLanes - 1) / kKeyLanes;
  F16x largest = Set(-kInf);
  for (int64_t block = first; block < last; ++block) {
    const int64_t at = block * kKeyLanes;
    F16x s = Load(scores + at);
    if constexpr (T::kScaled) s = Mul(s, Load(page.k_scales + at));
    if (queries.softcap > 0) s = SoftCap(s, queries.softcap);
    Store(s, scores + at);
  }
  for (int64_t key = first * kKeyLanes; key < begin; ++key) scores[key] = -kInf;
  for (int64_t key = end; key < last * kKeyLanes; ++key) scores[key] = -kInf;
  for (int64_t block = first; block < last; ++block) {
    largest = Max(Load(scores + block * kKeyLanes), largest);
  }
  const float page_max = JoinMax(largest), old_max = queries.max[i];
  const float max = page_max > old_max ? page_max : old_max;
  F16x sum = Set(0.0f);
  for (int64_t block = first; block < last; ++block) {
    const int64_t at = block * kKeyLanes;
    const F16x p = ExpSmall(Sub(Load(scores + at), Set(max)));
    sum = Add(sum, p);
    if constexpr (T::kScaled) {
      T::StoreWeights(Mul(p, Load(page.v_scales + at)), weights + at);
    } else {
      T::StoreWeights(p, weights + at);
    }
  }
  float shrink[16];
  Store(ExpSmall(Set(old_max - max)), shrink);
  queries.sum[i] = queries.sum[i] * shrink[0] + JoinSum(sum);
  queries.max[i] = max;
  if (old_max != max) {
    float* out = queries.out + i * queries.value_dim;
    for (int64_t d = 0; d < queries.value_dim; d += kLanes)
      Store(Mul(Load(out + d), Set(shrink[0])), out + d);
  }
}

// out[h] += weights[h] V for keys [16 first, 16 last), 16 * V dimensions.
template <class T, int Q, int V>
PLANISH_INLINE void AddValues(const typename T::Element* v, int64_t value_dim, int64_t first, int64_t last,
                              const typename T::Weight (*weights)[kPageKeys], float* out) {
  F16x sum[Q][V];
#pragma GCC unroll 4
  for (int h = 0; h < Q; ++h) {
#pragma GCC unroll 4
    for (int j = 0; j < V; ++j) sum[h][j] = Load(out + h * value_dim + j * kLanes);
  }
  for (int64_t pair = first * kKeyLanes / 2; pair < last * kKeyLanes / 2; ++pair) {
    typename T::Reg row[V];
#pragma GCC unroll 4
    for (int j = 0; j < V; ++j) row[j] = T::LoadPairs(v + (pair * value_dim + j * kLanes) * 2);
#pragma GCC unroll 4
    for (int h = 0; h < Q; ++h) {
#pragma GCC unroll 4
      for (int j = 0; j < V; ++j) sum[h][j] = T::DotValue(row[j], weights[h] + 2 * pair, sum[h][j]);
    }
  }
#pragma GCC unroll 4
  for (int h = 0; h < Q; ++h) {
#pragma GCC unroll 4
    for (int j = 0; j < V; ++j) Store(sum[h][j], out + h * value_dim + j * kLanes);
  }
}

// Q queries that start at `at`. Keys outside a query's own range get weight 0.
template <class T, int Q>
void AttendBlock(const PageHead& page, const Queries& queries, int at, const int32_t* begin,
                 const int32_t* end) {
  using Element = typename T::Element;
  alignas(64) float scores[Q][kPageKeys];
  alignas(64) typename T::Weight weights[Q][kPageKeys];
  int64_t first = kPageKeys, last = 0;
  for (int h = 0; h < Q; ++h) {
    if (begin[at + h] >= end[at + h]) continue;
    first = begin[at + h] < first ? begin[at + h] : first;
    last = end[at + h] > last ? end[at + h] : last;
  }
  if (first >= last) return;
  first /= kKeyLanes;
  last = (last + kKeyLanes - 1) / kKeyLanes;
  const int64_t pairs = queries.key_dim / 2;
  Scores<T, Q>(static_cast<const Element*>(page.k), pairs, queries.q + at * pairs, first, last, scores);
  for (int h = 0; h < Q; ++h) {
    const int64_t lo = begin[at + h], hi = end[at + h];
    const int64_t own_first = lo < hi ? lo / kKeyLanes : last;
    const int64_t own_last = lo < hi ? (hi + kKeyLanes - 1) / kKeyLanes : last;
    if (lo < hi) Weigh<T>(page, queries, at + h, lo, hi, scores[h], weights[h]);
    for (int64_t key = first * kKeyLanes; key < own_first * kKeyLanes; ++key) weights[h][key] = 0;
    for (int64_t key = own_last * kKeyLanes; key < last * kKeyLanes; ++key) weights[h][key] = 0;
  }
  const auto* v = static_cast<const Element*>(page.v);
  float* out = queries.out + at * queries.value_dim;
  int64_t d = 0;
  for (; d + kValueBlock * kLanes <= queries.value_dim; d += kValueBlock * kLanes) {
    AddValues<T, Q, kValueBlock>(v + 2 * d, queries.value_dim, first, last, weights, out + d);
  }
  for (; d < queries.value_dim; d += kLanes) {
    AddValues<T, Q, 1>(v + 2 * d, queries.value_dim, first, last, weights, out + d);
  }
}

template <class T>
void AttendPage(const PageHead& page, const Queries& queries, const int32_t* begin, const int32_t* end) {
  int at = 0;
  for (; at + kQueryBlock <= queries.count; at += kQueryBlock) {
    AttendBlock<T, kQueryBlock>(page, queries, at, begin, end);
  }
  const int left = queries.count - at;
  if (left == 3) AttendBlock<T, 3>(page, queries, at, begin, end);
  if (left == 2) AttendBlock<T, 2>(page, queries, at, begin, end);
  if (left == 1) AttendBlock<T, 1>(page, queries, at, begin, end);
}

}  // namespace
}  // namespace PLANISH_SIMD_NAMESPACE
}  // namespace planish

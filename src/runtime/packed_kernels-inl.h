// Bodies of the packed kernels over a policy V of vector operations; included in the anonymous namespace of
// one *_<set>.cc file. V::kLanes rows are done at a time, in 16 / kLanes passes over each step, so that a
// pass's sums stay in registers with 16 registers too. A file of a set calls nothing inline from shared
// headers (see packed_kernels.h).
//
// Bounds. A step of 16 rows by `step` columns at b bits moves 2 b step + header bytes. DRAM gives a core
// about 15 GB/s, 4 bytes a cycle, that is 8.2 cycles for 64 weights at 4 bits, 6.7 at 3, 4.8 at 2 (and
// 16 at 8). The int8 kernel with 512-bit VNNI needs one vpdpbusd for 64 weights and token (1 cycle, or half
// with two ports); shifts and masks run beside it. A fold of 32 columns adds 2 to 5 operations for each token
// and 512 weights, a step's 4 more. So one token is bound by memory at every width, four tokens down to 3
// bits.

// What the 32 columns from `d` on are made of, in bytes and in cache lines.
template <Kind kKind>
constexpr int kLinesOf32 = kKind == Kind::kInt2   ? 2
                           : kKind == Kind::kInt3 ? 3
                           : kKind == Kind::kInt8 ? 8
                                                  : 4;
template <Kind kKind>
constexpr bool kWideCodes = kKind == Kind::kInt8 || kKind == Kind::kTable4;

// Columns 4 kI to 4 kI + 3 of 32, one byte each.
template <class V, Kind kKind, int kI>
PACKED_INLINE typename V::Codes CodesAt(const unsigned char* d, typename V::Codes table) {
  if constexpr (kKind == Kind::kInt8) {
    static_cast<void>(table);
    return V::LoadCodes(d + 64 * kI);
  } else if constexpr (kKind == Kind::kInt4 || kKind == Kind::kTable4) {
    const auto v = V::template ShiftRight<4 * (kI & 1)>(V::LoadCodes(d + 64 * (kI / 2)));
    const auto code = V::And(v, V::Splat(15));
    if constexpr (kKind == Kind::kTable4) return V::Lookup(table, code);
    return code;
  } else {
    const auto low = V::template ShiftRight<2 * (kI & 3)>(V::LoadCodes(d + 64 * (kI / 4)));
    if constexpr (kKind == Kind::kInt2) return V::And(low, V::Splat(3));
    if constexpr (kKind == Kind::kInt3) {
      const auto high = V::LoadCodes(d + 128);
      if constexpr (kI < 2) return V::Join3(low, V::template ShiftLeft<2 - kI>(high));
      if constexpr (kI >= 2) return V::Join3(low, V::template ShiftRight<(kI > 2 ? kI - 2 : 0)>(high));
    }
  }
}

// Four streams into the second-level cache, as many lines for 32 columns as these are made of.
struct Fetcher {
  const unsigned char* at;
  int64_t part;
  PACKED_INLINE void Line(int stream) const { __builtin_prefetch(at + stream * part, 0, 2); }
};
template <Kind kKind>
PACKED_INLINE void Fetch32(Fetcher& fetcher, bool odd) {
  constexpr int kLines = kLinesOf32<kKind>;
  if constexpr (kLines == 2) {  // two streams, then the other two
    fetcher.Line(odd ? 2 : 0);
    fetcher.Line(odd ? 3 : 1);
    if (odd) fetcher.at += 64;
  } else {  // three lines are taken for four
#pragma GCC unroll 2
    for (int i = 0; i < (kLines + 1) / 4; ++i) {
      fetcher.Line(0);
      fetcher.Line(1);
      fetcher.Line(2);
      fetcher.Line(3);
      fetcher.at += 64;
    }
  }
}

// Where scales and zeros of the current step are.
struct HeaderCursor {
  const unsigned char* scales;
  const unsigned char* zeros;
};
template <Kind kKind, bool kAsym>
PACKED_INLINE const unsigned char* EnterBlock(const unsigned char* p, int64_t steps_left, int scale_bytes,
                                              HeaderCursor& header) {
  const int64_t n = steps_left < kBlockSteps ? steps_left : kBlockSteps;
  const int64_t zero_bytes = !kAsym ? 0 : kWideCodes<kKind> ? 16 * n : 16 * ((n + 1) / 2);
  header.scales = p;
  header.zeros = p + n * scale_bytes;
  return p + ((n * scale_bytes + zero_bytes + 63) & ~int64_t{63});
}

template <class V, Kind kKind, bool kAsym>
PACKED_INLINE typename V::I ZerosOf(const HeaderCursor& header, int in_block, int row, int constant) {
  int bias = 0;  // sets without unsigned by signed dots take codes - 128
  if constexpr (kWideCodes<kKind>) bias = V::kWideBias;
  if constexpr (!kAsym) return V::SplatInt(constant - bias);
  if constexpr (kWideCodes<kKind>) {
    return V::SubInt(V::LoadBytes(header.zeros + 16 * in_block + row), V::SplatInt(bias));
  } else {
    const auto both = V::LoadBytes(header.zeros + 16 * (in_block / 2) + row);
    return V::NibbleOf(both, 4 * (in_block & 1));
  }
}

// sums[t] += the dots of 4 columns of 32; kChains sums of a token hide the latency of the dot.
template <class V, Kind kKind, int kTokens, int kChains, int kI>
PACKED_INLINE void DotOne(const unsigned char* d, const signed char* x, typename V::Codes table,
                          typename V::I (&sums)[kTokens][kChains]) {
  const auto w = CodesAt<V, kKind, kI>(d, table);
#pragma GCC unroll 8
  for (int t = 0; t < kTokens; ++t) {
    const signed char* xt = x + 4 * (kI * kTokens + t);
    auto& sum = sums[t][kI % kChains];
    if constexpr (V::kHasDot) {
      sum = V::template Dot<kWideCodes<kKind>>(kI < kChains ? V::ZeroInt() : sum, w, xt);
    } else if constexpr (kWideCodes<kKind>) {
      sum = V::DotWide(kI == 0 ? V::ZeroInt() : sum, w, xt);
    } else {
      // 8 pairs of codes up to 15 by inputs up to 127: at most 8 * 3,810 = 30,480, in 16 bits.
      sum = kI == 0 ? V::MulPairs(w, xt) : V::AddHalves(sum, V::MulPairs(w, xt));
    }
  }
}

template <class V, Kind kKind, int kChains>
PACKED_INLINE typename V::I Joined(const typename V::I (&sums)[kChains]) {
  if constexpr (!V::kHasDot && !kWideCodes<kKind>) return V::Widened(sums[0]);
  if constexpr (kChains == 1) return sums[0];
  if constexpr (kChains == 2) return V::AddInt(sums[0], sums[1]);
  if constexpr (kChains == 4) return V::AddInt(V::AddInt(sums[0], sums[1]), V::AddInt(sums[2], sums[3]));
}

// parts[t] += the dots of a step, each 32 columns times their input's scale.
template <class V, Kind kKind, int kTokens>
PACKED_INLINE void StepParts(const unsigned char* d, const signed char* x, const float* x_scale, int step,
                             Fetcher& fetcher, bool first, typename V::Codes table,
                             typename V::F (&parts)[kTokens]) {
  constexpr int kChains = !V::kHasDot || V::kLanes < 16 ? 1 : kTokens == 1 ? 4 : kTokens <= 3 ? 2 : 1;
#pragma GCC unroll 1
  for (int k = 0; k < step; k += kInputStep) {
    typename V::I sums[kTokens][kChains];
    if (first) Fetch32<kKind>(fetcher, (k & 32) != 0);
    DotOne<V, kKind, kTokens, kChains, 0>(d, x, table, sums);
    DotOne<V, kKind, kTokens, kChains, 1>(d, x, table, sums);
    DotOne<V, kKind, kTokens, kChains, 2>(d, x, table, sums);
    DotOne<V, kKind, kTokens, kChains, 3>(d, x, table, sums);
    DotOne<V, kKind, kTokens, kChains, 4>(d, x, table, sums);
    DotOne<V, kKind, kTokens, kChains, 5>(d, x, table, sums);
    DotOne<V, kKind, kTokens, kChains, 6>(d, x, table, sums);
    DotOne<V, kKind, kTokens, kChains, 7>(d, x, table, sums);
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; ++t) {
      const auto dot = V::ToFloat(Joined<V, kKind, kChains>(sums[t]));
      parts[t] = V::MulAdd(dot, V::SplatFloat(x_scale + t), parts[t]);
    }
    d += 64 * kLinesOf32<kKind>;
    x += kInputStep * kTokens;
    x_scale += kTokens;
  }
}

// int8 inputs. 64 weights: 1 dot a token; see the bounds at the top.
template <class V, Kind kKind, bool kAsym, int kTokens>
void Int8Tile(const TileArgs& a) {
  constexpr int kPasses = kTileRows / V::kLanes;
  const unsigned char* p = a.data;
  const unsigned char* row_scales = p;
  if (a.scales8) p += 64;
  const int scale_bytes = a.scales8 ? 16 : 32;
  typename V::F acc[kPasses][kTokens];
#pragma GCC unroll 8
  for (int t = 0; t < kTokens; ++t) {
#pragma GCC unroll 4
    for (int h = 0; h < kPasses; ++h) acc[h][t] = V::LoadFloat(a.acc + kTileRows * t + V::kLanes * h);
  }
  HeaderCursor header = {p, p};
  const signed char* x = a.x;
  const float* x_scale = a.x_scale;
  Fetcher fetcher = {a.next, a.part};
  const int64_t steps = a.steps;
  const int step = a.step;
  for (int64_t s = 0; s < steps; ++s) {
    const int in_block = static_cast<int>(s % kBlockSteps);
    if (in_block == 0) p = EnterBlock<kKind, kAsym>(p, steps - s, scale_bytes, header);
    typename V::Codes table = V::Splat(0);
    if constexpr (kKind == Kind::kTable4) table = V::LoadTable(a.tables + s * a.table_stride);
#pragma GCC unroll 4
    for (int h = 0; h < kPasses; ++h) {
      constexpr int kRows = V::kLanes;
      const auto zeros = V::ToFloat(ZerosOf<V, kKind, kAsym>(header, in_block, kRows * h, a.zero));
      typename V::F parts[kTokens];
#pragma GCC unroll 8
      for (int t = 0; t < kTokens; ++t) {
        parts[t] = V::MulFloat(zeros, V::SplatFloat(a.x_neg_sum + s * kTokens + t));
      }
      StepParts<V, kKind, kTokens>(p + 4 * kRows * h, x, x_scale, step, fetcher, h == 0, table, parts);
      const auto scales = a.scales8 ? V::MulFloat(V::ToFloat(V::LoadBytes(header.scales + kRows * h)),
                                                  V::LoadF16(row_scales + 2 * kRows * h))
                                    : V::LoadF16(header.scales + 2 * kRows * h);
#pragma GCC unroll 8
      for (int t = 0; t < kTokens; ++t) acc[h][t] = V::MulAdd(parts[t], scales, acc[h][t]);
    }
    header.scales += scale_bytes;
    p += step / 32 * 64 * kLinesOf32<kKind>;
    x += step * kTokens;
    x_scale += step / kInputStep * kTokens;
  }
#pragma GCC unroll 8
  for (int t = 0; t < kTokens; ++t) {
#pragma GCC unroll 4
    for (int h = 0; h < kPasses; ++h) V::StoreFloat(a.acc + kTileRows * t + V::kLanes * h, acc[h][t]);
  }
}

// Four columns of 32 with float inputs: 4 conversions and 4 fused multiply-adds a token for 64 weights.
template <class V, Kind kKind, int kTokens, int kI>
PACKED_INLINE void FloatOne(const unsigned char* d, const float* x, int64_t x_stride, typename V::Codes table,
                            typename V::F (&parts)[kTokens][4]) {
  const auto w = CodesAt<V, kKind, kI>(d, table);
  const typename V::F values[4] = {V::template ByteToFloat<0>(w), V::template ByteToFloat<1>(w),
                                   V::template ByteToFloat<2>(w), V::template ByteToFloat<3>(w)};
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
#pragma GCC unroll 4
    for (int t = 0; t < kTokens; ++t) {
      parts[t][j] = V::MulAdd(values[j], V::SplatFloat(x + (4 * kI + j) * x_stride + t), parts[t][j]);
    }
  }
}

template <class V, Kind kKind, int kTokens>
PACKED_INLINE void StepFloats(const unsigned char* d, const float* x, int64_t x_stride, int step,
                              typename V::Codes table, typename V::F (&out)[kTokens]) {
  typename V::F parts[kTokens][4];
#pragma GCC unroll 4
  for (int t = 0; t < kTokens; ++t) {
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) parts[t][j] = V::ZeroFloat();
  }
#pragma GCC unroll 1
  for (int k = 0; k < step; k += 32) {
    FloatOne<V, kKind, kTokens, 0>(d, x, x_stride, table, parts);
    FloatOne<V, kKind, kTokens, 1>(d, x, x_stride, table, parts);
    FloatOne<V, kKind, kTokens, 2>(d, x, x_stride, table, parts);
    FloatOne<V, kKind, kTokens, 3>(d, x, x_stride, table, parts);
    FloatOne<V, kKind, kTokens, 4>(d, x, x_stride, table, parts);
    FloatOne<V, kKind, kTokens, 5>(d, x, x_stride, table, parts);
    FloatOne<V, kKind, kTokens, 6>(d, x, x_stride, table, parts);
    FloatOne<V, kKind, kTokens, 7>(d, x, x_stride, table, parts);
    d += 64 * kLinesOf32<kKind>;
    x += 32 * x_stride;
  }
#pragma GCC unroll 4
  for (int t = 0; t < kTokens; ++t) {
    out[t] = V::AddFloat(V::AddFloat(parts[t][0], parts[t][1]), V::AddFloat(parts[t][2], parts[t][3]));
  }
}

// float inputs, codes as weights: about 5 cycles for 64 weights and one token, bound by memory at 3 bits and
// more; further tokens cost 2 to 4 cycles each.
template <class V, Kind kKind, bool kAsym, int kTokens>
void CodedFloatTile(const TileArgs& a) {
  constexpr int kPasses = kTileRows / V::kLanes, kRows = V::kLanes;
  for (int h = 0; h < kPasses; ++h) {
    const unsigned char* p = a.data;
    const unsigned char* row_scales = p + 2 * kRows * h;
    if (a.scales8) p += 64;
    const int scale_bytes = a.scales8 ? 16 : 32;
    typename V::F acc[kTokens];
#pragma GCC unroll 4
    for (int t = 0; t < kTokens; ++t) acc[t] = V::LoadFloat(a.acc + kTileRows * t + kRows * h);
    HeaderCursor header = {p, p};
    for (int64_t s = 0; s < a.steps; ++s) {
      const int in_block = static_cast<int>(s % kBlockSteps);
      if (in_block == 0) p = EnterBlock<kKind, kAsym>(p, a.steps - s, scale_bytes, header);
      typename V::Codes table = V::Splat(0);
      if constexpr (kKind == Kind::kTable4) table = V::LoadTable(a.tables + s * a.table_stride);
      typename V::F sums[kTokens];
      StepFloats<V, kKind, kTokens>(p + 4 * kRows * h, a.xf + s * a.step * a.x_stride, a.x_stride, a.step,
                                    table, sums);
      auto zeros = ZerosOf<V, kKind, kAsym>(header, in_block, kRows * h, a.zero);
      if constexpr (kWideCodes<kKind>) zeros = V::SubInt(zeros, V::SplatInt(-V::kWideBias));
      const auto scales =
          a.scales8 ? V::MulFloat(V::ToFloat(V::LoadBytes(header.scales + kRows * h)), V::LoadF16(row_scales))
                    : V::LoadF16(header.scales + 2 * kRows * h);
#pragma GCC unroll 4
      for (int t = 0; t < kTokens; ++t) {
        const auto x_neg_sum = V::SplatFloat(a.xf_neg_sum + s * a.x_stride + t);
        acc[t] = V::MulAdd(V::MulAdd(V::ToFloat(zeros), x_neg_sum, sums[t]), scales, acc[t]);
      }
      header.scales += scale_bytes;
      p += a.step / 32 * 64 * kLinesOf32<kKind>;
    }
#pragma GCC unroll 4
    for (int t = 0; t < kTokens; ++t) V::StoreFloat(a.acc + kTileRows * t + kRows * h, acc[t]);
  }
}

// Column kJ mod 4 of dense weights at `d`, the first byte of four columns.
template <class V, Kind kKind, int kJ>
PACKED_INLINE typename V::F DenseAt(const unsigned char* d, int row) {
  if constexpr (kKind == Kind::kBF16) return V::template LoadBF16<kJ & 1>(d + 64 * (kJ / 2) + 4 * row);
  if constexpr (kKind == Kind::kF16) return V::LoadF16(d + 32 * kJ + 2 * row);
  if constexpr (kKind == Kind::kF32) {
    return V::LoadFloatBytes(d + 64 * kJ + 4 * row);
  }
}

// Dense weights, float inputs: 2 bytes a weight allow 15 cycles for 32 weights, two multiply-adds a token.
template <class V, Kind kKind, int kTokens>
void DenseTile(const TileArgs& a) {
  constexpr int kPasses = kTileRows / V::kLanes, kRows = V::kLanes;
  constexpr int kBytesOf4 = kTileRows * 4 * (kKind == Kind::kF32 ? 4 : 2);
  for (int h = 0; h < kPasses; ++h) {
    typename V::F parts[kTokens][4];
#pragma GCC unroll 4
    for (int t = 0; t < kTokens; ++t) {
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) parts[t][j] = V::ZeroFloat();
    }
    const unsigned char* d = a.data;
    const float* x = a.xf;
    Fetcher fetcher = {a.next, a.part};
    for (int64_t k = 0; k < a.steps; k += 4) {
      // Four columns are four lines in fp32, else two.
      if (h == 0) Fetch32<kKind == Kind::kF32 ? Kind::kInt4 : Kind::kInt2>(fetcher, (k & 4) != 0);
      const typename V::F w[4] = {DenseAt<V, kKind, 0>(d, kRows * h), DenseAt<V, kKind, 1>(d, kRows * h),
                                  DenseAt<V, kKind, 2>(d, kRows * h), DenseAt<V, kKind, 3>(d, kRows * h)};
#pragma GCC unroll 4
      for (int t = 0; t < kTokens; ++t) {
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) {
          parts[t][j] = V::MulAdd(w[j], V::SplatFloat(x + j * a.x_stride + t), parts[t][j]);
        }
      }
      d += kBytesOf4;
      x += 4 * a.x_stride;
    }
#pragma GCC unroll 4
    for (int t = 0; t < kTokens; ++t) {
      float* acc = a.acc + kTileRows * t + kRows * h;
      const auto sum =
          V::AddFloat(V::AddFloat(parts[t][0], parts[t][1]), V::AddFloat(parts[t][2], parts[t][3]));
      V::StoreFloat(acc, V::AddFloat(V::LoadFloat(acc), sum));
    }
  }
}

// Largest magnitude as bits: for floats without sign the order of the bits is that of the values, with
// infinity and NaN on top.
template <class V>
PACKED_INLINE int32_t LargestBits(const float* x, int n) {
  auto most = V::ZeroInt();
  for (int k = 0; k < n; k += V::kLanes) most = V::MaxInt(most, V::AbsBits(V::LoadFloat(x + k)));
  int32_t lanes[kTileRows], result = 0;
  V::StoreInt(lanes, most);
  for (int i = 0; i < V::kLanes; ++i) result = lanes[i] > result ? lanes[i] : result;
  return result;
}

// 32 columns to codes; their scale (NaN when one is not finite) and sum.
struct QuantizedPart {
  float scale;
  int32_t sum;
};
template <class V>
PACKED_INLINE QuantizedPart QuantizePart(const float* x, signed char* q) {
  const int32_t bits = LargestBits<V>(x, kInputStep);
  float largest = 0;
  __builtin_memcpy(&largest, &bits, 4);
  if (bits >= 0x7f800000 || largest < kSmallestScaled) {
    __builtin_memset(q, 0, kInputStep);
    return {bits >= 0x7f800000 ? __builtin_nanf("") : 0.0f, 0};
  }
  const float inverse = 127.0f / largest;
  const auto factor = V::SplatFloat(&inverse);
  auto sums = V::ZeroInt();
  for (int k = 0; k < kInputStep; k += V::kLanes) {
    const auto rounded = V::Round(V::MulFloat(V::LoadFloat(x + k), factor));
    V::StoreBytes(q + k, rounded);
    sums = V::AddInt(sums, rounded);
  }
  int32_t lanes[kTileRows], sum = 0;
  V::StoreInt(lanes, sums);
  for (int i = 0; i < V::kLanes; ++i) sum += lanes[i];
  return {largest / 127.0f, sum};
}

template <class V>
bool Quantize(const QuantizeArgs& a) {
  bool finite = true;
  const int parts = a.step / kInputStep;
  for (int64_t s = 0; s < a.steps; ++s) {
    float neg_sum = 0;
    for (int part = 0; part < parts; ++part) {
      const int64_t at = s * a.step + part * kInputStep, left = a.cols - at;
      const float* x = a.x + at;
      float padded[kInputStep];
      if (left < kInputStep) {
        for (int i = 0; i < kInputStep; ++i) padded[i] = i < left ? x[i] : 0.0f;
        x = padded;
      }
      alignas(64) signed char q[kInputStep];
      const QuantizedPart made = QuantizePart<V>(x, q);
      finite = finite && made.scale == made.scale;
      neg_sum -= made.scale * static_cast<float>(made.sum);
      a.scale[(s * parts + part) * a.tokens + a.token] = made.scale;
      signed char* to = a.q + (at * a.tokens + 4 * a.token);
      if (a.tokens == 1) {
        __builtin_memcpy(to, q, kInputStep);
      } else {
        for (int k = 0; k < kInputStep; k += 4) __builtin_memcpy(to + k * a.tokens, q + k, 4);
      }
    }
    a.neg_sum[s * a.tokens + a.token] = neg_sum;
  }
  return finite;
}

template <class V, Kind kKind>
constexpr void FillCoded(KernelSet& set) {
  constexpr int kIndex = static_cast<int>(kKind);
  const TileKernel int8[2][kMaxTokens] = {
      {Int8Tile<V, kKind, false, 1>, Int8Tile<V, kKind, false, 2>, Int8Tile<V, kKind, false, 3>,
       Int8Tile<V, kKind, false, 4>, Int8Tile<V, kKind, false, 5>, Int8Tile<V, kKind, false, 6>,
       Int8Tile<V, kKind, false, 7>, Int8Tile<V, kKind, false, 8>},
      {Int8Tile<V, kKind, true, 1>, Int8Tile<V, kKind, true, 2>, Int8Tile<V, kKind, true, 3>,
       Int8Tile<V, kKind, true, 4>, Int8Tile<V, kKind, true, 5>, Int8Tile<V, kKind, true, 6>,
       Int8Tile<V, kKind, true, 7>, Int8Tile<V, kKind, true, 8>}};
  const TileKernel floats[2][kFloatTokens] = {
      {CodedFloatTile<V, kKind, false, 1>, CodedFloatTile<V, kKind, false, 2>,
       CodedFloatTile<V, kKind, false, 3>, CodedFloatTile<V, kKind, false, 4>},
      {CodedFloatTile<V, kKind, true, 1>, CodedFloatTile<V, kKind, true, 2>,
       CodedFloatTile<V, kKind, true, 3>, CodedFloatTile<V, kKind, true, 4>}};
  for (int asym = 0; asym < 2; ++asym) {
    for (int t = 0; t < kMaxTokens; ++t) set.int8[kIndex][asym][t] = int8[asym][t];
    for (int t = 0; t < kFloatTokens; ++t) set.coded_float[kIndex][asym][t] = floats[asym][t];
  }
}

template <class V, Kind kKind>
constexpr void FillDense(KernelSet& set) {
  constexpr int kIndex = static_cast<int>(kKind) - kCodeKinds;
  set.dense[kIndex][0] = DenseTile<V, kKind, 1>;
  set.dense[kIndex][1] = DenseTile<V, kKind, 2>;
  set.dense[kIndex][2] = DenseTile<V, kKind, 3>;
  set.dense[kIndex][3] = DenseTile<V, kKind, 4>;
}

template <class V>
constexpr KernelSet MakeKernels(const char* name, decltype(KernelSet::unpack) unpack,
                                decltype(KernelSet::interleave) interleave) {
  KernelSet set = {};
  set.name = name;
  FillCoded<V, Kind::kInt2>(set);
  FillCoded<V, Kind::kInt3>(set);
  FillCoded<V, Kind::kInt4>(set);
  FillCoded<V, Kind::kTable4>(set);
  FillCoded<V, Kind::kInt8>(set);
  FillDense<V, Kind::kBF16>(set);
  FillDense<V, Kind::kF16>(set);
  FillDense<V, Kind::kF32>(set);
  set.quantize = Quantize<V>;
  set.unpack = unpack;
  set.interleave = interleave;
  return set;
}

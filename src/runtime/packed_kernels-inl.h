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
// bits. Tables of rows take 1, 2 or 4 shuffles and 0, 1 or 3 blends for 64 weights of 2, 3 or 4 bits before
// the dot: 7 operations of the 8.2 cycles at 4 bits, so that one token is near both bounds.

// What a kind's codes are: bits, and whether they are bytes in the end.
template <Kind kKind>
constexpr int kBitsOf =
    kKind == Kind::kInt2 || kKind == Kind::kTable2 || kKind == Kind::kRows2                            ? 2
    : kKind == Kind::kInt3 || kKind == Kind::kTable3 || kKind == Kind::kSets3 || kKind == Kind::kRows3 ? 3
    : kKind == Kind::kInt8                                                                             ? 8
                                                                                                       : 4;
template <Kind kKind>
constexpr bool kHasSets = kKind == Kind::kSets3 || kKind == Kind::kSets4;
template <Kind kKind>
constexpr bool kHasTable =
    kHasSets<kKind> || kKind == Kind::kTable2 || kKind == Kind::kTable3 || kKind == Kind::kTable4;
template <Kind kKind>
constexpr bool kRowTables = kKind == Kind::kRows2 || kKind == Kind::kRows3 || kKind == Kind::kRows4;
// Bytes of 16 rows' tables.
template <Kind kKind>
constexpr int kTableBytes = kRowTables<kKind> ? kTileRows << kBitsOf<kKind> : 0;
template <Kind kKind>
constexpr bool kWideCodes = kKind == Kind::kInt8 || kHasTable<kKind> || kRowTables<kKind>;
// Cache lines of 32 columns.
template <Kind kKind>
constexpr int kLinesOf32 = kBitsOf<kKind>;

// A step's table, and what its last place holds in each row. Tables of rows lie in up to four lines, and a
// row finds its own from `places` on.
template <class V>
struct Tables {
  typename V::Codes entries, last, lines[4], places;
  const unsigned char *next_last, *next_lines;  // of the step after it
};

// What rows add to their codes: a line holds 16 >> bits rows' tables in 16 bytes.
alignas(64) constexpr unsigned char kPlaces[2][64] = {
    {0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12, 0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12,
     0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12, 0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12},
    {0, 0, 0, 0, 8, 8, 8, 8, 0, 0, 0, 0, 8, 8, 8, 8, 0, 0, 0, 0, 8, 8, 8, 8, 0, 0, 0, 0, 8, 8, 8, 8,
     0, 0, 0, 0, 8, 8, 8, 8, 0, 0, 0, 0, 8, 8, 8, 8, 0, 0, 0, 0, 8, 8, 8, 8, 0, 0, 0, 0, 8, 8, 8, 8}};

template <class V, Kind kKind>
PACKED_INLINE void LoadLines(const unsigned char* at, Tables<V>& tables) {
#pragma GCC unroll 4
  for (int i = 0; i < kTableBytes<kKind> / 64; ++i) tables.lines[i] = V::LoadCodes(at + 64 * i);
}
// The entry of each row's table: a shuffle for every line, of which each row keeps one.
template <class V, int kBits>
PACKED_INLINE typename V::Codes RowEntries(const Tables<V>& tables, typename V::Codes code) {
  if constexpr (kBits < 4) code = V::Or(code, tables.places);
  const auto first = V::Lookup(tables.lines[0], code);
  if constexpr (kBits == 2) return first;
  const auto second = V::Lookup(tables.lines[1], code);
  if constexpr (kBits == 3) return V::template PickRows<12>(first, second);
  if constexpr (kBits == 4) {
    const auto third = V::Lookup(tables.lines[2], code), fourth = V::Lookup(tables.lines[3], code);
    return V::template PickRows<12>(V::template PickRows<2>(first, second),
                                    V::template PickRows<8>(third, fourth));
  }
}

// Columns 4 kI to 4 kI + 3 of 32, one code a byte.
template <class V, int kBits, int kI>
PACKED_INLINE typename V::Codes BitsAt(const unsigned char* d) {
  if constexpr (kBits == 8) {
    return V::LoadCodes(d + 64 * kI);
  } else if constexpr (kBits == 4) {
    return V::And(V::template ShiftRight<4 * (kI & 1)>(V::LoadCodes(d + 64 * (kI / 2))), V::Splat(15));
  } else {
    const auto low = V::template ShiftRight<2 * (kI & 3)>(V::LoadCodes(d + 64 * (kI / 4)));
    if constexpr (kBits == 2) return V::And(low, V::Splat(3));
    if constexpr (kBits == 3) {
      const auto high = V::LoadCodes(d + 128);
      if constexpr (kI < 2) return V::Join3(low, V::template ShiftLeft<2 - kI>(high));
      if constexpr (kI >= 2) return V::Join3(low, V::template ShiftRight<(kI > 2 ? kI - 2 : 0)>(high));
    }
  }
}
template <class V, Kind kKind, int kI>
PACKED_INLINE typename V::Codes CodesAt(const unsigned char* d, const Tables<V>& tables) {
  const auto code = BitsAt<V, kBitsOf<kKind>, kI>(d);
  if constexpr (kRowTables<kKind>) return RowEntries<V, kBitsOf<kKind>>(tables, code);
  if constexpr (!kHasTable<kKind>) return code;
  const auto entry = V::Lookup(tables.entries, code);
  if constexpr (!kHasSets<kKind>) return entry;
  return V::Replace(code, (1 << kBitsOf<kKind>)-1, tables.last, entry);
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

// Scales and offsets of a block's steps as the folds take them, and for kSets the four equal bytes of each
// row's last entry.
struct alignas(64) BlockHeader {
  float scale[kMostBlockSteps][kTileRows], offset[kMostBlockSteps][kTileRows];
  unsigned char last[kMostBlockSteps][4 * kTileRows];
  const unsigned char* tables;  // of the first step's rows
};

// Where the parts of a block's header are.
struct HeaderParts {
  const unsigned char *units, *offset_units;  // 16 fp16 each, of rows or of the block
  const unsigned char *scales, *offsets, *sets, *tables;
};
PACKED_INLINE HeaderParts PartsOf(const TileArgs& a, const unsigned char* p, int n, bool sets) {
  const bool block_scales = a.scales == Scales::kBlockBytes || a.scales == Scales::kBlockNibbles;
  const bool block_offsets = a.offsets == Offsets::kBlockBytes || a.offsets == Offsets::kBlockNibbles;
  HeaderParts at;
  at.units = a.scales == Scales::kRowBytes ? a.data : p;
  at.offset_units = p + (block_scales ? 32 : 0);
  at.scales = at.offset_units + (block_offsets ? 32 : 0);
  at.offsets = at.scales + (a.scales == Scales::kHalf ? 32 : 16) * n;
  const int offset_bytes = a.offsets == Offsets::kNibbles ? 16 * ((n + 1) / 2)
                           : a.offsets == Offsets::kBytes || a.offsets == Offsets::kBlockBytes ? 16 * n
                           : a.offsets == Offsets::kHalf                                       ? 32 * n
                                                                                               : 0;
  at.sets = at.offsets + offset_bytes;
  const int64_t bytes = at.sets - p + (sets ? 16 * ((n + 1) / 2) : 0);
  at.tables = p + ((bytes + 63) & ~int64_t{63});
  return at;
}

template <class V>
PACKED_INLINE typename V::F ScaleAt(const TileArgs& a, const HeaderParts& at, int s, int row) {
  const unsigned char* bytes = at.scales + 16 * s + row;
  switch (a.scales) {
    case Scales::kHalf:
      return V::LoadF16(at.scales + 32 * s + 2 * row);
    case Scales::kBlockNibbles:
      return V::MulFloat(V::ToFloat(V::NibbleOf(V::LoadBytes(bytes), 0)), V::LoadF16(at.units + 2 * row));
    case Scales::kPowers:
      return V::FloatOfBits(V::template ShiftLeftInt<23>(V::LoadBytes(bytes)));
    case Scales::kE4M3: {
      // Exponent and mantissa where a float has them; the exponents' biases differ by 120.
      const float shift = 0x1p120f;
      return V::MulFloat(V::FloatOfBits(V::template ShiftLeftInt<20>(V::LoadBytes(bytes))),
                         V::SplatFloat(&shift));
    }
    default:
      return V::MulFloat(V::ToFloat(V::SubInt(V::LoadBytes(bytes), V::SplatInt(a.scale_bias))),
                         V::LoadF16(at.units + 2 * row));
  }
}

// `bias`: what the set takes off the codes.
template <class V>
PACKED_INLINE typename V::F OffsetAt(const TileArgs& a, const HeaderParts& at, int s, int row, int bias,
                                     typename V::F scale) {
  const float less = static_cast<float>(-bias);
  const unsigned char* bytes = at.offsets + 16 * s + row;
  typename V::F offset = V::ZeroFloat();
  switch (a.offsets) {
    case Offsets::kConstant:
      return V::MulFloat(V::ToFloat(V::SplatInt(a.zero - bias)), scale);
    case Offsets::kNibbles:
    case Offsets::kBytes: {
      const auto zero = a.offsets == Offsets::kBytes
                            ? V::LoadBytes(bytes)
                            : V::NibbleOf(V::LoadBytes(at.offsets + 16 * (s / 2) + row), 4 * (s & 1));
      const auto value = V::MulFloat(V::ToFloat(zero), V::SplatFloat(&a.zero_step));
      return V::MulFloat(V::AddFloat(value, V::SplatFloat(&less)), scale);
    }
    case Offsets::kHalf:
      offset = V::LoadF16(at.offsets + 32 * s + 2 * row);
      break;
    case Offsets::kBlockBytes:
      offset = V::MulFloat(V::ToFloat(V::LoadBytes(bytes)), V::LoadF16(at.offset_units + 2 * row));
      break;
    case Offsets::kBlockNibbles:
      offset = V::MulFloat(V::ToFloat(V::NibbleOf(V::LoadBytes(at.scales + 16 * s + row), 4)),
                           V::LoadF16(at.offset_units + 2 * row));
      break;
  }
  return bias == 0 ? offset : V::AddFloat(offset, V::MulFloat(V::SplatFloat(&less), scale));
}

// Returns the block's codes; `table_bytes` of them stand before each step's. Its cost is that of 16 rows by 8
// steps, a few operations for a step of 16 rows next to 8 and more lines of codes; all forms of scales share
// the kernels.
template <class V>
__attribute__((noinline)) const unsigned char* DecodeBlock(const TileArgs& a, const unsigned char* p, int n,
                                                           bool sets, int table_bytes, int bias,
                                                           BlockHeader& out) {
  const HeaderParts at = PartsOf(a, p, n, sets);
  const auto unit = V::SplatFloat(&a.unit);
  for (int s = 0; s < n; ++s) {
    for (int row = 0; row < kTileRows; row += V::kLanes) {
      const auto scale = V::MulFloat(ScaleAt<V>(a, at, s, row), unit);
      V::StoreFloat(out.scale[s] + row, scale);
      V::StoreFloat(out.offset[s] + row, OffsetAt<V>(a, at, s, row, bias, scale));
    }
    for (int row = 0; sets && row < kTileRows; ++row) {
      const int set = (at.sets[16 * (s / 2) + row] >> (4 * (s & 1))) & 15;
      const uint32_t last = 0x01010101u * a.tables[kTableEntries + set];
      __builtin_memcpy(out.last[s] + 4 * row, &last, 4);
    }
  }
  out.tables = at.tables;
  return at.tables + int64_t{table_bytes} * n;
}

// First block of a segment, past what belongs to whole rows.
template <Kind kKind>
PACKED_INLINE const unsigned char* FirstBlock(const TileArgs& a) {
  return a.data + (a.scales == Scales::kRowBytes ? 64 : 0) + (a.step_tables ? 0 : kTableBytes<kKind>);
}

template <class V, Kind kKind>
PACKED_INLINE Tables<V> TablesOf(const TileArgs& a, const BlockHeader& header, int in_block, int row) {
  Tables<V> tables;
  tables.next_last = header.last[in_block] + 4 * (kTileRows + row);
  if constexpr (kHasTable<kKind>) tables.entries = V::LoadTable(a.tables);
  if constexpr (kHasSets<kKind>) tables.last = V::LoadCodes(header.last[in_block] + 4 * row);
  if constexpr (kRowTables<kKind>) {
    constexpr int kBytes = kTableBytes<kKind>;
    const unsigned char* lines =
        4 * row + (a.step_tables ? header.tables + kBytes * in_block : FirstBlock<kKind>(a) - kBytes);
    tables.next_lines = lines + (a.step_tables ? kBytes : 0);
    LoadLines<V, kKind>(lines, tables);
    if constexpr (kBitsOf<kKind> < 4) tables.places = V::LoadCodes(kPlaces[kBitsOf<kKind> - 2]);
  }
  return tables;
}
template <class V, Kind kKind>
PACKED_INLINE void NextTables(Tables<V>& tables) {
  if constexpr (kHasSets<kKind>) tables.last = V::LoadCodes(tables.next_last);
  if constexpr (kRowTables<kKind>) LoadLines<V, kKind>(tables.next_lines, tables);
}

// sums[t] += the dots of 4 columns of 32; kChains sums of a token hide the latency of the dot.
template <class V, Kind kKind, int kTokens, int kChains, int kI>
PACKED_INLINE void DotOne(const unsigned char* d, const signed char* x, const Tables<V>& tables,
                          typename V::I (&sums)[kTokens][kChains]) {
  const auto w = CodesAt<V, kKind, kI>(d, tables);
#pragma GCC unroll 8
  for (int t = 0; t < kTokens; ++t) {
    const signed char* xt = x + 4 * (kI * kTokens + t);
    auto& sum = sums[t][kI % kChains];
    if constexpr (V::kHasDot) {
      sum = V::template Dot<kWideCodes<kKind>>(sum, w, xt);
    } else if constexpr (kWideCodes<kKind>) {
      sum = V::DotWide(sum, w, xt);
    } else {
      // 8 pairs of codes up to 15 by inputs up to 127: at most 8 * 3,810 = 30,480, in 16 bits.
      sum = V::AddHalves(sum, V::MulPairs(w, xt));
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

// parts[t] += the gathered dots times their input's scale; the sums start anew.
template <class V, Kind kKind, int kTokens, int kChains>
PACKED_INLINE void TakeSums(typename V::I (&sums)[kTokens][kChains], const float* x_scale,
                            typename V::F (&parts)[kTokens]) {
#pragma GCC unroll 8
  for (int t = 0; t < kTokens; ++t) {
    const auto dot = V::ToFloat(Joined<V, kKind, kChains>(sums[t]));
    parts[t] = V::MulAdd(dot, V::SplatFloat(x_scale + t), parts[t]);
#pragma GCC unroll 4
    for (int c = 0; c < kChains; ++c) sums[t][c] = V::ZeroInt();
  }
}

// What the folds of a step take, for the rows of a pass.
struct StepFold {
  const float *scale, *offset;
  const float* x_neg_sum;
  int64_t x_stride;  // from a step's sums to the next
};
// acc[t] += the step; its parts start anew, and `fold` moves to the next step of the block.
template <class V, int kTokens>
PACKED_INLINE void Fold(StepFold& fold, typename V::F (&parts)[kTokens], typename V::F (&acc)[kTokens]) {
  const auto scale = V::LoadFloat(fold.scale), offset = V::LoadFloat(fold.offset);
#pragma GCC unroll 8
  for (int t = 0; t < kTokens; ++t) {
    acc[t] = V::MulAdd(offset, V::SplatFloat(fold.x_neg_sum + t), acc[t]);
    acc[t] = V::MulAdd(parts[t], scale, acc[t]);
    parts[t] = V::ZeroFloat();
  }
  fold.scale += kTileRows;
  fold.offset += kTileRows;
  fold.x_neg_sum += fold.x_stride;
}

// A step, or two of 16 columns.
template <class V, Kind kKind, int kTokens>
PACKED_INLINE void StepDots(const unsigned char* d, const signed char* x, const float* x_scale, int step,
                            Fetcher& fetcher, bool first, Tables<V> tables, StepFold fold,
                            typename V::F (&acc)[kTokens]) {
  constexpr int kChains = !V::kHasDot || V::kLanes < 16 ? 1 : kTokens == 1 ? 4 : kTokens <= 3 ? 2 : 1;
  typename V::F parts[kTokens];
  typename V::I sums[kTokens][kChains];
#pragma GCC unroll 8
  for (int t = 0; t < kTokens; ++t) {
    parts[t] = V::ZeroFloat();
#pragma GCC unroll 4
    for (int c = 0; c < kChains; ++c) sums[t][c] = V::ZeroInt();
  }
#pragma GCC unroll 1
  for (int k = 0; k < step; k += kInputStep) {
    if (first) Fetch32<kKind>(fetcher, (k & 32) != 0);
    DotOne<V, kKind, kTokens, kChains, 0>(d, x, tables, sums);
    DotOne<V, kKind, kTokens, kChains, 1>(d, x, tables, sums);
    DotOne<V, kKind, kTokens, kChains, 2>(d, x, tables, sums);
    DotOne<V, kKind, kTokens, kChains, 3>(d, x, tables, sums);
    int half = step < kInputStep ? 1 : 0;
    __asm__("" : "+r"(half));  // else the compiler makes two loops of this one
    if (half != 0) {
      TakeSums<V, kKind, kTokens, kChains>(sums, x_scale, parts);
      Fold<V, kTokens>(fold, parts, acc);
      NextTables<V, kKind>(tables);
    }
    DotOne<V, kKind, kTokens, kChains, 4>(d, x, tables, sums);
    DotOne<V, kKind, kTokens, kChains, 5>(d, x, tables, sums);
    DotOne<V, kKind, kTokens, kChains, 6>(d, x, tables, sums);
    DotOne<V, kKind, kTokens, kChains, 7>(d, x, tables, sums);
    TakeSums<V, kKind, kTokens, kChains>(sums, x_scale, parts);
    d += 64 * kLinesOf32<kKind>;
    x += kInputStep * kTokens;
    x_scale += kTokens;
  }
  Fold<V, kTokens>(fold, parts, acc);
}

// int8 inputs. 64 weights: 1 dot a token; see the bounds at the top.
template <class V, Kind kKind, int kTokens>
void Int8Tile(const TileArgs& a) {
  constexpr int kPasses = kTileRows / V::kLanes, kRows = V::kLanes;
  constexpr int kBias = kWideCodes<kKind> ? V::kWideBias : 0;  // sets without unsigned by signed dots
  typename V::F acc[kPasses][kTokens];
#pragma GCC unroll 8
  for (int t = 0; t < kTokens; ++t) {
#pragma GCC unroll 4
    for (int h = 0; h < kPasses; ++h) acc[h][t] = V::LoadFloat(a.acc + kTileRows * t + kRows * h);
  }
  BlockHeader header;
  const unsigned char* p = FirstBlock<kKind>(a);
  const signed char* x = a.x;
  const float* x_scale = a.x_scale;
  Fetcher fetcher = {a.next, a.part};
  const int pair = a.step < kInputStep ? 2 : 1, columns = pair * a.step;  // taken at once
  const int block = a.step < kInputStep ? kMostBlockSteps : kBlockSteps;
  for (int64_t begin = 0; begin < a.steps; begin += block) {
    const int n = a.steps - begin < block ? static_cast<int>(a.steps - begin) : block;
    p = DecodeBlock<V>(a, p, n, kHasSets<kKind>, a.step_tables ? kTableBytes<kKind> : 0, kBias, header);
    for (int s = 0; s < n; s += pair) {
#pragma GCC unroll 4
      for (int h = 0; h < kPasses; ++h) {
        const StepFold fold = {header.scale[s] + kRows * h, header.offset[s] + kRows * h,
                               a.x_neg_sum + (begin + s) * kTokens, kTokens};
        StepDots<V, kKind, kTokens>(p + 4 * kRows * h, x, x_scale, a.step, fetcher, h == 0,
                                    TablesOf<V, kKind>(a, header, s, kRows * h), fold, acc[h]);
      }
      p += columns / 32 * 64 * kLinesOf32<kKind>;
      x += columns * kTokens;
      x_scale += columns / kInputStep * kTokens;
    }
  }
#pragma GCC unroll 8
  for (int t = 0; t < kTokens; ++t) {
#pragma GCC unroll 4
    for (int h = 0; h < kPasses; ++h) V::StoreFloat(a.acc + kTileRows * t + kRows * h, acc[h][t]);
  }
}

// Four columns of 32 with float inputs: 4 conversions and 4 fused multiply-adds a token for 64 weights.
template <class V, Kind kKind, int kTokens, int kI>
PACKED_INLINE void FloatOne(const unsigned char* d, const float* x, int64_t x_stride, const Tables<V>& tables,
                            typename V::F (&chains)[kTokens][4]) {
  const auto w = CodesAt<V, kKind, kI>(d, tables);
  const typename V::F values[4] = {V::template ByteToFloat<0>(w), V::template ByteToFloat<1>(w),
                                   V::template ByteToFloat<2>(w), V::template ByteToFloat<3>(w)};
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
#pragma GCC unroll 4
    for (int t = 0; t < kTokens; ++t) {
      chains[t][j] = V::MulAdd(values[j], V::SplatFloat(x + (4 * kI + j) * x_stride + t), chains[t][j]);
    }
  }
}

// parts[t] = the chains joined, which start anew.
template <class V, int kTokens>
PACKED_INLINE void TakeChains(typename V::F (&chains)[kTokens][4], typename V::F (&parts)[kTokens]) {
#pragma GCC unroll 4
  for (int t = 0; t < kTokens; ++t) {
    parts[t] = V::AddFloat(V::AddFloat(chains[t][0], chains[t][1]), V::AddFloat(chains[t][2], chains[t][3]));
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) chains[t][j] = V::ZeroFloat();
  }
}

template <class V, Kind kKind, int kTokens>
PACKED_INLINE void StepFloats(const unsigned char* d, const float* x, int64_t x_stride, int step,
                              Tables<V> tables, StepFold fold, typename V::F (&acc)[kTokens]) {
  typename V::F chains[kTokens][4], parts[kTokens];
#pragma GCC unroll 4
  for (int t = 0; t < kTokens; ++t) {
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) chains[t][j] = V::ZeroFloat();
  }
#pragma GCC unroll 1
  for (int k = 0; k < step; k += 32) {
    FloatOne<V, kKind, kTokens, 0>(d, x, x_stride, tables, chains);
    FloatOne<V, kKind, kTokens, 1>(d, x, x_stride, tables, chains);
    FloatOne<V, kKind, kTokens, 2>(d, x, x_stride, tables, chains);
    FloatOne<V, kKind, kTokens, 3>(d, x, x_stride, tables, chains);
    int half = step < kInputStep ? 1 : 0;
    __asm__("" : "+r"(half));
    if (half != 0) {
      TakeChains<V, kTokens>(chains, parts);
      Fold<V, kTokens>(fold, parts, acc);
      NextTables<V, kKind>(tables);
    }
    FloatOne<V, kKind, kTokens, 4>(d, x, x_stride, tables, chains);
    FloatOne<V, kKind, kTokens, 5>(d, x, x_stride, tables, chains);
    FloatOne<V, kKind, kTokens, 6>(d, x, x_stride, tables, chains);
    FloatOne<V, kKind, kTokens, 7>(d, x, x_stride, tables, chains);
    d += 64 * kLinesOf32<kKind>;
    x += 32 * x_stride;
  }
  TakeChains<V, kTokens>(chains, parts);
  Fold<V, kTokens>(fold, parts, acc);
}

// float inputs, codes as weights: about 5 cycles for 64 weights and one token, bound by memory at 3 bits and
// more; further tokens cost 2 to 4 cycles each. Codes have no bias here.
template <class V, Kind kKind, int kTokens>
void CodedFloatTile(const TileArgs& a) {
  constexpr int kPasses = kTileRows / V::kLanes, kRows = V::kLanes;
  BlockHeader header;
  const int pair = a.step < kInputStep ? 2 : 1, columns = pair * a.step;
  const int block = a.step < kInputStep ? kMostBlockSteps : kBlockSteps;
  for (int h = 0; h < kPasses; ++h) {
    const unsigned char* p = FirstBlock<kKind>(a);
    const float* x = a.xf;
    typename V::F acc[kTokens];
#pragma GCC unroll 4
    for (int t = 0; t < kTokens; ++t) acc[t] = V::LoadFloat(a.acc + kTileRows * t + kRows * h);
    for (int64_t begin = 0; begin < a.steps; begin += block) {
      const int n = a.steps - begin < block ? static_cast<int>(a.steps - begin) : block;
      p = DecodeBlock<V>(a, p, n, kHasSets<kKind>, a.step_tables ? kTableBytes<kKind> : 0, 0, header);
      for (int s = 0; s < n; s += pair) {
        const StepFold fold = {header.scale[s] + kRows * h, header.offset[s] + kRows * h,
                               a.xf_neg_sum + (begin + s) * a.x_stride, a.x_stride};
        StepFloats<V, kKind, kTokens>(p + 4 * kRows * h, x, a.x_stride, a.step,
                                      TablesOf<V, kKind>(a, header, s, kRows * h), fold, acc);
        p += columns / 32 * 64 * kLinesOf32<kKind>;
        x += columns * a.x_stride;
      }
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

// Minus the sum of `count` codes times their scale.
PACKED_INLINE float NegSum(const signed char* q, int count, float scale) {
  int32_t sum = 0;
  for (int i = 0; i < count; ++i) sum += q[i];
  return 0.0f - scale * static_cast<float>(sum);
}

template <class V>
bool Quantize(const QuantizeArgs& a) {
  bool finite = true;
  const int64_t columns = a.steps * a.step;
  float neg_sum = 0;
  for (int64_t at = 0; at < columns; at += kInputStep) {
    const float* x = a.x + at;
    const int64_t left = a.cols - at;
    float padded[kInputStep];
    if (left < kInputStep) {
      for (int i = 0; i < kInputStep; ++i) padded[i] = i < left ? x[i] : 0.0f;
      x = padded;
    }
    alignas(64) signed char q[kInputStep];
    const QuantizedPart made = QuantizePart<V>(x, q);
    finite = finite && made.scale == made.scale;
    a.scale[at / kInputStep * a.tokens + a.token] = made.scale;
    float* sums = a.neg_sum + at / a.step * a.tokens + a.token;
    if (a.step < kInputStep) {
      sums[0] = NegSum(q, a.step, made.scale);
      sums[a.tokens] = NegSum(q + a.step, a.step, made.scale);
    } else {
      neg_sum = (at % a.step == 0 ? 0.0f : neg_sum) - made.scale * static_cast<float>(made.sum);
      *sums = neg_sum;
    }
    signed char* to = a.q + (at * a.tokens + 4 * a.token);
    if (a.tokens == 1) {
      __builtin_memcpy(to, q, kInputStep);
    } else {
      for (int k = 0; k < kInputStep; k += 4) __builtin_memcpy(to + k * a.tokens, q + k, 4);
    }
  }
  return finite;
}

template <class V, Kind kKind>
constexpr void FillCoded(KernelSet& set) {
  constexpr int kIndex = static_cast<int>(kKind);
  const TileKernel int8[kMaxTokens] = {Int8Tile<V, kKind, 1>, Int8Tile<V, kKind, 2>, Int8Tile<V, kKind, 3>,
                                       Int8Tile<V, kKind, 4>, Int8Tile<V, kKind, 5>, Int8Tile<V, kKind, 6>,
                                       Int8Tile<V, kKind, 7>, Int8Tile<V, kKind, 8>};
  const TileKernel floats[kFloatTokens] = {CodedFloatTile<V, kKind, 1>, CodedFloatTile<V, kKind, 2>,
                                           CodedFloatTile<V, kKind, 3>, CodedFloatTile<V, kKind, 4>};
  for (int t = 0; t < kMaxTokens; ++t) set.int8[kIndex][t] = int8[t];
  for (int t = 0; t < kFloatTokens; ++t) set.coded_float[kIndex][t] = floats[t];
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
  set.byte_dots = V::kHasDot;
  FillCoded<V, Kind::kInt2>(set);
  FillCoded<V, Kind::kInt3>(set);
  FillCoded<V, Kind::kInt4>(set);
  FillCoded<V, Kind::kInt8>(set);
  FillCoded<V, Kind::kTable2>(set);
  FillCoded<V, Kind::kTable3>(set);
  FillCoded<V, Kind::kTable4>(set);
  FillCoded<V, Kind::kSets3>(set);
  FillCoded<V, Kind::kSets4>(set);
  FillCoded<V, Kind::kRows2>(set);
  FillCoded<V, Kind::kRows3>(set);
  FillCoded<V, Kind::kRows4>(set);
  FillDense<V, Kind::kBF16>(set);
  FillDense<V, Kind::kF16>(set);
  FillDense<V, Kind::kF32>(set);
  set.quantize = Quantize<V>;
  set.unpack = unpack;
  set.interleave = interleave;
  return set;
}

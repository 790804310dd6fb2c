// Bodies of the kernels over a vector type V, included by each instruction set's file inside its
// anonymous namespace, so that every copy has internal linkage (see gemm_kernels.h). V has
//   kLanes, kTileRows, kTileRegs (registers across a row of the tile), kDotRegs, kDotRows, Reg
//   kStepElements (elements of k in a step), Zero, Load, Store, LoadFirst, StoreFirst (n lanes; the others
//   zero or not written), Broadcast, MulAdd, Add, Negate, HalvingSum, Transpose,
//   LoadElements<Element>; where a step is two elements also LoadPairs<Element>, of a row, and JoinRows, of
//   two; kPadSteps: panels are filled up to kLanes steps.

// Registers of one tile: kTileRows * kTileRegs sums, kTileRegs of B and one broadcast of A. Per k step
// that is kTileRows + kTileRegs loads for kTileRows * kTileRegs multiply-adds, so at two loads and two
// multiply-adds a cycle the multiply-adds bind, and their number covers the latency of 4 cycles.
template <class V, int kRows>
void TileRows(int64_t kc, const float* a, const float* b, float* c, int64_t c_stride, int cols, bool load,
              const void* ahead) {
  constexpr int kRegs = V::kTileRegs;
  constexpr int kWidth = V::kLanes * kRegs;
  typename V::Reg sum[kRows][kRegs];
  const bool full = cols == kWidth;
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < kRegs; ++j) {
      const float* at = c + i * c_stride + j * V::kLanes;
      if (!load) {
        sum[i][j] = V::Zero();
      } else if (full) {
        sum[i][j] = V::Load(at);
      } else {
        sum[i][j] = V::LoadFirst(at, cols - j * V::kLanes);
      }
    }
  }
  // The next tile is most often the one below: its C comes nearer while this one is computed.
  for (int i = 0; i < kRows; ++i) {
    const auto below =
        reinterpret_cast<uintptr_t>(c) + static_cast<uintptr_t>((kRows + i) * c_stride) * sizeof(float);
    __builtin_prefetch(reinterpret_cast<const void*>(below));
    __builtin_prefetch(reinterpret_cast<const void*>(below + 64));
  }
  auto line = reinterpret_cast<uintptr_t>(ahead);
#pragma GCC unroll 4
  for (int64_t k = 0; k < kc; ++k, line += 64) {
    __builtin_prefetch(reinterpret_cast<const void*>(line));
    typename V::Reg right[kRegs];
#pragma GCC unroll 4
    for (int j = 0; j < kRegs; ++j) right[j] = V::Load(b + j * V::kLanes);
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) {
      const typename V::Reg left = V::Broadcast(a + i);
#pragma GCC unroll 4
      for (int j = 0; j < kRegs; ++j) sum[i][j] = V::MulAdd(left, right[j], sum[i][j]);
    }
    a += V::kPanelWidth;
    b += kWidth;
  }
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < kRegs; ++j) {
      float* at = c + i * c_stride + j * V::kLanes;
      if (full) {
        V::Store(at, sum[i][j]);
      } else {
        V::StoreFirst(at, sum[i][j], cols - j * V::kLanes);
      }
    }
  }
}

// The tile of exactly `rows` rows, so that the last rows of C cost no more than they are.
template <class V, int kRows = V::kTileRows>
void Tile(int64_t kc, const float* a, const float* b, float* c, int64_t c_stride, int rows, int cols,
          bool load, const void* ahead) {
  if (rows == kRows) return TileRows<V, kRows>(kc, a, b, c, c_stride, cols, load, ahead);
  if constexpr (kRows > 1) Tile<V, kRows - 1>(kc, a, b, c, c_stride, rows, cols, load, ahead);
}

constexpr int64_t ElementBytes(Element type) { return type == Element::kF32 ? 4 : 2; }

// kLanes steps of one row.
template <class V, Element kType>
typename V::Reg LoadSteps(const unsigned char* source, int part) {
  if constexpr (V::kStepElements == 1) {
    return V::template LoadElements<kType>(source);
  } else {
    return V::template LoadPairs<kType>(source, part);
  }
}

// kLanes steps of the first n elements, zeros after them.
template <class V, Element kType>
typename V::Reg LoadFirstSteps(const unsigned char* source, int64_t n, int part) {
  alignas(64) unsigned char padded[V::kLanes * V::kStepElements * 4] = {};
  memcpy(padded, source, static_cast<size_t>(n * ElementBytes(kType)));
  return LoadSteps<V, kType>(padded, part);
}

// Square blocks of kLanes rows by kLanes steps of k, transposed in registers: about a quarter of a
// shuffle per element, which hides behind reading the source once from memory. kRowMajor leaves them as they
// are, as matrix tiles want A: blocks of kLanes steps, each `width` rows of kLanes.
template <class V, Element kType, bool kRowMajor>
void PackRowsOf(const unsigned char* source, int64_t stride, int rows, int64_t elements, int width,
                bool negate, int part, float* panel) {
  constexpr int kLanes = V::kLanes, kPer = V::kStepElements;
  const int64_t kc = (elements + kPer - 1) / kPer;
  for (int row = 0; row < width; row += kLanes) {
    const int count = rows - row < kLanes ? rows - row : kLanes;
    for (int64_t k = 0; k < kc; k += kLanes) {
      const int64_t steps = kc - k < kLanes ? kc - k : kLanes;
      const int64_t left = elements - k * kPer;
      typename V::Reg block[kLanes];
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) {
        const unsigned char* at = source + ((row + i) * stride + k * kPer) * ElementBytes(kType);
        if (i >= count) {
          block[i] = V::Zero();
        } else if (left >= kLanes * kPer) {
          block[i] = LoadSteps<V, kType>(at, part);
        } else {
          block[i] = LoadFirstSteps<V, kType>(at, left, part);
        }
        if (negate) block[i] = V::Negate(block[i]);
      }
      if constexpr (kRowMajor) {
        float* out = panel + k * width + row * kLanes;
#pragma GCC unroll 16
        for (int i = 0; i < kLanes; ++i) V::Store(out + i * kLanes, block[i]);
      } else {
        V::Transpose(block);
        float* out = panel + k * width + row;
        const int64_t stored = V::kPadSteps ? kLanes : steps;
#pragma GCC unroll 16
        for (int i = 0; i < kLanes; ++i) {
          if (i < stored) V::Store(out + i * width, block[i]);
        }
      }
    }
  }
}

template <class V, bool kRowMajor = false>
void PackRows(const unsigned char* source, Element type, int64_t stride, int rows, int64_t elements,
              int width, bool negate, int part, float* panel) {
  const auto pack = [=](auto of) { of(source, stride, rows, elements, width, negate, part, panel); };
  switch (type) {
    case Element::kF32:
      return pack(&PackRowsOf<V, Element::kF32, kRowMajor>);
    case Element::kF16:
      return pack(&PackRowsOf<V, Element::kF16, kRowMajor>);
    case Element::kBF16:
      return pack(&PackRowsOf<V, Element::kBF16, kRowMajor>);
  }
}

// One step of kLanes columns from `from` on, of which `left` exist; `elements` rows are left.
template <class V>
typename V::Reg LoadColumns(const float* from, int64_t stride, int64_t left, int64_t elements, int part) {
  const auto row = [=](int64_t i) {
    if (i >= elements) return V::Zero();
    return left >= V::kLanes ? V::Load(from + i * stride)
                             : V::LoadFirst(from + i * stride, static_cast<int>(left));
  };
  if constexpr (V::kStepElements == 1) {
    return row(0);
  } else {
    return V::JoinRows(row(0), row(1), part);
  }
}

// One pass over the rows of the source, which are contiguous, into all panels.
template <class V>
void PackCols(const float* source, int64_t stride, int64_t cols, int64_t elements, int valid, int width,
              bool negate, int part, float* panels, int64_t panel_stride) {
  constexpr int kPer = V::kStepElements;
  int64_t kc = (elements + kPer - 1) / kPer;
  if constexpr (V::kPadSteps) kc = (kc + V::kLanes - 1) / V::kLanes * V::kLanes;
  for (int64_t k = 0; k < kc; ++k) {
    const float* from = source + k * kPer * stride;
    float* to = panels + k * width;
    for (int64_t col = 0; col < cols; col += valid, to += panel_stride) {
      const int64_t count = cols - col < valid ? cols - col : valid;
      for (int lane = 0; lane < width; lane += V::kLanes) {
        typename V::Reg value =
            LoadColumns<V>(from + col + lane, stride, count - lane, elements - k * kPer, part);
        if (negate) value = V::Negate(value);
        V::Store(to + lane, value);
      }
    }
  }
}

// Adds the products of `steps` (a multiple of kDotSums) elements of one row of A and kDotRows rows of B
// to sums[j][kDotSums], fetching what lies ahead_bytes further into the cache.
template <class V, Element kType>
void DotSteps(const float* a, const unsigned char* const* b, int64_t steps, int64_t ahead_bytes,
              float (*sums)[kDotSums]) {
  constexpr int kRegs = V::kDotRegs, kRows = V::kDotRows, kLanes = V::kLanes;
  for (int first = 0; first < kDotSums; first += kRegs * kLanes) {
    typename V::Reg sum[kRows][kRegs];
#pragma GCC unroll 4
    for (int j = 0; j < kRows; ++j) {
#pragma GCC unroll 8
      for (int q = 0; q < kRegs; ++q) sum[j][q] = V::Load(sums[j] + first + q * kLanes);
    }
    for (int64_t k = first; k < steps; k += kDotSums) {
#pragma GCC unroll 8
      for (int q = 0; q < kRegs; ++q) {
        const int64_t at = k + q * kLanes;
        const typename V::Reg left = V::Load(a + at);
#pragma GCC unroll 4
        for (int j = 0; j < kRows; ++j) {
          const unsigned char* from = b[j] + at * ElementBytes(kType);
          __builtin_prefetch(reinterpret_cast<const void*>(reinterpret_cast<intptr_t>(from) + ahead_bytes));
          const typename V::Reg right = V::template LoadElements<kType>(from);
          sum[j][q] = V::MulAdd(left, right, sum[j][q]);
        }
      }
    }
#pragma GCC unroll 4
    for (int j = 0; j < kRows; ++j) {
#pragma GCC unroll 8
      for (int q = 0; q < kRegs; ++q) V::Store(sums[j] + first + q * kLanes, sum[j][q]);
    }
  }
}

template <class V>
float JoinSums(const float* sums) {
  constexpr int kCount = kDotSums / V::kLanes;
  typename V::Reg part[kCount];
  for (int q = 0; q < kCount; ++q) part[q] = V::Load(sums + q * V::kLanes);
  for (int half = kCount / 2; half > 0; half /= 2) {
    for (int q = 0; q < half; ++q) part[q] = V::Add(part[q], part[q + half]);
  }
  return V::HalvingSum(part[0]);
}

// The last, partial block of kDotSums elements, padded with zeros in all rows.
template <class V, Element kType>
void DotTail(const float* a, int64_t a_stride, int m, const unsigned char* const* b, int64_t n,
             float (*sums)[V::kDotRows][kDotSums]) {
  alignas(64) float right[V::kDotRows][kDotSums];
  const unsigned char* rows[V::kDotRows];
  for (int j = 0; j < V::kDotRows; ++j) {
    alignas(64) unsigned char padded[kDotSums * 4] = {};
    memcpy(padded, b[j], static_cast<size_t>(n * ElementBytes(kType)));
    for (int lane = 0; lane < kDotSums; lane += V::kLanes) {
      V::Store(right[j] + lane, V::template LoadElements<kType>(padded + lane * ElementBytes(kType)));
    }
    rows[j] = reinterpret_cast<const unsigned char*>(right[j]);
  }
  for (int i = 0; i < m; ++i) {
    alignas(64) float padded[kDotSums] = {};
    memcpy(padded, a + i * a_stride, static_cast<size_t>(n) * sizeof(float));
    DotSteps<V, Element::kF32>(padded, rows, kDotSums, 0, sums[i]);
  }
}

// Streams B once: 2 or 4 bytes of memory per m multiply-adds, so memory binds. A chunk of kChunk
// elements of B stays in the first-level cache while all m rows of A pass over it.
template <class V, Element kType>
void DotOf(const float* a, int64_t a_stride, int m, const unsigned char* b, int64_t b_stride, int rows,
           int64_t k, float* out) {
  constexpr int64_t kChunk = 1024, kNearBytes = 16384, kFarBytes = 2048;
  const int64_t whole = k / kDotSums * kDotSums;
  // Short rows end before the processor's own prefetch is under way: fetch the next group of rows instead.
  const int64_t group_bytes = b_stride * V::kDotRows * ElementBytes(kType);
  const int64_t ahead = group_bytes <= kNearBytes ? group_bytes : kFarBytes;
  for (int row = 0; row < rows; row += V::kDotRows) {
    const int count = rows - row < V::kDotRows ? rows - row : V::kDotRows;
    alignas(64) float sums[kDotMaxRows][V::kDotRows][kDotSums] = {};
    const unsigned char* from[V::kDotRows];
    for (int64_t begin = 0; begin < whole; begin += kChunk) {
      // Rows that are missing in the last group repeat the group's last one; their sums are dropped.
      for (int j = 0; j < V::kDotRows; ++j) {
        from[j] = b + ((row + (j < count ? j : count - 1)) * b_stride + begin) * ElementBytes(kType);
      }
      const int64_t steps = whole - begin < kChunk ? whole - begin : kChunk;
      for (int i = 0; i < m; ++i) DotSteps<V, kType>(a + i * a_stride + begin, from, steps, ahead, sums[i]);
    }
    if (whole < k) {
      for (int j = 0; j < V::kDotRows; ++j) {
        from[j] = b + ((row + (j < count ? j : count - 1)) * b_stride + whole) * ElementBytes(kType);
      }
      DotTail<V, kType>(a + whole, a_stride, m, from, k - whole, sums);
    }
    for (int j = 0; j < count; ++j) {
      for (int i = 0; i < m; ++i) out[(row + j) * kDotMaxRows + i] = JoinSums<V>(sums[i][j]);
    }
  }
}

template <class V>
void Dot(const float* a, int64_t a_stride, int m, const unsigned char* b, Element type, int64_t b_stride,
         int rows, int64_t k, float* out) {
  switch (type) {
    case Element::kF32:
      return DotOf<V, Element::kF32>(a, a_stride, m, b, b_stride, rows, k, out);
    case Element::kF16:
      return DotOf<V, Element::kF16>(a, a_stride, m, b, b_stride, rows, k, out);
    case Element::kBF16:
      return DotOf<V, Element::kBF16>(a, a_stride, m, b, b_stride, rows, k, out);
  }
}

// Twelve chains cover a latency of up to 6 cycles at two multiply-adds a cycle, and fit 16 registers.
constexpr int kChains = 12;

template <class V>
float FmaChains(int64_t iterations, float scale, float offset) {
  const typename V::Reg s = V::Broadcast(&scale), o = V::Broadcast(&offset);
  typename V::Reg x[kChains];
  for (int i = 0; i < kChains; ++i) x[i] = V::Zero();
  for (int64_t n = 0; n < iterations; ++n) {
#pragma GCC unroll 12
    for (int i = 0; i < kChains; ++i) x[i] = V::MulAdd(x[i], s, o);
  }
  for (int i = 1; i < kChains; ++i) x[0] = V::Add(x[0], x[i]);
  return V::HalvingSum(x[0]);
}

template <class V>
constexpr Packers MakePackers() {
  return {&PackRows<V>, &PackCols<V>};
}

template <class V>
constexpr KernelSet MakeKernels(const char* name) {
  return {name,
          V::kTileRows,
          V::kTileRegs * V::kLanes,
          V::kPanelWidth,
          1,
          1,
          &Tile<V>,
          MakePackers<V>(),
          MakePackers<V>(),
          &Dot<V>,
          &FmaChains<V>,
          kChains * V::kLanes};
}

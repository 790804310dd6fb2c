// Drivers of the matrix products: blocking, packing and splitting over threads. The arithmetic is in the
// kernel sets (gemm_kernels.h).
//
// Blocking after Goto and van de Geijn, "Anatomy of high-performance matrix multiplication" (ACM TOMS
// 2008), and BLIS. A chunk of A and a chunk of B are packed into panels of register-tile width by all
// threads together, then tiles of C are computed, each by one thread, over all blocks of k in ascending
// order: the sums pass from block to block through C, which keeps every element's chain in order. When A is
// only one tile high, a task packs its own panel of B and uses it at once from its cache instead.
#include "math/gemm.h"

#include <algorithm>
#include <bit>
#include <chrono>
#include <vector>

#include "base/checked.h"
#include "math/gemm_kernels.h"
#include "math/gemm_scratch.h"

namespace planish {
namespace {

using gemm::Element;
using gemm::KernelSet;
using gemm::Scratch;

// Steps of k in a block: the panels of A of a tile (144 x 768, 500 KiB with padding) stay in the second-level
// cache, panels of B (32 x 768, 96 KiB) pass through it. Long blocks, because C is read and written per
// block.
constexpr int64_t kBlockK = 768;
// Rows and columns of C that are one task's: small enough for even loads, large enough that reading the
// packed panels from the shared cache costs about a byte a cycle.
constexpr int64_t kTileRows = 144, kTileCols = 512;
// Up to this many rows of A, tasks pack their own panels of B.
constexpr int64_t kNarrowRows = 144;
// Bounds of a packed chunk: 24 MiB for A and B together, which a last-level cache of 32 MiB keeps; longer
// chunks of k read and write C less often.
constexpr int64_t kChunkRows = 2048, kChunkFloats = int64_t{6} << 20;
constexpr int64_t kMinChunkK = 512;
// Below this many floats packing is not worth waking threads.
constexpr int64_t kInlinePack = 16384;

// The size of equal parts of n, each at most `limit` and a multiple of `unit`.
int64_t EvenPart(int64_t n, int64_t limit, int64_t unit) {
  const int64_t parts = CeilDiv(n, std::max(limit, unit));
  return CeilDiv(CeilDiv(n, parts), unit) * unit;
}

const KernelSet& FloatKernels(const Context& context) {
  PLANISH_CHECK(context.pool != nullptr);
  PLANISH_CHECK(IsaSupported(context.isa)) << IsaName(context.isa) << " is not supported by this processor";
  switch (context.isa) {
    case Isa::kScalar:
      return gemm::kScalarKernels;
    case Isa::kSse4:
      return context.profile == Profile::kStrict ? gemm::kScalarKernels : gemm::kSse4Kernels;
    case Isa::kAvx2:
      return gemm::kAvx2Kernels;
    case Isa::kAvx512:
      return gemm::kAvx512Kernels;
  }
  PLANISH_CHECK(false) << static_cast<int>(context.isa);
  return gemm::kScalarKernels;
}

// Those of bf16 where the precision wants them and the processor has them. Asking the processor takes long in
// a virtual machine, so that it is asked once.
const KernelSet& Kernels(const Context& context, Precision precision) {
  PLANISH_CHECK(precision == Precision::kF32 || context.profile == Profile::kFast)
      << PrecisionName(precision) << " in the strict profile";
#if defined(__x86_64__)
  if (precision != Precision::kF32 && context.isa == Isa::kAvx512) {
    static const KernelSet* const kPairs = AllowTiles()                      ? &gemm::kAmxKernels
                                           : CpuHas(CpuFeature::kAvx512Bf16) ? &gemm::kAvx512Bf16Kernels
                                                                             : nullptr;
    if (kPairs != nullptr) return *kPairs;
  }
#endif
  return FloatKernels(context);
}

// What the panels of fp32 kernels hold of their values under a precision.
void RoundTo(Precision precision, float* values, int64_t n) {
  const auto round = [](uint32_t bits) {
    const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1)) & 0xffff0000u;
    return (bits & 0x7fffffffu) > 0x7f800000u ? bits : rounded;
  };
  for (int64_t i = 0; i < n; ++i) {
    const float value = values[i], first = std::bit_cast<float>(round(std::bit_cast<uint32_t>(value)));
    if (precision == Precision::kBF16) {
      values[i] = first;
    } else {
      values[i] = first + std::bit_cast<float>(round(std::bit_cast<uint32_t>(value - first)));
    }
  }
}

Element ElementOf(DType type) {
  PLANISH_CHECK(IsComputable(type)) << DTypeName(type);
  return type == DType::kF32 ? Element::kF32 : type == DType::kF16 ? Element::kF16 : Element::kBF16;
}

// One factor, seen as [extent, k]: rows contiguous in k, columns (a row-major [k, extent]), or made rows.
struct Factor {
  enum class Form { kRows, kCols, kSource } form = Form::kRows;
  const std::byte* data = nullptr;
  Element type = Element::kF32;
  int64_t extent = 0, k = 0, stride = 0;
  const RowSource* source = nullptr;
  bool negate = false;
  int parts = 1;  // 2: its values and their rests are packed, as bf16 (Precision::kSplit)
};

const std::byte* Bytes(const float* p) { return reinterpret_cast<const std::byte*>(p); }
const unsigned char* Chars(const std::byte* p) { return reinterpret_cast<const unsigned char*>(p); }
Factor RowsOf(MatView<const float> m) {
  return {Factor::Form::kRows, Bytes(m.data), Element::kF32, m.rows, m.cols, m.stride};
}
Factor ColsOf(MatView<const float> m) {
  return {Factor::Form::kCols, Bytes(m.data), Element::kF32, m.cols, m.rows, m.stride};
}

// The part of k that is packed at a time, cut into blocks; all in steps, a step being one element or two.
struct KRange {
  int64_t begin = 0, count = 0, block = 0;
  int64_t Blocks() const { return CeilDiv(count, block); }
  int64_t Steps(int64_t q) const { return std::min(block, count - q * block); }
};

// A chunk of a factor and its packed panels: block q of k holds all panels, each steps * width floats; behind
// them the same of the second part.
struct Chunk {
  const Factor* factor = nullptr;
  const gemm::Packers* packers = nullptr;
  int64_t begin = 0, count = 0;  // rows of the factor
  int valid = 0, width = 0;      // rows in a panel; its padded width
  float* packed = nullptr;

  int64_t Panels() const { return CeilDiv(count, valid); }
  int64_t PanelRows(int64_t p) const { return std::min<int64_t>(valid, count - p * valid); }
  int64_t PartFloats(const KRange& range) const { return Panels() * width * range.count; }
  int64_t Floats(const KRange& range) const { return PartFloats(range) * factor->parts; }
  float* Panel(const KRange& range, int64_t q, int64_t p, int part = 0) const {
    return packed + part * PartFloats(range) + (q * range.block * Panels() + p * range.Steps(q)) * width;
  }
  // Panels that are packed in one go: columns share the cache lines of a row of the source.
  int64_t Group() const { return factor->form == Factor::Form::kCols ? 8 : 2; }
  int64_t Groups() const { return CeilDiv(Panels(), Group()); }
};

// How a product takes its factors.
struct Packing {
  const KernelSet& set;
  Precision precision;

  // Elements of block q.
  int64_t Elements(const Factor& factor, const KRange& range, int64_t q) const {
    const int64_t first = (range.begin + q * range.block) * set.step_elements;
    return std::min(range.Steps(q) * set.step_elements, factor.k - first);
  }
  // Panels of floats hold what the precision leaves of them; those of pairs are packed so.
  void Round(float* panel, int64_t floats) const {
    if (precision != Precision::kF32 && set.step_elements == 1) RoundTo(precision, panel, floats);
  }
  void RowPanel(const Chunk& chunk, const KRange& range, int64_t p) const;
  void Group(const Chunk& chunk, const KRange& range, int64_t group) const;
};

void Packing::RowPanel(const Chunk& chunk, const KRange& range, int64_t p) const {
  const Factor& factor = *chunk.factor;
  const int64_t first = chunk.begin + p * chunk.valid, at = range.begin * set.step_elements;
  const int rows = static_cast<int>(chunk.PanelRows(p));
  const bool made = factor.form == Factor::Form::kSource;
  const int64_t elements = std::min(range.count * set.step_elements, factor.k - at);
  // Made rows lie 16 floats further apart than they are long, lest all start in one set of the cache.
  const int64_t stride = made ? elements + 16 : factor.stride;
  Scratch scratch(made ? rows * stride : 0);
  const int64_t size = gemm::Element::kF32 == factor.type ? 4 : 2;
  const std::byte* data = made ? Bytes(scratch.data()) : factor.data + (first * stride + at) * size;
  if (made) factor.source->Read(first, rows, at, elements, scratch.data(), stride);
  for (int64_t q = 0; q < range.Blocks(); ++q) {
    const std::byte* from = data + q * range.block * set.step_elements * size;
    for (int part = 0; part < factor.parts; ++part) {
      float* panel = chunk.Panel(range, q, p, part);
      chunk.packers->rows(Chars(from), factor.type, stride, rows, Elements(factor, range, q), chunk.width,
                          factor.negate, part, panel);
      Round(panel, range.Steps(q) * chunk.width);
    }
  }
}

void Packing::Group(const Chunk& chunk, const KRange& range, int64_t group) const {
  const int64_t p0 = group * chunk.Group(), p1 = std::min(chunk.Panels(), p0 + chunk.Group());
  const Factor& factor = *chunk.factor;
  if (factor.form != Factor::Form::kCols) {
    for (int64_t p = p0; p < p1; ++p) RowPanel(chunk, range, p);
    return;
  }
  const auto* data = reinterpret_cast<const float*>(factor.data);
  const int64_t col = p0 * chunk.valid, cols = std::min(chunk.count, p1 * chunk.valid) - col;
  for (int64_t q = 0; q < range.Blocks(); ++q) {
    const int64_t k = (range.begin + q * range.block) * set.step_elements, steps = range.Steps(q);
    for (int part = 0; part < factor.parts; ++part) {
      float* panels = chunk.Panel(range, q, p0, part);
      chunk.packers->cols(data + k * factor.stride + chunk.begin + col, factor.stride, cols,
                          Elements(factor, range, q), chunk.valid, chunk.width, factor.negate, part, panels,
                          steps * chunk.width);
      Round(panels, (p1 - p0) * steps * chunk.width);
    }
  }
}

// One product in progress.
struct Product {
  const KernelSet& set;
  ThreadPool& pool;
  Factor a, b;
  MatView<float> c;
  bool keep_old;    // the chains start from C
  bool upper_only;  // skip tiles strictly below the diagonal
  Precision precision = Precision::kF32;
  // The chunk at hand.
  KRange range = {};
  Chunk rows = {}, cols = {};
  int64_t tile_rows = 0, tile_cols = 0;  // in panels

  // Steps of k, padding included.
  int64_t AllSteps() const { return CeilDiv(CeilDiv(a.k, set.step_elements), set.k_unit) * set.k_unit; }
  Packing packing() const { return {set, precision}; }
  void Run();
  void RunShared();
  void RunNarrow();
  void Pack(bool with_rows, bool with_cols);
  void ComputeTiles();
  // Tiles of rows' panels [p0, p1) and columns' panels [r0, r1), over all blocks of k.
  void ComputeTile(int64_t p0, int64_t p1, const Chunk& columns, int64_t r0, int64_t r1) const;
};

void Product::Run() {
  if (c.rows == 0 || c.cols == 0) return;
  if (a.k == 0) {
    for (int64_t i = 0; i < c.rows && !keep_old; ++i) std::fill_n(c.row(i), c.cols, 0.0f);
    return;
  }
  a.negate = a.negate && keep_old;
  rows.factor = &a;
  rows.packers = &set.a;
  cols.packers = &set.b;
  rows.valid = set.mr;
  rows.width = set.a_width;
  cols.factor = &b;
  cols.valid = cols.width = set.nr;
  if (c.rows <= kNarrowRows) {
    RunNarrow();
  } else {
    RunShared();
  }
}

void Product::RunShared() {
  const int64_t chunk_m = EvenPart(c.rows, kChunkRows, set.mr),
                chunk_n = EvenPart(c.cols, kChunkRows, set.nr);
  const int64_t all = AllSteps();
  const int64_t chunk_k =
      EvenPart(all, std::max(kMinChunkK, kChunkFloats / (chunk_m * a.parts + chunk_n * b.parts)), 16);
  range.block = EvenPart(std::min(chunk_k, all), kBlockK, 16);
  const int64_t a_floats = CeilDiv(chunk_m, set.mr) * set.a_width * chunk_k * a.parts;
  Scratch scratch(a_floats + chunk_n * chunk_k * b.parts);  // in one piece, so that it gets huge pages sooner
  rows.packed = scratch.data();
  cols.packed = scratch.data() + a_floats;
  tile_rows = EvenPart(CeilDiv(chunk_m, set.mr), kTileRows / set.mr, 1);
  tile_cols = EvenPart(CeilDiv(chunk_n, set.nr), kTileCols / set.nr, 1);
  for (range.begin = 0; range.begin < all; range.begin += chunk_k) {
    range.count = std::min(chunk_k, all - range.begin);
    for (rows.begin = 0; rows.begin < c.rows; rows.begin += chunk_m) {
      rows.count = std::min(chunk_m, c.rows - rows.begin);
      bool rows_packed = false;
      for (cols.begin = 0; cols.begin < c.cols; cols.begin += chunk_n) {
        cols.count = std::min(chunk_n, c.cols - cols.begin);
        if (upper_only && cols.begin + cols.count <= rows.begin) continue;
        Pack(!rows_packed, true);
        rows_packed = true;
        ComputeTiles();
      }
    }
  }
}

// A is packed once for a chunk of k; a task packs one group of panels of B into its thread's memory.
void Product::RunNarrow() {
  constexpr int64_t kPanelFloats = int64_t{1} << 16;  // 256 KiB of packed B stay in the second-level cache
  const int64_t group = b.form == Factor::Form::kCols ? 2 : 1;
  const int64_t all = AllSteps();
  const int64_t chunk_k = EvenPart(all, kPanelFloats / (group * set.nr * b.parts), 16);
  range.block = EvenPart(std::min(chunk_k, all), kBlockK, 16);
  rows.count = c.rows;
  Scratch scratch(rows.Panels() * set.a_width * chunk_k * a.parts);
  rows.packed = scratch.data();
  cols.count = c.cols;
  for (range.begin = 0; range.begin < all; range.begin += chunk_k) {
    range.count = std::min(chunk_k, all - range.begin);
    Pack(true, false);
    const auto task = [this, group](int64_t t) {
      Chunk part = cols;
      part.begin = t * group * part.valid;
      part.count = std::min(group * part.valid, c.cols - part.begin);
      Scratch panel(part.Floats(range));
      part.packed = panel.data();
      for (int64_t g = 0; g < part.Groups(); ++g) packing().Group(part, range, g);
      ComputeTile(0, rows.Panels(), part, 0, part.Panels());
    };
    pool.ParallelFor(CeilDiv(cols.Panels(), group), task);
  }
}

void Product::Pack(bool with_rows, bool with_cols) {
  const int64_t row_groups = with_rows ? rows.Groups() : 0, col_groups = with_cols ? cols.Groups() : 0;
  const auto task = [this, row_groups](int64_t t) {
    packing().Group(t < row_groups ? rows : cols, range, t < row_groups ? t : t - row_groups);
  };
  if (!with_cols && rows.Floats(range) <= kInlinePack) {
    for (int64_t t = 0; t < row_groups; ++t) task(t);
  } else {
    pool.ParallelFor(row_groups + col_groups, task);
  }
}

void Product::ComputeTiles() {
  const int64_t across = CeilDiv(cols.Panels(), tile_cols), down = CeilDiv(rows.Panels(), tile_rows);
  pool.ParallelFor(across * down, [this, across](int64_t t) {
    const int64_t p0 = t / across * tile_rows, p1 = std::min(rows.Panels(), p0 + tile_rows);
    const int64_t r0 = t % across * tile_cols, r1 = std::min(cols.Panels(), r0 + tile_cols);
    ComputeTile(p0, p1, cols, r0, r1);
  });
}

// The products of parts that count: values by values, then values by rests and rests by values.
struct Term {
  int a, b;
};
constexpr Term kTerms[] = {{0, 0}, {0, 1}, {1, 0}};

void Product::ComputeTile(int64_t p0, int64_t p1, const Chunk& columns, int64_t r0, int64_t r1) const {
  for (int64_t q = 0; q < range.Blocks(); ++q) {
    const int64_t steps = range.Steps(q);
    const bool load = keep_old || range.begin > 0 || q > 0;
    for (int64_t r = r0; r < r1; ++r) {
      const float* right = columns.Panel(range, q, r);
      const int64_t j = columns.begin + r * columns.valid;
      const int width = static_cast<int>(columns.PanelRows(r));
      // The first tiles fetch the next panel of B, line by line; the others the next panel of A.
      const float* next = right + steps * columns.width;
      const float* next_end = next + steps * columns.width;
      for (int64_t p = p0; p < p1; ++p) {
        const int64_t i = rows.begin + p * rows.valid;
        if (upper_only && j + width <= i) break;
        const float* left = rows.Panel(range, q, p);
        const float* ahead = next < next_end ? next : left + steps * rows.width;
        next += next < next_end ? steps * 16 : 0;
        for (const Term& term : kTerms) {
          if (term.a >= a.parts || term.b >= b.parts) continue;
          set.tile(steps, left + term.a * rows.PartFloats(range), right + term.b * columns.PartFloats(range),
                   c.row(i) + j, c.stride, static_cast<int>(rows.PanelRows(p)), width,
                   load || term.a + term.b > 0, ahead);
        }
      }
    }
  }
}

void RunProduct(const Context& context, const Factor& a, const Factor& b, MatView<float> c, Accumulate op,
                Precision precision, bool upper_only = false) {
  PLANISH_CHECK(a.k == b.k && a.extent == c.rows && b.extent == c.cols)
      << "[" << a.extent << "," << a.k << "] x [" << b.extent << "," << b.k << "] -> [" << c.rows << ","
      << c.cols << "]";
  Product product{Kernels(context, precision), *context.pool, a,        b, c,
                  op != Accumulate::kSet,      upper_only,    precision};
  product.a.negate = op == Accumulate::kSubtract;
  if (precision == Precision::kSplit && product.set.step_elements == 2) {
    // What is bf16 already has no rest.
    for (Factor* factor : {&product.a, &product.b}) factor->parts = factor->type == Element::kBF16 ? 1 : 2;
  }
  product.Run();
}

// Few rows of A: every row of B is one dot product with each of them.
struct SmallProduct {
  const KernelSet& set;
  MatView<const float> a;
  Factor b;
  MatView<float> c;
  Accumulate op;
  int64_t block;  // rows of B in a task

  void RunBlock(int64_t t) const;
};

void SmallProduct::RunBlock(int64_t t) const {
  const int64_t first = t * block, count = std::min(block, b.extent - first);
  const bool made = b.form == Factor::Form::kSource;
  const int64_t size = b.type == Element::kF32 ? 4 : 2;
  Scratch scratch(count * gemm::kDotMaxRows + (made ? count * b.k : 0));
  float* dots = scratch.data();
  float* read = dots + count * gemm::kDotMaxRows;
  if (made) b.source->Read(first, count, 0, b.k, read, b.k);
  const std::byte* data = made ? Bytes(read) : b.data + first * b.stride * size;
  set.dot(a.data, a.stride, static_cast<int>(a.rows), Chars(data), b.type, made ? b.k : b.stride,
          static_cast<int>(count), b.k, dots);
  for (int64_t i = 0; i < a.rows; ++i) {
    float* out = c.row(i) + first;
    for (int64_t j = 0; j < count; ++j) {
      const float dot = dots[j * gemm::kDotMaxRows + i];
      out[j] = op == Accumulate::kSet ? dot : op == Accumulate::kAdd ? out[j] + dot : out[j] - dot;
    }
  }
}

void MatMulRows(const Context& context, MatView<const float> a, const Factor& b, MatView<float> c,
                Accumulate op, Precision precision) {
  static_assert(kSmallM == gemm::kDotMaxRows);
  if (a.rows > kSmallM || a.rows == 0) return RunProduct(context, RowsOf(a), b, c, op, precision);
  PLANISH_CHECK(a.cols == b.k && a.rows == c.rows && b.extent == c.cols)
      << "[" << a.rows << "," << a.cols << "] x [" << b.extent << "," << b.k << "] -> [" << c.rows << ","
      << c.cols << "]";
  // Tasks of about 128 KiB of floats: long enough to be worth a start, short enough to balance.
  const int64_t block = std::clamp<int64_t>(32768 / std::max<int64_t>(1, b.k) / 4 * 4, 4, 64);
  const SmallProduct product{FloatKernels(context), a, b, c, op, block};
  context.pool->ParallelFor(CeilDiv(b.extent, block), [&product](int64_t t) { product.RunBlock(t); });
}

// Squares of the lower triangle are copied while both sides fit the first-level cache.
void MirrorUpper(const Context& context, MatView<float> h) {
  constexpr int64_t kSide = 32;
  context.pool->ParallelFor(CeilDiv(h.rows, kSide), [&h](int64_t t) {
    const int64_t i0 = t * kSide, i1 = std::min(h.rows, i0 + kSide);
    for (int64_t j0 = 0; j0 < i1; j0 += kSide) {
      for (int64_t i = i0; i < i1; ++i) {
        for (int64_t j = j0; j < std::min(j0 + kSide, i); ++j) h(i, j) = h(j, i);
      }
    }
  });
}

double Seconds(std::chrono::steady_clock::time_point since) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - since).count();
}

}  // namespace

void MatMulNT(const Context& context, MatView<const float> a, const WeightView& b, MatView<float> c,
              Accumulate op, Precision precision) {
  MatMulRows(context, a, {Factor::Form::kRows, b.data, ElementOf(b.type), b.rows, b.cols, b.stride}, c, op,
             precision);
}

void MatMulNT(const Context& context, MatView<const float> a, const RowSource& b, MatView<float> c,
              Accumulate op, Precision precision) {
  MatMulRows(context, a, {Factor::Form::kSource, nullptr, Element::kF32, b.rows(), b.cols(), 0, &b}, c, op,
             precision);
}

void MatMulNN(const Context& context, MatView<const float> a, MatView<const float> b, MatView<float> c,
              Accumulate op) {
  RunProduct(context, RowsOf(a), ColsOf(b), c, op, Precision::kF32);
}

void MatMulTN(const Context& context, MatView<const float> a, MatView<const float> b, MatView<float> c,
              Accumulate op) {
  RunProduct(context, ColsOf(a), ColsOf(b), c, op, Precision::kF32);
}

void Gram(const Context& context, MatView<const float> x, MatView<float> h, Accumulate op,
          Precision precision) {
  RunProduct(context, ColsOf(x), ColsOf(x), h, op, precision, true);
  MirrorUpper(context, h);
}

std::string GemmKernelsText(const Context& context, Precision precision) {
  const KernelSet& set = Kernels(context, precision);
  const bool rounded = precision != Precision::kF32 && set.step_elements == 1;
  return rounded ? std::string(set.name) + ", rounded to " + std::string(PrecisionName(precision)) : set.name;
}

bool HasFastBf16(const Context& context) {
  return context.profile == Profile::kFast && Kernels(context, Precision::kBF16).step_elements == 2;
}

bool HasMatrixTiles(const Context& context) {
  return context.profile == Profile::kFast && Kernels(context, Precision::kBF16).k_unit > 1;
}

double MeasureFmaPeak(const Context& context, Precision precision) {
  const KernelSet& set = Kernels(context, precision);
  const int threads = context.pool->NumThreads();
  std::vector<float> sums(static_cast<size_t>(threads));
  double best = 0;
  // Long enough (a millisecond or more) that waking the threads does not count.
  int64_t iterations = 1000;
  for (double seconds = 0; seconds < 1e-3; iterations *= 2) {
    const auto start = std::chrono::steady_clock::now();
    sums[0] = set.fma_chains(iterations, 0.5f, 1.0f);
    seconds = Seconds(start);
  }
  for (int run = 0; run < 8; ++run) {
    const auto start = std::chrono::steady_clock::now();
    context.pool->ParallelFor(threads, [&](int64_t i) {
      sums[static_cast<size_t>(i)] = set.fma_chains(iterations, 0.5f, static_cast<float>(run + 1));
    });
    const double seconds = Seconds(start);
    PLANISH_CHECK(sums[0] > 0) << sums[0];
    best = std::max(best, static_cast<double>(iterations * set.fma_per_iteration * threads) / seconds);
  }
  return best;
}

double MeasureGemmRate(const Context& context, int runs) {
  constexpr int64_t kM = 1024, kN = 2048, kK = 768;
  Mat<float> a(kM, kK), b(kN, kK), c(kM, kN);
  a.Fill(0.5f);
  b.Fill(0.25f);
  double best = 0;
  for (int run = 0; run < runs; ++run) {
    const auto start = std::chrono::steady_clock::now();
    MatMulNT(context, a, Weights(b.view()), c);
    best = std::max(best, static_cast<double>(kM * kN * kK) / Seconds(start));
  }
  return best;
}

}  // namespace planish

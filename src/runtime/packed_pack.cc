#include "runtime/packed_pack.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <new>

#include "base/check.h"
#include "base/checked.h"
#include "runtime/packed_linear.h"

namespace planish {
namespace {

using packed::KernelSet;
using packed::Offsets;
using packed::Scales;

uint8_t* RawOut(std::byte* p) { return reinterpret_cast<uint8_t*>(p); }

// ---- planning ----

// A factor of a low-rank path, in steps of `step` whatever its groups.
CodePlan PlanFactor(const Matrix& matrix, int step, bool constant_zero, bool eight_bits) {
  const auto* coded = std::get_if<Coded>(&matrix.body);
  if (coded != nullptr && coded->grid.PlainInteger() &&
      StepFits(coded->grid.GroupSize(matrix.cols), matrix.cols, step) &&
      (coded->grid.symmetric || !constant_zero)) {
    auto plan = PlanCodes(matrix, step);
    if (plan.has_value() && plan->shape.step == step) {
      if (eight_bits) plan->shape.kind = PackedKind::kInt8;
      return *std::move(plan);
    }
  }
  return PlanRoundedCodes(matrix, step);
}

const ProductPart* TwoFactors(const Matrix& matrix) {
  const auto* product = std::get_if<ProductPart>(&matrix.body);
  return product != nullptr && product->factors.size() == 2 ? product : nullptr;
}

void AddNote(std::string& note, const std::string& more) {
  if (!more.empty()) note += (note.empty() ? "" : "; ") + more;
}

Status PlanLowRank(const ProductPart& product, PackPlan& plan) {
  const Matrix& u = product.factors.front();
  const Matrix& v = product.factors.back();
  CodePlan v_codes = PlanFactor(v, plan.shape.step, false, false);
  CodePlan u_codes = PlanFactor(u, kLowRankStep, true, true);
  AddNote(plan.note, v_codes.note);
  AddNote(plan.note, u_codes.note);
  auto inner = std::make_shared<PackPlan>();
  inner->shape = v_codes.shape;
  PLANISH_TRY(inner->layout, LayOutPacked(inner->shape));
  inner->main = std::move(v_codes.source);
  plan.shape.rank = v.rows;
  plan.shape.u_zero = u_codes.shape.zero;
  plan.shape.v_bytes = inner->layout.total;
  plan.u = std::move(u_codes.source);
  plan.v = std::move(inner);
  return {};
}

// Codes with groups in an order of their own stay what they were rounded to: bf16 would round them again.
PackedKind DenseKind(const Matrix& matrix) {
  const auto* coded = std::get_if<Coded>(&matrix.body);
  if (coded != nullptr && coded->Scattered()) return PackedKind::kF32;
  const auto* dense = std::get_if<Dense>(&matrix.body);
  if (dense == nullptr || dense->type == DType::kBF16) return PackedKind::kBF16;
  return dense->type == DType::kF16 ? PackedKind::kF16 : PackedKind::kF32;
}

void PlanDense(const Matrix& matrix, PackPlan& plan) {
  plan.shape.kind = DenseKind(matrix);
  plan.dense = matrix;
  if (!std::holds_alternative<Dense>(matrix.body)) {
    plan.note = fmt::format("packed as {} from decoded rows: no kernel for {}",
                            plan.shape.kind == PackedKind::kF32 ? "f32" : "bf16", Describe(matrix));
  }
}

// The row's scale is fp16, at least a 255th of the largest.
uint16_t RowScale(const uint16_t* scales, int64_t steps) {
  float largest = 0;
  for (int64_t s = 0; s < steps; ++s) largest = std::max(largest, ToFloat(F16{scales[s]}));
  return ToF16(largest / 255.0f).bits;
}
uint16_t ScaleCode(uint16_t scale, uint16_t row_scale) {
  const float unit = ToFloat(F16{row_scale});
  if (!(unit > 0)) return 0;
  return static_cast<uint16_t>(std::clamp(std::nearbyint(ToFloat(F16{scale}) / unit), 0.0f, 255.0f));
}

// fp16 scales rounded to bytes under the rows.
TileCodeSource WithByteScales(TileCodeSource inner) {
  return [inner = std::move(inner)](const KernelSet& kernels, int64_t row, int64_t count, TileCodes& out) {
    inner(kernels, row, count, out);
    for (int64_t i = 0; i < count; ++i) {
      uint16_t* scales = out.scales.data() + i * out.steps;
      out.units[i] = RowScale(scales, out.steps);
      for (int64_t s = 0; s < out.steps; ++s) scales[s] = ScaleCode(scales[s], out.units[i]);
    }
  };
}

Status FinishPlan(const PackOptions& options, PackPlan& plan) {
  plan.outliers.insert(plan.outliers.end(), options.outliers.begin(), options.outliers.end());
  for (const PackedOutlier& o : plan.outliers) {
    if (o.row >= plan.shape.rows || o.column >= plan.shape.cols) {
      return InputError(fmt::format("outlier at ({}, {}) of a matrix [{}, {}]", o.row, o.column,
                                    plan.shape.rows, plan.shape.cols));
    }
  }
  std::sort(plan.outliers.begin(), plan.outliers.end(), [](const PackedOutlier& a, const PackedOutlier& b) {
    return std::pair(a.row, a.column) < std::pair(b.row, b.column);
  });
  plan.shape.num_outliers = static_cast<int64_t>(plan.outliers.size());
  PLANISH_TRY(plan.layout, LayOutPacked(plan.shape));
  return {};
}

// ---- writing ----

void PutHalves(const uint16_t* halves, int64_t stride, uint8_t* out) {
  for (int64_t i = 0; i < kTileRows; ++i) std::memcpy(out + 2 * i, halves + i * stride, 2);
}

// Values of n steps for each row: 16 fp16 a step, 16 bytes a step, or nibbles of two steps in 16 bytes.
enum class Width { kHalf, kByte, kNibble };
template <typename T>
uint8_t* PutSteps(const T* values, int64_t stride, int64_t n, Width width, uint8_t* out) {
  for (int64_t s = 0; s < n; ++s) {
    for (int64_t i = 0; i < kTileRows; ++i) {
      const T value = values[i * stride + s];
      if (width == Width::kHalf) std::memcpy(out + 32 * s + 2 * i, &value, 2);
      if (width == Width::kByte) out[16 * s + i] = static_cast<uint8_t>(value);
      if (width == Width::kNibble)
        out[16 * (s / 2) + i] |= static_cast<uint8_t>((value & 15) << (4 * (s & 1)));
    }
  }
  return out + (width == Width::kHalf ? 32 * n : width == Width::kByte ? 16 * n : 16 * ((n + 1) / 2));
}

// In front of the codes of n steps from `step` on; `out` is zeros.
void WriteBlockHeader(const PackedShape& shape, const TileCodes& codes, int64_t step, int64_t n,
                      uint8_t* out) {
  const int64_t block = step / BlockSteps(shape.step);
  if (shape.scales == Scales::kBlockBytes || shape.scales == Scales::kBlockNibbles) {
    PutHalves(codes.units.data() + block, codes.blocks, out);
    out += 32;
  }
  if (shape.offsets == Offsets::kBlockBytes || shape.offsets == Offsets::kBlockNibbles) {
    PutHalves(codes.offset_units.data() + block, codes.blocks, out);
    out += 32;
  }
  out = PutSteps(codes.scales.data() + step, codes.steps, n,
                 shape.scales == Scales::kHalf ? Width::kHalf : Width::kByte, out);
  const uint16_t* offsets = codes.offsets.data() + step;
  if (shape.offsets == Offsets::kNibbles) out = PutSteps(offsets, codes.steps, n, Width::kNibble, out);
  if (shape.offsets == Offsets::kHalf) out = PutSteps(offsets, codes.steps, n, Width::kHalf, out);
  if (shape.offsets == Offsets::kBytes || shape.offsets == Offsets::kBlockBytes) {
    out = PutSteps(offsets, codes.steps, n, Width::kByte, out);
  }
  if (HasSets(shape.kind)) PutSteps(codes.sets.data() + step, codes.steps, n, Width::kNibble, out);
}

// Tables of the rows, those of row i from tables[i * stride] on; see packed_layout.h.
uint8_t* WriteRowTables(PackedKind kind, const uint8_t* tables, int64_t stride, uint8_t* out) {
  const int entries = 1 << PackedBits(kind), in_line = packed::kTableEntries / entries;
  for (int row = 0; row < kTileRows; ++row) {
    std::memcpy(out + 64 * (row % 4 / in_line) + 16 * (row / 4) + row % 4 % in_line * entries,
                tables + row * stride, static_cast<size_t>(entries));
  }
  return out + PackedTableBytes(kind);
}

// One tile's segment; returns its end.
uint8_t* WriteSegment(const KernelSet& kernels, const PackedShape& shape, const TileCodes& codes,
                      uint8_t* out) {
  if (shape.scales == Scales::kRowBytes) {
    std::memset(out, 0, 64);
    PutHalves(codes.units.data(), 1, out);
    out += 64;
  }
  const bool step_tables = HasStepTables(shape);
  const int64_t tables_stride = packed::kTableEntries * (step_tables ? codes.steps : 1);
  if (HasRowTables(shape.kind) && !step_tables) {
    out = WriteRowTables(shape.kind, codes.tables.data(), tables_stride, out);
  }
  const int unit = UnitColumns(shape.step);
  const int64_t block_steps = BlockSteps(shape.step), unit_bytes = PackedStepBytes(shape.kind, unit);
  for (int64_t s = 0; s < codes.steps; s += unit / shape.step) {
    if (s % block_steps == 0) {
      const int64_t n = std::min(block_steps, codes.steps - s), header = PackedBlockHeader(shape, n);
      std::memset(out, 0, static_cast<size_t>(header));
      WriteBlockHeader(shape, codes, s, n, out);
      out += header;
      for (int64_t i = s; step_tables && i < s + n; ++i) {
        out = WriteRowTables(shape.kind, codes.tables.data() + packed::kTableEntries * i, tables_stride, out);
      }
    }
    kernels.interleave(shape.kind, codes.codes.data() + s * shape.step, codes.stride, unit, out);
    out += unit_bytes;
  }
  return out;
}

TileCodes MakeTileCodes(const PackedShape& shape, int64_t steps) {
  TileCodes codes;
  const int step = shape.step;
  codes.steps = steps;
  codes.blocks = shape.scales == Scales::kRowBytes ? 1 : (steps + BlockSteps(step) - 1) / BlockSteps(step);
  codes.stride = steps * step + 64;  // past the end of one row unpacking may write, transposing may read
  codes.codes = Array<uint8_t>(kTileRows * codes.stride, 0);
  for (auto* steps_of : {&codes.scales, &codes.offsets}) *steps_of = Array<uint16_t>(kTileRows * steps, 0);
  codes.sets = Array<uint8_t>(kTileRows * steps, 0);
  const int64_t tables = HasRowTables(shape.kind) ? shape.num_tables : 0;
  codes.tables = Array<uint8_t>(kTileRows * tables * packed::kTableEntries, 0);
  for (auto* units : {&codes.units, &codes.offset_units}) {
    *units = Array<uint16_t>(kTileRows * codes.blocks, 0);
  }
  return codes;
}

template <typename T>
void ClearRowsFrom(int64_t count, int64_t stride, Array<T>& values) {
  std::fill(values.data() + count * stride, values.data() + kTileRows * stride, T{0});
}

// Rows past the matrix keep scale 0; what a row left past its columns meets inputs of zero.
void ClearRows(int64_t count, TileCodes& codes) {
  ClearRowsFrom(count, codes.stride, codes.codes);
  ClearRowsFrom(count, codes.steps, codes.scales);
  ClearRowsFrom(count, codes.steps, codes.offsets);
  ClearRowsFrom(count, codes.steps, codes.sets);
  ClearRowsFrom(count, codes.tables.size() / kTileRows, codes.tables);
  ClearRowsFrom(count, codes.blocks, codes.units);
  ClearRowsFrom(count, codes.blocks, codes.offset_units);
}

// The element of kind T at [row, column]: columns side by side in units of T.
template <typename T>
void ScatterRow(const std::byte* from, int64_t count, int64_t row, uint8_t* out) {
  for (int64_t k = 0; k < count; ++k) {
    std::memcpy(out + (k * kTileRows + row) * static_cast<int64_t>(sizeof(T)),
                from + k * static_cast<int64_t>(sizeof(T)), sizeof(T));
  }
}

void WriteDenseTile(const PackPlan& plan, int64_t row, int64_t count, uint8_t* out) {
  const Matrix& matrix = plan.dense;
  const auto* dense = std::get_if<Dense>(&matrix.body);
  const int64_t size = PackedBits(plan.shape.kind) / 8;
  std::memset(out, 0, static_cast<size_t>(plan.layout.main_bytes));
  Mat<float> values;
  Array<BF16> decoded;
  const std::byte* rows = nullptr;  // the first one
  if (dense != nullptr) {
    rows = dense->data.bytes.data() + row * matrix.cols * size;
  } else {
    values.Resize(count, matrix.cols);
    ReadRows(matrix, row, count, 0, matrix.cols, values.data(), matrix.cols);
    rows = reinterpret_cast<const std::byte*>(values.data());
  }
  if (dense == nullptr && plan.shape.kind == PackedKind::kBF16) {
    decoded.Resize(count * matrix.cols);
    for (int64_t i = 0; i < decoded.size(); ++i) decoded[i] = ToBF16(values.data()[i]);
    rows = reinterpret_cast<const std::byte*>(decoded.data());
  }
  for (int64_t i = 0; i < count; ++i) {
    const std::byte* from = rows + i * matrix.cols * size;
    if (plan.shape.kind == PackedKind::kBF16) {
      ScatterRow<uint32_t>(from, matrix.cols / 2, i, out);
      const int64_t last = matrix.cols - 1;
      if (matrix.cols % 2 != 0) std::memcpy(out + 64 * (last / 2) + 4 * i, from + 2 * last, 2);
    } else if (plan.shape.kind == PackedKind::kF16) {
      ScatterRow<uint16_t>(from, matrix.cols, i, out);
    } else {
      ScatterRow<uint32_t>(from, matrix.cols, i, out);
    }
  }
}

void WriteTiles(const Context& context, const PackPlan& plan, std::byte* out) {
  constexpr int64_t kChunkBytes = 256 << 10;
  const KernelSet& kernels = SelectPackedKernels(context.isa);
  const PackedLayout& at = plan.layout;
  PackedShape u_shape;
  u_shape.kind = PackedKind::kInt8;
  u_shape.step = kLowRankStep;
  const int64_t chunk = std::max<int64_t>(1, kChunkBytes / at.tile_bytes);
  context.pool->ParallelFor((at.tiles + chunk - 1) / chunk, [&](int64_t c) {
    TileCodes main, u;
    if (plan.main) main = MakeTileCodes(plan.shape, at.steps);
    if (plan.u) u = MakeTileCodes(u_shape, at.u_steps);
    for (int64_t tile = c * chunk; tile < std::min(at.tiles, (c + 1) * chunk); ++tile) {
      const int64_t row = tile * kTileRows, count = std::min<int64_t>(kTileRows, plan.shape.rows - row);
      uint8_t* to = RawOut(out) + at.tile_data + tile * at.tile_bytes;
      if (!plan.main) {
        WriteDenseTile(plan, row, count, to);
        continue;
      }
      plan.main(kernels, row, count, main);
      ClearRows(count, main);
      to = WriteSegment(kernels, plan.shape, main, to);
      if (!plan.u) continue;
      plan.u(kernels, row, count, u);
      ClearRows(count, u);
      WriteSegment(kernels, u_shape, u, to);
    }
  });
}

void WriteOutliers(const PackPlan& plan, std::byte* out) {
  if (plan.outliers.empty()) return;
  uint64_t next = 0;
  for (int64_t tile = 0; tile <= plan.layout.tiles; ++tile) {
    while (next < plan.outliers.size() && plan.outliers[next].row / kTileRows < tile) ++next;
    std::memcpy(out + plan.layout.outlier_index + 8 * tile, &next, 8);
  }
  std::memcpy(out + plan.layout.outliers, plan.outliers.data(), plan.outliers.size() * sizeof(PackedOutlier));
}

// The terms of a sum and of the sums in it, or the matrix itself.
void AddTerms(const Matrix& matrix, std::vector<const Matrix*>& terms) {
  const auto* sum = std::get_if<SumPart>(&matrix.body);
  if (sum == nullptr) {
    terms.push_back(&matrix);
    return;
  }
  for (const Matrix& term : sum->terms) AddTerms(term, terms);
}

// Codes with at most one low-rank path and one sparse part beside them.
struct Known {
  const Matrix* codes = nullptr;
  const ProductPart* path = nullptr;
  const Sparse* sparse = nullptr;
};

std::optional<Known> KnownParts(const Matrix& matrix) {
  std::vector<const Matrix*> terms;
  AddTerms(matrix, terms);
  Known known;
  known.codes = terms.front();
  for (size_t i = 1; i < terms.size(); ++i) {
    const ProductPart* path = TwoFactors(*terms[i]);
    const auto* sparse = std::get_if<Sparse>(&terms[i]->body);
    if ((path == nullptr || known.path != nullptr) && (sparse == nullptr || known.sparse != nullptr)) {
      return std::nullopt;
    }
    if (path != nullptr) known.path = path;
    if (sparse != nullptr) known.sparse = sparse;
  }
  return known;
}

void AddSparse(const Sparse& sparse, PackPlan& plan) {
  for (int64_t row = 0; row < plan.shape.rows; ++row) {
    for (int64_t k = (*sparse.begins)[static_cast<size_t>(row)];
         k < (*sparse.begins)[static_cast<size_t>(row) + 1]; ++k) {
      plan.outliers.push_back(
          {static_cast<uint32_t>(row), static_cast<uint32_t>(sparse.Column(k)), sparse.Value(k)});
    }
  }
}

}  // namespace

Result<PackPlan> PlanPackedLinear(const Linear& linear, const PackOptions& options) {
  const Matrix& w = linear.w;
  PackPlan plan;
  const std::optional<Known> known = KnownParts(w);
  std::optional<CodePlan> main;
  if (known.has_value()) main = PlanCodes(*known->codes, options.preferred_step);
  if (main.has_value()) {
    plan.shape = main->shape;
    plan.tables = std::move(main->tables);
    plan.main = std::move(main->source);
    plan.note = std::move(main->note);
    const bool grid = std::holds_alternative<Coded>(known->codes->body);
    if (options.scales8 && grid && plan.shape.scales == Scales::kHalf) {
      plan.shape.scales = Scales::kRowBytes;
      plan.main = WithByteScales(std::move(plan.main));
    }
    if (known->path != nullptr) PLANISH_RETURN_IF_ERROR(PlanLowRank(*known->path, plan));
    if (known->sparse != nullptr) AddSparse(*known->sparse, plan);
  } else {
    plan.shape.rows = w.rows;
    plan.shape.cols = w.cols;
    PlanDense(w, plan);
  }
  plan.shape.has_bias = !linear.bias.empty();
  plan.bias = linear.bias;
  PLANISH_RETURN_IF_ERROR(FinishPlan(options, plan));
  return plan;
}

void PackLinear(const Context& context, const PackPlan& plan, std::span<std::byte> out) {
  const PackedLayout& at = plan.layout;
  PLANISH_CHECK(static_cast<int64_t>(out.size()) == at.total);
  // Everything in front of the tiles, and what follows them to the next multiple of 64, starts as zeros.
  std::memset(out.data(), 0, static_cast<size_t>(at.tile_data));
  const int64_t tiles_end = at.tile_data + at.tiles * at.tile_bytes;
  std::memset(out.data() + tiles_end, 0, static_cast<size_t>(at.total - tiles_end));
  const PackedHeader header = MakePackedHeader(plan.shape, at);
  std::memcpy(out.data(), &header, sizeof(header));
  if (!plan.bias.empty()) std::memcpy(out.data() + at.bias, plan.bias.data(), plan.bias.size() * 4);
  for (size_t t = 0; t < plan.tables.size(); ++t) {
    for (size_t i = 0; i < 16; ++i) {
      out[static_cast<size_t>(at.tables) + 16 * t + i] = static_cast<std::byte>(plan.tables[t][i] + 128);
    }
  }
  WriteOutliers(plan, out.data());
  WriteTiles(context, plan, out.data());
  if (plan.v != nullptr) {
    PackLinear(context, *plan.v,
               out.subspan(static_cast<size_t>(at.v), static_cast<size_t>(plan.v->bytes())));
  }
}

Result<PackedArena> PackedArena::Make(std::span<const int64_t> sizes) {
  int64_t total = 0;
  std::vector<int64_t> offsets;
  for (const int64_t size : sizes) {
    offsets.push_back(total);
    const auto padded = CheckedAdd(size, kPackedAlignment - 1);
    const auto sum = padded ? CheckedAdd(total, *padded & ~(kPackedAlignment - 1)) : std::nullopt;
    if (size < 0 || !sum) return InputError(fmt::format("a packed layer of {} bytes after {}", size, total));
    total = *sum;
  }
  PackedArena arena;
  try {
    arena.buffer_ = Buffer(static_cast<size_t>(total));
  } catch (const std::bad_alloc&) {
    return FailureError(fmt::format("no memory for {} bytes of packed weights", total));
  }
  for (size_t i = 0; i < sizes.size(); ++i) {
    arena.places_.push_back(
        arena.buffer_.bytes().subspan(static_cast<size_t>(offsets[i]), static_cast<size_t>(sizes[i])));
  }
  return arena;
}

}  // namespace planish

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

uint8_t* RawOut(std::byte* p) { return reinterpret_cast<uint8_t*>(p); }

// ---- sources of codes ----

// One value of a packed run; the same definition as the codes of layer/matrix.h.
uint8_t ValueAt(const std::byte* in, int64_t index, int bits) {
  const int64_t bit = index * bits;
  const int shift = static_cast<int>(bit & 7);
  uint32_t word = static_cast<uint32_t>(in[bit >> 3]);
  if (shift + bits > 8) word |= static_cast<uint32_t>(in[(bit >> 3) + 1]) << 8;
  return static_cast<uint8_t>((word >> shift) & ((1u << bits) - 1u));
}

// The grid's own codes; a group of several steps repeats its scale.
TileCodeSource GridCodes(const Matrix& matrix, int step, bool asymmetric) {
  return [matrix, step, asymmetric](const KernelSet& kernels, int64_t row, int64_t count, TileCodes& out) {
    const auto& coded = std::get<Coded>(matrix.body);
    const int bits = coded.grid.bits;
    const int64_t row_bytes = PackedBytes(matrix.cols, bits);
    const int64_t group = coded.grid.GroupSize(matrix.cols), groups = coded.grid.NumGroups(matrix.cols);
    for (int64_t i = 0; i < count; ++i) {
      const auto* from = reinterpret_cast<const uint8_t*>(coded.codes.bytes.data()) + (row + i) * row_bytes;
      kernels.unpack(from, matrix.cols, bits, out.codes.data() + i * out.stride);
      const std::byte* scales = coded.scales.bytes.data() + (row + i) * groups * 2;
      for (int64_t s = 0; s < out.steps; ++s) {
        const int64_t g = s * step / group;
        std::memcpy(&out.scales[i * out.steps + s], scales + 2 * g, 2);
        if (asymmetric) {
          out.zeros[i * out.steps + s] = ValueAt(coded.zeros.bytes.data(), (row + i) * groups + g, bits);
        }
      }
    }
  };
}

// Any matrix rounded to int8 around 128, one scale for each row and step.
TileCodeSource RoundedCodes(const Matrix& matrix, int step) {
  return [matrix, step](const KernelSet&, int64_t row, int64_t count, TileCodes& out) {
    Mat<float> values(count, matrix.cols);
    ReadRows(matrix, row, count, 0, matrix.cols, values.data(), matrix.cols);
    for (int64_t i = 0; i < count; ++i) {
      for (int64_t s = 0; s < out.steps; ++s) {
        const int64_t begin = s * step, end = std::min(matrix.cols, begin + step);
        float largest = 0;
        for (int64_t k = begin; k < end; ++k) largest = std::max(largest, std::fabs(values(i, k)));
        const F16 scale = ToF16(largest / 127.0f);
        const float width = ToFloat(scale), inverse = width > 0 ? 1.0f / width : 0.0f;
        out.scales[i * out.steps + s] = scale.bits;
        for (int64_t k = begin; k < end; ++k) {
          const float code = std::clamp(std::nearbyint(values(i, k) * inverse), -128.0f, 127.0f);
          out.codes[i * out.stride + k] = static_cast<uint8_t>(static_cast<int>(code) + 128);
        }
      }
    }
  };
}

// ---- planning ----

struct CodePlan {
  PackedKind kind = PackedKind::kInt8;
  int step = 0, zero = 128;
  bool asymmetric = false;
  TileCodeSource source;
  std::string note;
};

bool StepFits(int64_t group, int64_t cols, int step) { return group >= cols || group % step == 0; }

PackedShape CodeShape(const CodePlan& plan, int64_t rows, int64_t cols) {
  PackedShape shape;
  shape.kind = plan.kind;
  shape.asymmetric = plan.asymmetric;
  shape.step = plan.step;
  shape.zero = plan.zero;
  shape.rows = rows;
  shape.cols = cols;
  return shape;
}

// The plan for codes, with the preferred step or that of fewest bytes; nothing when no step fits the groups.
std::optional<CodePlan> PlanCodes(const Matrix& matrix, const Coded& coded, int preferred_step) {
  CodePlan plan;
  const int bits = coded.grid.bits;
  plan.kind = bits == 2   ? PackedKind::kInt2
              : bits == 3 ? PackedKind::kInt3
              : bits == 4 ? PackedKind::kInt4
                          : PackedKind::kInt8;
  plan.asymmetric = !coded.grid.symmetric;
  plan.zero = plan.asymmetric ? 0 : 1 << (bits - 1);
  const int64_t group = coded.grid.GroupSize(matrix.cols);
  int64_t best_bytes = 0;
  int best = 0;
  for (int step : {128, 64, 32}) {
    if (!StepFits(group, matrix.cols, step)) continue;
    plan.step = step;
    const auto layout = LayOutPacked(CodeShape(plan, matrix.rows, matrix.cols));
    if (!layout.ok()) return std::nullopt;
    if (best == 0 || layout->main_bytes < best_bytes || step == preferred_step) {
      best = step;
      best_bytes = step == preferred_step ? 0 : layout->main_bytes;
    }
  }
  if (best == 0) return std::nullopt;
  plan.step = best;
  plan.source = GridCodes(matrix, best, plan.asymmetric);
  return plan;
}

// A factor of a low-rank path, in steps of `step` whatever its groups.
CodePlan PlanFactor(const Matrix& matrix, int step, bool constant_zero, bool eight_bits) {
  const auto* coded = std::get_if<Coded>(&matrix.body);
  if (coded != nullptr && coded->grid.PlainInteger() &&
      StepFits(coded->grid.GroupSize(matrix.cols), matrix.cols, step) &&
      (coded->grid.symmetric || !constant_zero)) {
    auto plan = PlanCodes(matrix, *coded, step);
    if (plan.has_value() && plan->step == step) {
      if (eight_bits) plan->kind = PackedKind::kInt8;
      return *std::move(plan);
    }
  }
  CodePlan plan;
  plan.step = step;
  plan.source = RoundedCodes(matrix, step);
  plan.note = fmt::format("{} factor rounded to int8 in steps of {}", Describe(matrix), step);
  return plan;
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
  inner->shape = CodeShape(v_codes, v.rows, v.cols);
  PLANISH_TRY(inner->layout, LayOutPacked(inner->shape));
  inner->main = std::move(v_codes.source);
  plan.shape.rank = v.rows;
  plan.shape.u_zero = u_codes.zero;
  plan.shape.v_bytes = inner->layout.total;
  plan.u = std::move(u_codes.source);
  plan.v = std::move(inner);
  return {};
}

PackedKind DenseKind(const Matrix& matrix) {
  const auto* dense = std::get_if<Dense>(&matrix.body);
  if (dense == nullptr || dense->type == DType::kBF16) return PackedKind::kBF16;
  return dense->type == DType::kF16 ? PackedKind::kF16 : PackedKind::kF32;
}

void PlanDense(const Matrix& matrix, PackPlan& plan) {
  plan.shape.kind = DenseKind(matrix);
  plan.dense = matrix;
  if (!std::holds_alternative<Dense>(matrix.body)) {
    plan.note = fmt::format("packed as bf16 from decoded rows: no kernel for {}", Describe(matrix));
  }
}

Status FinishPlan(const PackOptions& options, PackPlan& plan) {
  plan.shape.scales8 = options.scales8 && IsCoded(plan.shape.kind);
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

// Scales of a row as bytes: the row's scale is fp16, at least a 255th of the largest.
uint16_t RowScale(const uint16_t* scales, int64_t steps) {
  float largest = 0;
  for (int64_t s = 0; s < steps; ++s) largest = std::max(largest, ToFloat(F16{scales[s]}));
  return ToF16(largest / 255.0f).bits;
}
uint8_t ScaleCode(uint16_t scale, uint16_t row_scale) {
  const float unit = ToFloat(F16{row_scale});
  if (!(unit > 0)) return 0;
  return static_cast<uint8_t>(std::clamp(std::nearbyint(ToFloat(F16{scale}) / unit), 0.0f, 255.0f));
}

void WriteBlockHeader(const PackedShape& shape, const TileCodes& codes, const uint16_t* row_scales,
                      int64_t step, int64_t n, uint8_t* out) {
  const int scale_bytes = shape.scales8 ? 16 : 32;
  uint8_t* zeros = out + n * scale_bytes;
  const bool byte_zeros = PackedBits(shape.kind) == 8;
  for (int64_t j = 0; j < n; ++j) {
    for (int64_t i = 0; i < kTileRows; ++i) {
      const int64_t at = i * codes.steps + step + j;
      if (shape.scales8) {
        out[16 * j + i] = ScaleCode(codes.scales[at], row_scales[i]);
      } else {
        std::memcpy(out + 32 * j + 2 * i, &codes.scales[at], 2);
      }
      if (!shape.asymmetric) continue;
      if (byte_zeros) {
        zeros[16 * j + i] = codes.zeros[at];
      } else {
        zeros[16 * (j / 2) + i] |= static_cast<uint8_t>(codes.zeros[at] << (4 * (j & 1)));
      }
    }
  }
}

// One tile's segment; returns its end.
uint8_t* WriteSegment(const KernelSet& kernels, const PackedShape& shape, const TileCodes& codes,
                      uint8_t* out) {
  uint16_t row_scales[kTileRows] = {};
  if (shape.scales8) {
    for (int i = 0; i < kTileRows; ++i) {
      row_scales[i] = RowScale(codes.scales.data() + i * codes.steps, codes.steps);
    }
    std::memset(out, 0, 64);
    std::memcpy(out, row_scales, sizeof(row_scales));
    out += 64;
  }
  const int64_t step_bytes = PackedStepBytes(shape.kind, shape.step);
  for (int64_t s = 0; s < codes.steps; ++s) {
    if (s % packed::kBlockSteps == 0) {
      const int64_t n = std::min<int64_t>(packed::kBlockSteps, codes.steps - s);
      const int64_t header = PackedBlockHeader(shape.kind, shape.asymmetric, shape.scales8, n);
      std::memset(out, 0, static_cast<size_t>(header));
      WriteBlockHeader(shape, codes, row_scales, s, n, out);
      out += header;
    }
    kernels.interleave(shape.kind, codes.codes.data() + s * shape.step, codes.stride, shape.step, out);
    out += step_bytes;
  }
  return out;
}

TileCodes MakeTileCodes(int64_t steps, int step) {
  TileCodes codes;
  codes.steps = steps;
  codes.stride = steps * step + 64;  // past the end of one row unpacking may write, transposing may read
  codes.codes = Array<uint8_t>(kTileRows * codes.stride, 0);
  codes.scales = Array<uint16_t>(kTileRows * steps, 0);
  codes.zeros = Array<uint8_t>(kTileRows * steps, 0);
  return codes;
}

// Rows past the matrix keep scale 0; what a row left past its columns meets inputs of zero.
void ClearRows(int64_t count, TileCodes& codes) {
  for (int64_t i = count; i < kTileRows; ++i) {
    std::memset(codes.codes.data() + i * codes.stride, 0, static_cast<size_t>(codes.stride));
    std::memset(codes.scales.data() + i * codes.steps, 0, static_cast<size_t>(codes.steps) * 2);
    std::memset(codes.zeros.data() + i * codes.steps, 0, static_cast<size_t>(codes.steps));
  }
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
  Array<BF16> decoded;
  if (dense == nullptr) {
    Mat<float> values(count, matrix.cols);
    ReadRows(matrix, row, count, 0, matrix.cols, values.data(), matrix.cols);
    decoded.Resize(count * matrix.cols);
    for (int64_t i = 0; i < decoded.size(); ++i) decoded[i] = ToBF16(values.data()[i]);
  }
  for (int64_t i = 0; i < count; ++i) {
    const std::byte* from = dense != nullptr
                                ? dense->data.bytes.data() + (row + i) * matrix.cols * size
                                : reinterpret_cast<const std::byte*>(decoded.data()) + i * matrix.cols * size;
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
    if (plan.main) main = MakeTileCodes(at.steps, plan.shape.step);
    if (plan.u) u = MakeTileCodes(at.u_steps, kLowRankStep);
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
  const Coded* coded = known.has_value() ? std::get_if<Coded>(&known->codes->body) : nullptr;
  if (coded != nullptr && coded->grid.PlainInteger()) {
    main = PlanCodes(*known->codes, *coded, options.preferred_step);
  }
  if (main.has_value()) {
    plan.shape = CodeShape(*main, w.rows, w.cols);
    plan.main = std::move(main->source);
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

Result<PackPlan> PlanPackedTable(const TableWeights& w, const PackOptions& options) {
  if (w.rows < 1 || w.cols < 1) return InputError(fmt::format("table weights [{}, {}]", w.rows, w.cols));
  const int64_t group = w.group == 0 ? w.cols : w.group;
  const int64_t groups = group < 1 ? 0 : (w.cols + group - 1) / group;
  const auto elements = CheckedMul(w.rows, w.cols), scales = CheckedMul(w.rows, groups);
  if (group < 1 || (w.group != 0 && w.group % 32 != 0) || !elements.has_value() || !scales.has_value() ||
      static_cast<int64_t>(w.codes.size()) != *elements || static_cast<int64_t>(w.scales.size()) != *scales ||
      (w.tables.size() != 1 && static_cast<int64_t>(w.tables.size()) != groups)) {
    return InputError(
        fmt::format("table weights [{}, {}] group {}: {} codes, {} scales, {} tables do not fit", w.rows,
                    w.cols, w.group, w.codes.size(), w.scales.size(), w.tables.size()));
  }
  PackPlan plan;
  plan.shape.kind = PackedKind::kTable4;
  plan.shape.rows = w.rows;
  plan.shape.cols = w.cols;
  plan.shape.zero = 128;
  for (int step : {32, 64, 128}) {
    const bool wanted = options.preferred_step == 0 || step <= options.preferred_step;
    if (StepFits(group, w.cols, step) && (step == 32 || (step <= w.cols && wanted))) plan.shape.step = step;
  }
  const int step = plan.shape.step;
  const int64_t steps = (w.cols + step - 1) / step;
  for (int64_t s = 0; s < (w.tables.size() == 1 ? 1 : steps); ++s) {
    plan.tables.push_back(w.tables[static_cast<size_t>(s * step / group)]);
  }
  plan.shape.num_tables = static_cast<int64_t>(plan.tables.size());
  plan.main = [w, step, group, groups](const KernelSet&, int64_t row, int64_t count, TileCodes& out) {
    for (int64_t i = 0; i < count; ++i) {
      for (int64_t k = 0; k < w.cols; ++k) {
        out.codes[i * out.stride + k] = w.codes[static_cast<size_t>((row + i) * w.cols + k)] & 15;
      }
      for (int64_t s = 0; s < out.steps; ++s) {
        const auto g = static_cast<size_t>((row + i) * groups + s * step / group);
        out.scales[i * out.steps + s] = w.scales[g].bits;
      }
    }
  };
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

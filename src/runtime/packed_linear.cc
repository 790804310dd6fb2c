#include "runtime/packed_linear.h"

#include <fmt/format.h>

#include <cstring>

#include "base/check.h"

namespace planish {
namespace {

using packed::KernelSet;
using packed::TileArgs;

const unsigned char* Raw(const std::byte* p) { return reinterpret_cast<const unsigned char*>(p); }

template <typename T>
T Load(const std::byte* p) {
  T value;
  std::memcpy(&value, p, sizeof(T));
  return value;
}

// Codes of one segment times the input, added to acc; float inputs in groups of four tokens.
void RunCoded(const KernelSet& kernels, PackedKind kind, const QuantizedInput& x, bool exact, TileArgs args) {
  const auto k = static_cast<size_t>(kind);
  const int tokens = x.tokens();
  if (!exact) {
    args.x = x.codes();
    args.x_scale = x.scales();
    args.x_neg_sum = x.neg_sums();
    kernels.int8[k][tokens - 1](args);
    return;
  }
  args.x_stride = tokens;
  float* acc = args.acc;
  for (int t = 0; t < tokens; t += packed::kFloatTokens) {
    args.xf = x.floats() + t;
    args.xf_neg_sum = x.float_neg_sums() + t;
    args.acc = acc + t * kTileRows;
    kernels.coded_float[k][std::min(packed::kFloatTokens, tokens - t) - 1](args);
  }
}

void RunDense(const KernelSet& kernels, PackedKind kind, const QuantizedInput& x, TileArgs args) {
  const auto k = static_cast<size_t>(kind) - packed::kCodeKinds;
  args.x_stride = x.tokens();
  float* acc = args.acc;
  for (int t = 0; t < x.tokens(); t += packed::kFloatTokens) {
    args.xf = x.floats() + t;
    args.acc = acc + t * kTileRows;
    kernels.dense[k][std::min(packed::kFloatTokens, x.tokens() - t) - 1](args);
  }
}

void CheckInputs(const PackedLinear& layer, const QuantizedInput& x, const QuantizedInput* t,
                 const MultiplyOptions& options) {
  const InputForm need = layer.InputFormFor(options), &have = x.form();
  PLANISH_CHECK(x.cols() == layer.cols()) << x.cols() << " inputs for " << layer.cols() << " columns";
  PLANISH_CHECK((need.step == 0 || have.step == need.step) && (!need.int8 || have.int8) &&
                (!need.floats || have.floats))
      << "input of step " << have.step << ", the layer needs " << need.step;
  PLANISH_CHECK((t != nullptr) == (layer.v() != nullptr));
  PLANISH_CHECK(t == nullptr ||
                (t->form().step == kLowRankStep && t->cols() == layer.shape().rank &&
                 (options.exact_inputs ? t->form().floats : t->form().int8) && t->tokens() == x.tokens()));
}

}  // namespace

const KernelSet& SelectPackedKernels(Isa isa) {
#if defined(__x86_64__)
  PLANISH_CHECK(IsaSupported(isa)) << IsaName(isa) << " is not supported by this processor";
  if (isa == Isa::kAvx512 && CpuHas(CpuFeature::kBmi2)) {
    return CpuHas(CpuFeature::kAvx512Vnni) ? packed::kAvx512VnniKernels : packed::kAvx512Kernels;
  }
  if (isa == Isa::kAvx2 || isa == Isa::kAvx512) {
    return CpuHas(CpuFeature::kAvxVnni) ? packed::kAvxVnniKernels : packed::kAvx2Kernels;
  }
#elif defined(__aarch64__)
  static_cast<void>(isa);  // all sets give the same bits, and no Isa names this one
  if (CpuHas(CpuFeature::kArmDotprod)) return packed::kNeonKernels;
#endif
  return packed::kScalarKernels;
}

std::vector<const KernelSet*> SupportedPackedKernels() {
  std::vector<const KernelSet*> sets = {&packed::kScalarKernels};
#if defined(__x86_64__)
  if (IsaSupported(Isa::kAvx2)) {
    sets.push_back(&packed::kAvx2Kernels);
    if (CpuHas(CpuFeature::kAvxVnni)) sets.push_back(&packed::kAvxVnniKernels);
  }
  if (IsaSupported(Isa::kAvx512) && CpuHas(CpuFeature::kBmi2)) {
    sets.push_back(&packed::kAvx512Kernels);
    if (CpuHas(CpuFeature::kAvx512Vnni)) sets.push_back(&packed::kAvx512VnniKernels);
  }
#elif defined(__aarch64__)
  if (CpuHas(CpuFeature::kArmDotprod)) sets.push_back(&packed::kNeonKernels);
#endif
  return sets;
}

Result<PackedLinear> PackedLinear::FromBytes(std::span<const std::byte> bytes) {
  if (bytes.size() < sizeof(PackedHeader)) {
    return InputError(fmt::format("packed layer: {} bytes, expected at least {} (truncated?)", bytes.size(),
                                  sizeof(PackedHeader)));
  }
  PackedLinear layer;
  PLANISH_TRY(layer.shape_, ReadPackedHeader(Load<PackedHeader>(bytes.data())));
  PLANISH_TRY(layer.layout_, LayOutPacked(layer.shape_));
  const auto total = static_cast<uint64_t>(layer.layout_.total);
  if (bytes.size() < total) {
    return InputError(fmt::format("packed layer: {} bytes, expected {} (truncated?)", bytes.size(), total));
  }
  layer.bytes_ = bytes.first(total);
  PLANISH_RETURN_IF_ERROR(layer.CheckOutliers());
  if (layer.shape_.rank > 0) {
    const auto inner =
        layer.bytes_.subspan(static_cast<size_t>(layer.layout_.v), static_cast<size_t>(layer.shape_.v_bytes));
    // One level: the header is looked at before anything inside is followed.
    if (inner.size() < sizeof(PackedHeader)) return InputError("packed layer: V is smaller than its header");
    PLANISH_TRY(const PackedShape shape, ReadPackedHeader(Load<PackedHeader>(inner.data())));
    if (shape.rank != 0 || shape.rows != layer.shape_.rank || shape.cols != layer.shape_.cols ||
        shape.step != layer.shape_.step) {
      return InputError(fmt::format(
          "packed layer: V is [{}, {}] step {} rank {}, expected [{}, {}] step {} rank 0", shape.rows,
          shape.cols, shape.step, shape.rank, layer.shape_.rank, layer.shape_.cols, layer.shape_.step));
    }
    // They read inputs as floats, which the layer's own form may lack.
    if (shape.num_outliers > 0) return InputError("packed layer: V has outliers");
    PLANISH_TRY(PackedLinear v, FromBytes(inner));
    layer.v_ = std::make_shared<const PackedLinear>(std::move(v));
  }
  return layer;
}

Status PackedLinear::CheckOutliers() const {
  if (shape_.num_outliers == 0) return {};
  uint64_t previous = 0;
  for (int64_t tile = 0; tile <= layout_.tiles; ++tile) {
    const auto end = Load<uint64_t>(At(layout_.outlier_index + 8 * tile));
    const bool last_fits = tile < layout_.tiles || end == static_cast<uint64_t>(shape_.num_outliers);
    if (end < previous || end > static_cast<uint64_t>(shape_.num_outliers) || (tile == 0 && end != 0) ||
        !last_fits) {
      return InputError(fmt::format("packed layer: outlier index {} of tile {} is out of order", end, tile));
    }
    for (uint64_t i = previous; i < end; ++i) {
      const auto outlier =
          Load<PackedOutlier>(At(layout_.outliers + static_cast<int64_t>(i * sizeof(PackedOutlier))));
      if (outlier.row / kTileRows != static_cast<uint64_t>(tile - 1) || outlier.row >= shape_.rows ||
          outlier.column >= shape_.cols) {
        return InputError(fmt::format("packed layer: outlier at ({}, {}) in tile {} of a layer [{}, {}]",
                                      outlier.row, outlier.column, tile - 1, shape_.rows, shape_.cols));
      }
    }
    previous = end;
  }
  return {};
}

// In the order of the file; products are rounded, then added.
void PackedLinear::AddOutliers(const QuantizedInput& x, int64_t tile, float* acc) const {
  const std::byte* index = At(layout_.outlier_index + 8 * tile);
  const auto end = Load<uint64_t>(index + 8);
  const int tokens = x.tokens();
  for (auto i = Load<uint64_t>(index); i < end; ++i) {
    const auto outlier =
        Load<PackedOutlier>(At(layout_.outliers + static_cast<int64_t>(i * sizeof(PackedOutlier))));
    const float* from = x.floats() + static_cast<int64_t>(outlier.column) * tokens;
    float* to = acc + outlier.row % kTileRows;
    for (int t = 0; t < tokens; ++t) to[kTileRows * t] += outlier.value * from[t];
  }
}

InputForm PackedLinear::InputFormFor(const MultiplyOptions& options) const {
  const bool coded = IsCoded(shape_.kind);
  return {shape_.step, coded && !options.exact_inputs,
          !coded || options.exact_inputs || shape_.num_outliers > 0};
}

bool JoinInputForms(const InputForm& other, InputForm& form) {
  if (form.step != 0 && other.step != 0 && form.step != other.step) return false;
  form.step = std::max(form.step, other.step);
  form.int8 = form.int8 || other.int8;
  form.floats = form.floats || other.floats;
  return true;
}

void MultiplyTiles(const KernelSet& kernels, const PackedLinear& layer, const QuantizedInput& x,
                   const QuantizedInput* t, int64_t tile_begin, int64_t tile_end, MatView<float> y,
                   const MultiplyOptions& options, const std::byte* next) {
  CheckInputs(layer, x, t, options);
  PLANISH_CHECK(tile_begin >= 0 && tile_end <= layer.tiles() && y.rows == x.tokens() &&
                y.cols == layer.rows());
  const PackedShape& shape = layer.shape();
  const PackedLayout& layout = layer.layout();
  const int tokens = x.tokens();
  alignas(64) float acc[packed::kMaxTokens * kTileRows];
  TileArgs args = {};
  args.acc = acc;
  args.part = layout.tile_bytes / 4 / 64 * 64;
  for (int64_t tile = tile_begin; tile < tile_end; ++tile) {
    std::memset(acc, 0, sizeof(float) * static_cast<size_t>(tokens * kTileRows));
    args.data = Raw(layer.TileData(tile));
    // Without a next one the tile itself, which costs nothing.
    args.next = tile + 1 < tile_end ? args.data + layout.tile_bytes : next != nullptr ? Raw(next) : args.data;
    if (IsCoded(shape.kind)) {
      args.steps = layout.steps;
      args.step = shape.step;
      args.scales = shape.scales;
      args.offsets = shape.offsets;
      args.scale_bias = shape.scale_bias;
      args.unit = shape.unit;
      args.zero = shape.zero;
      args.zero_step = 1.0f / static_cast<float>(1 << shape.zero_shift);
      args.tables = Raw(layer.At(layout.tables));
      args.step_tables = HasStepTables(shape);
      RunCoded(kernels, shape.kind, x, options.exact_inputs, args);
    } else {
      args.steps = layout.padded_cols;
      RunDense(kernels, shape.kind, x, args);
    }
    if (t != nullptr) {
      args.data += layout.main_bytes;
      args.steps = layout.u_steps;
      args.step = kLowRankStep;
      args.scales = packed::Scales::kHalf;
      args.offsets = packed::Offsets::kConstant;
      args.unit = 1;
      args.zero = shape.u_zero;
      RunCoded(kernels, PackedKind::kInt8, *t, options.exact_inputs, args);
    }
    if (shape.num_outliers > 0) layer.AddOutliers(x, tile, acc);
    const int64_t row = tile * kTileRows, rows = std::min<int64_t>(kTileRows, shape.rows - row);
    if (shape.has_bias) {
      float bias[kTileRows];
      std::memcpy(bias, layer.At(layout.bias + 4 * row), sizeof(bias));
      for (int i = 0; i < tokens * kTileRows; ++i) acc[i] += bias[i % kTileRows];
    }
    for (int i = 0; i < tokens; ++i) {
      std::memcpy(y.row(i) + row, acc + i * kTileRows, static_cast<size_t>(rows) * sizeof(float));
    }
  }
}

}  // namespace planish

// Tensors of compressed-tensors checkpoints: packed and plain integers, FP8, NVFP4, MXFP4 and MXFP8, and the
// sparse forms of older files.
#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <map>

#include "base/checked.h"
#include "base/names.h"
#include "layer/bit_run.h"
#include "layer/compressed_tensors.h"
#include "layer/quantized_parts.h"

namespace planish::quantized {
namespace {

using Strategy = TensorArgs::Strategy;

// Codes of packed integers: the words of a row are a run of bits. Before 2026, files with widths that do not
// divide 32 had whole codes in every word instead.
Result<Blob> PackedCodes(const Checkpoint& checkpoint, const std::string& name, int64_t rows, int64_t cols,
                         int bits) {
  PLANISH_TRY(const TensorView view, checkpoint.Get(name));
  const int64_t dense = CeilDiv(cols * bits, 32), per_word = 32 / bits, whole = CeilDiv(cols, per_word);
  if (view.type != DType::kI32 || view.shape.size() != 2 || view.shape[0] != rows ||
      (view.shape[1] != dense && view.shape[1] != whole)) {
    return InputError(fmt::format("tensor '{}': expected I32 [{}, {}], found {} {}", name, rows, dense,
                                  DTypeName(view.type), ShapeText(view.shape)));
  }
  const int64_t words = view.shape[1], row_bytes = PackedBytes(cols, bits);
  if (words == dense && row_bytes == 4 * words) return Blob{view.bytes(), checkpoint.owner()};
  std::vector<uint8_t> codes(static_cast<size_t>(cols));
  return MakeBlob(rows * row_bytes, [&](uint8_t* to) {
    for (int64_t i = 0; i < rows; ++i) {
      const std::byte* row = view.data + i * words * 4;
      if (words == dense) {
        UnpackRun(row, 0, cols, bits, codes.data());
      } else {
        for (int64_t j = 0; j < cols; ++j) {
          codes[static_cast<size_t>(j)] = static_cast<uint8_t>(
              WordAt(view, i * words + j / per_word) >> (j % per_word * bits) & ((1u << bits) - 1));
        }
      }
      PackRun(codes.data(), cols, bits, to + i * row_bytes);
    }
  });
}

// [out, groups] of zeros packed down each column.
Result<std::vector<uint16_t>> PackedZeros(const Checkpoint& checkpoint, const std::string& name, int64_t rows,
                                          int64_t groups, int bits) {
  PLANISH_TRY(const TensorView view, checkpoint.Get(name));
  const int64_t dense = CeilDiv(rows * bits, 32), per_word = 32 / bits, whole = CeilDiv(rows, per_word);
  if (view.type != DType::kI32 || view.shape.size() != 2 || view.shape[1] != groups ||
      (view.shape[0] != dense && view.shape[0] != whole)) {
    return InputError(fmt::format("tensor '{}': expected I32 [{}, {}], found {} {}", name, dense, groups,
                                  DTypeName(view.type), ShapeText(view.shape)));
  }
  std::vector<uint16_t> zeros(static_cast<size_t>(rows * groups));
  const uint32_t mask = (1u << bits) - 1;
  for (int64_t i = 0; i < rows; ++i) {
    const bool run = view.shape[0] == dense;
    const int64_t bit = run ? i * bits : i / per_word * 32 + i % per_word * bits, shift = bit % 32;
    for (int64_t g = 0; g < groups; ++g) {
      uint64_t word = WordAt(view, bit / 32 * groups + g);
      if (shift + bits > 32) word |= uint64_t{WordAt(view, (bit / 32 + 1) * groups + g)} << 32;
      zeros[static_cast<size_t>(i * groups + g)] = static_cast<uint16_t>(word >> shift & mask);
    }
  }
  return zeros;
}

Blob LevelsBlob(const GridSpec& grid) {
  const Mat<float> levels = FixedLevels(grid);
  return MakeBlob(2 * levels.cols(), [&](uint8_t* to) {
    for (int64_t k = 0; k < levels.cols(); ++k) {
      const F16 half = ToF16(levels(0, k));
      std::memcpy(to + 2 * k, &half, 2);
    }
  });
}

// Every byte of FP8 is a number.
Status CheckFloats8(const TensorView& view, const std::string& name) {
  constexpr std::byte kNan{0x7f};
  const auto bytes = view.bytes();
  const auto nan = std::ranges::find_if(bytes, [](std::byte b) { return (b & kNan) == kNan; });
  if (nan == bytes.end()) return {};
  return InputError(fmt::format("tensor '{}': element {} is NaN", name, nan - bytes.begin()));
}

class CompressedReader : public QuantizedReader {
 public:
  CompressedReader(const Checkpoint& checkpoint, CompressedConfig config)
      : QuantizedReader(checkpoint), config_(std::move(config)) {
    if (config_.has_kv_scheme()) {
      notes_.push_back(fmt::format(
          "kv_cache_scheme ({}) is not applied: keys and values are kept as --kv says", config_.kv_scheme()));
    }
  }
  bool Holds(const std::string& weight) const override;
  Result<Matrix> Read(const std::string& weight, int64_t rows, int64_t cols) override;
  Status CheckPlain(const std::string& weight) const override;

 private:
  Status CheckFormats(const std::string& module, const Scheme& scheme) const;
  Result<Matrix> ReadAny(const std::string& module, int64_t rows, int64_t cols);
  Result<Matrix> ReadIntegers(const std::string& module, const Scheme& scheme, Stated stated);
  Result<Matrix> ReadFloat8(const std::string& module, const Scheme& scheme, Stated stated);
  Result<Matrix> ReadFloat4(const std::string& module, const Scheme& scheme, Stated stated);
  Result<Matrix> ReadSparse(const std::string& module, int64_t rows, int64_t cols) const;
  Result<std::vector<float>> Scales(const std::string& module, const TensorArgs& args, Stated& stated) const;
  Status Zeros(const std::string& module, const TensorArgs& args, bool packed, Stated& stated) const;
  Status CheckUnshifted(const std::string& module) const;
  Status Columns(const std::string& module, const TensorArgs& args, Stated& stated) const;
  Result<Blob> PowerScales(const std::string& module, int64_t rows, int64_t groups) const;
  void NoteInputs(const Scheme& scheme);

  CompressedConfig config_;
  std::vector<const Scheme*> noted_;
};

bool CompressedReader::Holds(const std::string& weight) const {
  const std::string module = ModuleOf(weight);
  if (checkpoint_.Has(module + ".weight_packed") || checkpoint_.Has(module + ".bitmask")) return true;
  if (!checkpoint_.Has(module + ".weight")) return false;
  const auto view = checkpoint_.Get(module + ".weight");
  return view.ok() && (view->type == DType::kI8 || view->type == DType::kF8E4M3);
}

// A target that names a module promises that it is quantized. Patterns and classes have members that are not,
// without being ignored: routers that are no linears where the file was made.
Status CompressedReader::CheckPlain(const std::string& weight) const {
  PLANISH_RETURN_IF_ERROR(QuantizedReader::CheckPlain(weight));
  const std::string module = ModuleOf(weight);
  PLANISH_TRY(const Scheme* scheme, config_.FindNamed(module));
  if (scheme == nullptr || !scheme->weights || scheme->format == "dense" ||
      (scheme->format.empty() && config_.format() == "dense") || !checkpoint_.Has(weight))
    return {};
  return InputError(fmt::format(
      "tensor '{}': {} and not quantized, but config group '{}' says that it is {}; expected its packed "
      "tensors, "
      "or its name in ignore",
      weight, DTypeName(checkpoint_.Get(weight)->type), Abbreviate(scheme->name), scheme->weights->Text()));
}

// The formats that the config states for a module are those of its tensors.
Status CompressedReader::CheckFormats(const std::string& module, const Scheme& scheme) const {
  const bool packed = checkpoint_.Has(module + ".weight_packed");
  PLANISH_TRY(const TensorView view, checkpoint_.Get(module + (packed ? ".weight_packed" : ".weight")));
  PLANISH_TRY(const TensorView scale, checkpoint_.Get(module + ".weight_scale"));
  const bool powers = scale.type == DType::kU8;
  std::vector<std::string> formats = {"naive-quantized"};
  if (packed) {
    formats = {view.type != DType::kU8 ? "pack-quantized"
               : powers                ? "mxfp4-pack-quantized"
                                       : "nvfp4-pack-quantized"};
  } else {
    formats.emplace_back(view.type == DType::kI8 ? "int-quantized"
                         : powers                ? "mxfp8-quantized"
                                                 : "float-quantized");
  }
  const auto check = [&](const std::string& stated, const std::string& where) -> Status {
    if (stated.empty() || std::ranges::find(formats, stated) != formats.end()) return {};
    return InputError(fmt::format("'{}': {} is '{}', but its tensors ({} of {}) are {}", module, where,
                                  stated, packed ? "weight_packed" : "weight", DTypeName(view.type),
                                  fmt::join(formats, " or ")));
  };
  PLANISH_RETURN_IF_ERROR(
      check(scheme.format, fmt::format("the format of config group '{}'", Abbreviate(scheme.name))));
  if (config_.format() != "mixed-precision") PLANISH_RETURN_IF_ERROR(check(config_.format(), "the format"));
  const std::string& sparse = config_.sparse_format();
  if (sparse.empty() || sparse == "dense") return {};
  return InputError(
      fmt::format("'{}': sparsity_config says '{}', but its tensors are not sparse; expected a bitmask, or "
                  "format dense",
                  module, sparse));
}

void CompressedReader::NoteInputs(const Scheme& scheme) {
  if ((!scheme.inputs && !scheme.outputs) || std::ranges::find(noted_, &scheme) != noted_.end()) return;
  noted_.push_back(&scheme);
  for (const auto& [what, args] :
       {std::pair("inputs", &scheme.inputs), std::pair("outputs", &scheme.outputs)}) {
    if (!*args) continue;
    notes_.push_back(fmt::format(
        "config group '{}': {} are made for {} and computed here in floats: results differ slightly from a "
        "server that quantizes them",
        Abbreviate(scheme.name), what, (*args)->Text()));
  }
}

// The scales of a weight by its strategy, spread to [rows, groups] of stated.grid, which gets its group.
Result<std::vector<float>> CompressedReader::Scales(const std::string& module, const TensorArgs& args,
                                                    Stated& stated) const {
  const std::string name = module + ".weight_scale";
  const int64_t rows = stated.rows, cols = stated.cols;
  PLANISH_TRY(const TensorView view, checkpoint_.Get(name));
  stated.grid.group = 0;
  switch (args.strategy) {
    case Strategy::kTensor:
      return ReadFloats(checkpoint_, name, view.shape.empty() ? view.shape : std::vector<int64_t>{1});
    case Strategy::kChannel:
      return ReadFloats(checkpoint_, name,
                        view.shape.size() == 1 ? std::vector<int64_t>{rows} : std::vector<int64_t>{rows, 1});
    case Strategy::kGroup:
      stated.grid.group = args.group;
      return ReadFloats(checkpoint_, name, {rows, CeilDiv(cols, args.group)});
    case Strategy::kBlock: {
      stated.grid.group = args.block_cols;
      const int64_t groups = CeilDiv(cols, args.block_cols);
      PLANISH_TRY(const auto blocks, ReadFloats(checkpoint_, name, {CeilDiv(rows, args.block_rows), groups}));
      std::vector<float> scales;
      for (int64_t i = 0; i < rows; ++i) {
        const auto from = blocks.begin() + i / args.block_rows * groups;
        scales.insert(scales.end(), from, from + groups);
      }
      return scales;
    }
    default:
      return InputError(fmt::format("'{}': a weight cannot be {}", module, args.Text()));
  }
}

Status CompressedReader::Zeros(const std::string& module, const TensorArgs& args, bool packed,
                               Stated& stated) const {
  const std::string name = module + ".weight_zero_point";
  if (args.symmetric && !checkpoint_.Has(name)) return {};
  const int64_t rows = stated.rows, groups = stated.grid.NumGroups(stated.cols);
  const bool one = args.strategy == Strategy::kTensor;
  if (!checkpoint_.Has(name)) {
    return InputError(
        fmt::format("no tensor '{}': expected, as symmetric is false for {}", name, args.Text()));
  }
  // Files of versions before 0.9 hold the zero points of packed codes as plain bytes.
  PLANISH_TRY(const TensorView view, checkpoint_.Get(name));
  if (packed && view.type != DType::kI8) {
    PLANISH_TRY(stated.zeros, PackedZeros(checkpoint_, name, rows, groups, args.bits));
  } else {
    if (args.strategy == Strategy::kBlock)
      return InputError(fmt::format("'{}': zero points of blocks", module));
    const std::vector<int64_t> shape = one ? std::vector<int64_t>{1} : std::vector<int64_t>{rows, groups};
    PLANISH_TRY(const TensorView zeros, Expect(checkpoint_, name, {DType::kI8}, shape));
    for (int64_t k = 0; k < rows * groups; ++k) {
      const int zero = static_cast<int8_t>(zeros.data[one ? 0 : k]) + (1 << (args.bits - 1));
      if (zero < 0 || zero >= 1 << args.bits)
        return InputError(fmt::format("tensor '{}': element {} is {}, outside of {} bits", name, k,
                                      zero - (1 << (args.bits - 1)), args.bits));
      stated.zeros.push_back(static_cast<uint16_t>(zero));
    }
  }
  const int middle = 1 << (args.bits - 1);
  const auto shifted = std::ranges::find_if(stated.zeros, [&](uint16_t z) { return z != middle; });
  if (!args.symmetric || shifted == stated.zeros.end()) return {};
  return InputError(
      fmt::format("tensor '{}': element {} is {}, but symmetric is true for {}, for which 0 is expected",
                  name, shifted - stated.zeros.begin(), *shifted - middle, args.Text()));
}

// Floats have no zero points; some files state that they are 0.
Status CompressedReader::CheckUnshifted(const std::string& module) const {
  const std::string name = module + ".weight_zero_point";
  if (!checkpoint_.Has(name)) return {};
  PLANISH_TRY(const TensorView view, checkpoint_.Get(name));
  if (std::ranges::all_of(view.bytes(), [](std::byte b) { return b == std::byte{0}; })) return {};
  return InputError(fmt::format("tensor '{}': expected zeros only, as floats have no zero points", name));
}

Status CompressedReader::Columns(const std::string& module, const TensorArgs& args, Stated& stated) const {
  const std::string name = module + ".weight_g_idx";
  if (!checkpoint_.Has(name)) return {};
  PLANISH_TRY(const TensorView view, Expect(checkpoint_, name, {DType::kI32}, {stated.cols}));
  const int64_t groups = stated.grid.NumGroups(stated.cols), group = stated.grid.GroupSize(stated.cols);
  bool in_order = true;
  std::vector<int32_t> columns;
  for (int64_t j = 0; j < stated.cols; ++j) columns.push_back(static_cast<int32_t>(WordAt(view, j)));
  if (std::ranges::all_of(columns, [](int32_t g) { return g == -1; })) return {};  // never set
  for (int64_t j = 0; j < stated.cols; ++j) {
    const int32_t g = columns[static_cast<size_t>(j)];
    if (g < 0 || g >= groups) {
      return InputError(
          fmt::format("tensor '{}': element {}: expected a group below {}, found {}", name, j, groups, g));
    }
    if (g != j / group && !args.act_order) {
      return InputError(fmt::format(
          "tensor '{}': element {} is group {}, but actorder is not group, and group_size {} gives group {}; "
          "--ignore-tensors {} reads the groups of the config",
          name, j, g, group, j / group, name));
    }
    in_order = in_order && g == j / group;
  }
  if (!in_order) stated.columns = std::move(columns);
  return {};
}

Result<Matrix> CompressedReader::ReadIntegers(const std::string& module, const Scheme& scheme,
                                              Stated stated) {
  const TensorArgs& args = *scheme.weights;
  const bool packed = checkpoint_.Has(module + ".weight_packed");
  if (args.is_float || args.bits < 2 || args.bits > 8 || (!packed && args.bits != 8)) {
    return InputError(fmt::format("'{}': {} does not go with its {}", module, args.Text(),
                                  packed ? "weight_packed of I32" : "weight of I8"));
  }
  PLANISH_RETURN_IF_ERROR(CheckOnly(checkpoint_, module,
                                    {packed ? "weight_packed" : "weight", "weight_scale", "weight_shape",
                                     "weight_zero_point", "weight_g_idx"}));
  stated.grid.bits = args.bits;
  PLANISH_TRY(stated.scales, Scales(module, args, stated));
  PLANISH_RETURN_IF_ERROR(Zeros(module, args, packed, stated));
  PLANISH_RETURN_IF_ERROR(Columns(module, args, stated));
  if (packed) {
    PLANISH_TRY(stated.codes,
                PackedCodes(checkpoint_, module + ".weight_packed", stated.rows, stated.cols, args.bits));
  } else {
    PLANISH_TRY(const TensorView view,
                Expect(checkpoint_, module + ".weight", {DType::kI8}, {stated.rows, stated.cols}));
    stated.codes = {view.bytes(), checkpoint_.owner()};
    stated.order = CodeOrder::kSigned;
  }
  if (!stated.columns.empty() && stated.scales.size() == 1) stated.columns.clear();
  return ToParts(std::move(stated));
}

// E8M0: 2^(byte - 127); 255 is NaN.
Result<Blob> CompressedReader::PowerScales(const std::string& module, int64_t rows, int64_t groups) const {
  const std::string name = module + ".weight_scale";
  PLANISH_TRY(const TensorView view, Expect(checkpoint_, name, {DType::kU8}, {rows, groups}));
  const auto bytes = view.bytes();
  const auto nan = std::ranges::find(bytes, std::byte{255});
  if (nan != bytes.end()) {
    return InputError(fmt::format("tensor '{}': element {} is NaN", name, nan - bytes.begin()));
  }
  return Blob{bytes, checkpoint_.owner()};
}

Result<Matrix> CompressedReader::ReadFloat8(const std::string& module, const Scheme& scheme, Stated stated) {
  const TensorArgs& args = *scheme.weights;
  if (!args.is_float || args.bits != 8 || !args.symmetric) {
    return InputError(fmt::format("'{}': {} does not go with its weight of F8_E4M3", module, args.Text()));
  }
  PLANISH_RETURN_IF_ERROR(
      CheckOnly(checkpoint_, module, {"weight", "weight_scale", "weight_shape", "weight_zero_point"}));
  PLANISH_RETURN_IF_ERROR(CheckUnshifted(module));
  stated.grid = FindGrid("e4m3").value();
  PLANISH_TRY(const TensorView view,
              Expect(checkpoint_, module + ".weight", {DType::kF8E4M3}, {stated.rows, stated.cols}));
  PLANISH_TRY(const TensorView scale, checkpoint_.Get(module + ".weight_scale"));
  PLANISH_RETURN_IF_ERROR(CheckFloats8(view, module + ".weight"));
  stated.codes = {view.bytes(), checkpoint_.owner()};
  stated.order = CodeOrder::kFloats;
  if (scale.type == DType::kU8) {
    if (args.strategy != Strategy::kGroup || args.group != 32) {
      return InputError(
          fmt::format("'{}': scales of U8 go with groups of 32, found {}", module, args.Text()));
    }
    Coded coded;
    coded.grid = FindGrid("mxfp8").value();
    coded.order = stated.order;
    coded.codes = std::move(stated.codes);
    coded.levels = LevelsBlob(coded.grid);
    PLANISH_TRY(coded.scales, PowerScales(module, stated.rows, coded.grid.NumGroups(stated.cols)));
    return Matrix{stated.rows, stated.cols, std::move(coded)};
  }
  PLANISH_TRY(stated.scales, Scales(module, args, stated));
  return ToParts(std::move(stated));
}

Result<Matrix> CompressedReader::ReadFloat4(const std::string& module, const Scheme& scheme, Stated stated) {
  const TensorArgs& args = *scheme.weights;
  const bool nv = args.strategy == Strategy::kTensorGroup && args.group == 16;
  const bool mx = args.strategy == Strategy::kGroup && args.group == 32;
  if (!args.is_float || args.bits != 4 || (!nv && !mx)) {
    return InputError(fmt::format("'{}': {} does not go with its weight_packed of U8", module, args.Text()));
  }
  PLANISH_RETURN_IF_ERROR(CheckOnly(checkpoint_, module,
                                    {"weight_packed", "weight_scale", "weight_shape", "weight_zero_point",
                                     nv ? "weight_global_scale" : "weight_scale"}));
  PLANISH_RETURN_IF_ERROR(CheckUnshifted(module));
  if (stated.cols % 2 != 0) return InputError(fmt::format("'{}': {} inputs are odd", module, stated.cols));
  Coded coded;
  coded.grid = FindGrid(nv ? "nvfp4" : "mxfp4").value();
  const int64_t groups = coded.grid.NumGroups(stated.cols);
  PLANISH_TRY(const TensorView view,
              Expect(checkpoint_, module + ".weight_packed", {DType::kU8}, {stated.rows, stated.cols / 2}));
  coded.order = CodeOrder::kFloats;
  coded.codes = {view.bytes(), checkpoint_.owner()};
  coded.levels = LevelsBlob(coded.grid);
  if (mx) {
    PLANISH_TRY(coded.scales, PowerScales(module, stated.rows, groups));
    return Matrix{stated.rows, stated.cols, std::move(coded)};
  }
  PLANISH_TRY(const TensorView scales,
              Expect(checkpoint_, module + ".weight_scale", {DType::kF8E4M3}, {stated.rows, groups}));
  for (int64_t k = 0; k < scales.NumBytes(); ++k) {
    // A negative scale cannot be told from a positive one with other codes here, and no writer makes it.
    if (static_cast<uint8_t>(scales.data[k]) >= 0x7f) {
      return InputError(fmt::format("tensor '{}.weight_scale': element {} is NaN or negative", module, k));
    }
  }
  PLANISH_TRY(const auto global, ReadFloats(checkpoint_, module + ".weight_global_scale", {1}));
  if (!(global[0] > 0)) {
    return InputError(fmt::format("tensor '{}.weight_global_scale': expected a positive number, found {}",
                                  module, global[0]));
  }
  coded.scales = {scales.bytes(), checkpoint_.owner()};
  coded.grid.unit_divides = true;
  coded.units = MakeBlob(4, [&](uint8_t* to) { std::memcpy(to, global.data(), 4); });
  return Matrix{stated.rows, stated.cols, std::move(coded)};
}

// Non-zero elements in row-major order, and a bit for each place.
Result<Matrix> CompressedReader::ReadSparse(const std::string& module, int64_t rows, int64_t cols) const {
  const std::string name = module + ".compressed", &sparse = config_.sparse_format();
  if ((sparse.empty() || sparse == "dense") && config_.format() != "sparse-bitmask") {
    return InputError(fmt::format(
        "tensor '{}.bitmask': expected none, as sparsity_config states no sparse format", module));
  }
  PLANISH_RETURN_IF_ERROR(CheckOnly(checkpoint_, module, {"compressed", "bitmask", "shape", "row_offsets"}));
  PLANISH_TRY(const TensorView values, checkpoint_.Get(name));
  if (!IsComputable(values.type)) {
    return InputError(
        fmt::format("tensor '{}': type {}: weights that are sparse and quantized at once cannot be "
                    "read",
                    name, DTypeName(values.type)));
  }
  const int64_t row_bytes = CeilDiv(cols, 8), size = DTypeBits(values.type) / 8, count = values.NumElements();
  PLANISH_TRY(const TensorView mask,
              Expect(checkpoint_, module + ".bitmask", {DType::kU8}, {rows, row_bytes}));
  int64_t ones = 0;
  for (const std::byte byte : mask.bytes()) ones += std::popcount(static_cast<uint8_t>(byte));
  if (ones != count) {
    return InputError(
        fmt::format("tensor '{}': {} elements for {} places in the bitmask", name, count, ones));
  }
  int64_t outside = 0;
  Blob dense = MakeBlob(rows * cols * size, [&](uint8_t* to) {
    const std::byte* next = values.data;
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t j = 0; j < row_bytes * 8; ++j) {
        if ((static_cast<uint8_t>(mask.data[i * row_bytes + j / 8]) >> (j % 8) & 1) == 0) continue;
        if (j < cols) std::memcpy(to + (i * cols + j) * size, next, static_cast<size_t>(size));
        outside += j < cols ? 0 : 1;
        next += size;
      }
    }
  });
  if (outside > 0) {
    return InputError(fmt::format("tensor '{}.bitmask': {} places beyond column {}", module, outside, cols));
  }
  return DenseMatrix(rows, cols, values.type, std::move(dense));
}

Result<Matrix> CompressedReader::ReadAny(const std::string& module, int64_t rows, int64_t cols) {
  if (checkpoint_.Has(module + ".meta")) {
    return InputError(
        fmt::format("'{}': marlin-24 (2:4 sparsity in a kernel's own order) cannot be read", module));
  }
  if (checkpoint_.Has(module + ".bitmask")) return ReadSparse(module, rows, cols);
  PLANISH_TRY(const Scheme* scheme, config_.Find(module));
  if (scheme == nullptr || !scheme->weights) {
    PLANISH_TRY(const bool ignored, config_.Ignores(module));
    if (ignored) {
      return InputError(fmt::format(
          "'{}': its weight is quantized, but 'ignore' of the config matches it, expected a plain "
          "weight; --ignore-config-fields quantization_config.ignore reads it as the config "
          "groups say",
          module));
    }
    return InputError(fmt::format("'{}': its weight is quantized, but no config group says how", module));
  }
  PLANISH_RETURN_IF_ERROR(CheckFormats(module, *scheme));
  const TensorArgs& args = *scheme->weights;
  if (args.act_order && args.group < cols && !checkpoint_.Has(module + ".weight_g_idx")) {
    return InputError(
        fmt::format("no tensor '{}.weight_g_idx': actorder is group, so that it is needed to tell the group "
                    "of each input; if they lie in order, set actorder to \"static\" in the config",
                    module));
  }
  NoteInputs(*scheme);
  if (checkpoint_.Has(module + ".weight_shape")) {
    PLANISH_TRY(const TensorView shape, Expect(checkpoint_, module + ".weight_shape", {DType::kI64}, {2}));
    int64_t stored[2];
    std::memcpy(stored, shape.data, 16);
    if (stored[0] != rows || stored[1] != cols) {
      return InputError(
          fmt::format("tensor '{}.weight_shape': expected [{}, {}] from the config, found [{}, {}]", module,
                      rows, cols, stored[0], stored[1]));
    }
  }
  Stated stated{.rows = rows, .cols = cols};
  const std::string packed = module + ".weight_packed";
  if (checkpoint_.Has(packed)) {
    PLANISH_TRY(const TensorView view, checkpoint_.Get(packed));
    return view.type == DType::kU8 ? ReadFloat4(module, *scheme, std::move(stated))
                                   : ReadIntegers(module, *scheme, std::move(stated));
  }
  PLANISH_TRY(const TensorView view, checkpoint_.Get(module + ".weight"));
  return view.type == DType::kI8 ? ReadIntegers(module, *scheme, std::move(stated))
                                 : ReadFloat8(module, *scheme, std::move(stated));
}

Result<Matrix> CompressedReader::Read(const std::string& weight, int64_t rows, int64_t cols) {
  PLANISH_TRY(Matrix matrix, ReadAny(ModuleOf(weight), rows, cols));
  if (!checkpoint_.Has(ModuleOf(weight) + ".bitmask")) CountDecoded(matrix);
  return matrix;
}

}  // namespace

Result<std::unique_ptr<QuantizedReader>> OpenCompressedTensors(const Json& config,
                                                               const Checkpoint& checkpoint) {
  PLANISH_TRY(CompressedConfig parsed, CompressedConfig::Parse(config));
  return std::unique_ptr<QuantizedReader>(std::make_unique<CompressedReader>(checkpoint, std::move(parsed)));
}

}  // namespace planish::quantized

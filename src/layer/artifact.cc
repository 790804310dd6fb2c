#include "layer/artifact.h"

#include "layer/code_order.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>

#include "base/checked.h"
#include "base/names.h"

namespace planish {
namespace {

constexpr int kMaxDepth = 4;  // sums of products of codes; nothing we write goes deeper
constexpr int64_t kMaxTerms = 64;

void AddTensor(const std::string& name, DType type, std::vector<int64_t> shape, const Blob& blob,
               std::vector<PartTensor>& tensors) {
  tensors.push_back({name, type, std::move(shape), blob.bytes, blob.owner});
}

constexpr const char* kScaleNames[] = {"f16", "steps", "e8m0", "e4m3", "none"};
constexpr const char* kTableNames[] = {"tensor", "row", "group"};

int64_t NumGroups(const Matrix& m, const GridSpec& grid) { return m.rows * grid.NumGroups(m.cols); }

// Type and shape of the tensor of scales.
std::pair<DType, std::vector<int64_t>> ScalesShape(const GridSpec& grid, int64_t rows, int64_t cols) {
  const int64_t groups = grid.NumGroups(cols);
  if (grid.scale == ScaleKind::kHalf) return {DType::kF16, {rows, groups}};
  if (grid.scale == ScaleKind::kSteps) return {DType::kU8, {PackedBytes(rows * groups, grid.scale_bits)}};
  return {DType::kU8, {rows, groups}};
}

void DescribeCoded(const Matrix& m, const Coded& coded, const std::string& prefix, OrderedJson& json,
                   std::vector<PartTensor>& tensors) {
  const GridSpec& grid = coded.grid;
  AddTensor(prefix + ".codes", DType::kU8, {m.rows, PackedBytes(m.cols, grid.bits)}, CodesInRows(m), tensors);
  if (grid.scale != ScaleKind::kNone) {
    auto [type, shape] = ScalesShape(grid, m.rows, m.cols);
    AddTensor(prefix + ".scales", type, std::move(shape), coded.scales, tensors);
  }
  json["kind"] = grid.Uniform() ? "integer" : "levels";
  json["tensor"] = prefix;
  json["bits"] = grid.bits;
  json["group"] = grid.group;
  if (grid.Uniform()) json["symmetric"] = grid.symmetric;
  if (grid.scale != ScaleKind::kHalf) json["scale"] = kScaleNames[static_cast<int>(grid.scale)];
  if (grid.scale == ScaleKind::kSteps) {
    json["scale_bits"] = grid.scale_bits;
    AddTensor(prefix + ".units", DType::kF16, {m.rows}, coded.units, tensors);
  }
  if (grid.scale == ScaleKind::kE4M3) {
    if (grid.unit_divides) json["unit_divides"] = true;
    AddTensor(prefix + ".units", DType::kF32, {1}, coded.units, tensors);
  }
  if (grid.HasZeros()) {
    if (grid.ZeroBits() != grid.bits) json["zero_bits"] = grid.ZeroBits();
    AddTensor(prefix + ".zeros", DType::kU8, {PackedBytes(NumGroups(m, grid), grid.ZeroBits())}, coded.zeros,
              tensors);
  }
  if (coded.Scattered()) {
    json["group_index"] = true;
    AddTensor(prefix + ".group_index", DType::kI32, {m.cols}, coded.group_of, tensors);
  }
  if (grid.Uniform()) return;
  json["grid"] = LevelsName(grid);
  if (grid.tables != TableScope::kTensor) json["tables"] = kTableNames[static_cast<int>(grid.tables)];
  AddTensor(prefix + ".levels", DType::kF16, {grid.NumTables(m.rows, m.cols), grid.NumLevels()}, coded.levels,
            tensors);
  if (grid.NumSets() > 1) {
    AddTensor(prefix + ".sets", DType::kU8, {PackedBytes(NumGroups(m, grid), 2)}, coded.sets, tensors);
  }
}

OrderedJson Describe(const Matrix& m, const std::string& prefix, std::vector<PartTensor>& tensors) {
  OrderedJson json;
  if (const auto* dense = std::get_if<Dense>(&m.body)) {
    AddTensor(prefix, dense->type, {m.rows, m.cols}, dense->data, tensors);
    json["kind"] = "dense";
    json["tensor"] = prefix;
  } else if (const auto* coded = std::get_if<Coded>(&m.body)) {
    DescribeCoded(m, *coded, prefix, json, tensors);
  } else if (const auto* product = std::get_if<ProductPart>(&m.body)) {
    json["kind"] = "product";
    json["factors"] = OrderedJson::array();
    for (size_t i = 0; i < product->factors.size(); ++i) {
      json["factors"].push_back(
          Describe(product->factors[i], fmt::format("{}.factor{}", prefix, i), tensors));
    }
  } else if (const auto* sparse = std::get_if<Sparse>(&m.body)) {
    AddTensor(prefix + ".values", DType::kF16, {sparse->size()}, sparse->values, tensors);
    AddTensor(prefix + ".columns", sparse->index, {sparse->size()}, sparse->columns, tensors);
    AddTensor(prefix + ".counts", sparse->index, {m.rows}, sparse->counts, tensors);
    json["kind"] = "sparse";
    json["tensor"] = prefix;
    json["count"] = sparse->size();
  } else if (const auto* blocks = std::get_if<Blocks>(&m.body)) {
    AddTensor(prefix + ".blocks", DType::kU8, {m.rows, GgufRowBytes(blocks->type, m.cols)}, blocks->data,
              tensors);
    json["kind"] = "blocks";
    json["tensor"] = prefix;
    json["type"] = InfoOf(blocks->type).name;
  } else {
    const auto& sum = std::get<SumPart>(m.body);
    json["kind"] = "sum";
    json["terms"] = OrderedJson::array();
    for (size_t i = 0; i < sum.terms.size(); ++i) {
      // A sum inside a sum gets a name of its own, or the second terms of both would be PREFIX.term1.
      const bool plain = i == 0 && !std::holds_alternative<SumPart>(sum.terms[i].body);
      json["terms"].push_back(
          Describe(sum.terms[i], plain ? prefix : fmt::format("{}.term{}", prefix, i), tensors));
    }
  }
  json["rows"] = m.rows;
  json["cols"] = m.cols;
  return json;
}

Result<Blob> ReadBlob(const std::string& name, DType type, const std::vector<int64_t>& shape,
                      const Checkpoint& checkpoint) {
  PLANISH_TRY(const TensorView view, checkpoint.Get(name));
  if (view.type != type || view.shape != shape) {
    return InputError(fmt::format("tensor '{}': expected {} {}, found {} {}", name, DTypeName(type),
                                  ShapeText(shape), DTypeName(view.type), ShapeText(view.shape)));
  }
  return Blob{view.bytes(), checkpoint.owner()};
}

// NaN or infinity in scales would poison every product silently; zero or negative ones are legal.
Status CheckHalves(const Blob& halves, const std::string& name) {
  for (size_t i = 0; i * 2 < halves.bytes.size(); ++i) {
    uint16_t bits;
    std::memcpy(&bits, halves.bytes.data() + i * 2, 2);
    if ((bits & 0x7c00u) == 0x7c00u) {
      return InputError(fmt::format("tensor '{}': element {} is not finite", name, i));
    }
  }
  return {};
}

// The grid that a description states, checked.
Result<GridSpec> ReadGrid(const Json& d, const std::string& tensor, bool uniform) {
  GridSpec grid;
  if (!uniform) {
    PLANISH_TRY(const std::string name, JsonString(d, "grid"));
    const auto known = FindGrid(name);
    if (!known.has_value() || known->Uniform() || known->InBlocks()) {
      return InputError(
          fmt::format("'{}': grid: '{}' is no table of levels that is known here", tensor, Abbreviate(name)));
    }
    grid = *known;
  }
  PLANISH_TRY(const int64_t bits, JsonInt(d, "bits"));
  PLANISH_TRY(grid.group, JsonInt(d, "group"));
  PLANISH_TRY(grid.symmetric, JsonBool(d, "symmetric", false));
  if (uniform && (bits < 2 || bits > 8))
    return InputError(fmt::format("'{}': bits: expected 2 to 8, found {}", tensor, bits));
  if (!uniform && bits != grid.bits)
    return InputError(fmt::format("'{}': bits: this grid has {}, found {}", tensor, grid.bits, bits));
  if (grid.group < 0 || grid.group > (int64_t{1} << 24)) {
    return InputError(
        fmt::format("'{}': group: expected 0 (whole row) or a positive size, found {}", tensor, grid.group));
  }
  grid.bits = static_cast<int>(bits);
  grid.scale = ScaleKind::kHalf;
  if (d.contains("scale")) {
    PLANISH_TRY(const std::string scale, JsonString(d, "scale"));
    const auto* it = std::find(std::begin(kScaleNames), std::end(kScaleNames), scale);
    if (it == std::end(kScaleNames)) {
      return InputError(fmt::format("'{}': scale: expected f16, steps, e8m0, e4m3 or none, found '{}'",
                                    tensor, Abbreviate(scale)));
    }
    grid.scale = static_cast<ScaleKind>(it - std::begin(kScaleNames));
  }
  if (grid.scale == ScaleKind::kE4M3) {
    PLANISH_TRY(grid.unit_divides, JsonBool(d, "unit_divides", false));
  }
  if (d.contains("tables")) {
    PLANISH_TRY(const std::string tables, JsonString(d, "tables"));
    const auto* it = std::find(std::begin(kTableNames), std::end(kTableNames), tables);
    if (it == std::end(kTableNames)) {
      return InputError(
          fmt::format("'{}': tables: expected tensor, row or group, found '{}'", tensor, Abbreviate(tables)));
    }
    grid.tables = static_cast<TableScope>(it - std::begin(kTableNames));
  }
  const auto small = [&](const char* key, int64_t low, int& value) -> Status {
    PLANISH_TRY(const int64_t found, JsonInt(d, key));
    if (found < low || found > 8) {
      return InputError(fmt::format("'{}': {}: expected {} to 8, found {}", tensor, key, low, found));
    }
    value = static_cast<int>(found);
    return {};
  };
  if (grid.scale == ScaleKind::kSteps) PLANISH_RETURN_IF_ERROR(small("scale_bits", 4, grid.scale_bits));
  if (uniform && d.contains("zero_bits")) PLANISH_RETURN_IF_ERROR(small("zero_bits", bits, grid.zero_bits));
  const std::string wrong = CheckGrid(grid);
  if (!wrong.empty()) return InputError(fmt::format("'{}': {}", tensor, wrong));
  return grid;
}

// The group of every column, checked; nothing when groups are runs of columns after all.
Result<Blob> ReadGroupIndex(const std::string& tensor, int64_t cols, const GridSpec& grid,
                            const Checkpoint& checkpoint) {
  const std::string name = tensor + ".group_index";
  if (!grid.Uniform()) return InputError(fmt::format("'{}': group_index: only integers have one", tensor));
  PLANISH_TRY(const Blob index, ReadBlob(name, DType::kI32, {cols}, checkpoint));
  const int64_t groups = grid.NumGroups(cols);
  bool in_order = true;
  for (int64_t j = 0; j < cols; ++j) {
    int32_t g;
    std::memcpy(&g, index.bytes.data() + 4 * j, 4);
    in_order = in_order && g == j / grid.GroupSize(cols);
    if (g < 0 || g >= groups) {
      return InputError(
          fmt::format("tensor '{}': element {}: expected a group below {}, found {}", name, j, groups, g));
    }
  }
  return in_order ? Blob{} : index;
}

Result<Matrix> ReadCoded(const Json& d, const std::string& tensor, int64_t rows, int64_t cols, bool uniform,
                         const Checkpoint& checkpoint) {
  PLANISH_TRY(const GridSpec grid, ReadGrid(d, tensor, uniform));
  const int64_t groups = grid.NumGroups(cols);
  Coded coded;
  coded.grid = grid;
  PLANISH_TRY(coded.codes,
              ReadBlob(tensor + ".codes", DType::kU8, {rows, PackedBytes(cols, grid.bits)}, checkpoint));
  if (grid.scale != ScaleKind::kNone) {
    const auto [type, shape] = ScalesShape(grid, rows, cols);
    PLANISH_TRY(coded.scales, ReadBlob(tensor + ".scales", type, shape, checkpoint));
  }
  if (grid.scale == ScaleKind::kHalf) PLANISH_RETURN_IF_ERROR(CheckHalves(coded.scales, tensor + ".scales"));
  if (grid.scale == ScaleKind::kSteps) {
    PLANISH_TRY(coded.units, ReadBlob(tensor + ".units", DType::kF16, {rows}, checkpoint));
    PLANISH_RETURN_IF_ERROR(CheckHalves(coded.units, tensor + ".units"));
  }
  if (grid.scale == ScaleKind::kE4M3) {
    PLANISH_TRY(coded.units, ReadBlob(tensor + ".units", DType::kF32, {1}, checkpoint));
    if (!std::isfinite(LoadElement(coded.units.bytes.data(), DType::kF32, 0))) {
      return InputError(fmt::format("tensor '{}.units': element 0 is not finite", tensor));
    }
    if (grid.unit_divides && LoadElement(coded.units.bytes.data(), DType::kF32, 0) == 0) {
      return InputError(fmt::format("tensor '{}.units': a unit that divides is 0", tensor));
    }
  }
  if (grid.HasZeros()) {
    PLANISH_TRY(coded.zeros, ReadBlob(tensor + ".zeros", DType::kU8,
                                      {PackedBytes(rows * groups, grid.ZeroBits())}, checkpoint));
  }
  if (!uniform) {
    PLANISH_TRY(coded.levels, ReadBlob(tensor + ".levels", DType::kF16,
                                       {grid.NumTables(rows, cols), grid.NumLevels()}, checkpoint));
    PLANISH_RETURN_IF_ERROR(CheckHalves(coded.levels, tensor + ".levels"));
  }
  if (grid.NumSets() > 1) {
    PLANISH_TRY(coded.sets,
                ReadBlob(tensor + ".sets", DType::kU8, {PackedBytes(rows * groups, 2)}, checkpoint));
  }
  PLANISH_TRY(const bool scattered, JsonBool(d, "group_index", false));
  if (scattered) {
    PLANISH_TRY(coded.group_of, ReadGroupIndex(tensor, cols, grid, checkpoint));
  }
  return Matrix{rows, cols, std::move(coded)};
}

Result<Matrix> ReadSparse(const Json& d, const std::string& tensor, int64_t rows, int64_t cols,
                          const Checkpoint& checkpoint) {
  PLANISH_TRY(const int64_t count, JsonInt(d, "count"));
  const auto elements = CheckedMul(rows, cols);
  if (count < 1 || !elements || count > *elements) {
    return InputError(fmt::format("'{}': count: expected 1 to rows times columns, found {}", tensor, count));
  }
  Sparse sparse;
  sparse.index = SparseIndexType(cols);
  PLANISH_TRY(sparse.values, ReadBlob(tensor + ".values", DType::kF16, {count}, checkpoint));
  PLANISH_RETURN_IF_ERROR(CheckHalves(sparse.values, tensor + ".values"));
  PLANISH_TRY(sparse.columns, ReadBlob(tensor + ".columns", sparse.index, {count}, checkpoint));
  PLANISH_TRY(sparse.counts, ReadBlob(tensor + ".counts", sparse.index, {rows}, checkpoint));
  auto begins = CheckSparse(rows, cols, sparse);
  if (!begins.ok()) return InputError(fmt::format("tensor '{}.{}", tensor, begins.error().message));
  sparse.begins = std::move(begins).value();
  return Matrix{rows, cols, std::move(sparse)};
}

Result<Matrix> ReadBlocks(const Json& d, const std::string& tensor, int64_t rows, int64_t cols,
                          const Checkpoint& checkpoint) {
  PLANISH_TRY(const std::string name, JsonString(d, "type"));
  const auto type = ParseGgufType(name);
  if (!type || !InfoOf(*type).decodes) {
    return InputError(fmt::format("'{}': type '{}' is no block type of GGUF", tensor, Abbreviate(name)));
  }
  if (cols % InfoOf(*type).block != 0) {
    return InputError(fmt::format("'{}': {} columns are no multiple of the {} of a {} block", tensor, cols,
                                  InfoOf(*type).block, name));
  }
  PLANISH_TRY(Blob data,
              ReadBlob(tensor + ".blocks", DType::kU8, {rows, GgufRowBytes(*type, cols)}, checkpoint));
  return Matrix{rows, cols, Blocks{*type, std::move(data)}};
}

Result<Matrix> Read(const Json& d, const Checkpoint& checkpoint, int depth);

Result<std::vector<Matrix>> ReadList(const Json& d, const char* key, const Checkpoint& checkpoint,
                                     int depth) {
  const auto list = d.find(key);
  if (list == d.end() || !list->is_array() || list->empty() || list->size() > kMaxTerms) {
    return InputError(fmt::format("field '{}': expected 1 to {} parts", key, kMaxTerms));
  }
  std::vector<Matrix> parts;
  for (const Json& entry : *list) {
    PLANISH_TRY(Matrix part, Read(entry, checkpoint, depth + 1));
    parts.push_back(std::move(part));
  }
  return parts;
}

Result<Matrix> Read(const Json& d, const Checkpoint& checkpoint, int depth) {
  if (!d.is_object() || depth > kMaxDepth) {
    return InputError(fmt::format("expected a description of parts, at most {} deep", kMaxDepth));
  }
  PLANISH_TRY(const std::string kind, JsonString(d, "kind"));
  PLANISH_TRY(const int64_t rows, JsonInt(d, "rows"));
  PLANISH_TRY(const int64_t cols, JsonInt(d, "cols"));
  if (rows < 1 || cols < 1 || rows > (int64_t{1} << 31) || cols > (int64_t{1} << 31)) {
    return InputError(fmt::format("impossible shape [{}, {}]", rows, cols));
  }
  if (kind == "dense" || kind == "integer" || kind == "levels" || kind == "blocks" || kind == "sparse") {
    PLANISH_TRY(const std::string tensor, JsonString(d, "tensor"));
    if (kind == "blocks") return ReadBlocks(d, tensor, rows, cols, checkpoint);
    if (kind == "sparse") return ReadSparse(d, tensor, rows, cols, checkpoint);
    if (kind == "dense") return ReadDenseTensor(tensor, rows, cols, checkpoint);
    return ReadCoded(d, tensor, rows, cols, kind == "integer", checkpoint);
  }
  if (kind == "sum") {
    PLANISH_TRY(auto terms, ReadList(d, "terms", checkpoint, depth));
    for (const auto& term : terms) {
      if (term.rows != rows || term.cols != cols) {
        return InputError(
            fmt::format("a term is [{}, {}], the sum [{}, {}]", term.rows, term.cols, rows, cols));
      }
    }
    return Matrix{rows, cols, SumPart{std::move(terms)}};
  }
  if (kind == "product") {
    PLANISH_TRY(auto factors, ReadList(d, "factors", checkpoint, depth));
    bool fits = factors.front().rows == rows && factors.back().cols == cols;
    for (size_t i = 1; i < factors.size(); ++i) fits = fits && factors[i].rows == factors[i - 1].cols;
    if (!fits) return InputError(fmt::format("the factors' shapes do not multiply to [{}, {}]", rows, cols));
    return Matrix{rows, cols, ProductPart{std::move(factors)}};
  }
  return InputError(
      fmt::format("kind: expected dense, integer, levels, blocks, sparse, sum or product, found '{}'", kind));
}

}  // namespace

OrderedJson DescribeParts(const Matrix& matrix, const std::string& name, std::vector<PartTensor>& tensors) {
  return Describe(matrix, name, tensors);
}

Blob DescribeBias(const Linear& linear, OrderedJson& description, std::vector<PartTensor>& tensors) {
  if (!linear.own_bias) return {};
  const auto size = static_cast<int64_t>(linear.bias.size());
  const Matrix halves = DenseMatrix(MatView<const float>{linear.bias.data(), 1, size, size}, DType::kF16);
  const Blob& blob = std::get<Dense>(halves.body).data;
  // Under the name that the layer's original bias has or would have.
  constexpr std::string_view kWeight = ".weight";
  const bool named = linear.name.ends_with(kWeight);
  const std::string name = linear.name.substr(0, linear.name.size() - (named ? kWeight.size() : 0)) + ".bias";
  AddTensor(name, DType::kF16, {size}, blob, tensors);
  description["bias"] = name;
  return blob;
}

Status ReadBias(const Json& description, const Checkpoint& checkpoint, Linear& linear) {
  if (!description.is_object() || !description.contains("bias")) return {};
  const auto read = [&]() -> Status {
    PLANISH_TRY(const std::string name, JsonString(description, "bias"));
    PLANISH_TRY(const Blob blob, ReadBlob(name, DType::kF16, {linear.w.rows}, checkpoint));
    PLANISH_RETURN_IF_ERROR(CheckHalves(blob, name));
    linear.bias.clear();
    for (int64_t i = 0; i < linear.w.rows; ++i) {
      linear.bias.push_back(LoadElement(blob.bytes.data(), DType::kF16, i));
    }
    linear.own_bias = true;
    return {};
  };
  const Status status = read();
  return status.ok() ? status : status.error().At(linear.name);
}

Result<Matrix> ReadParts(const Json& description, const std::string& name, int64_t rows, int64_t cols,
                         const Checkpoint& checkpoint) {
  auto read = Read(description, checkpoint, 0);
  if (!read.ok()) return read.error().At(name);
  Matrix matrix = std::move(read).value();
  if (matrix.rows != rows || matrix.cols != cols) {
    return InputError(fmt::format("{}: the parts make [{}, {}], the model needs [{}, {}]", name, matrix.rows,
                                  matrix.cols, rows, cols));
  }
  return matrix;
}

Result<Matrix> ReadDenseTensor(const std::string& name, int64_t rows, int64_t cols,
                               const Checkpoint& checkpoint) {
  PLANISH_TRY(const TensorView view, checkpoint.Get(name));
  if (!IsComputable(view.type)) {
    return InputError(fmt::format("tensor '{}': type {} cannot be computed with; expected BF16, F16 or F32",
                                  name, DTypeName(view.type)));
  }
  if (view.shape != std::vector<int64_t>{rows, cols}) {
    return InputError(fmt::format("tensor '{}': expected shape [{}, {}] from the config, found {}", name,
                                  rows, cols, ShapeText(view.shape)));
  }
  return DenseMatrix(rows, cols, view.type, {view.bytes(), checkpoint.owner()});
}

}  // namespace planish

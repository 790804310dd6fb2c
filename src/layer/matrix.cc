#include "layer/matrix.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>

#include "base/overloaded.h"
#include "grids/gguf_decode.h"
#include "layer/bit_run.h"
#include "layer/code_order.h"

namespace planish {
namespace {

float LoadF16(const std::byte* data, int64_t index) { return LoadElement(data, DType::kF16, index); }

void ReadDense(const Matrix& m, const Dense& dense, int64_t row, int64_t rows, int64_t col, int64_t cols,
               float* out, int64_t ld) {
  const int64_t size = DTypeBits(dense.type) / 8;
  for (int64_t i = 0; i < rows; ++i) {
    const std::byte* from = dense.data.bytes.data() + ((row + i) * m.cols + col) * size;
    if (dense.type == DType::kF32) {
      std::memcpy(out + i * ld, from, static_cast<size_t>(cols) * 4);
    } else if (dense.type == DType::kBF16) {
      float* to = out + i * ld;
      for (int64_t j = 0; j < cols; ++j) {
        uint16_t bits;
        std::memcpy(&bits, from + 2 * j, 2);
        to[j] = ToFloat(BF16{bits});
      }
    } else {
      for (int64_t j = 0; j < cols; ++j) out[i * ld + j] = LoadElement(from, dense.type, j);
    }
  }
}

float LoadF32(const std::byte* data) { return LoadElement(data, DType::kF32, 0); }

// FP8 without a sign: 4 bits of exponent with bias 7, 3 of mantissa.
float FromE4M3(uint8_t byte) {
  const int e = byte >> 3, m = byte & 7;
  return std::ldexp(static_cast<float>(e == 0 ? m : m + 8), std::max(e, 1) - 10);
}
uint8_t ToE4M3(float value) {  // value must be one of them
  int exponent;
  std::frexp(value, &exponent);
  const int e = std::max(exponent + 6, 0);
  const auto m = static_cast<int>(std::ldexp(value, 10 - std::max(e, 1)));
  return static_cast<uint8_t>(e == 0 ? m : (e << 3) | (m - 8));
}

// The parameters of group g of row i, from the stored bytes.
float ScaleAt(const Coded& coded, int64_t groups, int64_t i, int64_t g) {
  const std::byte* scales = coded.scales.bytes.data();
  const int64_t at = i * groups + g;
  switch (coded.grid.scale) {
    case ScaleKind::kHalf:
      return LoadF16(scales, at);
    case ScaleKind::kSteps:
      return static_cast<float>(RunValue(scales, at, coded.grid.scale_bits)) *
             LoadF16(coded.units.bytes.data(), i);
    case ScaleKind::kE8M0:
      return std::ldexp(1.0f, static_cast<int>(scales[at]) - 127);
    case ScaleKind::kE4M3:
      if (coded.grid.unit_divides) {
        return FromE4M3(static_cast<uint8_t>(scales[at])) / LoadF32(coded.units.bytes.data());
      }
      return FromE4M3(static_cast<uint8_t>(scales[at])) * LoadF32(coded.units.bytes.data());
    case ScaleKind::kNone:
      return 1;
  }
  return 0;
}
float ZeroAt(const Coded& coded, int64_t groups, int64_t i, int64_t g) {
  const GridSpec& grid = coded.grid;
  if (grid.symmetric) return static_cast<float>(1 << (grid.bits - 1));
  const int zero = RunValue(coded.zeros.bytes.data(), i * groups + g, grid.ZeroBits());
  return static_cast<float>(zero) * grid.ZeroStep();
}
int SetAt(const Coded& coded, int64_t groups, int64_t i, int64_t g) {
  return coded.sets.bytes.empty() ? 0 : RunValue(coded.sets.bytes.data(), i * groups + g, 2);
}

// Groups that are no runs of columns: the parameters of all groups of a row, then column by column.
void ReadScattered(const Matrix& m, const Coded& coded, int64_t row, int64_t rows, int64_t col, int64_t cols,
                   float* out, int64_t ld) {
  const int64_t groups = coded.grid.NumGroups(m.cols);
  std::vector<std::byte> buffer;
  CodeRuns runs;
  std::vector<int32_t> group(static_cast<size_t>(cols));
  std::memcpy(group.data(), coded.group_of.bytes.data() + 4 * col, group.size() * 4);
  std::vector<float> scales(static_cast<size_t>(groups)), zeros(scales.size());
  std::vector<uint8_t> codes(group.size());
  for (int64_t i = row; i < row + rows; ++i) {
    for (int64_t g = 0; g < groups; ++g) {
      scales[static_cast<size_t>(g)] = ScaleAt(coded, groups, i, g);
      zeros[static_cast<size_t>(g)] = ZeroAt(coded, groups, i, g);
    }
    const int64_t at = (i - row) % kRunRows;
    if (at == 0) runs = RunsOf(m, i, std::min(kRunRows, row + rows - i), col, cols, buffer);
    UnpackRun(runs.data + at * runs.stride, col - runs.first, cols, coded.grid.bits, codes.data());
    float* to = out + (i - row) * ld;
    for (size_t k = 0; k < codes.size(); ++k) {
      const auto g = static_cast<size_t>(group[k]);
      to[k] = (static_cast<float>(codes[k]) - zeros[g]) * scales[g];
    }
  }
}

// One row is decoded group by group: value = (code - zero) * scale, or level[code] * scale.
void ReadCoded(const Matrix& m, const Coded& coded, int64_t row, int64_t rows, int64_t col, int64_t cols,
               float* out, int64_t ld) {
  if (coded.Scattered()) return ReadScattered(m, coded, row, rows, col, cols, out, ld);
  const int bits = coded.grid.bits;
  const int64_t group = coded.grid.GroupSize(m.cols), groups = coded.grid.NumGroups(m.cols);
  const int64_t num_levels = coded.grid.NumLevels();
  std::vector<std::byte> buffer;
  CodeRuns runs;
  constexpr int64_t kChunk = 256;
  uint8_t codes[kChunk];
  for (int64_t i = row; i < row + rows; ++i) {
    float* to = out + (i - row) * ld;
    const int64_t at = (i - row) % kRunRows;
    if (at == 0) runs = RunsOf(m, i, std::min(kRunRows, row + rows - i), col, cols, buffer);
    for (int64_t j = col; j < col + cols;) {
      const int64_t g = j / group;
      const int64_t end = std::min({(g + 1) * group, col + cols, j + kChunk});
      const float scale = ScaleAt(coded, groups, i, g);
      UnpackRun(runs.data + at * runs.stride, j - runs.first, end - j, bits, codes);
      if (coded.grid.Uniform()) {
        const float zero = ZeroAt(coded, groups, i, g);
        for (int64_t k = 0; k < end - j; ++k) *to++ = (static_cast<float>(codes[k]) - zero) * scale;
      } else {
        const int64_t table = coded.grid.TableOf(i, g, groups, SetAt(coded, groups, i, g));
        const std::byte* levels = coded.levels.bytes.data() + 2 * num_levels * table;
        for (int64_t k = 0; k < end - j; ++k) *to++ = LoadF16(levels, codes[k]) * scale;
      }
      j = end;
    }
  }
}

int64_t LoadIndex(const std::byte* data, DType type, int64_t i) {
  if (type == DType::kU16) {
    uint16_t value;
    std::memcpy(&value, data + 2 * i, 2);
    return value;
  }
  uint32_t value;
  std::memcpy(&value, data + 4 * i, 4);
  return value;
}

void ReadSparse(const Sparse& sparse, int64_t row, int64_t rows, int64_t col, int64_t cols, float* out,
                int64_t ld) {
  const std::vector<int64_t>& begins = *sparse.begins;
  for (int64_t i = 0; i < rows; ++i) {
    std::fill_n(out + i * ld, cols, 0.0f);
    for (int64_t k = begins[row + i]; k < begins[row + i + 1]; ++k) {
      const int64_t j = sparse.Column(k) - col;
      if (j >= 0 && j < cols) out[i * ld + j] = sparse.Value(k);
    }
  }
}

// One token after the other, the elements of a row in order.
void ApplySparse(const Context& context, const Matrix& m, const Sparse& sparse, MatView<const float> x,
                 MatView<float> y, Accumulate op) {
  const std::vector<int64_t>& begins = *sparse.begins;
  context.pool->ParallelFor(x.rows, [&](int64_t t) {
    for (int64_t i = 0; i < m.rows; ++i) {
      float sum = 0;
      for (int64_t k = begins[i]; k < begins[i + 1]; ++k) sum += sparse.Value(k) * x(t, sparse.Column(k));
      float& to = y(t, i);
      to = op == Accumulate::kSet ? sum : op == Accumulate::kAdd ? to + sum : to - sum;
    }
  });
}

void ReadBlocks(const Matrix& m, const Blocks& blocks, int64_t row, int64_t rows, int64_t col, int64_t cols,
                float* out, int64_t ld) {
  const int64_t row_bytes = GgufRowBytes(blocks.type, m.cols);
  for (int64_t i = 0; i < rows; ++i) {
    DecodeBlockRow(blocks.type, blocks.data.bytes.data() + (row + i) * row_bytes, col, cols, out + i * ld);
  }
}

// Rows of a product: the rows of the first factor times the rest.
void ReadProduct(const ProductPart& product, int64_t row, int64_t rows, int64_t col, int64_t cols, float* out,
                 int64_t ld) {
  const auto& f = product.factors;
  Mat<float> left(rows, f.front().cols);
  ReadRows(f.front(), row, rows, 0, f.front().cols, left.data(), left.cols());
  for (size_t k = 1; k < f.size(); ++k) {
    const bool last = k + 1 == f.size();
    const int64_t c0 = last ? col : 0, nc = last ? cols : f[k].cols;
    Mat<float> right(f[k].rows, nc), next(rows, nc);
    ReadRows(f[k], 0, f[k].rows, c0, nc, right.data(), nc);
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t j = 0; j < nc; ++j) next(i, j) = 0;
      for (int64_t p = 0; p < f[k].rows; ++p) {
        for (int64_t j = 0; j < nc; ++j) next(i, j) += left(i, p) * right(p, j);
      }
    }
    left = std::move(next);
  }
  for (int64_t i = 0; i < rows; ++i) std::memcpy(out + i * ld, left.row(i), static_cast<size_t>(cols) * 4);
}

class MatrixRows : public RowSource {
 public:
  explicit MatrixRows(const Matrix& matrix) : matrix_(matrix) {}
  int64_t rows() const override { return matrix_.rows; }
  int64_t cols() const override { return matrix_.cols; }
  void Read(int64_t row, int64_t rows, int64_t col, int64_t cols, float* out, int64_t ld) const override {
    ReadRows(matrix_, row, rows, col, cols, out, ld);
  }

 private:
  const Matrix& matrix_;
};

void ApplyProduct(const Context& context, const ProductPart& product, MatView<const float> x,
                  MatView<float> y, Accumulate op) {
  Mat<float> current;
  MatView<const float> input = x;
  for (size_t k = product.factors.size(); k-- > 1;) {
    Mat<float> next(x.rows, product.factors[k].rows);
    Apply(context, product.factors[k], input, next);
    current = std::move(next);
    input = current.view();
  }
  Apply(context, product.factors.front(), input, y, op);
}

}  // namespace

namespace {

Blob Owned(int64_t bytes, const std::function<void(uint8_t*)>& fill) {
  if (bytes == 0) return {};
  auto buffer = std::make_shared<Buffer>(static_cast<size_t>(bytes));
  fill(reinterpret_cast<uint8_t*>(buffer->data()));
  const auto view = std::as_const(*buffer).bytes();
  return {view, std::move(buffer)};
}

Blob HalvesBlob(const float* values, int64_t count) {
  return Owned(2 * count, [&](uint8_t* to) {
    for (int64_t k = 0; k < count; ++k) {
      const F16 half = ToF16(values[k]);
      std::memcpy(to + 2 * k, &half, 2);
    }
  });
}

// Small whole numbers as one packed run.
template <typename Value>
Blob RunBlob(int64_t count, int bits, const Value& value) {
  std::vector<uint8_t> values(static_cast<size_t>(count));
  for (int64_t k = 0; k < count; ++k) values[static_cast<size_t>(k)] = static_cast<uint8_t>(value(k));
  return Owned(PackedBytes(count, bits), [&](uint8_t* to) { PackRun(values.data(), count, bits, to); });
}

Blob PackScales(const GridMatrix& m) {
  const int64_t groups = m.scales.cols(), count = m.rows() * groups;
  const float* scales = m.scales.data();
  switch (m.grid.scale) {
    case ScaleKind::kHalf:
      return HalvesBlob(scales, count);
    case ScaleKind::kSteps:
      return RunBlob(count, m.grid.scale_bits, [&](int64_t k) {
        return std::nearbyint(scales[k] / m.units[static_cast<size_t>(k / groups)]);
      });
    case ScaleKind::kE8M0:
      return RunBlob(count, 8, [&](int64_t k) { return std::ilogb(scales[k]) + 127; });
    case ScaleKind::kE4M3:
      return RunBlob(count, 8, [&](int64_t k) {
        const float unit = m.units.front();
        return ToE4M3(StoredScale(m.grid, 1.0f, m.grid.unit_divides ? scales[k] * unit : scales[k] / unit));
      });
    case ScaleKind::kNone:
      break;
  }
  return {};
}

}  // namespace

Matrix PackCodes(const GridMatrix& m) {
  const GridSpec& grid = m.grid;
  const int64_t rows = m.rows(), cols = m.cols(), count = rows * grid.NumGroups(cols);
  const int64_t row_bytes = PackedBytes(cols, grid.bits);
  Coded coded;
  coded.grid = grid;
  coded.codes = Owned(rows * row_bytes, [&](uint8_t* to) {
    for (int64_t i = 0; i < rows; ++i) PackRun(m.codes.row(i), cols, grid.bits, to + i * row_bytes);
  });
  coded.scales = PackScales(m);
  if (grid.HasZeros()) {
    coded.zeros =
        RunBlob(count, grid.ZeroBits(), [&](int64_t k) { return m.zeros.data()[k] / grid.ZeroStep(); });
  }
  if (grid.scale == ScaleKind::kSteps) coded.units = HalvesBlob(m.units.data(), rows);
  if (grid.scale == ScaleKind::kE4M3) {
    coded.units = Owned(4, [&](uint8_t* to) { std::memcpy(to, m.units.data(), 4); });
  }
  if (grid.NumSets() > 1) coded.sets = RunBlob(count, 2, [&](int64_t k) { return m.sets.data()[k]; });
  coded.levels = HalvesBlob(m.levels.data(), m.levels.rows() * m.levels.cols());
  return {rows, cols, std::move(coded)};
}

GridMatrix UnpackCodes(const Matrix& matrix) {
  const auto* coded = std::get_if<Coded>(&matrix.body);
  PLANISH_CHECK(coded != nullptr);
  const GridSpec& grid = coded->grid;
  const int64_t groups = grid.NumGroups(matrix.cols);
  GridMatrix m;
  m.grid = grid;
  m.codes.Resize(matrix.rows, matrix.cols);
  m.scales.Resize(matrix.rows, groups);
  if (grid.Uniform()) m.zeros.Resize(matrix.rows, groups);
  if (grid.NumSets() > 1) m.sets.Resize(matrix.rows, groups);
  std::vector<std::byte> buffer;
  CodeRuns runs;
  for (int64_t i = 0; i < matrix.rows; ++i) {
    const int64_t at = i % kRunRows;
    if (at == 0) runs = RunsOf(matrix, i, std::min(kRunRows, matrix.rows - i), 0, matrix.cols, buffer);
    UnpackRun(runs.data + at * runs.stride, 0, matrix.cols, grid.bits, m.codes.row(i));
    for (int64_t g = 0; g < groups; ++g) {
      m.scales(i, g) = ScaleAt(*coded, groups, i, g);
      if (grid.Uniform()) m.zeros(i, g) = ZeroAt(*coded, groups, i, g);
      if (grid.NumSets() > 1) m.sets(i, g) = static_cast<uint8_t>(SetAt(*coded, groups, i, g));
    }
  }
  const std::byte* units = coded->units.bytes.data();
  if (grid.scale == ScaleKind::kE4M3) m.units = {LoadF32(units)};
  for (int64_t i = 0; grid.scale == ScaleKind::kSteps && i < matrix.rows; ++i) {
    m.units.push_back(LoadF16(units, i));
  }
  if (!grid.Uniform()) m.levels.Resize(grid.NumTables(matrix.rows, matrix.cols), grid.NumLevels());
  for (int64_t k = 0; k < m.levels.rows() * m.levels.cols(); ++k) {
    m.levels.data()[k] = LoadF16(coded->levels.bytes.data(), k);
  }
  return m;
}

int64_t Sparse::Column(int64_t i) const { return LoadIndex(columns.bytes.data(), index, i); }

namespace {

Blob IndexBlob(const std::vector<int64_t>& values, DType type) {
  const int64_t size = DTypeBits(type) / 8;
  return Owned(size * static_cast<int64_t>(values.size()), [&](uint8_t* to) {
    for (const int64_t value : values) {
      const auto small = static_cast<uint16_t>(value);
      const auto large = static_cast<uint32_t>(value);
      std::memcpy(to, size == 2 ? static_cast<const void*>(&small) : &large, static_cast<size_t>(size));
      to += size;
    }
  });
}

}  // namespace

Matrix SparseMatrix(int64_t rows, int64_t cols, std::span<const SparseEntry> entries) {
  std::vector<float> values;
  std::vector<int64_t> columns, counts(static_cast<size_t>(rows), 0);
  for (const SparseEntry& entry : entries) {
    PLANISH_CHECK(entry.row >= 0 && entry.row < rows) << entry.row;
    values.push_back(entry.value);
    columns.push_back(entry.col);
    ++counts[static_cast<size_t>(entry.row)];
  }
  Sparse sparse;
  sparse.index = SparseIndexType(cols);
  sparse.values = HalvesBlob(values.data(), static_cast<int64_t>(values.size()));
  sparse.columns = IndexBlob(columns, sparse.index);
  sparse.counts = IndexBlob(counts, sparse.index);
  auto begins = CheckSparse(rows, cols, sparse);
  PLANISH_CHECK(begins.ok()) << begins.error().message;
  sparse.begins = std::move(begins).value();
  return {rows, cols, std::move(sparse)};
}

Result<std::shared_ptr<const std::vector<int64_t>>> CheckSparse(int64_t rows, int64_t cols,
                                                                const Sparse& sparse) {
  const auto n = static_cast<int64_t>(sparse.values.bytes.size()) / 2;
  auto begins = std::make_shared<std::vector<int64_t>>();
  begins->reserve(static_cast<size_t>(rows) + 1);
  begins->push_back(0);
  for (int64_t i = 0; i < rows; ++i) {
    const int64_t count = LoadIndex(sparse.counts.bytes.data(), sparse.index, i);
    const int64_t begin = begins->back();
    if (count > n - begin) {
      return InputError(
          fmt::format("counts: row {} has {} elements, {} of {} are left", i, count, n - begin, n));
    }
    for (int64_t k = begin; k < begin + count; ++k) {
      const int64_t column = sparse.Column(k), before = k > begin ? sparse.Column(k - 1) : -1;
      if (column >= cols || column <= before) {
        return InputError(fmt::format("columns: element {} of row {} is in column {} after {}, of {} columns",
                                      k - begin, i, column, before, cols));
      }
    }
    begins->push_back(begin + count);
  }
  if (begins->back() != n) {
    return InputError(fmt::format("counts: the rows have {} elements, {} are stored", begins->back(), n));
  }
  return std::shared_ptr<const std::vector<int64_t>>(std::move(begins));
}

Matrix DenseMatrix(int64_t rows, int64_t cols, DType type, Blob data) {
  PLANISH_CHECK(static_cast<int64_t>(data.bytes.size()) == rows * cols * DTypeBits(type) / 8);
  return {rows, cols, Dense{type, std::move(data)}};
}

Matrix BlockMatrix(GgufType type, int64_t rows, int64_t cols, Buffer blocks) {
  PLANISH_CHECK(static_cast<int64_t>(blocks.size()) == rows * GgufRowBytes(type, cols)) << blocks.size();
  auto owner = std::make_shared<Buffer>(std::move(blocks));
  const auto view = std::as_const(*owner).bytes();
  return {rows, cols, Blocks{type, {view, std::move(owner)}}};
}

Matrix DenseMatrix(MatView<const float> values, DType type) {
  const int64_t size = DTypeBits(type) / 8;
  auto buffer = std::make_shared<Buffer>(static_cast<size_t>(values.rows * values.cols * size));
  std::byte* to = buffer->data();
  for (int64_t i = 0; i < values.rows; ++i) {
    for (int64_t j = 0; j < values.cols; ++j, to += size) {
      const float f = values(i, j);
      const uint16_t half = type == DType::kBF16 ? ToBF16(f).bits : type == DType::kF16 ? ToF16(f).bits : 0;
      if (type == DType::kF32) {
        std::memcpy(to, &f, 4);
      } else {
        std::memcpy(to, &half, 2);
      }
    }
  }
  const auto view = std::as_const(*buffer).bytes();
  return {values.rows, values.cols, Dense{type, {view, std::move(buffer)}}};
}

void ReadRows(const Matrix& m, int64_t row, int64_t rows, int64_t col, int64_t cols, float* out, int64_t ld) {
  std::visit(Overloaded{[&](const Dense& d) { ReadDense(m, d, row, rows, col, cols, out, ld); },
                        [&](const Coded& c) { ReadCoded(m, c, row, rows, col, cols, out, ld); },
                        [&](const Blocks& b) { ReadBlocks(m, b, row, rows, col, cols, out, ld); },
                        [&](const ProductPart& p) { ReadProduct(p, row, rows, col, cols, out, ld); },
                        [&](const Sparse& s) { ReadSparse(s, row, rows, col, cols, out, ld); },
                        [&](const SumPart& s) {
                          ReadRows(s.terms.front(), row, rows, col, cols, out, ld);
                          Mat<float> term(rows, cols);
                          for (size_t k = 1; k < s.terms.size(); ++k) {
                            ReadRows(s.terms[k], row, rows, col, cols, term.data(), cols);
                            for (int64_t i = 0; i < rows; ++i) {
                              for (int64_t j = 0; j < cols; ++j) out[i * ld + j] += term(i, j);
                            }
                          }
                        }},
             m.body);
}

Mat<float> Reconstruct(const Matrix& matrix) {
  Mat<float> out(matrix.rows, matrix.cols);
  ReadRows(matrix, 0, matrix.rows, 0, matrix.cols, out.data(), matrix.cols);
  return out;
}

void Apply(const Context& context, const Matrix& m, MatView<const float> x, MatView<float> y, Accumulate op) {
  std::visit(
      Overloaded{[&](const Dense& d) {
                   MatMulNT(context, x, WeightView{d.data.bytes.data(), d.type, m.rows, m.cols, m.cols}, y,
                            op, context.precision);
                 },
                 [&](const Coded&) { MatMulNT(context, x, MatrixRows(m), y, op, context.precision); },
                 [&](const Blocks&) { MatMulNT(context, x, MatrixRows(m), y, op, context.precision); },
                 [&](const ProductPart& p) { ApplyProduct(context, p, x, y, op); },
                 [&](const Sparse& s) { ApplySparse(context, m, s, x, y, op); },
                 [&](const SumPart& s) {
                   Apply(context, s.terms.front(), x, y, op);
                   for (size_t k = 1; k < s.terms.size(); ++k) {
                     Apply(context, s.terms[k], x, y, op == Accumulate::kSubtract ? op : Accumulate::kAdd);
                   }
                 }},
      m.body);
}

int64_t StoredBytes(const Matrix& matrix) {
  const auto total = [](const std::vector<Matrix>& parts) {
    int64_t sum = 0;
    for (const auto& part : parts) sum += StoredBytes(part);
    return sum;
  };
  return std::visit(Overloaded{[](const Dense& d) { return static_cast<int64_t>(d.data.bytes.size()); },
                               [](const Coded& c) {
                                 int64_t sum = 0;
                                 for (const Blob* blob : {&c.codes, &c.scales, &c.zeros, &c.units, &c.sets,
                                                          &c.levels, &c.group_of}) {
                                   sum += static_cast<int64_t>(blob->bytes.size());
                                 }
                                 return sum;
                               },
                               [](const Blocks& b) { return static_cast<int64_t>(b.data.bytes.size()); },
                               [](const Sparse& s) {
                                 return static_cast<int64_t>(s.values.bytes.size() + s.columns.bytes.size() +
                                                             s.counts.bytes.size());
                               },
                               [&](const ProductPart& p) { return total(p.factors); },
                               [&](const SumPart& s) { return total(s.terms); }},
                    matrix.body);
}

std::string Describe(const Matrix& matrix) {
  const auto dtype = [](DType t) { return t == DType::kF32 ? "f32" : t == DType::kF16 ? "f16" : "bf16"; };
  return std::visit(
      Overloaded{[&](const Dense& d) -> std::string { return dtype(d.type); },
                 [](const Coded& c) { return GridText(c.grid) + (c.Scattered() ? " act-order" : ""); },
                 [](const Blocks& b) -> std::string { return InfoOf(b.type).name; },
                 [&](const Sparse& s) {
                   const double all = static_cast<double>(matrix.rows) * static_cast<double>(matrix.cols);
                   return fmt::format("sparse {:.3g}%", 100.0 * static_cast<double>(s.size()) / all);
                 },
                 [](const ProductPart& p) {
                   std::string text = fmt::format("path r{} (", p.factors.back().rows);
                   for (size_t i = 0; i < p.factors.size(); ++i) {
                     text += (i ? ", " : "") + Describe(p.factors[i]);
                   }
                   return text + ")";
                 },
                 [](const SumPart& s) {
                   std::string text;
                   for (const auto& term : s.terms) text += (text.empty() ? "" : " + ") + Describe(term);
                   return text;
                 }},
      matrix.body);
}

}  // namespace planish

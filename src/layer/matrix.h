// A weight matrix as an expression of parts. Dense is just the first kind; compressed layers are
// codes on a grid, low-rank products, and sums of those. Reconstruct is the definition of every
// part; kernels compute straight from the parts and are compared with it.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <variant>
#include <vector>

#include "base/context.h"
#include "base/result.h"
#include "formats/gguf_types.h"
#include "grids/grid.h"
#include "math/gemm.h"
#include "tensor/buffer.h"
#include "tensor/view.h"

namespace planish {

// Bytes somebody keeps alive: a mapped file, or a buffer. Copies share them.
struct Blob {
  std::span<const std::byte> bytes;
  std::shared_ptr<const void> owner;
};

// Row-major elements of f32, f16 or bf16, possibly unaligned.
struct Dense {
  DType type = DType::kF32;
  Blob data;
};

// How the codes lie: as in artifacts, or as in a mapped file of another program (code_order.h reads them
// all).
enum class CodeOrder : uint8_t {
  kRows,     // [rows, PackedBytes]: every row a run of its own
  kColumns,  // GPTQ: words [cols bits / 32, rows], where those of a column are a row's run
  kEights,   // AWQ: words [cols, rows / 8] of eight rows' 4-bit codes, row k at nibble kAwqSlots[k % 8]
  kSigned,   // [rows, cols] bytes, the codes less 128
  kFloats,   // [rows, PackedBytes] of e4m3 or e2m1 patterns in the place of their levels' indices
};
inline constexpr int kAwqSlots[8] = {0, 4, 1, 5, 2, 6, 3, 7};

// Codes on a grid, packed as they are stored (see PackCodes). Values of `bits` b lie in a run of bytes as
// bits [k b, (k + 1) b), little-endian. Blobs that the grid has no use for are empty.
struct Coded {
  GridSpec grid;
  CodeOrder order = CodeOrder::kRows;
  Blob codes;   // in that order
  Blob scales;  // [rows, groups] fp16; kSteps: one run of rows * groups steps; kE8M0, kE4M3: a byte each
  Blob zeros;   // one run of rows * groups zeros in units of the grid's zero step
  Blob units;   // kSteps: [rows] fp16; kE4M3: [1] f32
  Blob sets;    // grids with several sets of levels: one run of rows * groups 2-bit numbers
  Blob levels;  // [grid.NumTables, 2^bits] fp16
  // [cols] i32 below the number of groups, of uniform grids: the group of each column, where groups are no
  // runs of columns, as rounding in the order of activations leaves them. Empty: column / group.
  Blob group_of;
  bool Scattered() const { return !group_of.bytes.empty(); }
};

// A few elements beside zeros, row by row: their values, their columns, and how many a row has.
struct Sparse {
  DType index = DType::kU16;  // of columns and counts: kU16 up to 65,535 columns, else kU32
  Blob values;                // [n] fp16
  Blob columns;               // [n] ascending within a row
  Blob counts;                // [rows]
  std::shared_ptr<const std::vector<int64_t>> begins;  // [rows + 1] sums of counts; not stored

  int64_t size() const { return begins->back(); }
  int64_t Column(int64_t i) const;
  float Value(int64_t i) const { return LoadElement(values.bytes.data(), DType::kF16, i); }
};
inline DType SparseIndexType(int64_t cols) { return cols <= 65535 ? DType::kU16 : DType::kU32; }

// Rows in the block types of GGUF, as they lie in such a file.
struct Blocks {
  GgufType type = GgufType::kQ8_0;  // one that decodes
  Blob data;                        // [rows, GgufRowBytes(type, cols)]
};

struct Matrix;
struct ProductPart {
  std::vector<Matrix> factors;  // [out, r] first, [r, in] last
};
struct SumPart {
  std::vector<Matrix> terms;
};

struct Matrix {
  int64_t rows = 0, cols = 0;
  std::variant<Dense, Coded, ProductPart, SumPart, Blocks, Sparse> body;
};

// Bytes of a row of `count` packed values of `bits`.
inline int64_t PackedBytes(int64_t count, int bits) { return (count * bits + 7) / 8; }
// Packs a matrix into bits; the inverse is how Coded is read.
Matrix PackCodes(const GridMatrix& matrix);
GridMatrix UnpackCodes(const Matrix& matrix);  // matrix.body must be Coded; group_of is left out
inline Matrix PackInteger(const IntegerMatrix& matrix) { return PackCodes(matrix); }
inline IntegerMatrix UnpackInteger(const Matrix& matrix) { return UnpackCodes(matrix); }

// An element of a sparse matrix.
struct SparseEntry {
  int64_t row = 0, col = 0;
  float value = 0;  // rounded to fp16 where it is stored
};
// Entries in order of row and column, no place twice.
Matrix SparseMatrix(int64_t rows, int64_t cols, std::span<const SparseEntry> entries);
// The sums of a sparse part's counts. Errors: counts or columns that do not fit each other or the shape.
Result<std::shared_ptr<const std::vector<int64_t>>> CheckSparse(int64_t rows, int64_t cols,
                                                                const Sparse& sparse);

Matrix DenseMatrix(int64_t rows, int64_t cols, DType type, Blob data);
// Of [rows, GgufRowBytes(type, cols)] bytes.
Matrix BlockMatrix(GgufType type, int64_t rows, int64_t cols, Buffer blocks);
// An owned copy in the given type, each element rounded to nearest even.
Matrix DenseMatrix(MatView<const float> values, DType type);

// Rows of any matrix, made on demand; out[i * ld + j] as in RowSource. Products are multiplied out.
void ReadRows(const Matrix& matrix, int64_t row, int64_t row_count, int64_t col, int64_t col_count,
              float* out, int64_t ld);
// The whole matrix in fp32: the definition.
Mat<float> Reconstruct(const Matrix& matrix);
// y [tokens, rows] op= x [tokens, cols] W^T, computed from the parts: a low-rank product is never
// multiplied out.
void Apply(const Context& context, const Matrix& matrix, MatView<const float> x, MatView<float> y,
           Accumulate op = Accumulate::kSet);
// Every byte of every part.
int64_t StoredBytes(const Matrix& matrix);
// "int3 g128 + product r16 (int8, int8)", "bf16".
std::string Describe(const Matrix& matrix);

}  // namespace planish

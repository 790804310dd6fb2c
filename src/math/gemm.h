// Dense matrix products in fp32, the one place where nearly all time goes.
//
// Every element of a product is one chain of fused multiply-adds over k in ascending order,
// starting from the old value (kAdd, kSubtract) or from zero, whatever the blocking, the thread
// count or the instruction set. That makes the sets scalar, avx2 and avx512 bit-identical, so the
// same kernels serve both numeric profiles. (sse4 has no fused multiply-add; it rounds products and
// is never used in the strict profile.)
//
// Exception, stated where it holds: MatMulNT with few rows of A (kSmallM and below) is a
// dot-product kernel that is bound by the bandwidth of B. Its order is also fixed on every
// instruction set: 64 partial sums (element k goes to sum k mod 64), joined in a fixed tree.
//
// A precision below fp32 (Precision of base/context.h) is for products that say so: panels are packed as
// pairs of bf16 for matrix tiles or AVX-512's products of bf16 where the processor has them, else rounded to
// the same values and multiplied in fp32. The order of k then differs between processors, never with threads.
// Few rows of A (kSmallM) stay in fp32: memory bounds them.
#pragma once

#include <string>

#include "base/context.h"
#include "tensor/view.h"

namespace planish {

enum class Accumulate { kSet, kAdd, kSubtract };

// Rows of a matrix [rows, cols] made on demand: decoded codes, or a file's bf16. Thread-safe.
class RowSource {
 public:
  virtual ~RowSource() = default;
  virtual int64_t rows() const = 0;
  virtual int64_t cols() const = 0;
  // out[i * ld + j] = element (row + i, col + j) for i < row_count, j < col_count.
  virtual void Read(int64_t row, int64_t row_count, int64_t col, int64_t col_count, float* out,
                    int64_t ld) const = 0;
};

inline constexpr int64_t kSmallM = 4;

// C[M,N] op= A[M,K] B[N,K]^T: a linear layer, B being its weight [out, in]. B is bf16, f16 or f32
// and may be unaligned.
void MatMulNT(const Context& context, MatView<const float> a, const WeightView& b, MatView<float> c,
              Accumulate op = Accumulate::kSet, Precision precision = Precision::kF32);
// The same with rows of B made panel by panel while they are packed.
void MatMulNT(const Context& context, MatView<const float> a, const RowSource& b, MatView<float> c,
              Accumulate op = Accumulate::kSet, Precision precision = Precision::kF32);
// C[M,N] op= A[M,K] B[K,N].
void MatMulNN(const Context& context, MatView<const float> a, MatView<const float> b, MatView<float> c,
              Accumulate op = Accumulate::kSet);
// C[M,N] op= A[K,M]^T B[K,N].
void MatMulTN(const Context& context, MatView<const float> a, MatView<const float> b, MatView<float> c,
              Accumulate op = Accumulate::kSet);

// H[n,n] op= X[tokens,n]^T X. Only the tiles that touch the upper triangle are computed; then the
// lower triangle is copied from the upper one, so H is exactly symmetric.
void Gram(const Context& context, MatView<const float> x, MatView<float> h, Accumulate op = Accumulate::kSet,
          Precision precision = Precision::kF32);

// The kernels that products of a precision run on here: "avx2", "amx-bf16", "avx2, rounded to bf16".
std::string GemmKernelsText(const Context& context, Precision precision);
// True where products of bf16 are faster than those of fp32.
bool HasFastBf16(const Context& context);
// True where these are products of matrix tiles.
bool HasMatrixTiles(const Context& context);

// Multiply-adds per second a core does here at best: the best of a few short runs of register-only
// chains of `isa` (fused multiply-adds, or products of bf16 where the precision has them), on all threads of
// the pool together. For benches and preflight estimates.
double MeasureFmaPeak(const Context& context, Precision precision = Precision::kF32);
// The rate of a 1024x2048x768 MatMulNT in multiply-adds per second (best of `runs`).
double MeasureGemmRate(const Context& context, int runs = 3);

}  // namespace planish

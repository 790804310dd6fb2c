// Factorizations and spectra of symmetric matrices. All are our own code, because library ones
// give other bits with another number of threads; all work is in fixed blocks and fixed order.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/context.h"
#include "tensor/view.h"

namespace planish {

// A [n,n] symmetric positive definite (the upper triangle is read) becomes R, upper triangular with
// A = R R^T (note the order: the last column is factored first), zero below the diagonal. This is what
// error feedback needs: with E R as the weighted error, column j depends on columns before it only,
// and no inverse is ever formed. Right-looking over blocks from the bottom right, n^3/6 multiply-adds,
// nearly all in MatMulNT. Error: kFailure naming the pivot that was not positive.
Status CholeskyUpper(const Context& context, MatView<float> a);
// The same in double, unblocked: the definition, for tests and small systems.
Status CholeskyUpper(MatView<double> a);

// Solves X A = B for X in place of B [m,n], with A = R R^T from CholeskyUpper [n,n] (double).
void SolveCholesky(MatView<const double> r, MatView<double> b);

// All eigenvalues (descending) and eigenvectors (rows of `vectors`, orthonormal, sign fixed: the
// entry largest in magnitude is positive) of symmetric A [n,n], of which the lower triangle is read.
// An empty `vectors` asks for the values alone, in a fraction of the time. Householder tridiagonalization
// and implicit QL, in double. O(n^3), one thread; the definition. Error: kFailure naming an element that
// is not finite, or an eigenvalue that did not converge.
Status SymmetricEigen(MatView<const double> a, std::span<double> values, MatView<double> vectors);

// Top `rank` eigenpairs of the symmetric positive semidefinite operator M [n,n] given by
// apply(Q [p,n]) -> Q M [p,n]. Randomized block Krylov iteration (Musco and Musco 2015): blocks of
// `block` rows, full re-orthogonalization, Rayleigh-Ritz on a basis whose projected operator is
// diagonalized in double; stops when the captured energy sum(values) changes by less than `tolerance`
// relative while the basis grows by a sixth, or after max_blocks. When the basis would outgrow n, the
// operator is applied to the identity and diagonalized exactly.
//
// Always `rank` vectors: where M has rank k < rank, the values from k on are zeros (or rounding noise of
// about 1e-6 of the first) and their vectors an arbitrary orthonormal completion. Signs as in
// SymmetricEigen. The bits depend on the seed, not on threads. Errors: kInterrupted; kFailure when
// the operator returns numbers that are not finite.
//
// Blocks narrower than the rank reach higher powers of M with as many rows: at n = 4096, white noise,
// rank 64 and about 650 rows, blocks of 72, 48 and 36 rows captured 0.9974, 0.9996 and 0.9998 of the
// optimum. Much narrower ones only make the products thin.
inline int64_t DefaultKrylovBlock(int64_t rank) { return rank / 2 + 8; }

struct KrylovOptions {
  int64_t block = 0;  // 0: DefaultKrylovBlock(rank)
  int64_t max_blocks = 16;
  double tolerance = 1e-4;
  uint64_t seed = 0;
};
using SymmetricApply = void (*)(const Context&, const void* op, MatView<const float> q, MatView<float> qm);
struct TopEigen {
  Mat<float> vectors;          // [rank, n], orthonormal rows
  std::vector<double> values;  // descending, >= 0
  int64_t blocks_used = 0;     // 0: the exact route
};
// 1 <= rank <= n.
Result<TopEigen> KrylovTopEigen(const Context& context, int64_t n, int64_t rank, SymmetricApply apply,
                                const void* op, const KrylovOptions& options = {});

}  // namespace planish

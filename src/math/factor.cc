// Cholesky factors "from the bottom right" (see factor.h), and solves with them.
//
// Bits: everything outside MatMulNT is plain multiply, subtract, divide and square root in a fixed
// order (-ffp-contract=off), so the result is as invariant as the products of gemm.h are.
#include "math/factor.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <string>
#include <vector>

#include "base/check.h"
#include "math/gemm.h"

namespace planish {
namespace {

// Columns factored at once: the depth of the products of the trailing update. Deep enough to hide
// the reading and writing of the trailing matrix, shallow enough that the panel solve (3/2 kBlock / n
// of the work) stays small.
constexpr int64_t kBlock = 128;
// Columns of the panel solved by substitution; the rest of the panel solve is MatMulNT.
constexpr int64_t kSolve = 32;
// Rows of the panel that are substituted together, transposed so that the inner loop runs over rows.
constexpr int64_t kSolveRows = 64;
// Rows of one strip of the trailing update; what lies left of a strip's diagonal tile is not computed.
constexpr int64_t kStrip = 256;

// Factors the upper triangle of a in place, right-looking. Returns the index of the first pivot that
// is not a positive finite number, or -1.
int64_t FactorInPlace(MatView<double> a) {
  std::vector<double> column(static_cast<size_t>(a.rows));
  for (int64_t j = a.rows - 1; j >= 0; --j) {
    const double pivot = a(j, j);
    if (!(pivot > 0) || !std::isfinite(pivot)) return j;
    const double root = std::sqrt(pivot);
    a(j, j) = root;
    for (int64_t i = 0; i < j; ++i) column[i] = a(i, j) = a(i, j) / root;
    for (int64_t i = 0; i < j; ++i) {
      double* row = a.row(i);
      const double scale = column[i];
      for (int64_t k = i; k < j; ++k) row[k] -= scale * column[k];
    }
  }
  return -1;
}

Error PivotError(int64_t index, int64_t n, double value) {
  return FailureError("Cholesky of a " + std::to_string(n) + "x" + std::to_string(n) + " matrix: pivot " +
                      std::to_string(index) + " is " + std::to_string(value) +
                      ", expected a positive number (more damping on the diagonal may help)");
}

// X R^T = B in place of B [rows, w], w <= kSolve, R upper triangular [w, w]: columns right to left.
void SubstituteRows(MatView<const float> r, MatView<float> b) {
  std::array<std::array<float, kSolveRows>, kSolve> t;  // t[j][i] = b(i, j)
  for (auto& column : t) column.fill(0);
  for (int64_t i = 0; i < b.rows; ++i)
    for (int64_t j = 0; j < b.cols; ++j) t[j][i] = b(i, j);
  for (int64_t j = b.cols - 1; j >= 0; --j) {
    const float pivot = r(j, j);
    for (int64_t i = 0; i < kSolveRows; ++i) t[j][i] /= pivot;
    for (int64_t k = 0; k < j; ++k) {
      const float factor = r(k, j);
      for (int64_t i = 0; i < kSolveRows; ++i) t[k][i] -= factor * t[j][i];
    }
  }
  for (int64_t i = 0; i < b.rows; ++i)
    for (int64_t j = 0; j < b.cols; ++j) b(i, j) = t[j][i];
}

// X R^T = P in place of the panel P [m, w], R upper triangular [w, w].
void SolvePanel(const Context& context, MatView<const float> r, MatView<float> panel) {
  const int64_t width = r.rows;
  for (int64_t end = width; end > 0;) {
    const int64_t begin = std::max<int64_t>(0, end - kSolve);
    const int64_t count = end - begin;
    if (end < width) {
      const MatView<const float> solved = panel.Cols(end, width - end);
      const MatView<const float> coupling = r.Rows(begin, count).Cols(end, width - end);
      MatMulNT(context, solved, Weights(coupling), panel.Cols(begin, count), Accumulate::kSubtract);
    }
    const MatView<const float> triangle = r.Rows(begin, count).Cols(begin, count);
    context.pool->ParallelFor((panel.rows + kSolveRows - 1) / kSolveRows, [&](int64_t strip) {
      const int64_t row = strip * kSolveRows;
      const int64_t rows = std::min(kSolveRows, panel.rows - row);
      SubstituteRows(triangle, panel.Rows(row, rows).Cols(begin, count));
    });
    end = begin;
  }
}

}  // namespace

Status CholeskyUpper(const Context& context, MatView<float> a) {
  PLANISH_CHECK(a.rows == a.cols) << a.rows << "x" << a.cols;
  const int64_t n = a.rows;
  Mat<double> diagonal;
  for (int64_t end = n; end > 0;) {
    PLANISH_RETURN_IF_ERROR(context.CheckCancelled());
    const int64_t begin = std::max<int64_t>(0, end - kBlock);
    const int64_t width = end - begin;
    // The diagonal block in double: its rounding errors would reach everything before it.
    diagonal.Resize(width, width);
    for (int64_t i = 0; i < width; ++i)
      for (int64_t j = i; j < width; ++j) diagonal(i, j) = a(begin + i, begin + j);
    const int64_t bad = FactorInPlace(diagonal);
    if (bad >= 0) return PivotError(begin + bad, n, diagonal(bad, bad));
    for (int64_t i = 0; i < width; ++i)
      for (int64_t j = i; j < width; ++j) a(begin + i, begin + j) = static_cast<float>(diagonal(i, j));

    if (begin > 0) {
      const MatView<float> panel = a.Rows(0, begin).Cols(begin, width);
      SolvePanel(context, a.Rows(begin, width).Cols(begin, width), panel);
      for (int64_t row = 0; row < begin; row += kStrip) {
        const int64_t rows = std::min(kStrip, begin - row);
        const MatView<const float> right = panel.Rows(row, begin - row);
        MatMulNT(context, panel.Rows(row, rows), Weights(right), a.Rows(row, rows).Cols(row, begin - row),
                 Accumulate::kSubtract);
      }
    }
    end = begin;
  }
  for (int64_t i = 1; i < n; ++i) std::fill(a.row(i), a.row(i) + i, 0.f);
  return {};
}

Status CholeskyUpper(MatView<double> a) {
  PLANISH_CHECK(a.rows == a.cols) << a.rows << "x" << a.cols;
  const int64_t bad = FactorInPlace(a);
  if (bad >= 0) return PivotError(bad, a.rows, a(bad, bad));
  for (int64_t i = 1; i < a.rows; ++i) std::fill(a.row(i), a.row(i) + i, 0.0);
  return {};
}

void SolveCholesky(MatView<const double> r, MatView<double> b) {
  PLANISH_CHECK(r.rows == r.cols && b.cols == r.rows) << r.rows << "x" << r.cols << ", " << b.cols;
  const int64_t n = r.rows;
  for (int64_t i = 0; i < b.rows; ++i) {
    double* x = b.row(i);
    for (int64_t j = n - 1; j >= 0; --j) {  // Y R^T = B
      double sum = x[j];
      for (int64_t k = j + 1; k < n; ++k) sum -= x[k] * r(j, k);
      x[j] = sum / r(j, j);
    }
    for (int64_t j = 0; j < n; ++j) {  // X R = Y
      x[j] /= r(j, j);
      for (int64_t k = j + 1; k < n; ++k) x[k] -= x[j] * r(j, k);
    }
  }
}

}  // namespace planish

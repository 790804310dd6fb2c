// Symmetric eigenproblems in double: Householder reduction to tridiagonal form, then the implicit
// QL iteration (Bowdler, Martin, Reinsch and Wilkinson 1968, "tred2" and "tql2"), arranged for
// caches: one pass over the lower triangle per reflection, and vectors by panels of columns.
//
// Bits: plain multiplications, additions, divisions and square roots in a fixed order.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

#include "base/check.h"
#include "math/factor.h"

namespace planish {
namespace {

// Two doubles that may lie anywhere; plain vector arithmetic of the baseline instruction set.
using Pair [[gnu::vector_size(16), gnu::aligned(8), gnu::may_alias]] = double;

// Columns of the vectors that are transformed together: 2048 rows of 32 doubles fit the L2 cache.
constexpr int64_t kPanel = 32;
// Rotations kept before they are applied to the vectors: about 1.5 MB, read once per panel.
constexpr size_t kMaxRotations = 65536;
constexpr int kMaxSweeps = 60;  // per eigenvalue; two or three are usual

struct Rotation {
  int32_t row;  // of rows (row, row + 1)
  double c, s;
};

double Dot(const double* a, const double* b, int64_t n) {
  Pair s0{}, s1{}, s2{}, s3{};
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    s0 += *reinterpret_cast<const Pair*>(a + i) * *reinterpret_cast<const Pair*>(b + i);
    s1 += *reinterpret_cast<const Pair*>(a + i + 2) * *reinterpret_cast<const Pair*>(b + i + 2);
    s2 += *reinterpret_cast<const Pair*>(a + i + 4) * *reinterpret_cast<const Pair*>(b + i + 4);
    s3 += *reinterpret_cast<const Pair*>(a + i + 6) * *reinterpret_cast<const Pair*>(b + i + 6);
  }
  const Pair s = (s0 + s1) + (s2 + s3);
  double sum = s[0] + s[1];
  for (; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

// row[j] -= vi * w[j] + wi * v[j], then y[j] += xi * row[j] for j < n; returns row . x.
double UpdateAndMultiply(double* row, int64_t n, double vi, const double* w, double wi, const double* v,
                         double xi, const double* x, double* y) {
  const Pair vi2 = {vi, vi}, wi2 = {wi, wi}, xi2 = {xi, xi};
  Pair s0{}, s1{};
  const auto step = [&](int64_t j, Pair& s) {
    Pair& r = *reinterpret_cast<Pair*>(row + j);
    const Pair updated =
        r - (vi2 * *reinterpret_cast<const Pair*>(w + j) + wi2 * *reinterpret_cast<const Pair*>(v + j));
    r = updated;
    s += updated * *reinterpret_cast<const Pair*>(x + j);
    *reinterpret_cast<Pair*>(y + j) += xi2 * updated;
  };
  int64_t j = 0;
  for (; j + 4 <= n; j += 4) {
    step(j, s0);
    step(j + 2, s1);
  }
  s0 += s1;
  double sum = s0[0] + s0[1];
  for (; j < n; ++j) {
    row[j] -= vi * w[j] + wi * v[j];
    sum += row[j] * x[j];
    y[j] += xi * row[j];
  }
  return sum;
}

// Reduces the lower triangle of a to tridiagonal form: diagonal d, subdiagonal e (e[i] couples i - 1
// and i; e[0] = 0). Row i of a keeps the vector of reflection i (elements 0..i-1), I - tau[i] v v^T.
// Each reflection's rank-2 update is fused with the product with the next reflection's vector, so
// the triangle passes through memory once per row: n^3/6 elements, 4 multiply-adds each.
void Tridiagonalize(MatView<double> a, std::span<double> d, std::span<double> e, std::span<double> tau) {
  const int64_t n = a.rows;
  std::vector<double> v(n, 0.0), w(n, 0.0), y(n, 0.0);
  for (int64_t i = n - 1; i >= 0; --i) {
    // v, w: the pending update of rows 0..i. Row i first, for it defines the next vector.
    double* x = a.row(i);
    for (int64_t j = 0; j <= i; ++j) x[j] -= v[i] * w[j] + w[i] * v[j];
    d[i] = x[i];
    e[i] = i > 0 ? x[i - 1] : 0.0;
    tau[i] = 0;
    const double rest = i > 1 ? Dot(x, x, i - 1) : 0.0;
    // The matrix is scaled to elements near 1, so less than this is a zero row.
    const bool reflect = rest > 1e-280;
    if (reflect) {
      const double alpha = x[i - 1];
      const double norm = std::copysign(std::sqrt(alpha * alpha + rest), alpha);
      x[i - 1] = alpha + norm;
      e[i] = -norm;
      tau[i] = 2.0 / (x[i - 1] * x[i - 1] + rest);
    } else {
      std::fill(x, x + i, 0.0);
    }
    std::fill(y.begin(), y.begin() + i, 0.0);
    for (int64_t r = 0; r < i; ++r) {
      double* row = a.row(r);
      const double sum = UpdateAndMultiply(row, r, v[r], w.data(), w[r], v.data(), x[r], x, y.data());
      row[r] -= 2.0 * v[r] * w[r];
      y[r] += sum + row[r] * x[r];
    }
    if (i == 0) break;
    const double half = 0.5 * tau[i] * tau[i] * Dot(y.data(), x, i);
    for (int64_t j = 0; j < i; ++j) {
      w[j] = tau[i] * y[j] - half * x[j];
      v[j] = x[j];
    }
  }
}

// Q = P(n-1) ... P(1), the product of the reflections kept in `a`, made one panel of columns at a time
// and stored transposed: qt = Q^T.
void FormOrthogonal(MatView<const double> a, std::span<const double> tau, MatView<double> qt) {
  const int64_t n = a.rows;
  std::vector<double> panel(static_cast<size_t>(n * kPanel));
  for (int64_t begin = 0; begin < n; begin += kPanel) {
    const int64_t width = std::min(kPanel, n - begin);
    std::fill(panel.begin(), panel.end(), 0.0);
    for (int64_t j = 0; j < width; ++j) panel[(begin + j) * kPanel + j] = 1.0;
    // P(i) changes rows 0..i-1 only; while i <= begin they are zeros here.
    for (int64_t i = begin + 1; i < n; ++i) {
      if (tau[i] == 0) continue;
      const double* v = a.row(i);
      double w[kPanel] = {};
      for (int64_t r = 0; r < i; ++r)
        for (int64_t j = 0; j < kPanel; ++j) w[j] += v[r] * panel[r * kPanel + j];
      for (double& x : w) x *= tau[i];
      for (int64_t r = 0; r < i; ++r)
        for (int64_t j = 0; j < kPanel; ++j) panel[r * kPanel + j] -= v[r] * w[j];
    }
    for (int64_t j = 0; j < width; ++j)
      for (int64_t r = 0; r < n; ++r) qt(begin + j, r) = panel[r * kPanel + j];
  }
}

// Applies the rotations, in order, to the rows of z.
void Rotate(const std::vector<Rotation>& rotations, MatView<double> z) {
  for (int64_t begin = 0; begin < z.cols; begin += kPanel) {
    const int64_t width = std::min(kPanel, z.cols - begin);
    for (const Rotation& rotation : rotations) {
      double* __restrict low = z.row(rotation.row) + begin;
      double* __restrict high = z.row(rotation.row + 1) + begin;
      const double c = rotation.c, s = rotation.s;
      for (int64_t k = 0; k < width; ++k) {
        const double f = high[k];
        high[k] = s * low[k] + c * f;
        low[k] = c * low[k] - s * f;
      }
    }
  }
}

// Diagonalizes the tridiagonal (d, e as above) in place; rows of z, if any, are rotated along.
Status ImplicitQl(std::span<double> d, std::span<double> e, MatView<double> z) {
  const int64_t n = static_cast<int64_t>(d.size());
  constexpr double kEps = std::numeric_limits<double>::epsilon();
  std::vector<Rotation> rotations;
  for (int64_t i = 1; i < n; ++i) e[i - 1] = e[i];
  e[n - 1] = 0;
  for (int64_t l = 0; l < n; ++l) {
    for (int sweep = 0;; ++sweep) {
      int64_t m = l;
      while (m < n - 1 && std::abs(e[m]) > kEps * (std::abs(d[m]) + std::abs(d[m + 1]))) ++m;
      if (m == l) break;
      if (sweep == kMaxSweeps) {
        return FailureError("symmetric eigenproblem of size " + std::to_string(n) + ": eigenvalue " +
                            std::to_string(l) + " did not converge in " + std::to_string(kMaxSweeps) +
                            " sweeps");
      }
      double g = (d[l + 1] - d[l]) / (2.0 * e[l]);
      double r = std::sqrt(g * g + 1.0);
      g = d[m] - d[l] + e[l] / (g + std::copysign(r, g));
      double s = 1.0, c = 1.0, p = 0.0;
      int64_t i = m - 1;
      for (; i >= l; --i) {
        const double f = s * e[i], b = c * e[i];
        r = std::sqrt(f * f + g * g);
        e[i + 1] = r;
        if (r == 0.0) {  // underflow: split here and start again
          d[i + 1] -= p;
          e[m] = 0.0;
          break;
        }
        s = f / r;
        c = g / r;
        g = d[i + 1] - p;
        r = (d[i] - g) * s + 2.0 * c * b;
        p = s * r;
        d[i + 1] = g + p;
        g = c * r - b;
        if (z.rows > 0) rotations.push_back({static_cast<int32_t>(i), c, s});
      }
      if (i < l) {
        d[l] -= p;
        e[l] = g;
        e[m] = 0.0;
      }
      if (rotations.size() >= kMaxRotations) {
        Rotate(rotations, z);
        rotations.clear();
      }
    }
  }
  Rotate(rotations, z);
  return {};
}

// The power of two that brings the largest element of the lower triangle into [0.5, 1); 0 for a zero
// matrix.
Result<double> ScaleToOne(MatView<const double> a) {
  double largest = 0;
  for (int64_t i = 0; i < a.rows; ++i) {
    for (int64_t j = 0; j <= i; ++j) {
      if (!std::isfinite(a(i, j))) {
        return FailureError("symmetric eigenproblem: element (" + std::to_string(i) + ", " +
                            std::to_string(j) + ") is not finite");
      }
      largest = std::max(largest, std::abs(a(i, j)));
    }
  }
  if (largest == 0) return 0.0;
  int exponent = 0;
  std::frexp(largest, &exponent);
  return std::ldexp(1.0, std::clamp(-exponent, -1000, 1000));
}

void FixSign(double* row, int64_t n) {
  int64_t top = 0;
  for (int64_t j = 1; j < n; ++j)
    if (std::abs(row[j]) > std::abs(row[top])) top = j;
  if (row[top] < 0)
    for (int64_t j = 0; j < n; ++j) row[j] = -row[j];
}

}  // namespace

Status SymmetricEigen(MatView<const double> a, std::span<double> values, MatView<double> vectors) {
  const int64_t n = a.rows;
  const bool want_vectors = vectors.rows > 0;
  PLANISH_CHECK(a.cols == n && static_cast<int64_t>(values.size()) == n)
      << n << " " << a.cols << " " << values.size();
  PLANISH_CHECK(!want_vectors || (vectors.rows == n && vectors.cols == n))
      << vectors.rows << "x" << vectors.cols;
  if (n == 0) return {};
  PLANISH_TRY(const double scale, ScaleToOne(a));
  Mat<double> work(n, n);
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j < n; ++j) work(i, j) = j <= i ? a(i, j) * scale : 0.0;
  std::vector<double> e(n), tau(n);
  Tridiagonalize(work, values, e, tau);
  // A = Q T Q^T and T = U L U^T: the vectors, as rows, are U^T Q^T; the QL rotations build U^T.
  Mat<double> rows;
  if (want_vectors) {
    rows.Resize(n, n);
    FormOrthogonal(work, tau, rows);
  }
  PLANISH_RETURN_IF_ERROR(ImplicitQl(values, e, rows));

  std::vector<int64_t> order(n);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int64_t i, int64_t j) { return values[i] > values[j]; });
  const std::vector<double> found(values.begin(), values.end());
  for (int64_t i = 0; i < n; ++i) {
    values[i] = scale == 0 ? 0.0 : found[order[i]] / scale;
    if (!want_vectors) continue;
    std::copy_n(rows.row(order[i]), n, vectors.row(i));
    FixSign(vectors.row(i), n);
  }
  return {};
}

}  // namespace planish

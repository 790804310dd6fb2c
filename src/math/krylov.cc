// Randomized block Krylov iteration for the top of a spectrum (see factor.h).
//
// The basis is kept orthonormal by block Gram-Schmidt done twice: projections against earlier rows are
// fp32 products, the last few rows among themselves go one by one with double sums. Rows that lose
// nearly all their length carry rounding noise only and are dropped, so an invariant subspace
// shrinks the block instead of breaking it.
#include <algorithm>
#include <cmath>
#include <vector>

#include "base/check.h"
#include "base/random.h"
#include "math/factor.h"
#include "math/gemm.h"

namespace planish {
namespace {

constexpr int64_t kGroup = 16;  // rows orthonormalized among themselves in double
// A row that keeps less than this of its length in the first pass was inside the span already, up
// to fp32 rounding.
constexpr double kDropFirst = 1e-5;
// After the first pass a row is nearly orthogonal; one that still loses this much was noise.
constexpr double kDropSecond = 0.5;

// The sum of four interleaved partial sums, in double.
double Dot(const float* a, const float* b, int64_t n) {
  double s[4] = {};
  int64_t i = 0;
  for (; i + 4 <= n; i += 4)
    for (int64_t k = 0; k < 4; ++k) s[k] += static_cast<double>(a[i + k]) * b[i + k];
  double sum = (s[0] + s[2]) + (s[1] + s[3]);
  for (; i < n; ++i) sum += static_cast<double>(a[i]) * b[i];
  return sum;
}

// rows -= (rows basis^T) basis, for orthonormal rows of `basis`.
void Project(const Context& context, MatView<const float> basis, MatView<float> rows) {
  if (basis.rows == 0 || rows.rows == 0) return;
  Mat<float> c(rows.rows, basis.rows);
  MatMulNT(context, rows, Weights(basis), c);
  MatMulNN(context, c, basis, rows, Accumulate::kSubtract);
}

// A growing orthonormal basis, as the first size() rows of a matrix [capacity, n].
class Basis {
 public:
  Basis(int64_t capacity, int64_t n) : rows_(capacity, n) {}
  int64_t size() const { return size_; }
  MatView<const float> view() const { return rows_.view().Rows(0, size_); }

  // Orthonormalizes `candidates` (overwritten) against the basis and among themselves and appends
  // those that are new directions, as far as the capacity goes.
  void Append(const Context& context, MatView<float> candidates) {
    std::vector<double> length(static_cast<size_t>(candidates.rows));
    for (int64_t i = 0; i < candidates.rows; ++i) length[i] = Length(candidates.row(i));
    const int64_t old_size = size_;
    // Against the old rows all at once (big products); then group by group.
    Project(context, view(), candidates);
    for (int64_t begin = 0; begin < candidates.rows; begin += kGroup) {
      const int64_t count = std::min(kGroup, candidates.rows - begin);
      const MatView<float> group = candidates.Rows(begin, count);
      Project(context, view().Rows(old_size, size_ - old_size), group);
      int64_t kept = GramSchmidt(group, {length.data() + begin, static_cast<size_t>(count)}, kDropFirst);
      Project(context, view(), group.Rows(0, kept));
      const std::vector<double> ones(static_cast<size_t>(kept), 1.0);
      kept = GramSchmidt(group.Rows(0, kept), ones, kDropSecond);
      kept = std::min(kept, rows_.rows() - size_);
      for (int64_t i = 0; i < kept; ++i) std::copy_n(group.row(i), group.cols, rows_.row(size_ + i));
      size_ += kept;
    }
  }

 private:
  double Length(const float* row) const { return std::sqrt(Dot(row, row, rows_.cols())); }

  // Modified Gram-Schmidt in place. Rows left with no more than `drop` times their `length` are
  // removed; the others move up. Returns how many remain.
  int64_t GramSchmidt(MatView<float> rows, std::span<const double> length, double drop) const {
    int64_t kept = 0;
    for (int64_t i = 0; i < rows.rows; ++i) {
      float* row = rows.row(i);
      for (int64_t j = 0; j < kept; ++j) {
        const float* other = rows.row(j);
        const double c = Dot(row, other, rows.cols);
        for (int64_t k = 0; k < rows.cols; ++k) row[k] = static_cast<float>(row[k] - c * other[k]);
      }
      const double left = Length(row);
      if (!(left > drop * length[i])) continue;
      const double scale = 1.0 / left;
      float* to = rows.row(kept++);
      for (int64_t k = 0; k < rows.cols; ++k) to[k] = static_cast<float>(row[k] * scale);
    }
    return kept;
  }

  Mat<float> rows_;
  int64_t size_ = 0;
};

// Row `index` of an endless random matrix, uniform in [-1, 1).
void FillRandom(uint64_t seed, int64_t first_row, MatView<float> rows) {
  const Random random(seed, 0x6b72796c6f76);  // a stream of its own
  for (int64_t i = 0; i < rows.rows; ++i) {
    const uint64_t base = static_cast<uint64_t>(first_row + i) * static_cast<uint64_t>(rows.cols);
    for (int64_t j = 0; j < rows.cols; ++j)
      rows(i, j) = static_cast<float>(2.0 * random.Uniform(base + static_cast<uint64_t>(j)) - 1.0);
  }
}

// The exact route: M itself, diagonalized.
Result<TopEigen> ExactTopEigen(const Context& context, int64_t n, int64_t rank, SymmetricApply apply,
                               const void* op) {
  Mat<float> identity(n, n), applied(n, n);
  identity.Fill(0);
  for (int64_t i = 0; i < n; ++i) identity(i, i) = 1;
  apply(context, op, identity, applied);
  Mat<double> m(n, n), vectors(n, n);
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j <= i; ++j)
      m(i, j) = m(j, i) = 0.5 * (static_cast<double>(applied(i, j)) + applied(j, i));
  std::vector<double> values(static_cast<size_t>(n));
  PLANISH_RETURN_IF_ERROR(SymmetricEigen(m, values, vectors));
  TopEigen top;
  top.vectors.Resize(rank, n);
  for (int64_t i = 0; i < rank; ++i) {
    top.values.push_back(std::max(0.0, values[i]));
    for (int64_t j = 0; j < n; ++j) top.vectors(i, j) = static_cast<float>(vectors(i, j));
  }
  return top;
}

void FixSign(float* row, int64_t n) {
  int64_t top = 0;
  for (int64_t j = 1; j < n; ++j)
    if (std::abs(row[j]) > std::abs(row[top])) top = j;
  if (row[top] < 0)
    for (int64_t j = 0; j < n; ++j) row[j] = -row[j];
}

// The basis together with the operator projected on it: t = Q M Q^T in double.
class KrylovSpace {
 public:
  KrylovSpace(int64_t capacity, int64_t n) : basis_(capacity, n), t_(capacity, capacity), n_(n) {}
  int64_t size() const { return basis_.size(); }
  void Append(const Context& context, MatView<float> candidates) { basis_.Append(context, candidates); }

  // Applies M to the rows from `first` on, extends t by them and leaves Q M in `applied`.
  void Apply(const Context& context, int64_t first, SymmetricApply apply, const void* op,
             Mat<float>& applied) {
    const MatView<const float> fresh = basis_.view().Rows(first, size() - first);
    applied.Resize(fresh.rows, n_);
    apply(context, op, fresh, applied);
    Mat<float> products(fresh.rows, size());
    MatMulNT(context, applied, Weights(basis_.view()), products);
    for (int64_t i = 0; i < fresh.rows; ++i) {
      for (int64_t j = 0; j < size(); ++j) {
        const bool both_fresh = j >= first;
        const double value =
            both_fresh ? 0.5 * (static_cast<double>(products(i, j)) + products(j - first, first + i))
                       : static_cast<double>(products(i, j));
        t_(first + i, j) = t_(j, first + i) = value;
      }
    }
  }

  Status RitzValues(std::vector<double>& values) {
    values.resize(static_cast<size_t>(size()));
    return SymmetricEigen(t_.view().Rows(0, size()).Cols(0, size()), values, {});
  }

  Result<TopEigen> RitzPairs(const Context& context, int64_t rank) {
    std::vector<double> values(static_cast<size_t>(size()));
    Mat<double> y(size(), size());
    PLANISH_RETURN_IF_ERROR(SymmetricEigen(t_.view().Rows(0, size()).Cols(0, size()), values, y));
    Mat<float> y_top(rank, size());
    for (int64_t i = 0; i < rank; ++i)
      for (int64_t j = 0; j < size(); ++j) y_top(i, j) = static_cast<float>(y(i, j));
    TopEigen top;
    top.vectors.Resize(rank, n_);
    MatMulNN(context, y_top, basis_.view(), top.vectors);
    for (int64_t i = 0; i < rank; ++i) {
      top.values.push_back(std::max(0.0, values[i]));
      FixSign(top.vectors.row(i), n_);
    }
    return top;
  }

 private:
  Basis basis_;
  Mat<double> t_;
  int64_t n_;
};

double Captured(const std::vector<double>& values, int64_t rank) {
  double sum = 0;
  for (int64_t i = 0; i < rank; ++i) sum += std::max(0.0, values[i]);
  return sum;
}

}  // namespace

Result<TopEigen> KrylovTopEigen(const Context& context, int64_t n, int64_t rank, SymmetricApply apply,
                                const void* op, const KrylovOptions& options) {
  PLANISH_CHECK(rank >= 1 && rank <= n) << "rank " << rank << " of " << n;
  const int64_t block = options.block > 0 ? options.block : DefaultKrylovBlock(rank);
  const int64_t max_blocks = std::max<int64_t>(1, options.max_blocks);
  // The space needs room to grow well beyond the rank.
  if (2 * (rank + block) > n) return ExactTopEigen(context, n, rank, apply, op);

  KrylovSpace space(std::min(n, block * std::max(max_blocks, (rank + block - 1) / block)), n);
  Mat<float> next(block, n), applied;
  std::vector<double> values;
  int64_t random_rows = block, blocks = 0, next_check = rank;
  double captured = -1;
  FillRandom(options.seed, 0, next);
  MatView<float> candidates = next;
  for (;;) {
    PLANISH_RETURN_IF_ERROR(context.CheckCancelled());
    const int64_t first = space.size();
    space.Append(context, candidates);
    // An operator of low rank, or one with few distinct eigenvalues, runs out of directions: while the
    // basis is short of the rank asked for, random rows fill the block.
    while (space.size() < rank && space.size() - first < block) {
      const int64_t missing = std::min(block - (space.size() - first), rank - space.size());
      const MatView<float> fill = next.view().Rows(0, missing);
      FillRandom(options.seed, random_rows, fill);
      random_rows += missing;
      space.Append(context, fill);
    }
    if (space.size() == first) break;  // the space is invariant: Rayleigh-Ritz is exact
    space.Apply(context, first, apply, op, applied);
    ++blocks;
    if (space.size() >= next_check) {
      PLANISH_RETURN_IF_ERROR(space.RitzValues(values));
      const double now = Captured(values, rank);
      if (captured >= 0 && now - captured <= options.tolerance * now) break;
      captured = now;
      // The next look is a sixth of the space away: a longer step makes the rule safer on flat
      // spectra. Looks need no vectors, which makes all of them cheaper than the end.
      next_check = space.size() + std::max<int64_t>(1, space.size() / 6);
    }
    if (blocks >= max_blocks && space.size() >= rank) break;
    if (space.size() + block > n) return ExactTopEigen(context, n, rank, apply, op);
    candidates = applied;
  }
  PLANISH_TRY(TopEigen top, space.RitzPairs(context, rank));
  top.blocks_used = blocks;
  return top;
}

}  // namespace planish

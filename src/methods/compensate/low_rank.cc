#include "methods/compensate/low_rank.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <queue>
#include <string>
#include <utility>

#include "base/check.h"
#include "math/factor.h"
#include "math/gemm.h"

namespace planish {
namespace {

constexpr int64_t kTraceColumns = 512;  // of H, per product of the trace
constexpr int64_t kRowGroup = 4;        // rows of C that share a pass over B in double products

// E and H with powers of two that bring their largest elements near 1, so that products with
// errors of 1e-20 or inputs of 1e15 neither vanish nor overflow in fp32.
struct Problem {
  MatView<const float> e;  // [out, in]
  MatView<const float> h;  // [in, in] or empty
  float scale_e = 1, scale_h = 1;
  bool zero = false;  // E or H is zero

  int64_t out() const { return e.rows; }
  int64_t in() const { return e.cols; }
  bool weighted() const { return h.data != nullptr; }
  // From energies of the scaled problem to those of the given one.
  double Unscale(double energy) const { return energy / scale_e / scale_e / scale_h; }
};

// The largest magnitude in m, or an error naming the first element that is not finite. On bit
// patterns, whose order is that of the magnitudes, so that the loop is one vector maximum.
Result<float> LargestMagnitude(const Context& context, MatView<const float> m, const char* name) {
  constexpr int32_t kMagnitude = 0x7fffffff, kInfinity = 0x7f800000;
  std::vector<int32_t> rows(static_cast<size_t>(m.rows), 0);
  context.pool->ParallelFor(m.rows, [&](int64_t i) {
    int32_t largest = 0;
    for (int64_t j = 0; j < m.cols; ++j)
      largest = std::max(largest, std::bit_cast<int32_t>(m(i, j)) & kMagnitude);
    rows[i] = largest;
  });
  int32_t largest = 0;
  for (int64_t i = 0; i < m.rows; ++i) {
    largest = std::max(largest, rows[i]);
    if (largest < kInfinity) continue;
    int64_t j = 0;
    while (std::isfinite(m(i, j))) ++j;
    return InputError(std::string(name) + ": element (" + std::to_string(i) + ", " + std::to_string(j) +
                      ") is " + std::to_string(m(i, j)) +
                      ", expected a finite number (check the weights and the calibration inputs)");
  }
  return std::bit_cast<float>(largest);
}

float PowerOfTwoScale(float largest) {
  int exponent = 0;
  std::frexp(largest, &exponent);
  return std::ldexp(1.0f, std::clamp(-exponent, -126, 126));
}

Result<Problem> MakeProblem(const Context& context, MatView<const float> error, MatView<const float> h) {
  PLANISH_CHECK(h.data == nullptr || (h.rows == error.cols && h.cols == error.cols))
      << h.rows << "x" << h.cols << " for " << error.cols << " inputs";
  Problem p{error, h};
  PLANISH_TRY(const float largest_e, LargestMagnitude(context, error, "weight error"));
  p.zero = largest_e == 0;
  if (!p.zero) p.scale_e = PowerOfTwoScale(largest_e);
  if (p.weighted()) {
    PLANISH_TRY(const float largest_h, LargestMagnitude(context, h, "input moment H"));
    if (largest_h == 0) {
      p.zero = true;
    } else {
      p.scale_h = PowerOfTwoScale(largest_h);
    }
  }
  return p;
}

void Scale(float scale, MatView<float> m) {
  for (int64_t i = 0; i < m.rows; ++i)
    for (int64_t j = 0; j < m.cols; ++j) m(i, j) *= scale;
}

// Q -> Q E H E^T of the scaled problem, for KrylovTopEigen.
void ApplyErrorMoment(const Context& context, const void* op, MatView<const float> q, MatView<float> qm) {
  const Problem& p = *static_cast<const Problem*>(op);
  Mat<float> qe(q.rows, p.in());
  MatMulNN(context, q, p.e, qe);
  Scale(p.scale_e, qe);
  if (p.weighted()) {
    Mat<float> qeh(q.rows, p.in());
    MatMulNN(context, qe, p.h, qeh);
    Scale(p.scale_h, qeh);
    std::swap(qe, qeh);
  }
  MatMulNT(context, qe, Weights(p.e), qm);
  Scale(p.scale_e, qm);
}

// tr(E H E^T) from the upper triangle of H: for a strip J of columns, 2 E(:,<J) H(<J,J) + E(:,J) H(J,J),
// times E(:,J) element by element, summed in double row by row.
double MeasureEnergy(const Context& context, const Problem& p) {
  std::vector<double> rows(static_cast<size_t>(p.out()), 0.0);
  Mat<float> product;
  for (int64_t begin = 0; begin < p.in(); begin += kTraceColumns) {
    const int64_t count = std::min(kTraceColumns, p.in() - begin);
    const MatView<const float> strip = p.e.Cols(begin, count);
    if (p.weighted()) {
      product.Resize(p.out(), count);
      const MatView<const float> columns = p.h.Cols(begin, count);
      if (begin > 0) {
        MatMulNN(context, p.e.Cols(0, begin), columns.Rows(0, begin), product);
        Scale(2, product);
      }
      MatMulNN(context, strip, columns.Rows(begin, count), product,
               begin > 0 ? Accumulate::kAdd : Accumulate::kSet);
    }
    context.pool->ParallelFor(p.out(), [&](int64_t i) {
      double sum = 0;
      for (int64_t j = 0; j < count; ++j) {
        const double e = static_cast<double>(strip(i, j)) * p.scale_e;
        sum += e * (p.weighted() ? static_cast<double>(product(i, j)) * p.scale_e * p.scale_h : e);
      }
      rows[i] += sum;
    });
  }
  double total = 0;
  for (double row : rows) total += row;
  return std::max(0.0, p.Unscale(total));
}

// The top of the spectrum of M: vectors [r, out], energies in the units of the given problem.
struct Directions {
  Mat<double> vectors_exact;  // of the exact route
  Mat<float> vectors;
  std::vector<double> energies;
};

// C = A B in double; each element is one sum over k ascending.
Mat<double> MulNN(const Context& context, const Mat<double>& a, const Mat<double>& b) {
  Mat<double> c(a.rows(), b.cols());
  c.Fill(0);
  context.pool->ParallelFor((a.rows() + kRowGroup - 1) / kRowGroup, [&](int64_t group) {
    const int64_t begin = group * kRowGroup, end = std::min(begin + kRowGroup, a.rows());
    for (int64_t k = 0; k < a.cols(); ++k) {
      for (int64_t i = begin; i < end; ++i) {
        const double factor = a(i, k);
        const double* from = b.row(k);
        double* __restrict to = c.row(i);
        for (int64_t j = 0; j < b.cols(); ++j) to[j] += factor * from[j];
      }
    }
  });
  return c;
}

Mat<double> Transpose(const Mat<double>& m) {
  Mat<double> t(m.cols(), m.rows());
  for (int64_t i = 0; i < m.rows(); ++i)
    for (int64_t j = 0; j < m.cols(); ++j) t(j, i) = m(i, j);
  return t;
}

Mat<double> ToDouble(MatView<const float> m, double scale) {
  Mat<double> d(m.rows, m.cols);
  for (int64_t i = 0; i < m.rows; ++i)
    for (int64_t j = 0; j < m.cols; ++j) d(i, j) = m(i, j) * scale;
  return d;
}

// Rows made orthonormal in order (modified Gram-Schmidt, twice); a row that vanishes becomes zero.
void OrthonormalizeRows(Mat<double>& m) {
  const auto dot = [&](int64_t i, int64_t j) {
    double sum = 0;
    for (int64_t k = 0; k < m.cols(); ++k) sum += m(i, k) * m(j, k);
    return sum;
  };
  for (int64_t i = 0; i < m.rows(); ++i) {
    for (int pass = 0; pass < 2; ++pass) {
      for (int64_t j = 0; j < i; ++j) {
        const double c = dot(i, j);
        for (int64_t k = 0; k < m.cols(); ++k) m(i, k) -= c * m(j, k);
      }
      const double length = std::sqrt(dot(i, i));
      const double scale = length > 0 ? 1.0 / length : 0.0;
      for (int64_t k = 0; k < m.cols(); ++k) m(i, k) *= scale;
    }
  }
}

// Route (a), out <= in: eigenvectors of M [out,out] itself.
Result<Directions> ExactFromOutputs(const Context& context, const Problem& p, int64_t rank) {
  Mat<double> e = ToDouble(p.e, p.scale_e);
  Mat<double> et = Transpose(e);
  if (p.weighted()) e = MulNN(context, e, ToDouble(p.h, p.scale_h));
  const Mat<double> m = MulNN(context, e, et);
  std::vector<double> values(static_cast<size_t>(p.out()));
  Mat<double> vectors(p.out(), p.out());
  PLANISH_RETURN_IF_ERROR(SymmetricEigen(m, values, vectors));
  Directions top;
  top.vectors_exact.Resize(rank, p.out());
  std::copy_n(vectors.data(), rank * p.out(), top.vectors_exact.data());
  top.energies.assign(values.begin(), values.begin() + rank);
  return top;
}

// Route (b), in < out: with H = S S^T the left singular vectors of E S [out,in], from its Gram matrix on
// the input side. S = Q sqrt(Lambda), negative eigenvalues taken as zero. Nothing is divided by
// sqrt(Lambda) here (B A = U U^T E), so small eigenvalues need no cutoff.
Result<Directions> ExactFromInputs(const Context& context, const Problem& p, int64_t rank) {
  Mat<double> es = ToDouble(p.e, p.scale_e);
  std::vector<double> values(static_cast<size_t>(p.in()));
  Mat<double> vectors(p.in(), p.in());
  if (p.weighted()) {
    PLANISH_RETURN_IF_ERROR(SymmetricEigen(ToDouble(p.h, p.scale_h), values, vectors));
    for (int64_t i = 0; i < p.in(); ++i)
      for (int64_t j = 0; j < p.in(); ++j) vectors(i, j) *= std::sqrt(std::max(0.0, values[i]));
    es = MulNN(context, es, Transpose(vectors));
  }
  const Mat<double> est = Transpose(es);
  PLANISH_RETURN_IF_ERROR(SymmetricEigen(MulNN(context, est, es), values, vectors));
  Mat<double> top_rows(rank, p.in());
  std::copy_n(vectors.data(), rank * p.in(), top_rows.data());
  Directions top;
  top.vectors_exact = MulNN(context, top_rows, est);
  OrthonormalizeRows(top.vectors_exact);
  top.energies.assign(values.begin(), values.begin() + rank);
  return top;
}

// The first `rank` directions, by the exact routes where asked for or where the iteration would end
// in a full eigensolve anyway.
Result<Directions> TopDirections(const Context& context, const Problem& p, int64_t rank,
                                 const LowRankOptions& options) {
  Directions top;
  KrylovOptions krylov;
  krylov.block = DefaultKrylovBlock(rank);
  krylov.tolerance = options.tolerance;
  krylov.seed = options.seed;
  if (options.exact || 2 * (rank + krylov.block) > p.out()) {
    PLANISH_TRY(top,
                p.out() <= p.in() ? ExactFromOutputs(context, p, rank) : ExactFromInputs(context, p, rank));
    top.vectors.Resize(rank, p.out());
    for (int64_t i = 0; i < rank * p.out(); ++i)
      top.vectors.data()[i] = static_cast<float>(top.vectors_exact.data()[i]);
  } else {
    PLANISH_TRY(TopEigen found, KrylovTopEigen(context, p.out(), rank, ApplyErrorMoment, &p, krylov));
    top.vectors = std::move(found.vectors);
    top.energies = std::move(found.values);
  }
  for (double& energy : top.energies) energy = std::max(0.0, p.Unscale(energy));
  return top;
}

// How many leading energies stand out of the rounding noise.
int64_t SignificantRank(const Directions& top, const Problem& p) {
  const double noise =
      top.vectors_exact.rows() > 0
          ? static_cast<double>(std::min(p.out(), p.in())) * std::numeric_limits<double>::epsilon()
          : static_cast<double>(std::numeric_limits<float>::epsilon());
  int64_t rank = 0;
  for (double energy : top.energies) {
    if (!(energy > top.energies[0] * noise) || !std::isnormal(energy)) break;
    ++rank;
  }
  return rank;
}

// A [rank,in] = U^T E: in double on the exact routes, so that the factors are good to their last bits.
void ProjectError(const Context& context, const Problem& p, const Directions& top, MatView<float> a) {
  const int64_t rank = a.rows;
  if (top.vectors_exact.rows() == 0) {
    MatMulNN(context, top.vectors.view().Rows(0, rank), p.e, a);
    return;
  }
  Mat<double> u(rank, p.out());
  std::copy_n(top.vectors_exact.data(), rank * p.out(), u.data());
  const Mat<double> ue = MulNN(context, u, ToDouble(p.e, 1.0));
  for (int64_t i = 0; i < rank; ++i)
    for (int64_t j = 0; j < p.in(); ++j) a(i, j) = static_cast<float>(ue(i, j));
}

Status CheckRank(int64_t rank) {
  if (rank < 0) return InputError("low-rank path: rank " + std::to_string(rank) + ", expected 0 or more");
  return {};
}

}  // namespace

Result<LowRankPath> FitLowRank(const Context& context, MatView<const float> error, MatView<const float> h,
                               const LowRankOptions& options) {
  PLANISH_RETURN_IF_ERROR(CheckRank(options.rank));
  PLANISH_TRY(const Problem p, MakeProblem(context, error, h));
  const int64_t wanted = p.zero ? 0 : std::min({options.rank, p.out(), p.in()});
  LowRankPath path;
  if (!p.zero) {
    path.loss_before = options.known_energy >= 0 ? options.known_energy : MeasureEnergy(context, p);
  }
  path.energy_total = path.loss_before;
  path.loss_after = path.loss_before;
  Directions top;
  if (wanted > 0) {
    PLANISH_TRY(top, TopDirections(context, p, wanted, options));
  }
  const int64_t rank = SignificantRank(top, p);
  path.a.Resize(rank, p.in());
  path.b.Resize(p.out(), rank);
  if (rank == 0) return path;

  ProjectError(context, p, top, path.a);
  for (int64_t i = 0; i < rank; ++i) {
    path.energy_captured += top.energies[i];
    const double root = std::sqrt(std::sqrt(top.energies[i]));  // of sigma_i
    for (int64_t j = 0; j < p.in(); ++j) path.a(i, j) = static_cast<float>(path.a(i, j) / root);
    for (int64_t j = 0; j < p.out(); ++j) path.b(j, i) = static_cast<float>(top.vectors(i, j) * root);
  }
  path.loss_after = std::max(0.0, path.loss_before - path.energy_captured);
  return path;
}

Result<std::vector<double>> PathEnergies(const Context& context, MatView<const float> error,
                                         MatView<const float> h, int64_t max_rank,
                                         const LowRankOptions& options) {
  PLANISH_RETURN_IF_ERROR(CheckRank(max_rank));
  PLANISH_TRY(const Problem p, MakeProblem(context, error, h));
  const int64_t rank = std::min({max_rank, p.out(), p.in()});
  if (p.zero || rank == 0) return std::vector<double>(static_cast<size_t>(rank), 0.0);
  PLANISH_TRY(Directions top, TopDirections(context, p, rank, options));
  return std::move(top.energies);
}

std::vector<int64_t> AllocateRanks(std::span<const RankCandidate> candidates, double budget_bytes,
                                   int64_t step) {
  PLANISH_CHECK(step > 0) << step;
  struct Offer {
    double gain_per_byte;
    size_t index;
    int64_t ranks;
    bool operator<(const Offer& other) const {
      return gain_per_byte != other.gain_per_byte ? gain_per_byte < other.gain_per_byte : index > other.index;
    }
  };
  std::vector<int64_t> rank(candidates.size(), 0);
  std::priority_queue<Offer> offers;
  const auto offer_next = [&](size_t index) {
    const RankCandidate& candidate = candidates[index];
    const int64_t left = static_cast<int64_t>(candidate.energies.size()) - rank[index];
    const int64_t ranks = std::min(step, left);
    double gain = 0;
    for (int64_t i = 0; i < ranks; ++i) gain += candidate.energies[rank[index] + i];
    if (gain > 0) offers.push({gain / (static_cast<double>(ranks) * candidate.bytes_per_rank), index, ranks});
  };
  for (size_t i = 0; i < candidates.size(); ++i) {
    PLANISH_CHECK(candidates[i].bytes_per_rank > 0) << i << ": " << candidates[i].bytes_per_rank;
    offer_next(i);
  }
  double left = budget_bytes;
  while (!offers.empty()) {
    const Offer best = offers.top();
    offers.pop();
    const double bytes = static_cast<double>(best.ranks) * candidates[best.index].bytes_per_rank;
    if (bytes > left) continue;
    left -= bytes;
    rank[best.index] += best.ranks;
    offer_next(best.index);
  }
  return rank;
}

}  // namespace planish

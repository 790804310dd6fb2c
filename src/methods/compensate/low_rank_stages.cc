#include "methods/compensate/low_rank_stages.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "math/factor.h"
#include "methods/compensate/low_rank.h"

namespace planish {
namespace {

// Grid of int8 and int4 factors. Rows of A share a scale; so do the few columns of B. int4 uses
// groups, or one outlier in a row of A would cost it all.
IntegerGrid FactorGrid(int bits) { return {bits, bits >= 8 ? 0 : 64, true}; }

// Stored bytes of one more rank: a column of B [out] and a row of A [in].
double BytesPerRank(int64_t out, int64_t in, int bits) {
  double scale_bytes = 0;
  if (bits < 16) scale_bytes = 2.0 * static_cast<double>(FactorGrid(bits).NumGroups(in));
  return static_cast<double>(out + in) * bits / 8 + scale_bytes;
}

// Bytes that do not grow with the rank: B's row scales.
double FixedBytes(int64_t out, int bits) { return bits < 16 ? 2.0 * static_cast<double>(out) : 0.0; }

// Products that give the loss of any B for a fixed A: t = H A^T, g = A H A^T, n = E H A^T.
struct PathMoments {
  Mat<float> t, n;
  Mat<double> g;
};

PathMoments MeasurePath(const Context& context, MatView<const float> error, MatView<const float> h,
                        MatView<const float> a) {
  PathMoments m;
  m.t.Resize(a.rows, a.cols);  // [r, in] = A H: H is symmetric
  MatMulNN(context, a, h, m.t);
  m.n.Resize(error.rows, a.rows);
  MatMulNT(context, error, Weights(m.t.view()), m.n);
  Mat<float> g(a.rows, a.rows);
  MatMulNT(context, m.t, Weights(a), g);
  m.g.Resize(a.rows, a.rows);
  for (int64_t i = 0; i < a.rows; ++i) {
    for (int64_t j = 0; j < a.rows; ++j) m.g(i, j) = 0.5 * (static_cast<double>(g(i, j)) + g(j, i));
  }
  return m;
}

// tr((E - BA) H (E - BA)^T) - tr(E H E^T) = -2 sum(B o N) + sum((B G) o B).
double LossChange(const PathMoments& m, MatView<const float> b) {
  double change = 0;
  for (int64_t i = 0; i < b.rows; ++i) {
    for (int64_t j = 0; j < b.cols; ++j) {
      double bg = 0;
      for (int64_t k = 0; k < b.cols; ++k) bg += b(i, k) * m.g(k, j);
      change += b(i, j) * (bg - 2.0 * m.n(i, j));
    }
  }
  return change;
}

// B = N (G + eps I)^-1: the best B for this A.
Status RefitB(const PathMoments& m, MatView<float> b) {
  const int64_t r = b.cols;
  double trace = 0;
  for (int64_t i = 0; i < r; ++i) trace += m.g(i, i);
  Mat<double> factor(r, r), rhs(b.rows, r);
  for (int64_t i = 0; i < r * r; ++i) factor.data()[i] = m.g.data()[i];
  for (int64_t i = 0; i < r; ++i) factor(i, i) += 1e-9 * trace / static_cast<double>(r);
  PLANISH_RETURN_IF_ERROR(CholeskyUpper(factor.view()));
  for (int64_t i = 0; i < b.rows * r; ++i) rhs.data()[i] = m.n.data()[i];
  SolveCholesky(std::as_const(factor).view(), rhs.view());
  for (int64_t i = 0; i < b.rows * r; ++i) b.data[i] = static_cast<float>(rhs.data()[i]);
  return {};
}

struct StoredPath {
  Matrix a, b;
  double loss = 0;
};

// Factors as they are stored, and the loss with exactly those.
Result<StoredPath> StorePath(const Context& context, const LayerProblem& problem, MatView<const float> error,
                             LowRankPath path, double loss_before, int bits,
                             const FeedbackOptions& feedback) {
  StoredPath stored;
  if (bits >= 16) {
    stored.a = DenseMatrix(path.a.view(), DType::kF16);
    stored.b = DenseMatrix(path.b.view(), DType::kF16);
    const Mat<float> a = Reconstruct(stored.a), b = Reconstruct(stored.b);
    stored.loss = loss_before + LossChange(MeasurePath(context, error, problem.h, a), b);
    return stored;
  }
  // A under H, then the best B for the rounded A, then B under A's own moment A H A^T.
  PLANISH_TRY(const SiteFactor site, FactorSite(context, problem.h, FactorGrid(bits).group, feedback));
  PLANISH_TRY(const Rounded a, RoundWithFeedback(context, path.a, site, FactorGrid(bits), feedback));
  stored.a = PackInteger(a.matrix);
  const Mat<float> a_hat = Reconstruct(stored.a);
  const PathMoments moments = MeasurePath(context, error, problem.h, a_hat);
  PLANISH_RETURN_IF_ERROR(RefitB(moments, path.b));
  Mat<float> g(path.a.rows(), path.a.rows());
  for (int64_t i = 0; i < g.rows() * g.cols(); ++i) g.data()[i] = static_cast<float>(moments.g.data()[i]);
  PLANISH_TRY(const SiteFactor b_site, FactorSite(context, g, FactorGrid(bits).group, feedback));
  PLANISH_TRY(const Rounded b, RoundWithFeedback(context, path.b, b_site, FactorGrid(bits), feedback));
  stored.b = PackInteger(b.matrix);
  stored.loss = loss_before + LossChange(moments, Reconstruct(stored.b));
  return stored;
}

LowRankPath Truncate(const LowRankPath& path, int64_t rank) {
  LowRankPath cut;
  cut.b.Resize(path.b.rows(), rank);
  cut.a.Resize(rank, path.a.cols());
  for (int64_t i = 0; i < path.b.rows(); ++i) std::copy_n(path.b.row(i), rank, cut.b.row(i));
  for (int64_t i = 0; i < rank; ++i) std::copy_n(path.a.row(i), path.a.cols(), cut.a.row(i));
  return cut;
}

// Energies of the directions of a path: column i of B has length sqrt(sigma_i).
std::vector<double> Energies(const LowRankPath& path) {
  std::vector<double> energies(static_cast<size_t>(path.b.cols()));
  for (int64_t i = 0; i < path.b.rows(); ++i) {
    for (int64_t j = 0; j < path.b.cols(); ++j) {
      energies[static_cast<size_t>(j)] += static_cast<double>(path.b(i, j)) * path.b(i, j);
    }
  }
  for (double& e : energies) e *= e;
  for (size_t j = 1; j < energies.size(); ++j) energies[j] = std::min(energies[j], energies[j - 1]);
  return energies;
}

// The rank to fit a linear with, before the site's budget is shared out.
int64_t FitRank(const LayerProblem& problem, const Options& options) {
  const int64_t out = problem.w.rows, in = problem.w.cols;
  const int64_t limit = std::min(out, in);
  if (options.Int("rank") > 0) return std::min(limit, options.Int("rank"));
  const auto bits = static_cast<int>(options.Int("factor_bits"));
  const double budget =
      options.Number("path_bits") * static_cast<double>(out * in) / 8 - FixedBytes(out, bits);
  const auto uniform = static_cast<int64_t>(std::max(0.0, budget) / BytesPerRank(out, in, bits));
  return uniform == 0 ? 0 : std::min(limit, 2 * uniform + 8);
}

// Ranks of the linears of a site: as asked for, or bought with the sum of their budgets.
std::vector<int64_t> ChooseRanks(std::span<const LayerProblem> problems, std::span<const Options> options,
                                 const std::vector<LowRankPath>& paths) {
  std::vector<int64_t> ranks;
  std::vector<RankCandidate> candidates;
  std::vector<size_t> owners;
  double budget = 0;
  for (size_t i = 0; i < problems.size(); ++i) {
    ranks.push_back(paths[i].b.cols());
    if (options[i].Int("rank") > 0 || ranks[i] == 0) continue;
    const auto bits = static_cast<int>(options[i].Int("factor_bits"));
    const int64_t out = problems[i].w.rows, in = problems[i].w.cols;
    budget += options[i].Number("path_bits") * static_cast<double>(out * in) / 8 - FixedBytes(out, bits);
    candidates.push_back({Energies(paths[i]), BytesPerRank(out, in, bits)});
    owners.push_back(i);
  }
  const auto bought = AllocateRanks(candidates, budget, 1);
  for (size_t k = 0; k < owners.size(); ++k) ranks[owners[k]] = bought[k];
  return ranks;
}

Status Solve(const Context& context, const std::string& method, bool weighted,
             std::span<const LayerProblem> problems, std::span<const Options> options,
             std::span<LayerSolution> solutions) {
  std::vector<Mat<float>> errors(problems.size());
  std::vector<LowRankPath> paths(problems.size());
  for (size_t i = 0; i < problems.size(); ++i) {
    const LayerProblem& p = problems[i];
    errors[i] = Reconstruct(solutions[i].matrix);
    for (int64_t r = 0; r < p.w.rows; ++r) {
      for (int64_t c = 0; c < p.w.cols; ++c) errors[i](r, c) = p.w(r, c) - errors[i](r, c);
    }
    LowRankOptions fit{
        .rank = FitRank(p, options[i]), .exact = options[i].Bool("exact"), .seed = context.seed};
    if (fit.rank == 0) {
      paths[i].b.Resize(p.w.rows, 0);
      continue;
    }
    if (weighted) fit.known_energy = solutions[i].steps.back().loss;
    auto path = FitLowRank(context, errors[i], weighted ? p.h : MatView<const float>(), fit);
    if (!path.ok()) return path.error().At(p.name);
    paths[i] = std::move(path).value();
  }
  const auto ranks = ChooseRanks(problems, options, paths);
  for (size_t i = 0; i < problems.size(); ++i) {
    LayerSolution& solution = solutions[i];
    const double before = solution.steps.back().loss;
    if (ranks[i] == 0) {
      solution.steps.push_back({method, before, "rank 0"});
      continue;
    }
    const auto bits = static_cast<int>(options[i].Int("factor_bits"));
    auto stored = StorePath(context, problems[i], errors[i], Truncate(paths[i], ranks[i]), before, bits,
                            FeedbackOptions{});
    if (!stored.ok()) return stored.error().At(problems[i].name);
    const int64_t rows = solution.matrix.rows, cols = solution.matrix.cols;
    Matrix path{rows, cols, ProductPart{{std::move(stored->b), std::move(stored->a)}}};
    solution.matrix = {rows, cols, SumPart{{std::move(solution.matrix), std::move(path)}}};
    solution.steps.push_back({method, stored->loss, fmt::format("rank {}", ranks[i])});
  }
  return {};
}

Status SolveEora(const Context& context, std::span<const LayerProblem> problems,
                 std::span<const Options> options, std::span<LayerSolution> solutions) {
  return Solve(context, "eora", true, problems, options, solutions);
}

Status SolveLorc(const Context& context, std::span<const LayerProblem> problems,
                 std::span<const Options> options, std::span<LayerSolution> solutions) {
  return Solve(context, "lorc", false, problems, options, solutions);
}

std::vector<OptionSpec> PathOptions() {
  return {
      {"rank", int64_t{0}, 0, 1 << 16, {}, "rank of every path; 0: as path_bits says"},
      {"path_bits",
       0.2,
       0,
       16,
       {},
       "extra bits per weight; ranks are shared out between the linears of a site"},
      {"factor_bits",
       int64_t{8},
       4,
       16,
       {"4", "5", "6", "7", "8", "16"},
       "bits of the factors: 16 (fp16), or 4 to 8 (rounded with feedback)"},
      {"exact", false, 0, 0, {}, "full eigensolve instead of Krylov iteration"},
  };
}

}  // namespace

const SolveStage& EoraStage() {
  static const SolveStage stage = {"eora",
                                   "low-rank path that best restores the layer's output under H (EoRA)",
                                   StageKind::kCompensate,
                                   false,
                                   PathOptions(),
                                   SolveEora,
                                   nullptr};
  return stage;
}

const SolveStage& LorcStage() {
  static const SolveStage stage = {"lorc",
                                   "low-rank path of the plain weight error (LoRC)",
                                   StageKind::kCompensate,
                                   false,
                                   PathOptions(),
                                   SolveLorc,
                                   nullptr};
  return stage;
}

}  // namespace planish

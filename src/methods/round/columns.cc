#include "methods/round/columns.h"

#include <algorithm>

#include "math/gemm.h"
#include "methods/round/panel.h"

namespace planish {
namespace {

// Columns in one product of errors by R where only the loss is wanted: fewer pack the errors more often, more
// compute more of the lower triangle's zeros.
constexpr int64_t kLossBlock = 512;
// Blocks that share one product with all errors before them. A product packs its errors, in blocks of 128
// columns half of its time; this way most of it has 512 columns, and the blocks see each other in small
// products.
constexpr int64_t kSuperBlock = 4;

// losses[r] += sum_j (acc_j + e_j diag_j)^2 for one panel: acc_j + e_j R_jj is (E R)_j; a null diag means
// that acc holds it already. In double and in column order, so that the block size does not show.
void AddLoss(const float* acc, const float* e, int64_t ld, const float* diag, int64_t count, double* losses) {
  for (int64_t j = 0; j < count; ++j) {
    const double d = diag == nullptr ? 0.0 : diag[j];
    for (int64_t r = 0; r < kPanelRows; ++r) {
      const double v = acc[j * ld + r] + e[j * ld + r] * d;
      losses[r] += v * v;
    }
  }
}

struct GroupWork {
  std::vector<float> targets, ordered, weights, levels;
  GroupValues values;
};

// Blocks of a dynamic pass hold whole groups.
int64_t BlockSize(const ColumnProblem& problem, const FeedbackOptions& options, bool dynamic) {
  const int64_t block = std::min(options.block, problem.cols());
  if (!dynamic) return block;
  const int64_t whole = problem.BlockColumns();
  return std::max(block / whole, int64_t{1}) * whole;
}

// The fit of group g in the panel at `row`; where its columns are is the caller's.
PanelFit GroupFitOf(const ColumnProblem& problem, ColumnCoding& coding, int64_t g, int64_t row,
                    ClipSearch search, std::vector<float>& levels) {
  PanelFit fit{.search = search == ClipSearch::kWeighted,
               .scales = coding.scales.row(g) + row,
               .zeros = coding.zeros.row(g) + row,
               .units = problem.units.data() + row,
               .sets = coding.sets.row(g) + row};
  problem.fitter->Describe(row, levels, fit);
  return fit;
}

// Fits the grid of the group, or of the block of groups, at positions [begin, end) of the panel's block to
// the targets of its columns, each weighted by `cost`.
void FitToTargets(const ColumnProblem& problem, const PanelBlock& block, int64_t begin, int64_t end,
                  const float* cost, int64_t row, ClipSearch search, ColumnCoding& coding, GroupWork& work) {
  const int64_t count = end - begin;
  work.targets.resize(count * kPanelRows);
  TargetPanel(problem.context->isa, block, begin, end, work.targets.data());
  if (problem.grid.InBlocks()) {
    const int64_t b = block.columns[begin] / count;
    work.ordered.resize(count * kPanelRows);
    work.weights.resize(count);
    for (int64_t i = 0; i < count; ++i) {
      const int64_t k = block.columns[begin + i] - b * count;
      std::copy_n(work.targets.data() + i * kPanelRows, kPanelRows, work.ordered.data() + k * kPanelRows);
      work.weights[k] = cost[i];
    }
    return FitBlock(problem, b, row, work.ordered.data(), kPanelRows, work.weights.data(), coding);
  }
  PanelFit fit = GroupFitOf(problem, coding, block.groups[begin], row, search, work.levels);
  fit.w = work.targets.data();
  fit.ld = kPanelRows;
  fit.cols = count;
  fit.h = cost;
  FitPanel(problem.context->isa, fit);
}

}  // namespace

void GroupValues::Make(const ColumnProblem& problem, const ColumnCoding& coding, int64_t group, int64_t row) {
  const int count = problem.grid.NumLevels();
  guide = problem.fitter->guide();
  values.resize(count * kPanelRows);
  midpoints.resize(count * kPanelRows);
  const float* levels[kPanelRows];
  for (int64_t r = 0; r < kPanelRows; ++r) {
    levels[r] = problem.fitter->LevelsOf(row + r, group, coding.scales.rows(), coding.sets(group, row + r));
  }
  const float* scales = coding.scales.row(group) + row;
  const bool shared =
      std::all_of(levels, levels + kPanelRows, [&](const float* l) { return l == levels[0]; });
  for (int64_t k = 0; k < count; ++k) {
    float* out = values.data() + k * kPanelRows;
    const float level = levels[0][k];
    for (int64_t r = 0; r < kPanelRows; ++r) out[r] = (shared ? level : levels[r][k]) * scales[r];
  }
  Midpoints(problem.grid, values.data(), count, midpoints.data(), kPanelRows);
}

void GroupValues::Use(PanelBlock& block) const {
  block.values = values.data();
  block.midpoints = midpoints.data();
  block.guide = guide;
  block.num_levels = static_cast<int>(static_cast<int64_t>(values.size()) / kPanelRows);
}

void DescribeCodes(const ColumnProblem& problem, PanelBlock& block) {
  using Form = PanelBlock::Form;
  if (problem.grid.InBlocks()) {
    const SearchCodes& codes = problem.layout.codes;
    block.form = codes.table ? Form::kTable : Form::kMinimum;
    block.low_code = static_cast<float>(codes.low);
    block.max_code = static_cast<float>(codes.high - codes.low);
    return;
  }
  const bool fine = problem.grid.ZeroBits() > problem.grid.bits;
  block.form = !problem.grid.Uniform() ? Form::kValues : fine ? Form::kFine : Form::kWhole;
  block.max_code = static_cast<float>((1 << problem.grid.bits) - 1);
}

int64_t ColumnProblem::num_panels() const { return padded / kPanelRows; }

double UndampedLoss(const ColumnProblem& problem, const ColumnCoding& coding) {
  std::vector<double> losses = coding.losses;
  const int64_t size = problem.GroupColumns();
  problem.context->pool->ParallelFor(problem.num_panels(), [&](int64_t panel) {
    const int64_t begin = panel * kPanelRows, end = begin + kPanelRows;
    for (int64_t j = 0; j < problem.cols(); ++j) {
      for (int64_t r = begin; r < end; ++r) {
        const double e = problem.w(j, r) - CodedValue(problem, coding, j, j / size, r);
        losses[r] -= problem.site->lambda * e * e;
      }
    }
  });
  double sum = 0;
  for (int64_t r = 0; r < problem.rows; ++r) sum += std::max(losses[r], 0.0);  // below 0 by rounding only
  return sum;
}

MatView<float> PaddedRows(const ColumnProblem& problem, Mat<float>& m, int64_t count) {
  return {m.data(), count, problem.padded, problem.ld};
}

namespace {

// The weights and the diagonal of H that grids are fitted to: dead columns, whose weights may be anything,
// are zeros that weigh nothing. The views are of w and site.diag where no column is dead.
struct Alive {
  Mat<float> zeroed;
  std::vector<float> weights;
  MatView<const float> w;
  std::span<const float> diag;
};

void SetAlive(MatView<const float> w, const SiteFactor& site, Alive& alive) {
  alive.w = w;
  alive.diag = site.diag;
  if (site.dead.empty()) return;
  alive.zeroed.Resize(w.rows, w.cols);
  for (int64_t i = 0; i < w.rows; ++i) {
    std::copy_n(w.row(i), w.cols, alive.zeroed.row(i));
    for (const int32_t j : site.dead) alive.zeroed(i, j) = 0.0f;
  }
  alive.w = alive.zeroed;
  if (static_cast<int64_t>(site.dead.size()) == w.cols) return;
  alive.weights = site.diag;
  for (const int32_t j : site.dead) alive.weights[j] = 0.0f;
  alive.diag = alive.weights;
}

}  // namespace

ColumnProblem MakeProblem(const Context& context, MatView<const float> original, const SiteFactor& site,
                          const GridSpec& grid, ClipSearch search, float largest) {
  Alive alive;
  SetAlive(original, site, alive);
  const MatView<const float> w = alive.w;
  ColumnProblem p;
  p.context = &context;
  p.site = &site;
  p.grid = grid;
  p.rows = w.rows;
  p.padded = (w.rows + kPanelRows - 1) / kPanelRows * kPanelRows;
  // An odd number of cache lines between columns spreads a panel over all sets of the cache.
  p.ld = p.padded + 16;
  p.w.Resize(w.cols, p.ld);
  context.pool->ParallelFor(p.num_panels(), [&](int64_t panel) {
    const int64_t row = panel * kPanelRows;
    for (int64_t j = 0; j < w.cols; ++j) {
      float* to = p.w.row(j) + row;
      for (int64_t r = 0; r < kPanelRows; ++r) to[r] = row + r < w.rows ? w(row + r, j) : 0.0f;
    }
  });
  if (grid.InBlocks()) {
    p.layout = LayoutOf(grid.block_type);
  } else {
    p.fitter = std::make_shared<const GridFitter>(MakeFitter(context, w, alive.diag, grid, search));
    p.own_units = FitUnits(context, w, alive.diag, *p.fitter, search, largest);
  }
  p.units.assign(p.padded, 1.0f);
  for (int64_t r = 0; r < p.padded && !p.own_units.empty(); ++r) {
    const int64_t last = static_cast<int64_t>(p.own_units.size()) - 1;
    p.units[r] = p.own_units[std::min(r, last)];
  }
  p.group_of.resize(w.cols);
  const int64_t size = p.GroupColumns();
  for (int64_t i = 0; i < w.cols; ++i) p.group_of[i] = static_cast<int32_t>(site.order[i] / size);
  return p;
}

ColumnCoding MakeCoding(const ColumnProblem& problem) {
  const int64_t blocks = problem.grid.NumGroups(problem.cols()), groups = blocks * problem.GroupsOfBlock();
  ColumnCoding coding;
  coding.codes.Resize(problem.cols(), problem.ld);
  coding.scales.Resize(groups, problem.ld);
  coding.zeros.Resize(groups, problem.ld);
  coding.zeros.Fill(0.0f);
  if (problem.grid.InBlocks()) {
    coding.super_scales.Resize(blocks, problem.ld);
    coding.super_mins.Resize(blocks, problem.ld);
    coding.steps.Resize(groups, problem.ld);
    coding.min_steps.Resize(groups, problem.ld);
  } else {
    coding.sets.Resize(groups, problem.ld);
    coding.sets.Fill(0);
  }
  coding.losses.assign(problem.padded, 0.0);
  return coding;
}

void FitStatic(const ColumnProblem& problem, ClipSearch search, ColumnCoding& coding) {
  const int64_t size = problem.BlockColumns();
  if (problem.grid.scale == ScaleKind::kNone) {
    coding.scales.Fill(1.0f);
    return;
  }
  problem.context->pool->ParallelFor(problem.num_panels(), [&](int64_t panel) {
    const int64_t row = panel * kPanelRows;
    std::vector<float> levels;
    for (int64_t g = 0; g * size < problem.cols(); ++g) {
      if (problem.grid.InBlocks()) {
        FitBlock(problem, g, row, problem.w.row(g * size) + row, problem.ld,
                 problem.site->diag.data() + g * size, coding);
        continue;
      }
      PanelFit fit = GroupFitOf(problem, coding, g, row, search, levels);
      fit.w = problem.w.row(g * size) + row;
      fit.ld = problem.ld;
      fit.cols = std::min(size, problem.cols() - g * size);
      fit.h = problem.site->diag.data() + g * size;
      FitPanel(problem.context->isa, fit);
    }
  });
}

void RoundNearest(const ColumnProblem& problem, ColumnScratch& scratch, ColumnCoding& coding) {
  const SiteFactor& site = *problem.site;
  const int64_t n = problem.cols();
  Mat<float>&e = scratch.e, &weighted = scratch.block;
  e.Resize(n, problem.ld);
  weighted.Resize(std::min(kLossBlock, n), problem.ld);
  const std::vector<float> no_feedback(n, 0.0f);
  problem.context->pool->ParallelFor(problem.num_panels(), [&](int64_t panel) {
    const int64_t row = panel * kPanelRows;
    float zeros[kPanelRows] = {};
    GroupValues values;
    int32_t known = -1;  // the group that `values` is of
    for (int64_t j = 0; j < n; ++j) {
      PanelBlock column{.w = problem.w.data() + row,
                        .codes = coding.codes.data() + row,
                        .scales = coding.scales.data() + row,
                        .zeros = coding.zeros.data() + row,
                        .columns = site.order.data() + j,
                        .groups = problem.group_of.data() + j,
                        .acc = zeros,
                        .e = e.row(j) + row,
                        .ld = problem.ld,
                        .inv_diag = no_feedback.data()};
      DescribeCodes(problem, column);
      if (column.form == PanelBlock::Form::kValues) {
        if (problem.group_of[j] != known) values.Make(problem, coding, problem.group_of[j], row);
        known = problem.group_of[j];
        values.Use(column);
      }
      RoundPanel(problem.context->isa, column, 0, 1);
    }
  });
  std::fill(coding.losses.begin(), coding.losses.end(), 0.0);
  for (int64_t b = 0; b < n; b += kLossBlock) {
    const int64_t count = std::min(kLossBlock, n - b), seen = b + count;
    MatMulTN(*problem.context, site.r.view().Rows(0, seen).Cols(b, count), PaddedRows(problem, e, seen),
             PaddedRows(problem, weighted, count));
    problem.context->pool->ParallelFor(problem.num_panels(), [&](int64_t panel) {
      const int64_t row = panel * kPanelRows;
      AddLoss(weighted.data() + row, e.row(b) + row, problem.ld, nullptr, count, coding.losses.data() + row);
    });
  }
}

namespace {

// The block in stretches of one group (in blocks: one block) each: `dynamic` fits its grid to the targets
// first, and a grid of levels has its values made.
void RoundByGroups(const ColumnProblem& problem, const FeedbackOptions& options, bool dynamic,
                   PanelBlock& block, int64_t count, const float* cost, int64_t row, ColumnCoding& coding,
                   GroupWork& work) {
  const Isa isa = problem.context->isa;
  const auto per = static_cast<int32_t>(problem.GroupsOfBlock());
  for (int64_t begin = 0, end; begin < count; begin = end) {
    const int32_t b = block.groups[begin] / per;
    end = std::find_if(block.groups + begin, block.groups + count, [&](int32_t x) { return x / per != b; }) -
          block.groups;
    FeedPanel(isa, block, 0, begin, begin, end);
    if (dynamic) {
      FitToTargets(problem, block, begin, end, cost + begin, row, options.search, coding, work);
    }
    if (block.form == PanelBlock::Form::kValues) {
      work.values.Make(problem, coding, b, row);
      work.values.Use(block);
    }
    RoundPanel(isa, block, begin, end);
  }
}

}  // namespace

Status RoundFeedback(const ColumnProblem& problem, const FeedbackOptions& options, bool dynamic,
                     ColumnScratch& scratch, ColumnCoding& coding) {
  const SiteFactor& site = *problem.site;
  const Context& context = *problem.context;
  const int64_t n = problem.cols(), ld = problem.ld;
  const int64_t block_size = BlockSize(problem, options, dynamic);
  Mat<float>&e = scratch.e, &acc = scratch.block;
  const int64_t super_size = kSuperBlock * block_size;
  e.Resize(n, ld);
  acc.Resize(std::min(super_size, n), ld);
  Mat<float> coefficients(block_size, block_size);
  std::vector<float> diag(n), inv_diag(n), conditional(n);
  for (int64_t i = 0; i < n; ++i) {
    diag[i] = site.r(i, i);
    inv_diag[i] = 1.0f / diag[i];
    // What an error costs once the columns after it have made up for what they can.
    conditional[i] = diag[i] * diag[i];
  }
  std::vector<GroupWork> works(context.pool->NumThreads());
  std::fill(coding.losses.begin(), coding.losses.end(), 0.0);
  acc.Fill(0.0f);
  for (int64_t b = 0; b < n; b += block_size) {
    PLANISH_RETURN_IF_ERROR(context.CheckCancelled());
    const int64_t count = std::min(block_size, n - b), super = b / super_size * super_size;
    if (b == super && b > 0) {
      const int64_t all = std::min(super_size, n - b);
      MatMulTN(context, site.r.view().Rows(0, b).Cols(b, all), PaddedRows(problem, e, b),
               PaddedRows(problem, acc, all));
    }
    float* block_acc = acc.row(b - super);
    if (b > super) {
      const MatView<const float> seen{e.row(super), b - super, problem.padded, ld};
      MatMulTN(context, site.r.view().Rows(super, b - super).Cols(b, count), seen,
               {block_acc, count, problem.padded, ld}, Accumulate::kAdd);
    }
    for (int64_t j = 0; j < count; ++j) {
      for (int64_t i = 0; i < j; ++i) coefficients(j, i) = site.r(b + i, b + j);
    }
    context.pool->ParallelFor(problem.num_panels(), [&](int64_t panel, int worker) {
      const int64_t row = panel * kPanelRows;
      PanelBlock block{.w = problem.w.data() + row,
                       .codes = coding.codes.data() + row,
                       .scales = coding.scales.data() + row,
                       .zeros = coding.zeros.data() + row,
                       .columns = site.order.data() + b,
                       .groups = problem.group_of.data() + b,
                       .acc = block_acc + row,
                       .e = e.row(b) + row,
                       .ld = ld,
                       .coefficients = coefficients.data(),
                       .coefficients_ld = block_size,
                       .inv_diag = inv_diag.data() + b};
      DescribeCodes(problem, block);
      if (!dynamic && block.form != PanelBlock::Form::kValues) {
        RoundPanel(context.isa, block, 0, count);
      } else {
        RoundByGroups(problem, options, dynamic, block, count, conditional.data() + b, row, coding,
                      works[worker]);
      }
      AddLoss(block.acc, block.e, ld, diag.data() + b, count, coding.losses.data() + row);
    });
  }
  return {};
}

int64_t TakeBetterRows(const ColumnProblem& problem, const ColumnCoding& from, ColumnCoding& into) {
  std::vector<uint8_t> better(problem.padded);
  int64_t taken = 0;
  for (int64_t r = 0; r < problem.padded; ++r) {
    better[r] = from.losses[r] < into.losses[r];
    taken += better[r];
    if (better[r]) into.losses[r] = from.losses[r];
  }
  if (taken == 0) return 0;
  const auto copy = [&](const auto& source, auto& target) {
    problem.context->pool->ParallelFor(source.rows(), [&](int64_t j) {
      const auto* s = source.row(j);
      auto* t = target.row(j);
      for (int64_t r = 0; r < problem.padded; ++r) t[r] = better[r] ? s[r] : t[r];
    });
  };
  copy(from.codes, into.codes);
  ForEachParameter(from, into, copy);
  return taken;
}

GridMatrix ToMatrix(const ColumnProblem& problem, const ColumnCoding& coding) {
  GridMatrix matrix;
  matrix.grid = problem.grid;
  matrix.codes.Resize(problem.rows, problem.cols());
  matrix.scales.Resize(problem.rows, coding.scales.rows());
  matrix.units = problem.own_units;
  const bool uniform = problem.grid.Uniform(), sets = problem.grid.NumSets() > 1;
  if (uniform) matrix.zeros.Resize(problem.rows, coding.scales.rows());
  if (sets) matrix.sets.Resize(problem.rows, coding.scales.rows());
  if (!uniform) {
    const Mat<float>& levels = problem.fitter->levels();
    matrix.levels.Resize(levels.rows(), levels.cols());
    std::copy_n(levels.data(), levels.rows() * levels.cols(), matrix.levels.data());
  }
  problem.context->pool->ParallelFor(problem.num_panels(), [&](int64_t panel) {
    const int64_t begin = panel * kPanelRows, end = std::min(problem.rows, begin + kPanelRows);
    for (int64_t r = begin; r < end; ++r) {
      for (int64_t j = 0; j < problem.cols(); ++j) matrix.codes(r, j) = coding.codes(j, r);
      for (int64_t g = 0; g < coding.scales.rows(); ++g) {
        matrix.scales(r, g) = coding.scales(g, r);
        if (uniform) matrix.zeros(r, g) = coding.zeros(g, r);
        if (sets) matrix.sets(r, g) = coding.sets(g, r);
      }
    }
  });
  return matrix;
}

}  // namespace planish

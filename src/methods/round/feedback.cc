#include "methods/round/feedback.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "grids/gguf_decode.h"
#include "grids/gguf_encode.h"
#include "math/gemm.h"
#include "methods/round/columns.h"

namespace planish {
namespace {

Status CheckFinite(MatView<const float> w) {
  for (int64_t i = 0; i < w.rows; ++i) {
    const float* row = w.row(i);
    // x * 0 is NaN exactly for NaN and infinity; the sum keeps it.
    float sum = 0;
    for (int64_t j = 0; j < w.cols; ++j) sum += row[j] * 0.0f;
    if (sum == 0) continue;
    const int64_t j = std::find_if(row, row + w.cols, [](float x) { return !std::isfinite(x); }) - row;
    return InputError(fmt::format("weight [{}, {}] holds {} at row {}, column {}; expected finite numbers",
                                  w.rows, w.cols, row[j], i, j));
  }
  return {};
}

void CheckArguments(MatView<const float> w, const GridSpec& grid) {
  PLANISH_CHECK(w.rows > 0 && w.cols > 0) << w.rows << " x " << w.cols;
  const std::string wrong = CheckGrid(grid);
  PLANISH_CHECK(wrong.empty()) << wrong;
}

// The parameters of all groups of one coding for another.
void CopyGrid(const ColumnProblem& problem, const ColumnCoding& from, ColumnCoding& to) {
  ForEachParameter(from, to, [&](const auto& source, auto& target) {
    std::copy_n(source.data(), source.rows() * problem.ld, target.data());
  });
}

// A grid in blocks must fit the rows; the caller has already let it give way (FitToRows).
Status CheckBlocks(const GridSpec& grid, int64_t cols) {
  if (!grid.InBlocks() || (InfoOf(grid.block_type).encodes && cols % grid.group == 0)) return {};
  return InputError(
      fmt::format("rows of {} values are a multiple of no block of GGUF types, expected one of 32; a rule "
                  "with skip = true leaves the tensor as it is",
                  cols));
}

// True when positions [k * size, (k + 1) * size) are the columns of one group, for every k.
bool GroupsStayWhole(const std::vector<int32_t>& order, int64_t size) {
  for (size_t i = 0; i < order.size(); ++i) {
    const int64_t first = static_cast<int64_t>(i) / size * size;
    if (order[i] / size != order[first] / size) return false;
  }
  return true;
}

}  // namespace

Result<Rounded> RoundWithFeedback(const Context& context, MatView<const float> w, const SiteFactor& site,
                                  const GridSpec& grid, const FeedbackOptions& options) {
  PLANISH_RETURN_IF_ERROR(CheckBlocks(grid, w.cols));
  CheckArguments(w, grid);
  PLANISH_CHECK(site.r.rows() == w.cols) << "factor of " << site.r.rows() << " inputs, weight of " << w.cols;
  PLANISH_CHECK(options.block > 0 && options.refit_rounds >= 0);
  // Values that are the levels themselves were learned from W; there is nothing to choose on the way.
  const bool dynamic = options.dynamic_groups && grid.scale != ScaleKind::kNone &&
                       GroupsStayWhole(site.order, grid.GroupSize(w.cols));
  PLANISH_RETURN_IF_ERROR(CheckFinite(w));

  const ColumnProblem problem = MakeProblem(context, w, site, grid, options.search, options.largest);
  ColumnScratch scratch;
  ColumnCoding best = MakeCoding(problem), candidate = MakeCoding(problem);
  FitStatic(problem, options.search, best);
  RoundNearest(problem, scratch, best);
  Rounded rounded;
  rounded.loss_nearest = UndampedLoss(problem, best);
  CopyGrid(problem, best, candidate);
  PLANISH_RETURN_IF_ERROR(RoundFeedback(problem, options, dynamic, scratch, candidate));
  rounded.rows_nearest = problem.rows - TakeBetterRows(problem, candidate, best);

  const std::vector<double> before = best.losses;
  for (int round = 0; round < options.refit_rounds; ++round) {
    PLANISH_RETURN_IF_ERROR(RefitSweep(problem, options.polish, scratch, best));
    CopyGrid(problem, best, candidate);
    PLANISH_RETURN_IF_ERROR(RoundFeedback(problem, options, /*dynamic=*/false, scratch, candidate));
    TakeBetterRows(problem, candidate, best);
  }
  for (int64_t r = 0; r < problem.rows; ++r) rounded.rows_refitted += best.losses[r] < before[r];
  rounded.loss = UndampedLoss(problem, best);
  if (grid.InBlocks()) {
    rounded.blocks = ToBlocks(problem, best);
  } else {
    rounded.matrix = ToMatrix(problem, best);
  }
  return rounded;
}

Result<Rounded> RoundToNearest(const Context& context, MatView<const float> w, MatView<const float> h,
                               const GridSpec& grid, ClipSearch search, float largest) {
  PLANISH_RETURN_IF_ERROR(CheckBlocks(grid, w.cols));
  CheckArguments(w, grid);
  PLANISH_CHECK(h.rows == h.cols && (h.rows == 0 || h.rows == w.cols)) << h.rows << " x " << h.cols;
  PLANISH_RETURN_IF_ERROR(CheckFinite(w));
  std::vector<float> diag(h.rows);
  for (int64_t i = 0; i < h.rows; ++i) diag[i] = h(i, i);
  Rounded rounded;
  Mat<float> w_hat(w.rows, w.cols);
  if (grid.InBlocks()) {
    const int64_t row_bytes = GgufRowBytes(grid.block_type, w.cols);
    rounded.blocks = Buffer(static_cast<size_t>(w.rows * row_bytes));
    EncodeBlocks(context, grid.block_type, w, diag, rounded.blocks.data());
    context.pool->ParallelFor(w.rows, [&](int64_t i) {
      DecodeBlockRow(grid.block_type, rounded.blocks.data() + i * row_bytes, 0, w.cols, w_hat.row(i));
    });
  } else {
    rounded.matrix = FitGrid(context, w, diag, grid, search, largest);
    EncodeAll(context, w, rounded.matrix);
    context.pool->ParallelFor(w.rows,
                              [&](int64_t i) { DecodeRow(rounded.matrix, i, 0, w.cols, w_hat.row(i)); });
  }
  rounded.loss = LayerLoss(context, w, w_hat, h);
  rounded.loss_nearest = rounded.loss;
  rounded.rows_nearest = w.rows;
  return rounded;
}

double LayerLoss(const Context& context, MatView<const float> w, MatView<const float> w_hat,
                 MatView<const float> h) {
  PLANISH_CHECK(w.rows == w_hat.rows && w.cols == w_hat.cols) << w_hat.rows << " x " << w_hat.cols;
  PLANISH_CHECK(h.rows == h.cols && (h.rows == 0 || h.rows == w.cols)) << h.rows << " x " << h.cols;
  Mat<float> e(w.rows, w.cols), eh;
  context.pool->ParallelFor(w.rows, [&](int64_t i) {
    for (int64_t j = 0; j < w.cols; ++j) e(i, j) = w(i, j) - w_hat(i, j);
  });
  if (h.rows > 0) {
    eh.Resize(w.rows, w.cols);
    MatMulNN(context, e, h, eh);
  }
  const Mat<float>& weighted = h.rows > 0 ? eh : e;
  std::vector<double> losses(w.rows, 0.0);
  context.pool->ParallelFor(w.rows, [&](int64_t i) {
    for (int64_t j = 0; j < w.cols; ++j) losses[i] += static_cast<double>(weighted(i, j)) * e(i, j);
  });
  double sum = 0;
  for (const double loss : losses) sum += loss;
  return sum;
}

}  // namespace planish

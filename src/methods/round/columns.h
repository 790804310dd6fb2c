// Inside the rounding engine: one linear stored by columns, and the passes over it. Rows are
// independent everywhere; they are padded to whole panels with rows of zeros, whose codes decode to
// zero (to the lowest level where the grid has no zero) and whose loss nobody reads.
#pragma once

#include <memory>
#include <vector>

#include "grids/fit_support.h"
#include "methods/round/feedback.h"
#include "methods/round/panel.h"

namespace planish {

// W [m, n] by columns: w(j, r) is row r of column j, natural column order, dead columns zero.
struct ColumnProblem {
  const Context* context = nullptr;
  const SiteFactor* site = nullptr;
  std::shared_ptr<const GridFitter> fitter;
  GridSpec grid;
  std::vector<float> units;       // [padded] of the scales, 1 where the grid has none
  std::vector<float> own_units;   // as GridMatrix has them
  int64_t rows = 0;               // m
  int64_t padded = 0;             // m rounded up to whole panels
  int64_t ld = 0;                 // floats between columns
  Mat<float> w;                   // [n, ld]
  std::vector<int32_t> group_of;  // [n], position -> group

  int64_t cols() const { return w.rows(); }
  int64_t num_panels() const;
};

// A grid and codes for every row, and the damped loss e H_d e^T of each: what every choice between two
// codings of a row looks at, because the undamped one rewards fitting the calibration text's noise.
struct ColumnCoding {
  Mat<uint8_t> codes;          // [n, ld], natural order
  Mat<float> scales, zeros;    // [groups, ld]; zeros stay 0 for grids of levels
  Mat<uint8_t> sets;           // [groups, ld]
  std::vector<double> losses;  // [padded]
};

// Large matrices that the passes overwrite, kept between them: fresh memory would have to be cleared by
// the system each time, which costs more than the pass's own kernel.
struct ColumnScratch {
  Mat<float> e;      // [n, ld] errors, by position (feedback) or natural column (refit)
  Mat<float> block;  // [some columns, ld] products of a block or several
};

// The values of every code of one group in one panel, and their midpoints, for PanelBlock.
struct GroupValues {
  std::vector<float> values, midpoints;  // [2^bits][kPanelRows]
  void Make(const ColumnProblem& problem, const ColumnCoding& coding, int64_t group, int64_t row);
  void Use(PanelBlock& block) const;
};
// The value of a code over its scale: what a scale multiplies.
inline float Unscaled(const ColumnProblem& p, const ColumnCoding& c, int64_t j, int64_t g, int64_t r) {
  if (p.grid.Uniform()) return static_cast<float>(c.codes(j, r)) - c.zeros(g, r);
  return p.fitter->levels()(c.sets(g, r), c.codes(j, r));
}

// A matrix of the padded rows: the first `count` columns of storage.
MatView<float> PaddedRows(const ColumnProblem& problem, Mat<float>& m, int64_t count);

// `search` as FitStatic will have it: units of scales come from a first fit.
ColumnProblem MakeProblem(const Context& context, MatView<const float> w, const SiteFactor& site,
                          const GridSpec& grid, ClipSearch search = ClipSearch::kWeighted);
ColumnCoding MakeCoding(const ColumnProblem& problem);
// Scales and zeros of every group from W, columns weighted by diag H.
void FitStatic(const ColumnProblem& problem, ClipSearch search, ColumnCoding& coding);
// Nearest codes on the coding's grid, and losses.
void RoundNearest(const ColumnProblem& problem, ColumnScratch& scratch, ColumnCoding& coding);
// Codes with error feedback, and losses. `dynamic`: scales and zeros are set on the way too.
Status RoundFeedback(const ColumnProblem& problem, const FeedbackOptions& options, bool dynamic,
                     ColumnScratch& scratch, ColumnCoding& coding);
// Copies the rows in which `from` has the lower loss; returns how many.
int64_t TakeBetterRows(const ColumnProblem& problem, const ColumnCoding& from, ColumnCoding& into);
// One sweep of refit over the groups in natural order; losses fall or stay. See refit.cc.
Status RefitSweep(const ColumnProblem& problem, bool polish, ColumnScratch& scratch, ColumnCoding& coding);
// tr(E H E^T) = sum of losses - lambda |E|^2.
double UndampedLoss(const ColumnProblem& problem, const ColumnCoding& coding);
GridMatrix ToMatrix(const ColumnProblem& problem, const ColumnCoding& coding);

}  // namespace planish

// Inside the rounding engine: one linear stored by columns, and the passes over it. Rows are
// independent everywhere; they are padded to whole panels with rows of zeros, whose codes decode to
// zero (to the lowest level where the grid has no zero) and whose loss nobody reads.
#pragma once

#include <memory>
#include <vector>

#include "grids/fit_support.h"
#include "grids/gguf_fit.h"
#include "methods/round/feedback.h"
#include "methods/round/panel.h"
#include "tensor/buffer.h"

namespace planish {

// W [m, n] by columns: w(j, r) is row r of column j, natural column order, dead columns zero.
struct ColumnProblem {
  const Context* context = nullptr;
  const SiteFactor* site = nullptr;
  GridSpec grid;
  std::shared_ptr<const GridFitter> fitter;  // null for grids in blocks
  BlockLayout layout;                        // of grids in blocks; else a "block" is one group
  std::vector<float> units;                  // [padded] of the scales, 1 where the grid has none
  std::vector<float> own_units;              // as GridMatrix has them
  int64_t rows = 0;                          // m
  int64_t padded = 0;                        // m rounded up to whole panels
  int64_t ld = 0;                            // floats between columns
  Mat<float> w;                              // [n, ld]
  std::vector<int32_t> group_of;             // [n], position -> group

  int64_t cols() const { return w.rows(); }
  // Columns whose parameters are chosen together, and columns with one scale and zero ("group"): the same
  // unless blocks are divided into sub-blocks.
  int64_t BlockColumns() const { return grid.GroupSize(cols()); }
  int64_t GroupColumns() const { return grid.InBlocks() ? layout.n : grid.GroupSize(cols()); }
  int64_t GroupsOfBlock() const { return grid.InBlocks() ? layout.subs : 1; }
  int64_t num_panels() const;
};

// A grid and codes for every row, and the damped loss e H_d e^T of each: what every choice between two
// codings of a row looks at, because the undamped one rewards fitting the calibration text's noise.
struct ColumnCoding {
  Mat<uint8_t> codes;        // [n, ld], natural order
  Mat<float> scales, zeros;  // [groups, ld]; zeros stay 0 for grids of levels, are minima in blocks
  Mat<uint8_t> sets;         // [groups, ld], grids of levels
  // Blocks of several sub-blocks: scale = super_scale * step, zero = -super_min * min_step.
  Mat<float> super_scales, super_mins;  // [blocks, ld]
  Mat<int8_t> steps;                    // [groups, ld]
  Mat<uint8_t> min_steps;               // [groups, ld]
  std::vector<double> losses;           // [padded]
};

// visit(source, target) for every matrix of the groups' parameters, that is all but the codes.
template <class Visit>
void ForEachParameter(const ColumnCoding& from, ColumnCoding& to, const Visit& visit) {
  visit(from.scales, to.scales);
  visit(from.zeros, to.zeros);
  visit(from.sets, to.sets);
  visit(from.super_scales, to.super_scales);
  visit(from.super_mins, to.super_mins);
  visit(from.steps, to.steps);
  visit(from.min_steps, to.min_steps);
}

// Large matrices that the passes overwrite, kept between them: fresh memory would have to be cleared by
// the system each time, which costs more than the pass's own kernel.
struct ColumnScratch {
  Mat<float> e;      // [n, ld] errors, by position (feedback) or natural column (refit)
  Mat<float> block;  // [some columns, ld] products of a block or several
};

// The values of every code of one group in one panel, and their midpoints, for PanelBlock.
struct GroupValues {
  std::vector<float> values, midpoints;  // [2^bits][kPanelRows]
  GuideView guide;
  void Make(const ColumnProblem& problem, const ColumnCoding& coding, int64_t group, int64_t row);
  void Use(PanelBlock& block) const;
};
// The value of a code over its scale, without a minimum: what a scale multiplies.
inline float Unscaled(const ColumnProblem& p, const ColumnCoding& c, int64_t j, int64_t g, int64_t r) {
  if (p.grid.InBlocks()) {
    const int code = c.codes(j, r);
    return static_cast<float>(p.layout.codes.table ? Iq4Value(code) : code + p.layout.codes.low);
  }
  if (p.grid.Uniform()) return static_cast<float>(c.codes(j, r)) - c.zeros(g, r);
  return p.fitter->LevelsOf(r, g, c.scales.rows(), c.sets(g, r))[c.codes(j, r)];
}

inline float CodedValue(const ColumnProblem& p, const ColumnCoding& c, int64_t j, int64_t g, int64_t r) {
  const float value = Unscaled(p, c, j, g, r) * c.scales(g, r);
  return p.grid.InBlocks() ? value + c.zeros(g, r) : value;
}
// Sets what the block needs to know of the codes.
void DescribeCodes(const ColumnProblem& problem, PanelBlock& block);

// A matrix of the padded rows: the first `count` columns of storage.
MatView<float> PaddedRows(const ColumnProblem& problem, Mat<float>& m, int64_t count);

// `search` as FitStatic will have it: units of scales come from a first fit. `largest` as in FitGrid.
ColumnProblem MakeProblem(const Context& context, MatView<const float> w, const SiteFactor& site,
                          const GridSpec& grid, ClipSearch search = ClipSearch::kWeighted, float largest = 0);
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

// ---- grids in blocks: blocks.cc, refit_blocks.cc

// Chooses the parameters of block b for the rows of one panel: x[k * ld + r] is the value of column k of the
// block, weights[k] what an error there costs.
void FitBlock(const ColumnProblem& problem, int64_t b, int64_t row, const float* x, int64_t ld,
              const float* weights, ColumnCoding& coding);
// The rows as they lie in a file.
Buffer ToBlocks(const ColumnProblem& problem, const ColumnCoding& coding);

// Memory of RefitBlock, kept between calls.
struct BlockRefitWork {
  std::vector<float> gradient, a, ha, u, hu, v, hv, moved;  // [columns of a block][kPanelRows]
};
// New scales and minima of block b for the rows of one panel, codes fixed, each taken where L falls: first
// the super-scales together, then every sub-block's own. h [columns of the block, same] is H_d's diagonal
// block, gradient [columns of the block, ld] that of the errors, which follows the moves; so do the losses.
void RefitBlock(const ColumnProblem& problem, int64_t b, int64_t row, MatView<const float> h,
                MatView<float> gradient, BlockRefitWork& work, ColumnCoding& coding);

}  // namespace planish

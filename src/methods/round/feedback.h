// Rounding with error feedback (GPTQ, arXiv 2210.17323; the same map as LDLQ): columns are rounded
// in turn, and the error already made is fed into the target of the columns to come so that
// L = tr(E H E^T), E = W - Q, stays small.
//
// With the damped H_d = R R^T (R upper triangular, CholeskyUpper; columns in the chosen order) the
// weighted error of column j is (E R)_j = sum_{i<=j} e_i R_ij, so the target of column j is
//   t_j = w_j + sum_{i<j} e_i R_ij / R_jj,   and   L_d = sum_j ((t_j - q_j) R_jj)^2 exactly.
// No inverse of H is formed, and the loss of every row comes for free. Choices between codings of a row
// are made by L_d = tr(E H_d E^T); what is reported is L = tr(E H E^T) = L_d - lambda |E|^2.
// Work: n^2 m / 2 multiply-adds for W [m, n], nearly all in matrix products of the errors so far with
// a block of columns of R.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "base/check.h"
#include "base/context.h"
#include "grids/grid.h"
#include "tensor/buffer.h"
#include "tensor/view.h"

namespace planish {

enum class ColumnOrder {
  kNatural,
  kActivation,  // descending diag H; groups keep their original columns (static groups)
  kGroupAware,  // groups stay together: whole groups by their largest diag H, columns inside each by diag H
};

struct FeedbackOptions {
  double damping = 0.05;        // lambda relative to mean(diag H)
  int max_damping_retries = 5;  // each multiplies lambda by 10 when the factorization fails
  ColumnOrder order = ColumnOrder::kGroupAware;
  int64_t block = 128;  // columns between two matrix products; a change changes no code
  ClipSearch search = ClipSearch::kWeighted;
  // Rounds of refit (decoupleQ, arXiv 2404.12759, with stored grids: fp16 scales, whole zeros). Each is
  // one sweep over the groups, which sets scale and zero in closed form under the full H with codes
  // fixed and then moves single codes where that lowers L_d (`polish`), and a new rounding with feedback
  // on that grid, kept per row only where L_d falls. 0: none.
  int refit_rounds = 2;
  bool polish = true;
  // Choose a group's grid when its first column is reached, from the weights that already hold the
  // error fed back (dynamic groups), column j weighted by R_jj^2: what its error costs once the columns
  // after it have made up for it. Where the order scatters the groups, and if false: from W and diag H.
  bool dynamic_groups = true;
  float largest = 0;  // as in FitGrid
};

// What the linears that read one site share: computed once, used for each.
struct SiteFactor {
  std::vector<int32_t> order;  // position -> column
  Mat<float> r;                // [n, n] upper triangular, of H_d in that order
  Mat<float> h;                // [n, n] undamped H in natural order, dead columns' diagonal set to 1
  std::vector<float> diag;     // [n] diag of h, natural order
  std::vector<int32_t> dead;   // columns with H_jj = 0: their weights are set to 0 before rounding
  double lambda = 0;           // damping used, absolute
  int retries = 0;             // factorizations that failed before
};

// H [n, n] symmetric. `group` is needed by kGroupAware and may be 0 (whole row). Errors: H holds
// NaN or infinity, or the factorization fails with the largest damping.
Result<SiteFactor> FactorSite(const Context& context, MatView<const float> h, int64_t group,
                              const FeedbackOptions& options);

struct Rounded {
  GridMatrix matrix;
  Buffer blocks;              // [rows, GgufRowBytes] instead of `matrix`, for grids in blocks
  double loss = 0;            // tr(E H E^T), undamped H
  double loss_nearest = 0;    // the same for the nearest codes on the first grid (round to nearest)
  int64_t rows_nearest = 0;   // rows that kept their nearest codes
  int64_t rows_refitted = 0;  // rows whose loss fell in the refit
};

// w [m, n]. The damped loss of a row is never above that of nearest rounding on the static grid: where
// feedback would lose, the nearest codes are kept. Losses are those of the stored form: fp16 scales, whole
// steps, the bytes of blocks. Errors: NaN or infinity in w, interrupted, rows that no block fits.
Result<Rounded> RoundWithFeedback(const Context& context, MatView<const float> w, const SiteFactor& site,
                                  const GridSpec& grid, const FeedbackOptions& options);
// Round to nearest. h [n, n] gives the loss and, by its diagonal, the weights of the search; with an
// empty h both count all columns alike (H = I). `largest` as in FitGrid.
Result<Rounded> RoundToNearest(const Context& context, MatView<const float> w, MatView<const float> h,
                               const GridSpec& grid, ClipSearch search, float largest = 0);

// tr(E H E^T) with E = w - w_hat, in fp32 products and double sums.
double LayerLoss(const Context& context, MatView<const float> w, MatView<const float> w_hat,
                 MatView<const float> h);

}  // namespace planish

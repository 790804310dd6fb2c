// Weighted low-rank compensation: a path B A of rank r beside a compressed weight What that takes back
// as much of the layer's output error as rank r can. With E = W - What [out,in] and H = X^T X / tokens
// the loss is
//   L(B A) = tr((E - B A) H (E - B A)^T).
// The optimum needs no inverse: B A = U_r U_r^T E, U_r [out,r] the top eigenvectors of M = E H E^T, and
// L falls from the sum of all eigenvalues of M to the sum of those after the r-th.
//   H given  EoRA, "Fine-tuning-free Compensation for Compressed LLM with Eigenspace Low-Rank
//            Approximation", arXiv 2410.21271
//   H = I    LoRC, "ZeroQuant-V2", arXiv 2303.08302: the truncated SVD of E
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/context.h"
#include "tensor/view.h"

namespace planish {

struct LowRankOptions {
  int64_t rank = 0;         // of the path; at most min(out, in) is used
  bool exact = false;       // full eigensolve in double, O(n^3) on one thread, instead of Krylov iteration
  uint64_t seed = 0;        // of the Krylov iteration
  double tolerance = 3e-4;  // relative change of the captured energy at which the iteration stops
  // tr(E H E^T) where it is already known (error feedback reports it); negative: measured here, which
  // takes out * in^2 / 2 multiply-adds, more than the path itself at small ranks.
  double known_energy = -1;
};

struct LowRankPath {
  Mat<float> b;                // [out, r], column i of length sqrt(sigma_i)
  Mat<float> a;                // [r, in]
  double loss_before = 0;      // tr(E H E^T)
  double loss_after = 0;       // with the unrounded path; loss_before - energy_captured, not below 0, so
                               // good to about 1e-6 of loss_before (1e-14 when exact)
  double energy_total = 0;     // the sum of all sigma_i^2: loss_before
  double energy_captured = 0;  // the sum of the path's sigma_i^2
};

// The best path for `error` E [out,in] under h [in,in], symmetric positive semidefinite (an empty view is
// the identity). Directions whose energy is rounding noise beside the first one's (sigma_i^2 <=
// sigma_1^2 times 2^-23, when exact times n 2^-52) are left out, so r may be less than asked for; a zero
// E or H gives r = 0. Small negative eigenvalues of h do no harm. The bits do not depend on threads.
// Errors: kInput for numbers that are not finite or a negative rank; kInterrupted.
Result<LowRankPath> FitLowRank(const Context& context, MatView<const float> error, MatView<const float> h,
                               const LowRankOptions& options);

// sigma_i^2 of the first min(max_rank, out, in) directions, descending: what each further rank of a path
// would take off the loss. `options.rank` and `options.known_energy` are not read.
Result<std::vector<double>> PathEnergies(const Context& context, MatView<const float> error,
                                         MatView<const float> h, int64_t max_rank,
                                         const LowRankOptions& options);

// A layer that may get a path.
struct RankCandidate {
  std::vector<double> energies;  // descending, from PathEnergies (times the layer's weight, if any)
  double bytes_per_rank = 0;     // of one column of B and one row of A as stored
};

// Ranks within a budget: steps of `step` ranks are bought in the order of energy per byte (the lower
// index on ties); a step that no longer fits ends its candidate, and cheaper ones may still fit. As
// energies descend, no other ranks in multiples of `step` capture more with the bytes spent, as long as
// nothing was passed over. A rank is a multiple of `step` or all of a candidate's energies; steps that
// gain nothing are not bought.
std::vector<int64_t> AllocateRanks(std::span<const RankCandidate> candidates, double budget_bytes,
                                   int64_t step = 8);

}  // namespace planish

// Divergence between two distributions given as rows of natural log-probabilities.
#pragma once

#include <span>

#include "base/context.h"
#include "tensor/view.h"

namespace planish {

// kl[i] = sum over columns of p_ref (ln p_ref - ln p), in nats; both views are [rows, cols], fp32
// log-probabilities (at most about 0, -infinity allowed, no NaN); kl holds rows values.
//
// Everything after the loads is fp64: the terms of a small divergence nearly cancel (their sum is of
// the order of the square of one term), so an fp32 exponential would show in the result. exp is a
// polynomial, relative error below 1e-11; columns with ln p_ref < -700 count as 0. Column i goes to
// partial sum i mod 16, the sums are joined in a fixed tree: the same bits for any number of threads
// and every kernel set with fused multiply-add. Equal rows give exactly 0; rounding of the inputs can
// leave a tiny negative value where the rows almost agree.
void KlRows(const Context& context, MatView<const float> ref_log_probs, MatView<const float> log_probs,
            std::span<double> kl);

}  // namespace planish

// Outliers: a few weights that are kept apart in fp16 so that the grid serves the others better (dense and
// sparse, SqueezeLLM, arXiv 2306.07629). They are taken out before the grid's parameters are chosen; the
// codes in their places round a weight of zero, and what those decode to is taken off the stored values.
#pragma once

#include <span>
#include <vector>

#include "layer/matrix.h"
#include "methods/round/feedback.h"

namespace planish {

// The round(fraction * size) elements with the largest |w|, or with h [cols] the largest |w| sqrt(h_j); of
// equal ones the first. In order of row and column.
std::vector<SparseEntry> ChooseOutliers(MatView<const float> w, std::span<const float> h, double fraction);

// Values with which codes [out, in] and outliers together decode to w at the outliers, but for fp16.
void RestoreOutliers(MatView<const float> w, const GridMatrix& codes, std::vector<SparseEntry>& outliers);

// Codes fixed, the best values for the outliers under the damped H in closed form, row by row: with S a row's
// outliers and e its errors, their errors change by -(H_SS + lambda I)^-1 (e H_d)_S. A row keeps the
// values that restore its weights where that does not lower its loss as stored, and where it has more than
// kMaxRefit of them. Returns tr(E H E^T) of codes and outliers together, H [in, in] undamped.
inline constexpr int64_t kMaxRefit = 512;
double RefitOutliers(const Context& context, MatView<const float> w, const GridMatrix& codes,
                     const SiteFactor& site, MatView<const float> h, std::vector<SparseEntry>& outliers);

}  // namespace planish

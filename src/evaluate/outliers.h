// How uneven the weights of a matrix are: what a number format will have to cope with.
#pragma once

#include "base/context.h"
#include "layer/matrix.h"

namespace planish {

struct OutlierStats {
  double absmax = 0;
  double rms = 0;
  double kurtosis = 0;    // E[w^4] / E[w^2]^2 (3 for a Gaussian; mean not removed)
  double top_energy = 0;  // share of sum w^2 in the 0.1 % of weights largest in magnitude
};

// One pass over the rows. top_energy comes from a histogram over the upper 16 bits of |w|, and is
// exact up to the width of the bin the threshold falls in (2^-7 relative).
OutlierStats MeasureOutliers(const Context& context, const Matrix& matrix);

}  // namespace planish

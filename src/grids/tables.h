// Levels learned from the weights they are to hold: tables by weighted k-means in one dimension (SqueezeLLM,
// arXiv 2306.07629), and the exponent of a power function (NUPES, arXiv 2308.05600; PowerQuant, arXiv
// 2301.09858).
#pragma once

#include <span>
#include <vector>

#include "grids/grid.h"

namespace planish {

struct WeightedValue {
  float value = 0, weight = 0;  // weight >= 0
};

// The `count` values c, ascending, that minimize sum_i weight_i min_k (value_i - c_k)^2, as BestCenters
// (cluster.h) finds them. Fewer different values than `count`: those, the last repeated. All weights zero: as
// if all were one. At least one value, none NaN.
std::vector<float> KMeansLevels(std::vector<WeightedValue> values, int count);

// sign(q) (|q| / Q)^(1 / exponent) for q in [-Q, Q], Q = 2^(bits - 1) - 1; ascending, in [-1, 1].
std::vector<float> PowerLevels(int bits, double exponent);

// The levels [grid.NumTables, 2^bits] for w [rows, cols], h [cols] the weight of each column (empty: ones).
// Where scales are stored, scales and levels are found in turn from the levels of a normal distribution on,
// the largest magnitude of a table being 1: one table three times by search and clusters; tables of rows by
// clusters under scales that just cover those levels, then once by search and means of what is nearest to
// each level. The exponent of a power grid is found by golden section in [0.2, 1] on at most 48 rows.
Mat<float> LearnLevels(const Context& context, MatView<const float> w, std::span<const float> h,
                       const GridSpec& grid, ClipSearch search);

}  // namespace planish

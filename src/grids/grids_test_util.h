// What tests of grids and of rounding share.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/context.h"
#include "base/random.h"
#include "grids/tables.h"
#include "tensor/view.h"

namespace planish {

inline Context OnPool(ThreadPool& pool, Isa isa = BestIsa()) {
  Context context;
  context.pool = &pool;
  context.isa = isa;
  return context;
}

// Normal with deviation 0.02, as trained weights are about.
inline Mat<float> RandomWeights(int64_t rows, int64_t cols, uint64_t seed) {
  Mat<float> w(rows, cols);
  const Random random(seed);
  for (int64_t i = 0; i < rows * cols; ++i) w.data()[i] = 0.02f * static_cast<float>(random.Normal(i));
  return w;
}

// The nearest of a set of levels.
inline float NearestLevel(const GridSpec& grid, const Mat<float>& levels, float x) {
  float mids[256];
  Midpoints(grid, levels.data(), grid.NumLevels(), mids);
  return levels.data()[EncodeNearest(x, mids, grid.NumLevels())];
}

// sum_i weight_i min_k (value_i - table_k)^2.
inline double TableError(const std::vector<WeightedValue>& values, const std::vector<float>& table) {
  double sum = 0;
  for (const WeightedValue& v : values) {
    double best = INFINITY;
    for (const float c : table) best = std::min(best, std::pow(static_cast<double>(v.value) - c, 2));
    sum += v.weight * best;
  }
  return sum;
}

}  // namespace planish

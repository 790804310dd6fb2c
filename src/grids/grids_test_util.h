// What tests of grids and of rounding share.
#pragma once

#include "base/context.h"
#include "base/random.h"
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

}  // namespace planish

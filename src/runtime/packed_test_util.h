// What the tests of packed layers share: random matrices on grids, packing in one call, and models whose
// linears are rounded to a grid.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <memory>
#include <vector>

#include "base/random.h"
#include "grids/gguf_encode.h"
#include "grids/grid.h"
#include "model/model.h"
#include "runtime/packed_linear.h"
#include "runtime/packed_pack.h"

namespace planish::test {

inline Mat<float> RandomMat(int64_t rows, int64_t cols, double scale, uint64_t stream) {
  Mat<float> m(rows, cols);
  const Random random(3, stream);
  for (int64_t i = 0; i < rows * cols; ++i) {
    m.data()[i] = static_cast<float>(scale * random.Normal(static_cast<uint64_t>(i)));
  }
  return m;
}

// Codes, zeros and fp16 scales drawn from all that the grid has.
inline Matrix RandomCoded(int64_t rows, int64_t cols, const IntegerGrid& grid, double scale,
                          uint64_t stream) {
  const Random random(4, stream);
  uint64_t next = 0;
  const auto levels = uint64_t{1} << grid.bits;
  IntegerMatrix m;
  m.grid = grid;
  m.codes.Resize(rows, cols);
  m.scales.Resize(rows, grid.NumGroups(cols));
  m.zeros.Resize(rows, grid.NumGroups(cols));
  for (int64_t i = 0; i < rows * cols; ++i) {
    m.codes.data()[i] = static_cast<uint8_t>(random.Below(next++, levels));
  }
  for (int64_t i = 0; i < rows * m.scales.cols(); ++i) {
    m.scales.data()[i] = ToFloat(ToF16(static_cast<float>(scale * (0.1 + random.Uniform(next++)))));
    m.zeros.data()[i] = static_cast<uint8_t>(grid.symmetric ? levels / 2 : random.Below(next++, levels));
  }
  return PackInteger(m);
}

inline Matrix SumOf(Matrix main, Matrix u, Matrix v) {
  const int64_t rows = main.rows, cols = main.cols;
  ProductPart path;
  path.factors = {std::move(u), std::move(v)};
  SumPart sum;
  sum.terms = {std::move(main), Matrix{rows, cols, std::move(path)}};
  return {rows, cols, std::move(sum)};
}

inline Buffer Pack(const Context& context, const PackPlan& plan) {
  Buffer bytes(static_cast<size_t>(plan.bytes()));
  std::memset(bytes.data(), 0xa5, bytes.size());  // what is not written shows
  PackLinear(context, plan, bytes.bytes());
  return bytes;
}

template <typename T>
T Must(Result<T> result) {
  EXPECT_TRUE(result.ok()) << (result.ok() ? "" : result.error().message);
  return std::move(result).value();
}

// Values rounded to the grid by their range.
inline Matrix RoundedTo(const Context& context, const GridSpec& grid, MatView<const float> values) {
  GridMatrix m = FitGrid(context, values, {}, grid, ClipSearch::kMinMax);
  EncodeAll(context, values, m);
  return PackCodes(m);
}

// The model with its layers' linears rounded to the grid by their range, head and embedding too if wanted.
inline void RoundLinears(const Context& context, const GridSpec& grid, bool head, Model& model) {
  for (size_t i = 0; i < model.linears.size(); ++i) {
    if (!model.program.linears[i].in_layer && !head) continue;
    Matrix& w = model.linears[i].w;
    w = RoundedTo(context, grid, Reconstruct(w));
  }
}

// Values in blocks of a GGUF type; cols must fill whole blocks.
inline Matrix InBlocks(const Context& context, GgufType type, MatView<const float> values) {
  auto bytes = std::make_shared<std::vector<std::byte>>(
      static_cast<size_t>(values.rows * GgufRowBytes(type, values.cols)));
  EncodeBlocks(context, type, values, {}, bytes->data());
  return {values.rows, values.cols, Blocks{type, {*bytes, bytes}}};
}

// Equal bits, any NaN being as good as another.
inline bool SameBits(float a, float b) {
  return (std::isnan(a) && std::isnan(b)) || std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b);
}
inline bool SameBits(MatView<const float> a, MatView<const float> b) {
  if (a.rows != b.rows || a.cols != b.cols) return false;
  for (int64_t i = 0; i < a.rows; ++i) {
    for (int64_t j = 0; j < a.cols; ++j) {
      if (!SameBits(a(i, j), b(i, j))) return false;
    }
  }
  return true;
}

}  // namespace planish::test

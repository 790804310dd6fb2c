#include "math/gemm.h"
// The definition: plain loops. (Replaced by packed kernels; see the header.)
#include <chrono>
#include <cmath>

namespace planish {
namespace {
template <class AF, class BF>
void Naive(const Context& ctx, int64_t m, int64_t n, int64_t k, AF a, BF b, MatView<float> c, Accumulate op) {
  ctx.pool->ParallelFor(m, [&](int64_t i) {
    for (int64_t j = 0; j < n; ++j) {
      float s = op == Accumulate::kSet ? 0.f : c(i, j);
      const float sign = op == Accumulate::kSubtract ? -1.f : 1.f;
      for (int64_t p = 0; p < k; ++p) s = std::fma(sign * a(i, p), b(p, j), s);
      c(i, j) = s;
    }
  });
}
}  // namespace
void MatMulNT(const Context& ctx, MatView<const float> a, const WeightView& b, MatView<float> c, Accumulate op) {
  Mat<float> w(b.rows, b.cols);
  for (int64_t i = 0; i < b.rows; ++i)
    for (int64_t j = 0; j < b.cols; ++j) w(i, j) = LoadElement(b.data, b.type, i * b.stride + j);
  Naive(ctx, a.rows, b.rows, a.cols, [&](int64_t i, int64_t p) { return a(i, p); },
        [&](int64_t p, int64_t j) { return w(j, p); }, c, op);
}
void MatMulNT(const Context& ctx, MatView<const float> a, const RowSource& b, MatView<float> c, Accumulate op) {
  Mat<float> w(b.rows(), b.cols());
  b.Read(0, b.rows(), 0, b.cols(), w.data(), b.cols());
  MatMulNT(ctx, a, Weights(w.view()), c, op);
}
void MatMulNN(const Context& ctx, MatView<const float> a, MatView<const float> b, MatView<float> c, Accumulate op) {
  Naive(ctx, a.rows, b.cols, a.cols, [&](int64_t i, int64_t p) { return a(i, p); },
        [&](int64_t p, int64_t j) { return b(p, j); }, c, op);
}
void MatMulTN(const Context& ctx, MatView<const float> a, MatView<const float> b, MatView<float> c, Accumulate op) {
  Naive(ctx, a.cols, b.cols, a.rows, [&](int64_t i, int64_t p) { return a(p, i); },
        [&](int64_t p, int64_t j) { return b(p, j); }, c, op);
}
void Gram(const Context& ctx, MatView<const float> x, MatView<float> h, Accumulate op) { MatMulTN(ctx, x, x, h, op); }
double MeasureFmaPeak(const Context&) { return 1; }
double MeasureGemmRate(const Context&, int) { return 1; }
}  // namespace planish

// The definition of the matrix kernels: plain loops over std::fma. Slow on purpose where the processor
// has no fused multiply-add (the C library then computes it in software), and always the same bits.
#include <algorithm>
#include <cmath>
#include <cstddef>

#include "math/gemm_kernels.h"
#include "tensor/view.h"

namespace planish::gemm {
namespace {

constexpr int kRows = 4, kCols = 8, kChains = 8;

void Tile(int64_t kc, const float* a, const float* b, float* c, int64_t c_stride, int rows, int cols,
          bool load, const void*) {
  for (int i = 0; i < rows; ++i) {
    for (int j = 0; j < cols; ++j) {
      float sum = load ? c[i * c_stride + j] : 0.0f;
      for (int64_t k = 0; k < kc; ++k) sum = std::fma(a[k * kRows + i], b[k * kCols + j], sum);
      c[i * c_stride + j] = sum;
    }
  }
}

float Widen(const unsigned char* data, Element type, int64_t index) {
  const DType dtype = type == Element::kF32   ? DType::kF32
                      : type == Element::kF16 ? DType::kF16
                                              : DType::kBF16;
  return LoadElement(reinterpret_cast<const std::byte*>(data), dtype, index);
}

void PackRows(const unsigned char* source, Element type, int64_t stride, int rows, int64_t kc, int width,
              bool negate, int, float* panel) {
  for (int64_t k = 0; k < kc; ++k) {
    for (int i = 0; i < width; ++i) {
      const float value = i < rows ? Widen(source, type, i * stride + k) : 0.0f;
      panel[k * width + i] = negate ? -value : value;
    }
  }
}

void PackCols(const float* source, int64_t stride, int64_t cols, int64_t kc, int valid, int width,
              bool negate, int, float* panels, int64_t panel_stride) {
  for (int64_t col = 0; col < cols; col += valid, panels += panel_stride) {
    const int64_t count = std::min<int64_t>(valid, cols - col);
    for (int64_t k = 0; k < kc; ++k) {
      for (int i = 0; i < width; ++i) {
        const float value = i < count ? source[k * stride + col + i] : 0.0f;
        panels[k * width + i] = negate ? -value : value;
      }
    }
  }
}

void Dot(const float* a, int64_t a_stride, int m, const unsigned char* b, Element type, int64_t b_stride,
         int rows, int64_t k, float* out) {
  for (int j = 0; j < rows; ++j) {
    for (int i = 0; i < m; ++i) {
      float sums[kDotSums] = {};
      for (int64_t begin = 0; begin < k; begin += kDotSums) {
        for (int lane = 0; lane < kDotSums; ++lane) {
          const int64_t at = begin + lane;
          const float left = at < k ? a[i * a_stride + at] : 0.0f;
          const float right = at < k ? Widen(b, type, j * b_stride + at) : 0.0f;
          sums[lane] = std::fma(left, right, sums[lane]);
        }
      }
      for (int half = kDotSums / 2; half > 0; half /= 2) {
        for (int lane = 0; lane < half; ++lane) sums[lane] += sums[lane + half];
      }
      out[j * kDotMaxRows + i] = sums[0];
    }
  }
}

float FmaChains(int64_t iterations, float scale, float offset) {
  float x[kChains] = {};
  for (int64_t n = 0; n < iterations; ++n) {
    for (float& value : x) value = std::fma(value, scale, offset);
  }
  float sum = 0;
  for (float value : x) sum += value;
  return sum;
}

}  // namespace

extern constinit const KernelSet kScalarKernels = {
    "scalar", kRows,      kCols,  kRows, 1, 1, &Tile, {&PackRows, &PackCols}, {&PackRows, &PackCols},
    &Dot,     &FmaChains, kChains};

}  // namespace planish::gemm

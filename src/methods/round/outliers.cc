#include "methods/round/outliers.h"

#include <algorithm>
#include <cmath>

#include "math/factor.h"
#include "math/gemm.h"
#include "tensor/dtype.h"

namespace planish {
namespace {

float Stored(float value) { return ToFloat(ToF16(std::clamp(value, -65504.0f, 65504.0f))); }

// Changes the values of one row's outliers; g [n] = e H_d for the errors e of the row.
void RefitRow(const SiteFactor& site, const float* g, std::span<SparseEntry> row) {
  const auto count = static_cast<int64_t>(row.size());
  if (count == 0 || count > kMaxRefit) return;
  Mat<double> h(count, count), factor(count, count), step(1, count);
  for (int64_t a = 0; a < count; ++a) {
    for (int64_t b = 0; b < count; ++b)
      h(a, b) = site.h(row[a].col, row[b].col) + (a == b ? site.lambda : 0.0);
    step(0, a) = g[row[a].col];
  }
  std::copy_n(h.data(), count * count, factor.data());
  if (!CholeskyUpper(factor.view()).ok()) return;
  SolveCholesky(std::as_const(factor).view(), step.view());
  // The error e falls by what the value gains.
  std::vector<double> moved(count);
  std::vector<float> values(count);
  for (int64_t a = 0; a < count; ++a) {
    values[a] = Stored(row[a].value + static_cast<float>(step(0, a)));
    moved[a] = static_cast<double>(values[a]) - row[a].value;
  }
  double change = 0;
  for (int64_t a = 0; a < count; ++a) {
    double hm = 0;
    for (int64_t b = 0; b < count; ++b) hm += h(a, b) * moved[b];
    change += moved[a] * (hm - 2.0 * g[row[a].col]);
  }
  if (!(change < 0)) return;
  for (int64_t a = 0; a < count; ++a) row[a].value = values[a];
}

}  // namespace

std::vector<SparseEntry> ChooseOutliers(MatView<const float> w, std::span<const float> h, double fraction) {
  const int64_t size = w.rows * w.cols;
  const int64_t count = std::clamp<int64_t>(std::llround(fraction * static_cast<double>(size)), 0, size);
  std::vector<float> scores(static_cast<size_t>(size));
  for (int64_t i = 0; i < w.rows; ++i) {
    for (int64_t j = 0; j < w.cols; ++j) {
      scores[i * w.cols + j] = std::fabs(w(i, j)) * (h.empty() ? 1.0f : std::sqrt(h[j]));
    }
  }
  std::vector<int64_t> order(static_cast<size_t>(size));
  for (int64_t k = 0; k < size; ++k) order[k] = k;
  std::nth_element(order.begin(), order.begin() + count, order.end(), [&](int64_t a, int64_t b) {
    return scores[a] > scores[b] || (scores[a] == scores[b] && a < b);
  });
  order.resize(static_cast<size_t>(count));
  std::sort(order.begin(), order.end());
  std::vector<SparseEntry> outliers;
  for (const int64_t k : order)
    outliers.push_back({k / w.cols, k % w.cols, Stored(w(k / w.cols, k % w.cols))});
  return outliers;
}

void RestoreOutliers(MatView<const float> w, const GridMatrix& codes, std::vector<SparseEntry>& outliers) {
  std::vector<float> base(static_cast<size_t>(w.cols));
  int64_t decoded = -1;
  for (SparseEntry& entry : outliers) {
    if (entry.row != decoded) DecodeRow(codes, entry.row, 0, w.cols, base.data());
    decoded = entry.row;
    entry.value = Stored(w(entry.row, entry.col) - base[static_cast<size_t>(entry.col)]);
  }
}

double RefitOutliers(const Context& context, MatView<const float> w, const GridMatrix& codes,
                     const SiteFactor& site, MatView<const float> h, std::vector<SparseEntry>& outliers) {
  const int64_t rows = w.rows, cols = w.cols;
  RestoreOutliers(w, codes, outliers);
  Mat<float> e(rows, cols), g(rows, cols);
  std::vector<size_t> begins(static_cast<size_t>(rows) + 1, 0);
  for (const SparseEntry& entry : outliers) ++begins[entry.row + 1];
  for (int64_t i = 0; i < rows; ++i) begins[i + 1] += begins[i];
  const auto errors = [&](int64_t i) {
    DecodeRow(codes, i, 0, cols, e.row(i));
    for (int64_t j = 0; j < cols; ++j) e(i, j) = w(i, j) - e(i, j);
    for (size_t k = begins[i]; k < begins[i + 1]; ++k) e(i, outliers[k].col) -= outliers[k].value;
  };
  context.pool->ParallelFor(rows, errors);
  MatMulNN(context, e, site.h, g);
  context.pool->ParallelFor(rows, [&](int64_t i) {
    for (int64_t j = 0; j < cols; ++j) g(i, j) += static_cast<float>(site.lambda) * e(i, j);
    const size_t count = begins[i + 1] - begins[i];
    RefitRow(site, g.row(i), std::span(outliers).subspan(begins[i], count));
    errors(i);
  });
  Mat<float> zero(rows, cols);
  zero.Fill(0.0f);
  return LayerLoss(context, e, zero, h);
}

}  // namespace planish

// FactorSite: what the linears of one site share.
#include <algorithm>
#include <cmath>
#include <numeric>

#include <fmt/format.h>

#include "math/factor.h"
#include "methods/round/feedback.h"

namespace planish {
namespace {

std::vector<int32_t> ChooseOrder(std::span<const float> diag, int64_t group, ColumnOrder order) {
  const int64_t n = static_cast<int64_t>(diag.size());
  std::vector<int32_t> columns(n);
  std::iota(columns.begin(), columns.end(), 0);
  const auto descending = [&](int32_t a, int32_t b) { return diag[a] > diag[b]; };
  if (order == ColumnOrder::kNatural) return columns;
  if (order == ColumnOrder::kActivation) {
    std::stable_sort(columns.begin(), columns.end(), descending);
    return columns;
  }
  const int64_t size = group == 0 ? n : group;
  // A shorter last group stays last, so that groups begin at multiples of the group size.
  const int64_t whole = n / size;
  for (int64_t begin = 0; begin < n; begin += size) {
    std::stable_sort(columns.begin() + begin, columns.begin() + std::min(n, begin + size), descending);
  }
  std::vector<int64_t> groups(whole);
  std::iota(groups.begin(), groups.end(), 0);
  std::stable_sort(groups.begin(), groups.end(),
                   [&](int64_t a, int64_t b) { return diag[columns[a * size]] > diag[columns[b * size]]; });
  std::vector<int32_t> sorted;
  sorted.reserve(n);
  for (const int64_t g : groups) {
    sorted.insert(sorted.end(), columns.begin() + g * size, columns.begin() + (g + 1) * size);
  }
  sorted.insert(sorted.end(), columns.begin() + whole * size, columns.end());
  return sorted;
}

Status CheckHessian(MatView<const float> h) {
  for (int64_t i = 0; i < h.rows; ++i) {
    for (int64_t j = 0; j < h.cols; ++j) {
      if (!std::isfinite(h(i, j))) {
        return InputError(
            fmt::format("H [{0}, {0}] holds {1} at ({2}, {3}); expected finite numbers (did the "
                        "calibration inputs overflow?)",
                        h.rows, h(i, j), i, j));
      }
    }
    if (h(i, i) < 0) {
      return InputError(fmt::format("H [{0}, {0}] holds {1} at diagonal {2}; expected a sum of squares",
                                    h.rows, h(i, i), i));
    }
  }
  return {};
}

}  // namespace

Result<SiteFactor> FactorSite(const Context& context, MatView<const float> h, int64_t group,
                              const FeedbackOptions& options) {
  PLANISH_CHECK(h.rows == h.cols && h.rows > 0) << h.rows << " x " << h.cols;
  PLANISH_CHECK(group >= 0 && options.damping >= 0 && options.max_damping_retries >= 0);
  PLANISH_RETURN_IF_ERROR(CheckHessian(h));
  const int64_t n = h.rows;
  SiteFactor site;
  site.h.Resize(n, n);
  site.diag.resize(n);
  double live_sum = 0;
  for (int64_t i = 0; i < n; ++i) {
    std::copy_n(h.row(i), n, site.h.row(i));
    live_sum += h(i, i);
    if (h(i, i) == 0) {
      site.dead.push_back(static_cast<int32_t>(i));
      site.h(i, i) = 1.0f;
    }
    site.diag[i] = site.h(i, i);
  }
  // Dead columns are left out of the mean: their 1 has nothing to do with the scale of H.
  const int64_t live = n - static_cast<int64_t>(site.dead.size());
  const double mean = live > 0 ? live_sum / static_cast<double>(live) : 1.0;
  site.order = ChooseOrder(site.diag, group, options.order);

  // A retry must change something even when no damping was asked for.
  const auto damping = [&](int retry) {
    return retry == 0 ? options.damping : std::max(options.damping, 1e-4) * std::pow(10.0, retry);
  };
  site.r.Resize(n, n);
  for (;; ++site.retries) {
    PLANISH_RETURN_IF_ERROR(context.CheckCancelled());
    site.lambda = damping(site.retries) * mean;
    context.pool->ParallelFor(n, [&](int64_t i) {
      const float* from = site.h.row(site.order[i]);
      float* to = site.r.row(i);
      for (int64_t j = 0; j < n; ++j) to[j] = from[site.order[j]];
      to[i] = static_cast<float>(to[i] + site.lambda);
    });
    const Status factored = CholeskyUpper(context, site.r.view());
    if (factored.ok()) return site;
    if (site.retries == options.max_damping_retries) {
      return FailureError(
          fmt::format("H [{0}, {0}] does not factor with damping {1:g} of its mean diagonal after {2} "
                      "retries ({3}); is it "
                      "symmetric and made of enough tokens?",
                      n, damping(site.retries), site.retries, factored.error().message));
    }
  }
}

}  // namespace planish

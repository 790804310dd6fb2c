#include "grids/cluster.h"

#include <algorithm>
#include <cstdlib>
#include <limits>

namespace planish {
namespace {

// Borders of clusters that lose least when each cluster's mean stands for its points. What a mean keeps of
// the sum of squares of points [i, j), first(i, j)^2 / weight(i, j), is what is maximized.
class Clusters {
 public:
  explicit Clusters(const std::vector<PointSums>& points) {
    Allocate(static_cast<int>(points.size()));
    for (int i = 0; i < n_; ++i) {
      weight_[i + 1] = weight_[i] + points[i].weight;
      first_[i + 1] = first_[i] + points[i].first;
    }
  }

  int size() const { return n_; }
  double Mean(int begin, int end) const {
    return (first_[end] - first_[begin]) / (weight_[end] - weight_[begin]);
  }

  // The points before each of `used` clusters, and n: used + 1 borders, used <= n.
  std::vector<int> BestBorders(int used) const {
    const int step = n_ / (kExactPoints * used);
    if (step < 2) {
      std::vector<int> borders(used + 1, 0);
      borders[used] = n_;
      return WithinWindows(std::move(borders), n_);
    }
    std::vector<int> borders = Merged(step).BestBorders(used);
    for (int& b : borders) b = std::min(b * step, n_);
    const int reach = 2 * step;
    for (bool moved = true; moved;) {
      std::vector<int> found = WithinWindows(borders, reach);
      moved = false;
      for (int k = 1; k < used; ++k) moved = moved || std::abs(found[k] - borders[k]) == reach;
      borders = std::move(found);
    }
    return borders;
  }

 private:
  static constexpr int kExactPoints = 6;  // a cluster

  Clusters() = default;
  void Allocate(int n) {
    n_ = n;
    weight_.resize(n + 1);
    first_.resize(n + 1);
  }

  // Every `step` points as one.
  Clusters Merged(int step) const {
    Clusters merged;
    merged.Allocate((n_ + step - 1) / step);
    for (int i = 1; i <= merged.n_; ++i) {
      merged.weight_[i] = weight_[std::min(i * step, n_)];
      merged.first_[i] = first_[std::min(i * step, n_)];
    }
    return merged;
  }

  double Gain(int i, int j) const {
    const double x = first_[j] - first_[i];
    return x * x / (weight_[j] - weight_[i]);
  }

  // The best borders within `reach` of those given; the first and the last stay.
  std::vector<int> WithinWindows(std::vector<int> borders, int reach) const {
    const int used = static_cast<int>(borders.size()) - 1, row = n_ + 1;
    const auto low = [&](int k) { return k == used ? n_ : std::max(borders[k] - reach, k); };
    const auto high = [&](int k) { return k == used ? n_ : std::min(borders[k] + reach, n_ - used + k); };
    std::vector<double> before(row), now(row);
    std::vector<int> begins(static_cast<size_t>(used) * row);  // [k][j]: of cluster k that ends at j
    for (int j = low(1); j <= high(1); ++j) now[j] = Gain(0, j);
    for (int k = 1; k < used; ++k) {
      std::swap(before, now);
      int* begin = begins.data() + static_cast<size_t>(k) * row;
      // Without windows a begin is not before the one for a cluster less.
      if (reach >= n_) std::copy_n(begin - row, row, begin);
      AddCluster(before.data(), {low(k + 1), high(k + 1), low(k), high(k)}, now.data(), begin);
    }
    for (int k = used - 1; k > 0; --k) borders[k] = begins[static_cast<size_t>(k) * row + borders[k + 1]];
    return borders;
  }

  // One more cluster: now[j] = max over i < j of before[i] + Gain(i, j) for j in [low, high], where the best
  // i, begin[j], lies in [first, last], is at least the begin[j] that comes in, and never falls as j grows:
  // the middle j's bounds those of both sides.
  struct Range {
    int low, high, first, last;
  };
  void AddCluster(const double* before, Range r, double* now, int* begin) const {
    while (r.low <= r.high) {
      const int mid = (r.low + r.high) / 2, last = std::min(mid - 1, r.last);
      double best = -std::numeric_limits<double>::infinity();
      int at = r.first;
      for (int i = std::clamp(begin[mid], r.first, r.last); i <= last; ++i) {
        const double gain = before[i] + Gain(i, mid);
        at = gain > best ? i : at;
        best = gain > best ? gain : best;
      }
      now[mid] = best;
      begin[mid] = at;
      AddCluster(before, {r.low, mid - 1, r.first, at}, now, begin);
      r = {mid + 1, r.high, at, r.last};
    }
  }

  int n_ = 0;
  std::vector<double> weight_, first_;  // of the points before
};

}  // namespace

std::vector<float> BestCenters(std::vector<PointSums> points, int count) {
  // What is too light to count: sums of weights must differ.
  double total = 0;
  for (const PointSums& p : points) total += p.weight;
  std::erase_if(points, [&](const PointSums& p) { return p.weight < total * 0x1p-48; });
  const Clusters clusters(points);
  const int used = std::min(count, clusters.size());
  const std::vector<int> borders = clusters.BestBorders(used);
  std::vector<float> centers(count);
  for (int k = 0; k < used; ++k) centers[k] = static_cast<float>(clusters.Mean(borders[k], borders[k + 1]));
  for (int k = used; k < count; ++k) centers[k] = centers[used - 1];
  return centers;
}

}  // namespace planish

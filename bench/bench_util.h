// What the benches of mathematics share: a clock, the best of several short runs, since the machine is shared
// with others, and matrices of random numbers.
#pragma once

#include <time.h>

#include <algorithm>
#include <functional>
#include <vector>

#include "base/random.h"
#include "tensor/view.h"

namespace planish::bench {

// Seconds on the wall, or of this thread's processor time: where one thread does the work, that is what other
// programs disturb least.
class Clock {
 public:
  explicit Clock(bool processor_time = false)
      : id_(processor_time ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC) {}
  double Now() const {
    timespec t;
    clock_gettime(id_, &t);
    return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
  }

 private:
  clockid_t id_;
};

// The best time of each of `works` over `runs` rounds in which they take turns, so that a machine that slows
// down slows all of them. The first round warms caches and page tables and does not count.
inline std::vector<double> BestInTurns(const Clock& clock, const std::vector<std::function<void()>>& works,
                                       int runs) {
  std::vector<double> best(works.size(), 1e9);
  for (int run = 0; run <= runs; ++run) {
    for (size_t i = 0; i < works.size(); ++i) {
      const double start = clock.Now();
      works[i]();
      if (run > 0) best[i] = std::min(best[i], clock.Now() - start);
    }
  }
  return best;
}

inline double Best(const Clock& clock, const std::function<void()>& work, int runs) {
  return BestInTurns(clock, {work}, runs).front();
}

// Uniform in [-range, range].
inline Mat<float> RandomMat(int64_t rows, int64_t cols, uint64_t stream, double range) {
  Mat<float> m(rows, cols);
  const Random random(1, stream);
  for (int64_t i = 0; i < rows * cols; ++i) {
    m.data()[i] = static_cast<float>((2 * random.Uniform(static_cast<uint64_t>(i)) - 1) * range);
  }
  return m;
}

}  // namespace planish::bench

// Error feedback on one layer of 4096 x 4096, 4 bits, groups of 128, beside the machine's own rate of
// matrix products: time as a multiple of (n^3 / 2 multiply-adds) / S, what the products of one rounding
// would take alone. S is measured before and after each run, and the median of three runs counts, as other
// load on the machine comes and goes.
//   round_bench [n]
#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>

#include "base/random.h"
#include "math/gemm.h"
#include "methods/round/feedback.h"

namespace planish {
namespace {

double Seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

Mat<float> Normal(const Context& context, int64_t rows, int64_t cols, uint64_t seed) {
  Mat<float> m(rows, cols);
  const Random random(seed);
  context.pool->ParallelFor(rows, [&](int64_t i) {
    for (int64_t j = 0; j < cols; ++j) m(i, j) = static_cast<float>(random.Normal(i * cols + j));
  });
  return m;
}

// Inputs with 64 shared directions, so that H is far from diagonal.
Mat<float> Hessian(const Context& context, int64_t n) {
  const int64_t tokens = n + n / 2;
  const Mat<float> common = Normal(context, tokens, 64, 1), mix = Normal(context, 64, n, 2);
  Mat<float> x = Normal(context, tokens, n, 3), h(n, n);
  MatMulNN(context, common, mix, x, Accumulate::kAdd);
  Gram(context, x, h);
  return h;
}

struct Timing {
  double factor = 0, whole = 0;  // seconds
  double rate = 0;               // multiply-adds a second
  double gain = 0;
  double Units() const { return whole * rate; }
};

int Run(int64_t n) {
  ThreadPool pool;
  Context context;
  context.pool = &pool;
  context.isa = BestIsa();
  const Mat<float> h = Hessian(context, n), w = Normal(context, n, n, 4);
  const double work = 0.5 * std::pow(static_cast<double>(n), 3);
  std::printf("%d threads, %s, %.1f G multiply-adds\n", pool.NumThreads(),
              std::string(IsaName(context.isa)).c_str(), work / 1e9);

  struct Case {
    const char* name;
    FeedbackOptions options;
  };
  const Case cases[] = {
      {"min-max, static groups", {.search = ClipSearch::kMinMax, .refit_rounds = 0, .dynamic_groups = false}},
      {"search, static groups", {.refit_rounds = 0, .dynamic_groups = false}},
      {"search, dynamic groups", {.refit_rounds = 0}},
      {"the same, 2 rounds of refit", {.refit_rounds = 2}},
  };
  for (const Case& c : cases) {
    std::array<Timing, 3> runs;
    for (Timing& run : runs) {
      const double before = MeasureGemmRate(context, 2), start = Seconds();
      const auto site = FactorSite(context, h, 128, c.options);
      run.factor = Seconds() - start;
      if (!site.ok()) return std::fprintf(stderr, "%s\n", site.error().message.c_str()), 1;
      const auto rounded = RoundWithFeedback(context, w, *site, {.bits = 4, .group = 128}, c.options);
      run.whole = Seconds() - start;
      if (!rounded.ok()) return std::fprintf(stderr, "%s\n", rounded.error().message.c_str()), 1;
      run.rate = (before + MeasureGemmRate(context, 2)) / 2;
      run.gain = rounded->loss / rounded->loss_nearest;
    }
    std::sort(runs.begin(), runs.end(),
              [](const Timing& a, const Timing& b) { return a.Units() < b.Units(); });
    const Timing& run = runs[1];
    std::printf("%-28s factor %.2f s, round %.2f s, S %.1f G/s: %.2f x (%.2f to %.2f); loss / nearest %.4f\n",
                c.name, run.factor, run.whole - run.factor, run.rate / 1e9, run.Units() / work,
                runs[0].Units() / work, runs[2].Units() / work, run.gain);
  }
  return 0;
}

}  // namespace
}  // namespace planish

int main(int argc, char** argv) { return planish::Run(argc > 1 ? std::atoll(argv[1]) : 4096); }

// Error feedback on one layer of 4096 x 4096, 4 bits, groups of 128, beside the machine's own rate of
// matrix products: time as a multiple of (n^3 / 2 multiply-adds) / S, what the products of one rounding
// would take alone. S is measured before and after each run, and the median of three runs counts, as other
// load on the machine comes and goes.
//   round_bench [n]
//
// And what each number format costs beside integers: one thread's processor time to round 2,048 x 768 weights
// with two rounds of refit, learning of levels included and factorization not, the best of three in turns.
//   round_bench formats [NAME...]
#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

#include "base/random.h"
#include "bench/bench_util.h"
#include "math/gemm.h"
#include "methods/round/feedback.h"
#include "pipeline/compare_grids.h"

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

int RunFormats(const std::vector<std::string>& names) {
  ThreadPool pool(1);
  Context context;
  context.pool = &pool;
  context.isa = BestIsa();
  const FeedbackOptions options{.refit_rounds = 2};
  constexpr int64_t kRows = 2048, kCols = 768;
  const Mat<float> h = Hessian(context, kCols), w = Normal(context, kRows, kCols, 4);
  std::vector<GridSpec> grids;
  std::vector<std::function<void()>> works;
  std::vector<double> gains(names.size());
  for (const std::string& name : names) {
    const auto choice = ParseGridChoice(name);
    if (!choice.ok()) return std::fprintf(stderr, "%s\n", choice.error().message.c_str()), 2;
    grids.push_back(choice->grid);
  }
  std::vector<SiteFactor> sites;
  for (const GridSpec& grid : grids) {
    auto site = FactorSite(context, h, grid.GroupSize(kCols), options);
    if (!site.ok()) return std::fprintf(stderr, "%s\n", site.error().message.c_str()), 1;
    sites.push_back(std::move(*site));
  }
  for (size_t i = 0; i < names.size(); ++i) {
    works.emplace_back([&, i] {
      const auto rounded = RoundWithFeedback(context, w, sites[i], grids[i], options);
      gains[i] = rounded.ok() ? rounded->loss / rounded->loss_nearest : 0;
    });
  }
  const std::vector<double> seconds = bench::BestInTurns(bench::Clock(/*processor_time=*/true), works, 3);
  std::printf("%s\n%-20s %8s %8s %14s\n", std::string(IsaName(context.isa)).c_str(), "grid", "ms", "ratio",
              "loss / nearest");
  for (size_t i = 0; i < names.size(); ++i) {
    std::printf("%-20s %8.1f %8.2f %14.4f\n", names[i].c_str(), 1e3 * seconds[i], seconds[i] / seconds[0],
                gains[i]);
  }
  return 0;
}

}  // namespace
}  // namespace planish

int main(int argc, char** argv) {
  if (argc > 1 && std::string(argv[1]) == "formats") {
    std::vector<std::string> names = {"int4 g128"};  // what the others are compared with
    for (int i = 2; i < argc; ++i) names.emplace_back(argv[i]);
    if (argc == 2) {
      for (const char* name : {"int2 g64 s6",
                               "int3 g128",
                               "int4 g16 s6",
                               "int8 g32",
                               "nf4",
                               "nf4 g64 s6",
                               "bitmod4",
                               "e2m1",
                               "e4m3",
                               "e4m3 g32 s6",
                               "e5m2 g16 s6",
                               "rf8",
                               "rf8 g32 s6",
                               "power6",
                               "power8 g32 s6",
                               "table4",
                               "table4 row",
                               "table4 row g64 s6",
                               "table3 row g128",
                               "table3 each g64",
                               "table4 each g64",
                               "mxfp4",
                               "mxfp6",
                               "mxfp8",
                               "nvfp4",
                               "q2_k",
                               "q3_k",
                               "q4_k",
                               "q5_k",
                               "q6_k",
                               "iq4_nl",
                               "iq4_xs",
                               "q4_0",
                               "q8_0"}) {
        names.emplace_back(name);
      }
    }
    return planish::RunFormats(names);
  }
  return planish::Run(argc > 1 ? std::atoll(argv[1]) : 4096);
}

// The rank-64 path of a 4096x4096 layer, beside the products it is made of: five rounds of E, H and
// E^T applied to 72 rows are 18e9 multiply-adds. Then the energy captured beside the exact optimum at
// 1024, where that is affordable.
#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>

#include "base/random.h"
#include "math/gemm.h"
#include "methods/compensate/low_rank.h"

using namespace planish;

namespace {

double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

Mat<float> Noise(int64_t rows, int64_t cols, uint64_t seed) {
  const Random random(seed);
  Mat<float> m(rows, cols);
  for (int64_t i = 0; i < rows * cols; ++i)
    m.data()[i] = static_cast<float>(random.Uniform(static_cast<uint64_t>(i)) - 0.5);
  return m;
}

// X^T X / tokens of inputs mixed from n sources whose variances fall from 1 to 1e-4.
Mat<float> CorrelatedMoment(const Context& context, int64_t n) {
  Mat<float> mix = Noise(n, n, 2), h(n, n);
  for (int64_t i = 0; i < n; ++i) {
    const double decay = std::pow(1e-4, 0.5 * static_cast<double>(i) / static_cast<double>(n));
    for (int64_t j = 0; j < n; ++j) mix(i, j) = static_cast<float>(mix(i, j) * decay);
  }
  Gram(context, mix, h);
  return h;
}

LowRankPath Fit(const Context& context, const Mat<float>& e, MatView<const float> h,
                const LowRankOptions& options, double& seconds) {
  const double start = Now();
  auto path = FitLowRank(context, e, h, options);
  seconds = Now() - start;
  if (!path.ok()) std::abort();
  return std::move(path).value();
}

}  // namespace

int main(int argc, char** argv) {
  const int64_t n = argc > 1 ? std::atoll(argv[1]) : 4096;
  const int64_t exact_n = std::min<int64_t>(n, 1024);
  ThreadPool pool(argc > 2 ? std::atoi(argv[2]) : 0);
  Context context{&pool};
  context.isa = BestIsa();
  const double rate = MeasureGemmRate(context);
  fmt::print("product rate {:.1f} G multiply-adds/s, {} threads, {}\n", rate / 1e9, pool.NumThreads(),
             IsaName(context.isa));
  LowRankOptions options;
  options.rank = 64;
  double seconds = 0;
  for (bool weighted : {true, false}) {
    const Mat<float> e = Noise(n, n, 1);
    const Mat<float> moment = weighted ? CorrelatedMoment(context, n) : Mat<float>();
    const MatView<const float> h = weighted ? moment.view() : MatView<const float>();
    options.exact = false;
    options.known_energy = -1;
    const LowRankPath measured = Fit(context, e, h, options, seconds);
    const double with_trace = seconds;
    options.known_energy = measured.energy_total;
    Fit(context, e, h, options, seconds);
    // 72 rows, five rounds, of two or three products: 18e9 multiply-adds at n = 4096 under H.
    const double work = 5.0 * 72 * static_cast<double>(n) * static_cast<double>(n) * (weighted ? 3 : 2);
    fmt::print(
        "n={} {}: rank-64 path {:.2f} s = {:.2f} x ({:.1f}e9 multiply-adds / rate); with the trace {:.2f} s; "
        "energy {:.4f} of the total\n",
        n, weighted ? "under H" : "plain  ", seconds, seconds * rate / work, work / 1e9, with_trace,
        measured.energy_captured / measured.energy_total);

    const Mat<float> small_e = Noise(exact_n, exact_n, 3);
    const Mat<float> small_moment = weighted ? CorrelatedMoment(context, exact_n) : Mat<float>();
    const MatView<const float> small_h = weighted ? small_moment.view() : MatView<const float>();
    options.known_energy = -1;
    const LowRankPath krylov = Fit(context, small_e, small_h, options, seconds);
    options.exact = true;
    double exact_seconds = 0;
    const LowRankPath exact = Fit(context, small_e, small_h, options, exact_seconds);
    fmt::print("n={} {}: captured {:.6f} of the optimum, {:.2f} s (exact {:.2f} s)\n", exact_n,
               weighted ? "under H" : "plain  ", krylov.energy_captured / exact.energy_captured, seconds,
               exact_seconds);
  }
}

// Cholesky against the rate of the products it is made of; the symmetric eigenproblem in seconds.
#include <fmt/core.h>

#include <chrono>
#include <cstdlib>
#include <vector>

#include "base/random.h"
#include "math/factor.h"
#include "math/gemm.h"

using namespace planish;

namespace {

double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

void BenchCholesky(const Context& context, int64_t n, double gemm_rate) {
  const Random random(1);
  Mat<float> x(n, n), h(n, n), r(n, n);
  for (int64_t i = 0; i < n * n; ++i)
    x.data()[i] = static_cast<float>(random.Uniform(static_cast<uint64_t>(i)) - 0.5);
  Gram(context, x, h);
  for (int64_t i = 0; i < n; ++i) h(i, i) += 0.01f * static_cast<float>(n);
  double best = 1e30;
  for (int run = 0; run < 3; ++run) {
    std::copy(h.data(), h.data() + n * n, r.data());
    const double start = Now();
    if (!CholeskyUpper(context, r).ok()) std::abort();
    best = std::min(best, Now() - start);
  }
  const double work = static_cast<double>(n) * n * n / 6;
  fmt::print("cholesky n={:5}: {:8.1f} ms, {:6.1f} G multiply-adds/s, {:.2f} of the product rate\n", n,
             best * 1e3, work / best / 1e9, work / best / gemm_rate);
}

void BenchEigen(int64_t n, bool vectors) {
  const Random random(2);
  Mat<double> a(n, n), v;
  if (vectors) v.Resize(n, n);
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j <= i; ++j) a(i, j) = random.Uniform(static_cast<uint64_t>(i * n + j)) - 0.5;
  std::vector<double> values(static_cast<size_t>(n));
  const double start = Now();
  if (!SymmetricEigen(a, values, v).ok()) std::abort();
  fmt::print("eigen n={:5} {}: {:8.3f} s\n", n, vectors ? "with vectors" : "values only ", Now() - start);
}

}  // namespace

int main(int argc, char** argv) {
  const int64_t largest = argc > 1 ? std::atoll(argv[1]) : 2048;
  ThreadPool pool(argc > 2 ? std::atoi(argv[2]) : 0);
  Context context{&pool};
  context.isa = BestIsa();
  const double rate = MeasureGemmRate(context);
  fmt::print("product rate {:.1f} G multiply-adds/s, {} threads, {}\n", rate / 1e9, pool.NumThreads(),
             IsaName(context.isa));
  for (int64_t n : {512, 1024, 2048, 4096})
    if (n <= largest) BenchCholesky(context, n, rate);
  for (int64_t n : {256, 768, 1024, 2048}) {
    if (n > largest) continue;
    BenchEigen(n, false);
    BenchEigen(n, true);
  }
}

// KlRows for each kernel set on one thread: columns a second, and the bandwidth its two inputs amount
// to beside this machine's plain read of the same memory.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <vector>

#include "math/divergence.h"

namespace planish {
namespace {

template <typename F>
double BestSeconds(F&& run) {
  double best = 1e30;
  for (int i = 0; i < 5; ++i) {
    const auto start = std::chrono::steady_clock::now();
    run();
    best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  return best;
}

// Eight independent integer sums: nothing but the reads.
uint64_t ReadAll(const Mat<float>& m) {
  uint64_t sums[8] = {};
  const auto* words = reinterpret_cast<const unsigned char*>(m.data());
  const int64_t n = m.rows() * m.cols() * 4 / 64;
  for (int64_t i = 0; i < n; ++i) {
    for (int k = 0; k < 8; ++k) {
      uint64_t word;
      std::memcpy(&word, words + 64 * i + 8 * k, 8);
      sums[k] += word;
    }
  }
  return sums[0] ^ sums[1] ^ sums[2] ^ sums[3] ^ sums[4] ^ sums[5] ^ sums[6] ^ sums[7];
}

void Run() {
  ThreadPool pool(1);
  constexpr int64_t kRows = 128, kCols = 151936;
  Mat<float> ref(kRows, kCols), other(kRows, kCols);
  for (int64_t i = 0; i < kRows; ++i) {
    for (int64_t j = 0; j < kCols; ++j) {
      ref(i, j) = -12.0f - 5.0f * std::sin(static_cast<float>(i + j));
      other(i, j) = ref(i, j) + 0.01f * std::cos(static_cast<float>(3 * j));
    }
  }
  std::vector<double> kl(kRows);
  const double columns = static_cast<double>(kRows * kCols);
  volatile uint64_t sink = 0;
  const double read = BestSeconds([&] { sink = sink + ReadAll(ref) + ReadAll(other); });
  fmt::print("plain read  {:6.2f} GB/s\n", 8 * columns / read * 1e-9);
  for (Isa isa : kAllIsas) {
    if (!IsaSupported(isa)) continue;
    const Context context{.pool = &pool, .isa = isa};
    const double seconds = BestSeconds([&] { KlRows(context, ref, other, kl); });
    fmt::print("{:<10}  {:6.2f} GB/s  {:6.3f} G columns/s  (kl {:.6g})\n", IsaName(isa),
               8 * columns / seconds * 1e-9, columns / seconds * 1e-9, kl[0]);
  }
}

}  // namespace
}  // namespace planish

int main() { planish::Run(); }

#include "math/divergence.h"

#include <bit>
#include <cmath>

#include "base/check.h"
#include "math/divergence_isa.h"

namespace planish {
namespace {

constexpr int kLanes = 16;

// a * b + c with one rounding, and with two: x86-64-v2 has no fused instruction.
struct Fused {
  static double MulAdd(double a, double b, double c) { return std::fma(a, b, c); }
};
struct Separate {
  static double MulAdd(double a, double b, double c) { return a * b + c; }
};

// exp(x) for x in [-700, 1]: 2^n e^r with n = round(x / ln 2), |r| <= ln 2 / 2, and the Taylor
// polynomial of degree 9 (the first term left out is below 7e-12).
template <class Arithmetic>
double ExpInRange(double x) {
  constexpr double kRound = 0x1.8p52;  // adding it leaves n in the low bits of the significand
  const double shifted = Arithmetic::MulAdd(x, 0x1.71547652b82fep0, kRound);
  const double n = shifted - kRound;
  const double r = Arithmetic::MulAdd(n, -0x1.62e42fefa39efp-1, x);
  constexpr double kInverseFactorials[] = {1.0 / 362880, 1.0 / 40320, 1.0 / 5040, 1.0 / 720, 1.0 / 120,
                                           1.0 / 24,     1.0 / 6,     0.5,        1.0,       1.0};
  double y = kInverseFactorials[0];
  for (int k = 1; k < 10; ++k) y = Arithmetic::MulAdd(y, r, kInverseFactorials[k]);
  return y * std::bit_cast<double>((std::bit_cast<uint64_t>(shifted) + 1023) << 52);
}

// The definition of the kernels.
template <class Arithmetic>
double KlRow(const float* ref, const float* other, int64_t cols) {
  double sums[kLanes] = {};
  for (int64_t i = 0; i < cols; ++i) {
    const double x = ref[i];
    if (!(x >= -700.0)) continue;  // p_ref is 0: the term is 0 whatever the other says
    const double difference = x - static_cast<double>(other[i]);
    sums[i % kLanes] = Arithmetic::MulAdd(ExpInRange<Arithmetic>(x), difference, sums[i % kLanes]);
  }
  for (int half = kLanes / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) sums[i] += sums[i + half];
  }
  return sums[0];
}

using RowKernel = double (*)(const float*, const float*, int64_t);

RowKernel KernelOf(Isa isa) {
  switch (isa) {
    case Isa::kScalar:
      return KlRow<Fused>;
    case Isa::kSse4:
      return KlRow<Separate>;
#if defined(__x86_64__)
    case Isa::kAvx2:
      return divergence_avx2::KlRow;
    case Isa::kAvx512:
      return divergence_avx512::KlRow;
#else
    default:
      break;
#endif
  }
  return KlRow<Fused>;
}

}  // namespace

void KlRows(const Context& context, MatView<const float> ref_log_probs, MatView<const float> log_probs,
            std::span<double> kl) {
  PLANISH_CHECK(ref_log_probs.rows == log_probs.rows && ref_log_probs.cols == log_probs.cols &&
                static_cast<int64_t>(kl.size()) == log_probs.rows)
      << "[" << ref_log_probs.rows << ", " << ref_log_probs.cols << "] against [" << log_probs.rows << ", "
      << log_probs.cols << "], results " << kl.size();
  const RowKernel kernel = KernelOf(context.isa);
  context.pool->ParallelFor(log_probs.rows, [&](int64_t i) {
    kl[static_cast<size_t>(i)] = kernel(ref_log_probs.row(i), log_probs.row(i), log_probs.cols);
  });
}

}  // namespace planish

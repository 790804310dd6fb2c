// The exponential on F16x. See simd-inl.h for what this file may use and how it is included.
#pragma once

#include <stdint.h>

#include "math/simd-inl.h"

namespace planish {
namespace PLANISH_SIMD_NAMESPACE {
namespace {

constexpr float kInf = __builtin_inff();

// exp(x) = 2^n exp(r), n = round(x / ln 2), |r| <= ln 2 / 2. Adding 1.5 * 2^23 rounds to an integer and
// leaves it in the low mantissa bits, where ShiftExponent finds it. ln 2 is split so that n * high is exact
// (|n| < 2^9) even where Fma rounds its product.
struct Reduced {
  F16x t;    // n + 1.5 * 2^23
  F16x em1;  // exp(r) - 1
};
PLANISH_INLINE Reduced ReduceExp(F16x x) {
  const F16x magic = Set(12582912.0f);
  const F16x t = Fma(x, Set(1.44269504f), magic);
  const F16x n = Sub(t, magic);
  const F16x r = Fma(n, Set(2.12194440e-4f), Fma(n, Set(-0.693359375f), x));
  // (exp(r) - 1 - r) / r^2 interpolated at Chebyshev nodes; exp(r) is off by 1e-8 relative, 0.09 ulp.
  F16x q = Set(0.00139262508315f);
  q = Fma(q, r, Set(0.00836323288368f));
  q = Fma(q, r, Set(0.041666554213f));
  q = Fma(q, r, Set(0.166665766661f));
  q = Fma(q, r, Set(0.5f));
  return {t, Fma(Mul(r, r), q, r)};
}
// For x that is not above 88: what a softmax needs.
PLANISH_INLINE F16x ExpSmall(F16x x) {
  const Reduced e = ReduceExp(x);
  const F16x y = ShiftExponent(Add(e.em1, Set(1.0f)), e.t);
  // x * 0 is NaN for NaN, whatever the shift made of its bits, and for infinities, replaced next.
  return SelectLess(x, Set(-87.3f), Set(0.0f), Fma(x, Set(0.0f), y));
}
PLANISH_INLINE F16x ExpF(F16x x) { return SelectLess(Set(88.7f), x, Set(kInf), ExpSmall(x)); }

}  // namespace
}  // namespace PLANISH_SIMD_NAMESPACE
}  // namespace planish

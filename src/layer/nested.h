// One stored tensor of integer codes read at fewer bits (Double Rounding, arXiv 2502.01199).
#pragma once

#include "layer/matrix.h"

namespace planish {

enum class NestedRule {
  // The card's: code / 2^(h - l) rounded to even and clamped, scale times 2^(h - l), the zero in steps that
  // keep it where it was. One pass over the codes. At few bits the upper clamp costs much: 127 of 8 bits
  // reads
  // as 7 of 4, 15 steps away.
  kDoubleRounding,
  // Every group's scale and zero fitted anew to its decoded weights, all columns alike.
  kRefit,
};

// Codes of `from` that have more than `bits` (1 < bits < 8) read at that many, inside sums too; all other
// parts as they are. Scales keep their kind, zeros get 8 bits. `changed` counts the parts that were read
// anew.
Matrix ReadAtBits(const Context& context, const Matrix& from, int bits, NestedRule rule, int& changed);

}  // namespace planish

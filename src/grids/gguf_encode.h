// Floats to blocks of GGUF types.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/context.h"
#include "formats/gguf_types.h"
#include "tensor/view.h"

namespace planish {

// out: rows * GgufRowBytes(type, cols) bytes whose values have a small sum_j importance[j] (w_ij - x_ij)^2.
// importance [cols] >= 0, or empty: all ones. The type must encode; cols must be a multiple of its block; w
// and importance must be finite.
//
// MXFP4 is the grid mxfp4, its powers of two searched. Q8_0 is always, and Q4_0, Q4_1, Q5_0 and Q5_1 are
// without importance, what the reference's plain rounding makes, byte for byte; everything else is searched
// (gguf_search.h), sub-scales included: each is rounded to the neighbor with the least error, super-scales
// are fitted to the codes. Parallel over blocks; the same bytes for any number of threads and any instruction
// set.
void EncodeBlocks(const Context& context, GgufType type, MatView<const float> w,
                  std::span<const float> importance, std::byte* out);

// A block of MXFP4: e, of the scale 2^(e - 127), and 32 codes of E2M1.
void PackMxfp4(uint8_t e, const uint8_t* codes, uint8_t* out);

}  // namespace planish

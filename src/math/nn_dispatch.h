// What nn.cc and nn_attention.cc share: the choice of the kernel set and the splitting of rows.
#pragma once

#include <algorithm>
#include <cstdint>

#include "base/context.h"
#include "math/nn_kernels.h"

namespace planish {

// The table of context.isa. Strict results need fused products, which sse4 lacks: it becomes scalar.
const NnKernels& KernelsFor(const Context& context);

// Calls body(first, count) for blocks of about 16 Ki elements of [rows, width]: some 10 us of work each,
// enough to hide the cost of handing it to a thread.
template <class Body>
void ForRowBlocks(const Context& context, int64_t rows, int64_t width, const Body& body) {
  const int64_t block = std::max<int64_t>(1, 16384 / std::max<int64_t>(1, width));
  context.pool->ParallelFor((rows + block - 1) / block,
                            [&](int64_t i) { body(i * block, std::min(block, rows - i * block)); });
}

}  // namespace planish

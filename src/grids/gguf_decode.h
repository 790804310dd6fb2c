// Blocks of GGUF types to floats: the definition of every block type.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "formats/gguf_types.h"

namespace planish {

// out [count * block] = the values of `count` blocks. The type must decode. Scales may be infinite or NaN: so
// are the values then.
void DecodeBlocks(GgufType type, const std::byte* blocks, int64_t count, float* out);

// Values [col, col + count) of a row that starts at `row`.
void DecodeBlockRow(GgufType type, const std::byte* row, int64_t col, int64_t count, float* out);

}  // namespace planish

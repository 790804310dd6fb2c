// Codes of integers and of MXFP4 as blocks of GGUF that decode to the same fp32 numbers, so that what GPTQ,
// AWQ, compressed-tensors or `planish compress` rounded is not rounded once more.
#pragma once

#include <cstddef>
#include <cstdint>

#include "formats/gguf_types.h"
#include "layer/matrix.h"

namespace planish {

// Whether blocks of that type hold every value of the matrix: a code less its zero point, times an fp16 scale
// that whole blocks of 32 columns share. Q4_0, Q5_0 and Q8_0 have one such scale and signed steps of 4, 5 and
// 8 bits; MXFP4 holds the grid mxfp4.
bool HoldsCodes(GgufType type, const Matrix& matrix);

// Rows [row, row + rows) of a matrix that HoldsCodes as blocks, GgufRowBytes(type, matrix.cols) each. False
// when a scale is not finite.
bool CodesToBlocks(GgufType type, const Matrix& matrix, int64_t row, int64_t rows, std::byte* out);

}  // namespace planish

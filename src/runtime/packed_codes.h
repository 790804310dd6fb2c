// The weights of a packed layer as codes with scales: where the parts of a linear are codes that a kernel
// knows, how they are laid out, and the source that reads them tile by tile.
//
// Codes on grids of at most 4 bits are packed as they are stored, and 5 to 8-bit integers as bytes, with
// groups that are the row or a multiple of 16 and any form of scales and zeros. Levels become bytes of a
// table: exactly where a power of two makes whole numbers of them (minifloats, BitMoD, binary), else rounded
// to 8 bits, which the note says; tables of rows and groups too. GGUF blocks of codes under scales keep codes
// and scales: Q4_0, Q4_1, Q4_K, Q2_K, Q3_K, IQ4_NL, IQ4_XS, MXFP4, NVFP4, Q2_0, Q1_0 and TQ2_0; Q5 and Q6
// types and Q8_0 as bytes. Their lattice types have no form here.
#pragma once

#include <array>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "layer/matrix.h"
#include "runtime/packed_kernels.h"
#include "runtime/packed_layout.h"
#include "tensor/buffer.h"

namespace planish {

// Codes of the rows of a tile; made by a source, written by PackLinear.
struct TileCodes {
  int64_t stride = 0, steps = 0, blocks = 0;
  Array<uint8_t> codes;                 // [16, stride]
  Array<uint16_t> scales, offsets;      // [16, steps]: fp16 bits, bytes or nibbles, as the forms say
  Array<uint8_t> sets;                  // [16, steps]
  Array<uint8_t> tables;                // [16, num_tables, 16], entry + 128: kinds with tables of rows
  Array<uint16_t> units, offset_units;  // [16, blocks] fp16; of rows: [16, 1]
};
// Fills rows [row, row + count), count <= 16, of what the shape's forms need.
using TileCodeSource =
    std::function<void(const packed::KernelSet& kernels, int64_t row, int64_t count, TileCodes& out)>;

struct CodePlan {
  PackedShape shape;  // of a matrix without path, bias and outliers
  std::vector<std::array<int8_t, packed::kTableEntries>> tables;
  TileCodeSource source;
  std::string note;  // what is not as it is stored
};

// Nothing when the matrix is not made of codes that a kernel knows. Steps: the preferred one where groups
// allow it, else that of fewest bytes (0: no preference).
std::optional<CodePlan> PlanCodes(const Matrix& matrix, int preferred_step);

// Any matrix rounded to int8 around 128, one fp16 scale for each row and step.
CodePlan PlanRoundedCodes(const Matrix& matrix, int step);

// Whether steps of `step` columns lie in groups of `group`.
inline bool StepFits(int64_t group, int64_t cols, int step) { return group >= cols || group % step == 0; }

}  // namespace planish

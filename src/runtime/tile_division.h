// Which thread multiplies which tiles of the linears of a phase.
#pragma once

#include <vector>

#include "runtime/packed_linear.h"

namespace planish {

// Tiles [begin, end) of one linear of a phase.
struct TileShare {
  int linear;
  int64_t begin, end;
};

struct TileDivision {
  std::vector<std::vector<TileShare>> own;  // by member, in the order of memory
  std::vector<TileShare> tail;              // for whoever is done first, small runs
};

// Every tile of every linear exactly once; null linears have none. Members get about the same bytes, linears
// in order, so that each reads long streams; the last `tail_share` of the bytes, in [0, 1), forms the tail.
TileDivision Divide(const std::vector<const PackedLinear*>& linears, int members, double tail_share);

}  // namespace planish

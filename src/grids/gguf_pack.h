// Codes and scales into the bytes of a block: the inverse of gguf_decode.cc's layouts.
#pragma once

#include <cstdint>

#include "formats/gguf_types.h"
#include "grids/gguf_search.h"
#include "grids/gguf_tables.h"

namespace planish {

// 16 sub-blocks side by side: of one block of 16, of two of 8, or 16 blocks without sub-blocks.
struct EncodedLanes {
  float d[kSearchLanes] = {}, m[kSearchLanes] = {};      // exact halves; the block's for each of its lanes
  int scale[kSearchLanes] = {}, min[kSearchLanes] = {};  // integer sub-scales and sub-minima
  uint8_t codes[32 * kSearchLanes] = {};                 // lane after lane, from 0
};

inline int Iq4Value(int code) { return kIq4Values[code]; }

// Writes the block whose first lane is `lane`; the type is one of those that encode.
void PackBlock(GgufType type, const EncodedLanes& lanes, int lane, uint8_t* block);

}  // namespace planish

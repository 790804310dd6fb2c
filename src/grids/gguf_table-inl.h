// The table of the IQ4 types over Lanes. Included by kernel files only.
#pragma once

#include "grids/gguf_tables.h"
#include "grids/lanes-inl.h"

namespace planish {
namespace {

// The table's value nearest to y, by its 15 midpoints; optionally the index.
inline Lanes NearestOfTable(Lanes y, Lanes* index) {
  Lanes value = Set(static_cast<float>(kIq4Values[0])), at = Set(0.0f);
  for (int i = 1; i < 16; ++i) {
    const float middle = 0.5f * (static_cast<float>(kIq4Values[i - 1]) + static_cast<float>(kIq4Values[i]));
    const Lanes boundary = Set(middle);
    value = SelectLess(boundary, y, Set(static_cast<float>(kIq4Values[i])), value);
    if (index != nullptr) at = SelectLess(boundary, y, Set(static_cast<float>(i)), at);
  }
  if (index != nullptr) *index = at;
  return value;
}

}  // namespace
}  // namespace planish

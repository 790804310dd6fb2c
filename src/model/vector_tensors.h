// The tensors of a checkpoint that a vector of a program is read from: one of its name, or, where the name
// has a star, a tensor for every row with the row's number in the star's place.
#pragma once

#include <string>
#include <vector>

#include "model/program.h"

namespace planish {

// In order of the rows, which are slot.shape's first dimension.
std::vector<std::string> TensorsOf(const VectorSlot& slot);

}  // namespace planish

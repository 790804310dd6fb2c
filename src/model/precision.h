// A model read at fewer bits than its codes have.
#pragma once

#include "layer/nested.h"
#include "model/model.h"

namespace planish {

// Every coded linear of the layers at `bits`, 2 to 7 (8: as stored). Error: no linear has codes of more bits.
Status UsePrecision(const Context& context, int bits, NestedRule rule, Model& model);

}  // namespace planish

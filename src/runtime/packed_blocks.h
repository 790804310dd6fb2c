// Rows of GGUF blocks as codes with scales (see packed_codes.h).
#pragma once

#include <optional>

#include "runtime/packed_codes.h"

namespace planish {

// Nothing for types whose values are no codes under scales.
std::optional<CodePlan> PlanBlockCodes(const Matrix& matrix, const Blocks& blocks, int preferred_step);

}  // namespace planish

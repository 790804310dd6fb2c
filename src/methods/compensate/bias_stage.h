// The mean error of a linear folded into its bias, as a stage: `bias`.
#pragma once

#include "methods/stage.h"

namespace planish {

const SolveStage& BiasStage();

}  // namespace planish

// Rounding to integer grids as stages: `rtn` and `gptq`.
#pragma once

#include "methods/stage.h"

namespace planish {

const SolveStage& RtnStage();
const SolveStage& GptqStage();

}  // namespace planish

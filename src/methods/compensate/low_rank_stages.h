// Low-rank compensation as stages: `eora` (weighted by H) and `lorc` (plain).
#pragma once

#include "methods/stage.h"

namespace planish {

const SolveStage& EoraStage();
const SolveStage& LorcStage();

}  // namespace planish

// Calibration texts for the verbs that need them.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "model/model.h"
#include "pipeline/recipe.h"

namespace planish::app {

// The texts tokenized one by one and joined, then cut into windows as the spec says. Errors: no
// text, text that is not UTF-8 or too short, windows longer than the model can take.
Result<std::vector<std::vector<int32_t>>> LoadCalibration(const Model& model, const CalibrationSpec& spec);

}  // namespace planish::app

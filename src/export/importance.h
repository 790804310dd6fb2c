// Which input columns of a weight matter: for formats whose encoder weighs errors.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "calibrate/moments.h"
#include "formats/imatrix.h"
#include "model/model.h"

namespace planish {

// By name of the weight, a value a column: its input's mean square in the statistics. Sites no token reached
// are left out. Error: the statistics have none of the model's sites, or one of another width.
Result<std::map<std::string, std::vector<float>>> ImportanceOf(const Model& model,
                                                               const StatisticsFile& statistics);
// The same from llama.cpp's matrix, whose names are those of GGUF. Error: it lists none of the model's
// weights, or one of another size.
Result<std::map<std::string, std::vector<float>>> ImportanceOf(const Model& model, const Imatrix& imatrix);

}  // namespace planish

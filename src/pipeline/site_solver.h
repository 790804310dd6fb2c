// Solves the linears of one site by the stages of a recipe.
#pragma once

#include <vector>

#include "calibrate/moments.h"
#include "calibrate/sites.h"
#include "model/model.h"
#include "pipeline/recipe.h"

namespace planish {

struct SolvedLinear {
  LinearId linear = -1;
  LayerSolution solution;
  int64_t tokens = -1;  // of an expert: how many were routed to it in calibration
};

// Linears the recipe skips are not in the result. A site that saw no token is solved by rounding to
// nearest without statistics, with a warning: the stated fallback. So is a warning given for an expert whose
// moments are those of all tokens (pipeline/block_driver.h).
Result<std::vector<SolvedLinear>> SolveSite(const Context& context, const Model& model, const Site& site,
                                            const Moments& moments, const Recipe& recipe);

// {"name", "parts", "bits", "bytes", "loss_nearest", "loss", "steps": [...], "tokens" of an expert,
// "warnings": [...]}
OrderedJson LayerReport(const Model& model, const SolvedLinear& solved);

}  // namespace planish

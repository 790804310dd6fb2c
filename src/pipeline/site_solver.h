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
};

// Linears the recipe skips are not in the result. A site that saw no token is solved by rounding to
// nearest without statistics, with a warning: the stated fallback.
Result<std::vector<SolvedLinear>> SolveSite(const Context& context, const Model& model, const Site& site,
                                            const Moments& moments, const Recipe& recipe);

// {"name", "parts", "bits", "bytes", "loss_nearest", "loss", "steps": [...], "warnings": [...]}
OrderedJson LayerReport(const Model& model, const SolvedLinear& solved);

}  // namespace planish

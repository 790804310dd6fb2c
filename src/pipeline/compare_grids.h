// Grids beside each other on the layers of a model: exact bytes, and the loss that rounding leaves.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "base/json.h"
#include "calibrate/moments.h"
#include "methods/round/feedback.h"
#include "model/model.h"

namespace planish {

struct GridChoice {
  std::string name;  // GridText, or the name of a block type
  GridSpec grid;
};
// Every named grid of 2 to 5 bits, plain ones in groups of 128 and of 32 with 6-bit scales; tables of the
// tensor, the row and groups of 256.
std::vector<GridChoice> AllGridChoices();
// The grid that a text like GridText's says: "int4 g64 s5", "table3 row g0", "nvfp4". Parts after the name,
// in any order and each kind once: gN group, sN scale bits, zN zero bits, sym, row or each for tables. Errors
// name the part.
Result<GridChoice> ParseGridChoice(const std::string& text);

enum class LayerChoice {
  kSample,  // the linears of the middle block
  kAll,
};

// A block type that took the place of the one asked for, where that does not divide the rows.
struct GridSubstitute {
  std::string name;
  int layers = 0;
};

// Means over the layers of tr(E H E^T) / tr(W H W^T).
struct GridResult {
  std::string name;
  double bits = 0;  // all bytes of all layers, in bits a weight
  double nearest = 0, loss = 0;
  int layers = 0;
  std::vector<GridSubstitute> substitutes = {};  // in order of appearance

  // "iq4_nl in 1 of 7 layers", or nothing.
  std::string SubstitutesText() const;
};

// `statistics` of the model's own stream. Layers whose output is always zero have no loss to compare and are
// left out. Errors: a site is missing; no layer is left; interrupted.
Result<std::vector<GridResult>> CompareGrids(const Context& context, const Model& model,
                                             const StatisticsFile& statistics,
                                             std::span<const GridChoice> choices, LayerChoice layers,
                                             const FeedbackOptions& options);

// By falling bits; a star where no other grid has fewer or as many bits and less loss; then the substitutes.
std::string GridTable(std::vector<GridResult> results);
OrderedJson GridResultsJson(const std::vector<GridResult>& results);

}  // namespace planish

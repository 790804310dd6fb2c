// Models of well-known shapes with random weights: speed depends on shapes and bytes, not on what the
// weights say.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "grids/grid.h"
#include "model/model.h"

namespace planish {

struct ShapeOptions {
  int bits = 4;
  int64_t group = 64;
  std::optional<GridSpec> grid;  // of the layers' linears, in place of bits and group
  int64_t rank = 0;              // of a low-rank path of int8 factors beside every layer's linear
  int head_bits = 4;             // embedding and head, which are tied
  uint64_t seed = 0;
};

// Names that RandomModel takes: "smollm2-135m", "llama-1b", "llama-8b-block" (one layer, small vocabulary).
std::vector<std::string> ShapeNames();

// Random codes, zeros and sets on a grid, equal scales; values of about `deviation`. `stream`: equal numbers
// give equal matrices.
Matrix RandomOnGrid(const Context& context, int64_t rows, int64_t cols, const GridSpec& grid, float deviation,
                    uint64_t seed, uint64_t stream);

// Asymmetric integer codes unless options say otherwise, small enough scales that activations stay finite.
// Errors: an unknown name (the nearest is named).
Result<Model> RandomModel(const Context& context, const std::string& shape, const ShapeOptions& options);

}  // namespace planish

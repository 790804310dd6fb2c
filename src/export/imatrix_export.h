// Statistics of a model's inputs as llama.cpp's importance matrix.
#pragma once

#include "calibrate/moments.h"
#include "formats/imatrix.h"
#include "model/model.h"

namespace planish {

// Sums of squares and counts of every linear of the layers, under its name in GGUF; experts of a layer
// together. Text and chunks are left for the caller to set. Errors: a family or a weight that GGUF has no
// name for; a site that the statistics lack.
Result<Imatrix> ImatrixOf(const Model& model, const StatisticsFile& statistics);

}  // namespace planish

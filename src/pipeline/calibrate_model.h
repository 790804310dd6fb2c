// Statistics of every site of a model in its original stream.
#pragma once

#include <string>

#include "calibrate/moments.h"
#include "pipeline/block_driver.h"

namespace planish {

// One pass over the set. Hidden states past `state_memory` bytes go to a file at `spill_path` (removed
// again).
Result<StatisticsFile> CalibrateModel(const Context& context, const Model& model, const CalibrationSet& set,
                                      const std::string& spill_path, int64_t state_memory);

}  // namespace planish

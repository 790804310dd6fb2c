// Tensors of a checkpoint that its model does not read. One that means something would change what the model
// computes (norms of a family that the config does not name, layers behind the last, biases that the config
// denies), so that those that are not known to mean nothing are refused.
#pragma once

#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "formats/checkpoint.h"
#include "model/program.h"

namespace planish {

// Whether a name, or its beginning up to a dot, fits a pattern in which a star stands for any text:
// "model.layers.*.q_norm" fits "model.layers.0.self_attn.q_norm.weight".
bool FitsTensorPattern(std::string_view name, std::string_view pattern);

// The checkpoint without the tensors that fit one of the patterns.
Checkpoint WithoutTensors(const Checkpoint& checkpoint, const std::vector<std::string>& patterns);

// An error that names tensors which are not among those `read` (a name with a dot behind stands for what has
// one suffix more), and mean something: no buffers that every family's files may have, none of
// program.beside, no biases that are 0 throughout.
Status CheckTensorsRead(const Program& program, const std::set<std::string>& read,
                        const Checkpoint& checkpoint);

}  // namespace planish

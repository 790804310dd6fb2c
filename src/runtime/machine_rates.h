// What this machine can do, measured: the limits that speeds are given as shares of.
#pragma once

#include <cstdint>

#include "runtime/team.h"

namespace planish {

// Bytes a second at which the team reads a buffer of `bytes`, each member its own part in one or eight
// sequential streams, whichever is faster, in huge pages where the system gives them: the best of `turns`
// passes.
double MeasureReadBandwidth(Team& team, int64_t bytes, int turns);

}  // namespace planish

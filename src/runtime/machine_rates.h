// What this machine can do, measured: the limits that speeds are given as shares of.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "runtime/team.h"
#include "tensor/buffer.h"

namespace planish {

// Seconds of a clock that only goes forward.
double SecondsNow();

// Bytes a second at which the team reads a buffer of `bytes`, each member its own part in one or eight
// sequential streams, whichever is faster, in huge pages where the system gives them: the best of `turns`
// passes.
class BandwidthMeter {
 public:
  // Throws std::bad_alloc.
  BandwidthMeter(Team& team, int64_t bytes);
  double Measure(int turns);

 private:
  Team& team_;
  Buffer buffer_;
};

// Multiply-adds a second of one instruction on all members at once, operands in registers.
struct Peak {
  std::string instruction;  // "vpdpbusd 512"
  std::string type;         // of the factors: "fp32", "bf16", "int8"
  double rate = 0;
};
// One for each instruction of matrix products that this processor has, slowest type first, the best of
// `turns`. On processors without 8-bit dot products the int8 peak is that of vpmaddubsw, with the widening
// that follows it left out.
std::vector<Peak> MeasurePeaks(Team& team, int turns);
// The fastest of a type; 0 when there is none.
double BestPeak(const std::vector<Peak>& peaks, const std::string& type);

}  // namespace planish

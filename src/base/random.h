// Counter-based random numbers: Philox-4x32-10 (Salmon et al., "Parallel random numbers: as easy
// as 1, 2, 3", SC 2011). A value depends only on (seed, stream, index), never on how many were drawn
// before or by which thread, so results repeat on any machine and in any order.
#pragma once

#include <array>
#include <cstdint>

namespace planish {

// One block of the cipher: 128 bits from a 128-bit counter and a 64-bit key.
std::array<uint32_t, 4> Philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key);

class Random {
 public:
  // Streams with the same seed and different numbers are independent.
  explicit Random(uint64_t seed, uint64_t stream = 0) : seed_(seed), stream_(stream) {}

  // The i-th values of the stream; any order, any thread.
  uint64_t Bits(uint64_t index) const;
  // In [0, 1), 53 bits.
  double Uniform(uint64_t index) const;
  // In [0, n), n > 0, without modulo bias beyond 2^-64 n.
  uint64_t Below(uint64_t index, uint64_t n) const;
  // Standard normal by the Box-Muller transform of one block (libm's log and cos: not bit-exact
  // across C libraries, so strict artifacts use Rademacher signs or Uniform instead).
  double Normal(uint64_t index) const;

 private:
  uint64_t seed_, stream_;
};

}  // namespace planish

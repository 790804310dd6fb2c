#include "base/random.h"

#include <cmath>
#include <numbers>

namespace planish {

std::array<uint32_t, 4> Philox4x32(std::array<uint32_t, 4> c, std::array<uint32_t, 2> k) {
  constexpr uint32_t kM0 = 0xD2511F53u, kM1 = 0xCD9E8D57u;  // round multipliers of the paper
  constexpr uint32_t kW0 = 0x9E3779B9u, kW1 = 0xBB67AE85u;  // Weyl constants of the key schedule
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = static_cast<uint64_t>(kM0) * c[0];
    const uint64_t p1 = static_cast<uint64_t>(kM1) * c[2];
    c = {static_cast<uint32_t>(p1 >> 32) ^ c[1] ^ k[0], static_cast<uint32_t>(p1),
         static_cast<uint32_t>(p0 >> 32) ^ c[3] ^ k[1], static_cast<uint32_t>(p0)};
    k = {k[0] + kW0, k[1] + kW1};
  }
  return c;
}

namespace {
std::array<uint32_t, 4> Block(uint64_t seed, uint64_t stream, uint64_t index) {
  return Philox4x32({static_cast<uint32_t>(index), static_cast<uint32_t>(index >> 32),
                     static_cast<uint32_t>(stream), static_cast<uint32_t>(stream >> 32)},
                    {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)});
}
double ToUnit(uint32_t high, uint32_t low) {
  return static_cast<double>((static_cast<uint64_t>(high) << 32 | low) >> 11) * 0x1.0p-53;
}
}  // namespace

uint64_t Random::Bits(uint64_t index) const {
  const auto b = Block(seed_, stream_, index);
  return static_cast<uint64_t>(b[0]) << 32 | b[1];
}

double Random::Uniform(uint64_t index) const {
  const auto b = Block(seed_, stream_, index);
  return ToUnit(b[0], b[1]);
}

uint64_t Random::Below(uint64_t index, uint64_t n) const {
  return static_cast<uint64_t>(static_cast<unsigned __int128>(Bits(index)) * n >> 64);
}

double Random::Normal(uint64_t index) const {
  const auto b = Block(seed_, stream_, index);
  const double u = 1.0 - ToUnit(b[0], b[1]);  // (0, 1]: the logarithm stays finite
  const double v = ToUnit(b[2], b[3]);
  return std::sqrt(-2.0 * std::log(u)) * std::cos(2.0 * std::numbers::pi * v);
}

}  // namespace planish

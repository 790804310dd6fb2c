// Small whole numbers in a run of bytes: value k of `bits` b lies in bits [k b, (k + 1) b), little-endian. A
// run of 32-bit little-endian words is the same bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace planish {

inline void PackRun(const uint8_t* values, int64_t count, int bits, uint8_t* out) {
  uint32_t held = 0;
  int held_bits = 0;
  for (int64_t i = 0; i < count; ++i) {
    held |= static_cast<uint32_t>(values[i]) << held_bits;
    held_bits += bits;
    while (held_bits >= 8) {
      *out++ = static_cast<uint8_t>(held);
      held >>= 8;
      held_bits -= 8;
    }
  }
  if (held_bits > 0) *out = static_cast<uint8_t>(held);
}

inline uint8_t RunValue(const std::byte* in, int64_t index, int bits) {
  const int64_t bit = index * bits;
  const int shift = static_cast<int>(bit & 7);
  uint32_t word = static_cast<uint32_t>(in[bit >> 3]);
  if (shift + bits > 8) word |= static_cast<uint32_t>(in[(bit >> 3) + 1]) << 8;
  return static_cast<uint8_t>((word >> shift) & ((1u << bits) - 1u));
}

// values[i] = value begin + i; eight at a time are `bits` whole bytes.
inline void UnpackRun(const std::byte* in, int64_t begin, int64_t count, int bits, uint8_t* values) {
  int64_t i = 0;
  while (i < count && ((begin + i) & 7) != 0) {
    values[i] = RunValue(in, begin + i, bits);
    ++i;
  }
  const uint64_t mask = (uint64_t{1} << bits) - 1;
  for (; i + 8 <= count; i += 8) {
    uint64_t word = 0;
    std::memcpy(&word, in + (begin + i) / 8 * bits, static_cast<size_t>(bits));
    for (int j = 0; j < 8; ++j) values[i + j] = static_cast<uint8_t>((word >> (j * bits)) & mask);
  }
  for (; i < count; ++i) values[i] = RunValue(in, begin + i, bits);
}

}  // namespace planish

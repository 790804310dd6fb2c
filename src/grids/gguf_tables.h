// The lattices of the IQ types, which are a part of the format: every entry is one vector of 8 (IQ3: 4)
// small values, packed here as 2-bit (IQ3: 3-bit) indices, first value lowest, into the levels beside it.
#pragma once

#include <cstdint>

namespace planish {

inline constexpr uint8_t kIq2Levels[4] = {0x08, 0x19, 0x2b, 0};  // index 3 does not occur
inline constexpr uint8_t kIq3XxsLevels[8] = {0x04, 0x0c, 0x14, 0x1c, 0x24, 0x2c, 0x34, 0x3e};
inline constexpr uint8_t kIq3SLevels[8] = {1, 3, 5, 7, 9, 11, 13, 15};
// IQ1: index - 1, that is -1, 0 or 1.

extern const uint16_t kIq2Xxs[256];
extern const uint16_t kIq2Xs[512];
extern const uint16_t kIq2S[1024];
extern const uint16_t kIq3Xxs[256];
extern const uint16_t kIq3S[512];
extern const uint16_t kIq1S[2048];

// The 16 values of IQ4_NL and IQ4_XS.
inline constexpr int8_t kIq4Values[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                          1,    13,   25,  38,  53,  69,  89,  113};
// FP4 E2M1, codes 0 to 15.
inline constexpr float kE2m1Values[16] = {0,     0.5f,  1,  1.5f,  2,  3,  4,  6,
                                          -0.0f, -0.5f, -1, -1.5f, -2, -3, -4, -6};

}  // namespace planish

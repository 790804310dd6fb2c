// Transposes between rows and lanes, in vectors of the compiler: what SSE2 and NEON do alike.
#pragma once

#include <cstdint>
#include <cstring>

namespace planish {
namespace {

using FourFloats [[gnu::vector_size(16)]] = float;
using SixteenBytes [[gnu::vector_size(16)]] = uint8_t;

// out[k * ld + i] = rows[i][k] for i < 4, k < n; n is a multiple of 4.
inline void TransposeFourRows(const float* const (&rows)[4], int n, float* out, int ld) {
  for (int k = 0; k < n; k += 4) {
    FourFloats r[4];
    for (int i = 0; i < 4; ++i) std::memcpy(&r[i], rows[i] + k, 16);
    const FourFloats a = __builtin_shufflevector(r[0], r[1], 0, 4, 1, 5);
    const FourFloats b = __builtin_shufflevector(r[2], r[3], 0, 4, 1, 5);
    const FourFloats c = __builtin_shufflevector(r[0], r[1], 2, 6, 3, 7);
    const FourFloats d = __builtin_shufflevector(r[2], r[3], 2, 6, 3, 7);
    const FourFloats columns[4] = {
        __builtin_shufflevector(a, b, 0, 1, 4, 5), __builtin_shufflevector(a, b, 2, 3, 6, 7),
        __builtin_shufflevector(c, d, 0, 1, 4, 5), __builtin_shufflevector(c, d, 2, 3, 6, 7)};
    for (int i = 0; i < 4; ++i) std::memcpy(out + (k + i) * ld, &columns[i], 16);
  }
}

// out[i * ld + k] = in[k * 16 + i] for 16 x 16 bytes.
inline void TransposeBytes(const uint8_t* in, uint8_t* out, int ld) {
  SixteenBytes a[16], b[16];
  for (int i = 0; i < 16; ++i) std::memcpy(&a[i], in + 16 * i, 16);
  // Four times, row i and row i + 8 are interleaved: every step moves a bit of the row number to the column.
  for (int step = 0; step < 4; ++step) {
    for (int i = 0; i < 8; ++i) {
      b[2 * i] =
          __builtin_shufflevector(a[i], a[i + 8], 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
      b[2 * i + 1] = __builtin_shufflevector(a[i], a[i + 8], 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14,
                                             30, 15, 31);
    }
    for (int i = 0; i < 16; ++i) a[i] = b[i];
  }
  for (int i = 0; i < 16; ++i) std::memcpy(out + i * ld, &a[i], 16);
}

}  // namespace
}  // namespace planish

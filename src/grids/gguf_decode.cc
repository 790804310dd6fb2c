#include "grids/gguf_decode.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "base/check.h"
#include "grids/gguf_tables.h"
#include "tensor/dtype.h"

namespace planish {
namespace {

// Every decoder sees one block: `b` its bytes, `y` its values. Products are taken in the order of the
// reference (scale times sub-scale first), so values equal its values bit for bit.

float Half(const uint8_t* b) {
  uint16_t bits;
  std::memcpy(&bits, b, 2);
  return ToFloat(F16{bits});
}
uint32_t Word(const uint8_t* b) {
  uint32_t word;
  std::memcpy(&word, b, 4);
  return word;
}
uint32_t Word16(const uint8_t* b) { return static_cast<uint32_t>(b[0]) | static_cast<uint32_t>(b[1]) << 8; }

// --- blocks of 32: d (, m) (, qh u32), qs[16]; low nibbles are elements 0 to 15, high ones 16 to 31

void Q4_0(const uint8_t* b, float* y) {
  const float d = Half(b);
  for (int i = 0; i < 16; ++i) {
    y[i] = static_cast<float>((b[2 + i] & 15) - 8) * d;
    y[i + 16] = static_cast<float>((b[2 + i] >> 4) - 8) * d;
  }
}

void Q4_1(const uint8_t* b, float* y) {
  const float d = Half(b), m = Half(b + 2);
  for (int i = 0; i < 16; ++i) {
    y[i] = static_cast<float>(b[4 + i] & 15) * d + m;
    y[i + 16] = static_cast<float>(b[4 + i] >> 4) * d + m;
  }
}

void Q5_0(const uint8_t* b, float* y) {
  const float d = Half(b);
  const uint32_t high = Word(b + 2);
  for (int i = 0; i < 16; ++i) {
    const int low = static_cast<int>((b[6 + i] & 15) | (((high >> i) & 1) << 4));
    const int up = static_cast<int>((b[6 + i] >> 4) | (((high >> (i + 16)) & 1) << 4));
    y[i] = static_cast<float>(low - 16) * d;
    y[i + 16] = static_cast<float>(up - 16) * d;
  }
}

void Q5_1(const uint8_t* b, float* y) {
  const float d = Half(b), m = Half(b + 2);
  const uint32_t high = Word(b + 4);
  for (int i = 0; i < 16; ++i) {
    const uint32_t low = (b[8 + i] & 15u) | (((high >> i) & 1) << 4);
    const uint32_t up = (b[8 + i] >> 4) | (((high >> (i + 16)) & 1) << 4);
    y[i] = static_cast<float>(low) * d + m;
    y[i + 16] = static_cast<float>(up) * d + m;
  }
}

void Q8_0(const uint8_t* b, float* y) {
  const float d = Half(b);
  for (int i = 0; i < 32; ++i) y[i] = static_cast<float>(static_cast<int8_t>(b[2 + i])) * d;
}

void Iq4Nl(const uint8_t* b, float* y) {
  const float d = Half(b);
  for (int i = 0; i < 16; ++i) {
    y[i] = d * static_cast<float>(kIq4Values[b[2 + i] & 15]);
    y[i + 16] = d * static_cast<float>(kIq4Values[b[2 + i] >> 4]);
  }
}

// e u8 (power of two, bias 127), qs[16]
void Mxfp4(const uint8_t* b, float* y) {
  const float d = std::ldexp(1.0f, b[0] - 127);
  for (int i = 0; i < 16; ++i) {
    y[i] = d * kE2m1Values[b[1 + i] & 15];
    y[i + 16] = d * kE2m1Values[b[1 + i] >> 4];
  }
}

// --- blocks of 256: super-scales as halves, sub-scales as small integers

// scales[16] (low nibble: scale, high: min), qs[64], d, dmin
void Q2K(const uint8_t* b, float* y) {
  const float d = Half(b + 80), dmin = Half(b + 82);
  for (int k = 0; k < 16; ++k) {
    const float scale = d * static_cast<float>(b[k] & 15), min = dmin * static_cast<float>(b[k] >> 4);
    const uint8_t* q = b + 16 + 32 * (k / 8) + 16 * (k % 2);
    const int shift = 2 * ((k % 8) / 2);
    for (int i = 0; i < 16; ++i) y[16 * k + i] = scale * static_cast<float>((q[i] >> shift) & 3) - min;
  }
}

// hmask[32], qs[64], scales[12] (6 bits each), d
void Q3K(const uint8_t* b, float* y) {
  const float d = Half(b + 108);
  const uint8_t* s = b + 96;
  for (int k = 0; k < 16; ++k) {
    const int low = k < 8 ? s[k] & 15 : s[k - 8] >> 4, high = (s[8 + k % 4] >> (2 * (k / 4))) & 3;
    const float scale = d * static_cast<float>((low | high << 4) - 32);
    const uint8_t* q = b + 32 + 32 * (k / 8) + 16 * (k % 2);
    const uint8_t* h = b + 16 * (k % 2);
    const int shift = 2 * ((k % 8) / 2), bit = k / 2;
    for (int i = 0; i < 16; ++i) {
      y[16 * k + i] = scale * static_cast<float>(((q[i] >> shift) & 3) - (((h[i] >> bit) & 1) != 0 ? 0 : 4));
    }
  }
}

// The k-th pair of 6-bit scale and minimum of Q4_K and Q5_K.
void ScaleMin(const uint8_t* s, int k, float d, float dmin, float& scale, float& min) {
  const int sc = k < 4 ? s[k] & 63 : (s[k + 4] & 15) | (s[k - 4] >> 6) << 4;
  const int mn = k < 4 ? s[k + 4] & 63 : (s[k + 4] >> 4) | (s[k] >> 6) << 4;
  scale = d * static_cast<float>(sc);
  min = dmin * static_cast<float>(mn);
}

// d, dmin, scales[12], qs[128]
void Q4K(const uint8_t* b, float* y) {
  const float d = Half(b), dmin = Half(b + 2);
  for (int k = 0; k < 8; ++k) {
    float scale, min;
    ScaleMin(b + 4, k, d, dmin, scale, min);
    const uint8_t* q = b + 16 + 32 * (k / 2);
    const int shift = 4 * (k % 2);
    for (int i = 0; i < 32; ++i) y[32 * k + i] = scale * static_cast<float>((q[i] >> shift) & 15) - min;
  }
}

// d, dmin, scales[12], qh[32], qs[128]
void Q5K(const uint8_t* b, float* y) {
  const float d = Half(b), dmin = Half(b + 2);
  for (int k = 0; k < 8; ++k) {
    float scale, min;
    ScaleMin(b + 4, k, d, dmin, scale, min);
    const uint8_t* q = b + 48 + 32 * (k / 2);
    const int shift = 4 * (k % 2);
    for (int i = 0; i < 32; ++i) {
      const int code = ((q[i] >> shift) & 15) | ((b[16 + i] >> k) & 1) << 4;
      y[32 * k + i] = scale * static_cast<float>(code) - min;
    }
  }
}

// ql[128], qh[64], scales i8[16], d
void Q6K(const uint8_t* b, float* y) {
  const float d = Half(b + 208);
  for (int k = 0; k < 16; ++k) {
    const float scale = d * static_cast<float>(static_cast<int8_t>(b[192 + k]));
    const int g = k / 8, h = (k % 8) / 2, at = 16 * (k % 2);
    const uint8_t* low = b + 64 * g + 32 * (h % 2) + at;
    const uint8_t* high = b + 128 + 32 * g + at;
    for (int i = 0; i < 16; ++i) {
      const int code = ((low[i] >> (4 * (h / 2))) & 15) | ((high[i] >> (2 * h)) & 3) << 4;
      y[16 * k + i] = scale * static_cast<float>(code - 32);
    }
  }
}

// d, scales_h u16, scales_l[4], qs[128]
void Iq4Xs(const uint8_t* b, float* y) {
  const float d = Half(b);
  const uint32_t high = Word16(b + 2);
  for (int k = 0; k < 8; ++k) {
    const int low = (b[4 + k / 2] >> (4 * (k % 2))) & 15;
    const float scale = d * static_cast<float>((low | static_cast<int>((high >> (2 * k)) & 3) << 4) - 32);
    const uint8_t* q = b + 8 + 16 * k;
    for (int i = 0; i < 16; ++i) {
      y[32 * k + i] = scale * static_cast<float>(kIq4Values[q[i] & 15]);
      y[32 * k + i + 16] = scale * static_cast<float>(kIq4Values[q[i] >> 4]);
    }
  }
}

// --- lattices: indices into tables of vectors, with sign bits

// Seven sign bits; the eighth makes their number even.
uint32_t EvenSigns(uint32_t seven) { return seven | (std::popcount(seven) & 1u) << 7; }

void Vector8(uint16_t entry, uint32_t signs, float scale, float* y) {
  for (int j = 0; j < 8; ++j) {
    const auto level = static_cast<float>(kIq2Levels[(entry >> (2 * j)) & 3]);
    y[j] = scale * ((signs >> j) & 1 ? -level : level);
  }
}
void Vector4(uint16_t entry, const uint8_t (&levels)[8], uint32_t signs, float scale, float* y) {
  for (int j = 0; j < 4; ++j) {
    const auto level = static_cast<float>(levels[(entry >> (3 * j)) & 7]);
    y[j] = scale * ((signs >> j) & 1 ? -level : level);
  }
}

// d, 8 x { index u8[4], u32: 4 x 7 sign bits, 4-bit scale }
void Iq2XxsBlock(const uint8_t* b, float* y) {
  const float d = Half(b);
  for (int k = 0; k < 8; ++k) {
    const uint8_t* q = b + 2 + 8 * k;
    const uint32_t word = Word(q + 4);
    const float scale = d * (0.5f + static_cast<float>(word >> 28)) * 0.25f;
    for (int v = 0; v < 4; ++v) {
      Vector8(kIq2Xxs[q[v]], EvenSigns((word >> (7 * v)) & 127), scale, y + 32 * k + 8 * v);
    }
  }
}

// d, u16[32] (9-bit index, 7 sign bits), scales[8] (a nibble for 16 values)
void Iq2XsBlock(const uint8_t* b, float* y) {
  const float d = Half(b);
  for (int v = 0; v < 32; ++v) {
    const uint32_t word = Word16(b + 2 + 2 * v);
    const int nibble = (b[66 + v / 4] >> (4 * ((v / 2) % 2))) & 15;
    const float scale = d * (0.5f + static_cast<float>(nibble)) * 0.25f;
    Vector8(kIq2Xs[word & 511], EvenSigns(word >> 9), scale, y + 8 * v);
  }
}

// d, index low u8[32], signs u8[32], qh[8] (2 bits for each index), scales[8]
void Iq2SBlock(const uint8_t* b, float* y) {
  const float d = Half(b);
  for (int v = 0; v < 32; ++v) {
    const int index = b[2 + v] | ((b[66 + v / 4] >> (2 * (v % 4))) & 3) << 8;
    const int nibble = (b[74 + v / 4] >> (4 * ((v / 2) % 2))) & 15;
    const float scale = d * (0.5f + static_cast<float>(nibble)) * 0.25f;
    Vector8(kIq2S[index], b[34 + v], scale, y + 8 * v);
  }
}

// d, index u8[64], 8 x u32 (4 x 7 sign bits for two vectors each, 4-bit scale)
void Iq3XxsBlock(const uint8_t* b, float* y) {
  const float d = Half(b);
  for (int k = 0; k < 8; ++k) {
    const uint32_t word = Word(b + 66 + 4 * k);
    const float scale = d * (0.5f + static_cast<float>(word >> 28)) * 0.5f;
    for (int v = 0; v < 8; ++v) {
      const uint32_t signs = EvenSigns((word >> (7 * (v / 2))) & 127) >> (4 * (v % 2));
      Vector4(kIq3Xxs[b[2 + 8 * k + v]], kIq3XxsLevels, signs, scale, y + 32 * k + 4 * v);
    }
  }
}

// d, index low u8[64], qh[8] (a bit for each index), signs u8[32], scales[4] (a nibble for 32 values)
void Iq3SBlock(const uint8_t* b, float* y) {
  const float d = Half(b);
  for (int v = 0; v < 64; ++v) {
    const int index = b[2 + v] | ((b[66 + v / 8] >> (v % 8)) & 1) << 8;
    const int k = v / 8, nibble = (b[106 + k / 2] >> (4 * (k % 2))) & 15;
    const float scale = d * static_cast<float>(1 + 2 * nibble);
    Vector4(kIq3S[index], kIq3SLevels, static_cast<uint32_t>(b[74 + v / 2]) >> (4 * (v % 2)), scale,
            y + 4 * v);
  }
}

void Ternary8(int index, float delta, float scale, float* y) {
  const uint16_t entry = kIq1S[index];
  for (int j = 0; j < 8; ++j) y[j] = scale * (static_cast<float>(((entry >> (2 * j)) & 3) - 1) + delta);
}

// d, index low u8[32], qh u16[8] (4 x 3 high bits, 3-bit scale, sign of the shift)
void Iq1SBlock(const uint8_t* b, float* y) {
  const float d = Half(b);
  for (int k = 0; k < 8; ++k) {
    const uint32_t word = Word16(b + 34 + 2 * k);
    const float scale = d * static_cast<float>(2 * ((word >> 12) & 7) + 1);
    const float delta = (word & 0x8000) != 0 ? -0.125f : 0.125f;
    for (int v = 0; v < 4; ++v) {
      const int index = b[2 + 4 * k + v] | static_cast<int>((word >> (3 * v)) & 7) << 8;
      Ternary8(index, delta, scale, y + 32 * k + 8 * v);
    }
  }
}

// index low u8[32], qh[16] (a nibble for each index: 3 high bits, sign of the shift), scales u16[4]: four
// 3-bit scales for 16 values each, and in the top nibbles the four parts of d
void Iq1MBlock(const uint8_t* b, float* y) {
  uint32_t bits = 0;
  for (int i = 0; i < 4; ++i) bits |= (Word16(b + 48 + 2 * i) >> 12) << (4 * i);
  const float d = ToFloat(F16{static_cast<uint16_t>(bits)});
  for (int v = 0; v < 32; ++v) {
    const int k = v / 2, nibble = (b[32 + v / 2] >> (4 * (v % 2))) & 15;
    const float scale = d * static_cast<float>(2 * ((Word16(b + 48 + 2 * (k / 4)) >> (3 * (k % 4))) & 7) + 1);
    Ternary8(b[v] | (nibble & 7) << 8, (nibble & 8) != 0 ? -0.125f : 0.125f, scale, y + 8 * v);
  }
}

// --- one and two bits, ternary digits

// qs[48], qh[4], d; a byte holds five digits as the fraction q / 243 of 256
void Tq1(const uint8_t* b, float* y) {
  constexpr uint8_t kPowers[5] = {1, 3, 9, 27, 81};
  const float d = Half(b + 52);
  const auto digit = [&](uint8_t byte, int n) {
    const auto fraction = static_cast<uint8_t>(byte * kPowers[n]);
    return static_cast<float>(((fraction * 3) >> 8) - 1) * d;
  };
  for (int e = 0; e < 160; ++e) y[e] = digit(b[e % 32], e / 32);
  for (int e = 0; e < 80; ++e) y[160 + e] = digit(b[32 + e % 16], e / 16);
  for (int e = 0; e < 16; ++e) y[240 + e] = digit(b[48 + e % 4], e / 4);
}

// qs[64], d
void Tq2(const uint8_t* b, float* y) {
  const float d = Half(b + 64);
  for (int e = 0; e < 256; ++e) {
    const int code = (b[32 * (e / 128) + e % 32] >> (2 * ((e % 128) / 32))) & 3;
    y[e] = static_cast<float>(code - 1) * d;
  }
}

// Four unsigned E4M3 scales (sign bit unused, 0x7f means 0), qs[32]
void Nvfp4(const uint8_t* b, float* y) {
  for (int k = 0; k < 4; ++k) {
    const int bits = b[k] & 0x7f, x = bits >> 3, m = bits & 7;
    const float d = bits == 0x7f ? 0.0f : x == 0 ? std::ldexp(m, -9) : std::ldexp(8 + m, x - 10);
    for (int i = 0; i < 8; ++i) {
      y[16 * k + i] = d * kE2m1Values[b[4 + 8 * k + i] & 15];
      y[16 * k + i + 8] = d * kE2m1Values[b[4 + 8 * k + i] >> 4];
    }
  }
}

// d, 128 sign bits
void Q1_0(const uint8_t* b, float* y) {
  const float d = Half(b);
  for (int e = 0; e < 128; ++e) y[e] = ((b[2 + e / 8] >> (e % 8)) & 1) != 0 ? d : -d;
}

// d, 64 two-bit codes
void Q2_0(const uint8_t* b, float* y) {
  const float d = Half(b);
  for (int e = 0; e < 64; ++e) y[e] = static_cast<float>(((b[2 + e / 4] >> (2 * (e % 4))) & 3) - 1) * d;
}

using Decoder = void (*)(const uint8_t*, float*);

Decoder DecoderOf(GgufType type) {
  switch (type) {
    case GgufType::kQ4_0:
      return Q4_0;
    case GgufType::kQ4_1:
      return Q4_1;
    case GgufType::kQ5_0:
      return Q5_0;
    case GgufType::kQ5_1:
      return Q5_1;
    case GgufType::kQ8_0:
      return Q8_0;
    case GgufType::kQ2_K:
      return Q2K;
    case GgufType::kQ3_K:
      return Q3K;
    case GgufType::kQ4_K:
      return Q4K;
    case GgufType::kQ5_K:
      return Q5K;
    case GgufType::kQ6_K:
      return Q6K;
    case GgufType::kIQ2_XXS:
      return Iq2XxsBlock;
    case GgufType::kIQ2_XS:
      return Iq2XsBlock;
    case GgufType::kIQ2_S:
      return Iq2SBlock;
    case GgufType::kIQ3_XXS:
      return Iq3XxsBlock;
    case GgufType::kIQ3_S:
      return Iq3SBlock;
    case GgufType::kIQ1_S:
      return Iq1SBlock;
    case GgufType::kIQ1_M:
      return Iq1MBlock;
    case GgufType::kIQ4_NL:
      return Iq4Nl;
    case GgufType::kIQ4_XS:
      return Iq4Xs;
    case GgufType::kTQ1_0:
      return Tq1;
    case GgufType::kTQ2_0:
      return Tq2;
    case GgufType::kMXFP4:
      return Mxfp4;
    case GgufType::kNVFP4:
      return Nvfp4;
    case GgufType::kQ1_0:
      return Q1_0;
    case GgufType::kQ2_0:
      return Q2_0;
    default:
      return nullptr;
  }
}

}  // namespace

void DecodeBlocks(GgufType type, const std::byte* blocks, int64_t count, float* out) {
  const Decoder decode = DecoderOf(type);
  PLANISH_CHECK(decode != nullptr) << InfoOf(type).name;
  const GgufTypeInfo& info = InfoOf(type);
  const auto* bytes = reinterpret_cast<const uint8_t*>(blocks);
  for (int64_t i = 0; i < count; ++i) decode(bytes + i * info.bytes, out + i * info.block);
}

void DecodeBlockRow(GgufType type, const std::byte* row, int64_t col, int64_t count, float* out) {
  const GgufTypeInfo& info = InfoOf(type);
  float block[256];
  while (count > 0) {
    const int64_t index = col / info.block, skip = col % info.block;
    const std::byte* at = row + index * info.bytes;
    if (skip == 0 && count >= info.block) {
      const int64_t whole = count / info.block;
      DecodeBlocks(type, at, whole, out);
      col += whole * info.block;
      out += whole * info.block;
      count -= whole * info.block;
      continue;
    }
    const int64_t part = std::min(count, info.block - skip);
    DecodeBlocks(type, at, 1, block);
    std::copy_n(block + skip, part, out);
    col += part;
    out += part;
    count -= part;
  }
}

}  // namespace planish

#include "grids/gguf_pack.h"

#include <cstring>

#include "base/check.h"
#include "tensor/dtype.h"

namespace planish {
namespace {

void PutHalf(float x, uint8_t* b) {
  const F16 half = ToF16(x);
  std::memcpy(b, &half, 2);
}

// The lanes of one block.
struct One {
  const EncodedLanes& e;
  int lane;
  int n;  // values of a sub-block
  const uint8_t* codes() const { return e.codes + lane * n; }
  int code(int i) const { return codes()[i]; }
  int scale(int k) const { return e.scale[lane + k]; }
  int min(int k) const { return e.min[lane + k]; }
  float d() const { return e.d[lane]; }
  float m() const { return e.m[lane]; }
};

void PutNibbles32(const One& o, uint8_t* b) {
  for (int i = 0; i < 16; ++i) b[i] = static_cast<uint8_t>((o.code(i) & 15) | (o.code(i + 16) & 15) << 4);
}
void PutHighBits32(const One& o, uint8_t* b) {
  uint32_t high = 0;
  for (int i = 0; i < 32; ++i) high |= static_cast<uint32_t>(o.code(i) >> 4) << i;
  std::memcpy(b, &high, 4);
}

void PackQ2K(const One& o, uint8_t* b) {
  std::memset(b, 0, 84);
  for (int k = 0; k < 16; ++k) b[k] = static_cast<uint8_t>(o.scale(k) | o.min(k) << 4);
  for (int e = 0; e < 256; ++e) b[16 + 32 * (e / 128) + e % 32] |= o.code(e) << (2 * ((e % 128) / 32));
  PutHalf(o.d(), b + 80);
  PutHalf(o.m(), b + 82);
}

void PackQ3K(const One& o, uint8_t* b) {
  std::memset(b, 0, 110);
  for (int e = 0; e < 256; ++e) {
    b[32 + 32 * (e / 128) + e % 32] |= (o.code(e) & 3) << (2 * ((e % 128) / 32));
    b[e % 32] |= (o.code(e) >> 2) << (e / 32);
  }
  for (int k = 0; k < 16; ++k) {
    const int s = o.scale(k) + 32;
    b[96 + k % 8] |= (s & 15) << (4 * (k / 8));
    b[104 + k % 4] |= (s >> 4) << (2 * (k / 4));
  }
  PutHalf(o.d(), b + 108);
}

// The 12 bytes of eight 6-bit scales and minima.
void PutScaleMins(const One& o, uint8_t* s) {
  for (int k = 0; k < 4; ++k) {
    s[k] = static_cast<uint8_t>(o.scale(k) | (o.scale(k + 4) >> 4) << 6);
    s[k + 4] = static_cast<uint8_t>(o.min(k) | (o.min(k + 4) >> 4) << 6);
    s[k + 8] = static_cast<uint8_t>((o.scale(k + 4) & 15) | (o.min(k + 4) & 15) << 4);
  }
}

// Low nibbles of a block of 256: 32 values, then the next 32 in the high halves.
void PutNibbles256(const One& o, uint8_t* b) {
  for (int pair = 0; pair < 4; ++pair) {
    const uint8_t* codes = o.codes() + 64 * pair;
    for (int i = 0; i < 32; ++i) {
      b[32 * pair + i] = static_cast<uint8_t>((codes[i] & 15) | (codes[i + 32] & 15) << 4);
    }
  }
}

void PackQ4K(const One& o, uint8_t* b) {
  PutHalf(o.d(), b);
  PutHalf(o.m(), b + 2);
  PutScaleMins(o, b + 4);
  PutNibbles256(o, b + 16);
}

void PackQ5K(const One& o, uint8_t* b) {
  PutHalf(o.d(), b);
  PutHalf(o.m(), b + 2);
  PutScaleMins(o, b + 4);
  const uint8_t* codes = o.codes();
  for (int i = 0; i < 32; ++i) {
    int high = 0;
    for (int k = 0; k < 8; ++k) high |= (codes[32 * k + i] >> 4) << k;
    b[16 + i] = static_cast<uint8_t>(high);
  }
  PutNibbles256(o, b + 48);
}

void PackQ6K(const One& o, uint8_t* b) {
  for (int g = 0; g < 2; ++g) {
    const uint8_t* q = o.codes() + 128 * g;
    for (int i = 0; i < 64; ++i) b[64 * g + i] = static_cast<uint8_t>((q[i] & 15) | (q[64 + i] & 15) << 4);
    for (int i = 0; i < 32; ++i) {
      b[128 + 32 * g + i] = static_cast<uint8_t>((q[i] >> 4) | (q[32 + i] >> 4) << 2 | (q[64 + i] >> 4) << 4 |
                                                 (q[96 + i] >> 4) << 6);
    }
  }
  for (int k = 0; k < 16; ++k) b[192 + k] = static_cast<uint8_t>(o.scale(k));
  PutHalf(o.d(), b + 208);
}

void PackIq4Xs(const One& o, uint8_t* b) {
  std::memset(b, 0, 8);
  PutHalf(o.d(), b);
  for (int k = 0; k < 8; ++k) {
    const int s = o.scale(k) + 32;
    b[2 + k / 4] |= (s >> 4) << (2 * (k % 4));
    b[4 + k / 2] |= (s & 15) << (4 * (k % 2));
    for (int i = 0; i < 16; ++i) {
      b[8 + 16 * k + i] = static_cast<uint8_t>(o.code(32 * k + i) | o.code(32 * k + 16 + i) << 4);
    }
  }
}

// Types of 32 values: d (, m) (, high bits), nibbles.
void PackSmall(const One& o, bool minimum, bool high_bits, uint8_t* b) {
  PutHalf(o.d(), b);
  b += 2;
  if (minimum) {
    PutHalf(o.m(), b);
    b += 2;
  }
  if (high_bits) {
    PutHighBits32(o, b);
    b += 4;
  }
  PutNibbles32(o, b);
}

void PackQ8(const One& o, uint8_t* b) {
  PutHalf(o.d(), b);
  for (int i = 0; i < 32; ++i) b[2 + i] = static_cast<uint8_t>(o.code(i) - 127);
}

}  // namespace

void PackBlock(GgufType type, const EncodedLanes& lanes, int lane, uint8_t* block) {
  const One wide{lanes, lane, 32}, narrow{lanes, lane, 16};
  switch (type) {
    case GgufType::kQ4_0:
    case GgufType::kIQ4_NL:
      return PackSmall(wide, false, false, block);
    case GgufType::kQ4_1:
      return PackSmall(wide, true, false, block);
    case GgufType::kQ5_0:
      return PackSmall(wide, false, true, block);
    case GgufType::kQ5_1:
      return PackSmall(wide, true, true, block);
    case GgufType::kQ8_0:
      return PackQ8(wide, block);
    case GgufType::kQ2_K:
      return PackQ2K(narrow, block);
    case GgufType::kQ3_K:
      return PackQ3K(narrow, block);
    case GgufType::kQ4_K:
      return PackQ4K(wide, block);
    case GgufType::kQ5_K:
      return PackQ5K(wide, block);
    case GgufType::kQ6_K:
      return PackQ6K(narrow, block);
    case GgufType::kIQ4_XS:
      return PackIq4Xs(wide, block);
    default:
      PLANISH_CHECK(false) << InfoOf(type).name;
  }
}

}  // namespace planish

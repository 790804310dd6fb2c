// Element types and their conversion to and from float.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string_view>

namespace planish {

// The types of safetensors, by its names ("BF16"). Only kF32, kF16, kBF16 are computed with;
// the others are storage.
enum class DType : uint8_t {
  kF64,
  kF32,
  kF16,
  kBF16,
  kI64,
  kU64,
  kI32,
  kU32,
  kI16,
  kU16,
  kI8,
  kU8,
  kBool,
  kF8E4M3,
  kF8E5M2,
  kF8E8M0,
  kF8E4M3FNUZ,
  kF8E5M2FNUZ,
  kF6E2M3,
  kF6E3M2,
  kF4,
  kC64,
};
inline constexpr int kNumDTypes = 22;

std::string_view DTypeName(DType type);                  // "BF16"
std::optional<DType> ParseDType(std::string_view name);  // by that name, case as written
int DTypeBits(DType type);                               // 4 to 64
inline bool IsComputable(DType t) { return t == DType::kF32 || t == DType::kF16 || t == DType::kBF16; }

// bfloat16 is the upper half of a float: widening is exact.
struct BF16 {
  uint16_t bits;
};
struct F16 {
  uint16_t bits;
};
static_assert(sizeof(BF16) == 2 && sizeof(F16) == 2);

inline float ToFloat(BF16 v) { return std::bit_cast<float>(static_cast<uint32_t>(v.bits) << 16); }
// Round to nearest, ties to even; NaN stays NaN (quiet).
inline BF16 ToBF16(float f) {
  const auto u = std::bit_cast<uint32_t>(f);
  if ((u & 0x7fffffffu) > 0x7f800000u) return {static_cast<uint16_t>((u >> 16) | 0x40u)};
  return {static_cast<uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16)};
}
float ToFloat(F16 v);
F16 ToF16(float f);  // round to nearest even; beyond 65,504 + half a step becomes infinity
inline float ToFloat(float f) { return f; }

}  // namespace planish

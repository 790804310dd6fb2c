// The block types of GGUF files: a row is cut into blocks of `block` values, each stored in `bytes` bytes
// that hold codes and their scales. Layouts: https://github.com/ggml-org/ggml, ggml-common.h; here they are
// written down where they are decoded, in gguf_decode.cc.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

namespace planish {

// The numbers are those in files. Missing ones were removed from the format.
enum class GgufType : int32_t {
  kF32 = 0,
  kF16 = 1,
  kQ4_0 = 2,
  kQ4_1 = 3,
  kQ5_0 = 6,
  kQ5_1 = 7,
  kQ8_0 = 8,
  kQ8_1 = 9,
  kQ2_K = 10,
  kQ3_K = 11,
  kQ4_K = 12,
  kQ5_K = 13,
  kQ6_K = 14,
  kQ8_K = 15,
  kIQ2_XXS = 16,
  kIQ2_XS = 17,
  kIQ3_XXS = 18,
  kIQ1_S = 19,
  kIQ4_NL = 20,
  kIQ3_S = 21,
  kIQ2_S = 22,
  kIQ4_XS = 23,
  kI8 = 24,
  kI16 = 25,
  kI32 = 26,
  kI64 = 27,
  kF64 = 28,
  kIQ1_M = 29,
  kBF16 = 30,
  kTQ1_0 = 34,
  kTQ2_0 = 35,
  kMXFP4 = 39,
  kNVFP4 = 40,
  kQ1_0 = 41,
  kQ2_0 = 42,
};

struct GgufTypeInfo {
  GgufType type;
  const char* name;  // "Q4_K"
  int64_t block;     // values
  int64_t bytes;     // of a block
  bool decodes;      // DecodeBlocks takes it
  bool encodes;      // EncodeBlocks makes it
};

std::span<const GgufTypeInfo> AllGgufTypes();
// Null for a number that is no type (any more).
const GgufTypeInfo* FindGgufType(int64_t number);
inline const GgufTypeInfo& InfoOf(GgufType type) { return *FindGgufType(static_cast<int64_t>(type)); }
// By name, upper or lower case: "q4_k".
std::optional<GgufType> ParseGgufType(std::string_view name);
// Numbers of types that were once in use: 4, 5, 31 to 33, 36 to 38.
bool IsRemovedGgufType(int64_t number);
// `cols` must be a multiple of the block.
inline int64_t GgufRowBytes(GgufType type, int64_t cols) {
  return cols / InfoOf(type).block * InfoOf(type).bytes;
}

}  // namespace planish

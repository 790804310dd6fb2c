#include "formats/gguf_types.h"

#include <algorithm>
#include <cctype>

namespace planish {
namespace {

using enum GgufType;
constexpr bool kYes = true, kNo = false;

constexpr GgufTypeInfo kTypes[] = {
    {kF32, "F32", 1, 4, kNo, kNo},
    {kF16, "F16", 1, 2, kNo, kNo},
    {kQ4_0, "Q4_0", 32, 18, kYes, kYes},
    {kQ4_1, "Q4_1", 32, 20, kYes, kYes},
    {kQ5_0, "Q5_0", 32, 22, kYes, kYes},
    {kQ5_1, "Q5_1", 32, 24, kYes, kYes},
    {kQ8_0, "Q8_0", 32, 34, kYes, kYes},
    {kQ8_1, "Q8_1", 32, 36, kNo, kNo},
    {kQ2_K, "Q2_K", 256, 84, kYes, kYes},
    {kQ3_K, "Q3_K", 256, 110, kYes, kYes},
    {kQ4_K, "Q4_K", 256, 144, kYes, kYes},
    {kQ5_K, "Q5_K", 256, 176, kYes, kYes},
    {kQ6_K, "Q6_K", 256, 210, kYes, kYes},
    {kQ8_K, "Q8_K", 256, 292, kNo, kNo},
    {kIQ2_XXS, "IQ2_XXS", 256, 66, kYes, kNo},
    {kIQ2_XS, "IQ2_XS", 256, 74, kYes, kNo},
    {kIQ3_XXS, "IQ3_XXS", 256, 98, kYes, kNo},
    {kIQ1_S, "IQ1_S", 256, 50, kYes, kNo},
    {kIQ4_NL, "IQ4_NL", 32, 18, kYes, kYes},
    {kIQ3_S, "IQ3_S", 256, 110, kYes, kNo},
    {kIQ2_S, "IQ2_S", 256, 82, kYes, kNo},
    {kIQ4_XS, "IQ4_XS", 256, 136, kYes, kYes},
    {kI8, "I8", 1, 1, kNo, kNo},
    {kI16, "I16", 1, 2, kNo, kNo},
    {kI32, "I32", 1, 4, kNo, kNo},
    {kI64, "I64", 1, 8, kNo, kNo},
    {kF64, "F64", 1, 8, kNo, kNo},
    {kIQ1_M, "IQ1_M", 256, 56, kYes, kNo},
    {kBF16, "BF16", 1, 2, kNo, kNo},
    {kTQ1_0, "TQ1_0", 256, 54, kYes, kNo},
    {kTQ2_0, "TQ2_0", 256, 66, kYes, kNo},
    {kMXFP4, "MXFP4", 32, 17, kYes, kYes},
    {kNVFP4, "NVFP4", 64, 36, kYes, kNo},
    {kQ1_0, "Q1_0", 128, 18, kYes, kNo},
    {kQ2_0, "Q2_0", 64, 18, kYes, kNo},
};

}  // namespace

std::span<const GgufTypeInfo> AllGgufTypes() { return kTypes; }

const GgufTypeInfo* FindGgufType(int64_t number) {
  for (const auto& info : kTypes) {
    if (static_cast<int64_t>(info.type) == number) return &info;
  }
  return nullptr;
}

std::optional<GgufType> ParseGgufType(std::string_view name) {
  const auto same = [](char a, char b) {
    return std::toupper(static_cast<unsigned char>(a)) == std::toupper(static_cast<unsigned char>(b));
  };
  for (const auto& info : kTypes) {
    if (std::ranges::equal(name, std::string_view(info.name), same)) return info.type;
  }
  return std::nullopt;
}

bool IsRemovedGgufType(int64_t number) {
  return number == 4 || number == 5 || (number >= 31 && number <= 33) || (number >= 36 && number <= 38);
}

}  // namespace planish

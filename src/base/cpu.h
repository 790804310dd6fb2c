// What this processor and kernel really allow, and the names of our kernel sets.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace planish {

// Kernel sets, from the definition to the fastest. Every set computes the same functions.
//   kScalar  plain loops with std::fma: the specification, and what `strict` is compared with
//   kSse4    x86-64-v2 without fused multiply-add (products rounded): `fast` profile only
//   kAvx2    AVX2 + FMA + F16C
//   kAvx512  AVX-512 F, BW, DQ, VL
enum class Isa { kScalar, kSse4, kAvx2, kAvx512 };
inline constexpr Isa kAllIsas[] = {Isa::kScalar, Isa::kSse4, Isa::kAvx2, Isa::kAvx512};

std::string_view IsaName(Isa isa);
std::optional<Isa> ParseIsa(std::string_view name);

// True when the CPU has the instructions and the operating system saves their registers.
bool IsaSupported(Isa isa);
Isa BestIsa();
// "avx512 avx2 sse4 scalar" on this machine.
std::string SupportedIsas();

}  // namespace planish

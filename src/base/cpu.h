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

// Instructions beyond a kernel set's that some kernels use when they are there.
//   kAvx512Vnni  8-bit dot products into 32 bits, 512-bit registers; kAvxVnni: the VEX form, 256-bit
//   kAvx512Bf16  dot products of bf16 pairs
//   kAmxInt8, kAmxBf16  matrix tiles. True says that the kernel would grant them: a process still has to ask
//                (AllowTiles) before its first tile instruction.
//   kBmi2        bit deposit and extract
//   kArmDotprod  8-bit dot products of Armv8.2
enum class CpuFeature { kAvx512Vnni, kAvxVnni, kAvx512Bf16, kAmxInt8, kAmxBf16, kBmi2, kArmDotprod };
inline constexpr CpuFeature kAllCpuFeatures[] = {
    CpuFeature::kAvx512Vnni, CpuFeature::kAvxVnni, CpuFeature::kAvx512Bf16, CpuFeature::kAmxInt8,
    CpuFeature::kAmxBf16,    CpuFeature::kBmi2,    CpuFeature::kArmDotprod};
std::string_view CpuFeatureName(CpuFeature feature);
// True when the CPU has the instructions and the operating system saves their registers.
bool CpuHas(CpuFeature feature);

// Asks the operating system for tile data, once in a process. False: no matrix tiles of bf16 here, or not
// granted.
bool AllowTiles();

// True when the CPU has the instructions and the operating system saves their registers.
bool IsaSupported(Isa isa);
Isa BestIsa();
// "avx512 avx2 sse4 scalar" on this machine.
std::string SupportedIsas();

}  // namespace planish

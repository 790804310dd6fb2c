#include "base/cpu.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace planish {
namespace {

struct IsaInfo {
  Isa isa;
  std::string_view name;
};
#if defined(__x86_64__)
// CPUID leaf 1, bit 29 of ECX; clang's __builtin_cpu_supports does not know the name.
bool HasF16c() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & (1u << 29)) != 0;
}
#endif

constexpr std::string_view kFeatureNames[] = {"avx512-vnni", "avx-vnni", "avx512-bf16", "amx-int8",
                                              "amx-bf16",    "bmi2",     "arm-dotprod"};
static_assert(std::size(kFeatureNames) == std::size(kAllCpuFeatures));

#if defined(__x86_64__)
struct Leaf {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
};
Leaf Cpuid(unsigned leaf, unsigned subleaf) {
  Leaf r;
  if (__get_cpuid_count(leaf, subleaf, &r.eax, &r.ebx, &r.ecx, &r.edx) == 0) return {};
  return r;
}
constexpr bool Bit(unsigned word, int bit) { return ((word >> bit) & 1u) != 0; }

// Register states that the operating system saves (XCR0); 0 without XSAVE.
uint64_t SavedStates() {
  if (!Bit(Cpuid(1, 0).ecx, 27)) return 0;
  unsigned low = 0, high = 0;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (static_cast<uint64_t>(high) << 32) | low;
}

// Tile data is a state that Linux grants to processes on request: 17 is tile configuration, 18 tile data.
bool KernelGrantsTiles() {
#if defined(__linux__)
  constexpr int kGetSupportedStates = 0x1021;  // ARCH_GET_XCOMP_SUPP
  uint64_t states = 0;
  return syscall(SYS_arch_prctl, kGetSupportedStates, &states) == 0 && ((states >> 18) & 1) != 0;
#else
  return false;
#endif
}
#endif

constexpr IsaInfo kNames[] = {
    {Isa::kScalar, "scalar"}, {Isa::kSse4, "sse4"}, {Isa::kAvx2, "avx2"}, {Isa::kAvx512, "avx512"}};
static_assert(std::size(kNames) == std::size(kAllIsas));

}  // namespace

std::string_view IsaName(Isa isa) { return kNames[static_cast<int>(isa)].name; }

std::optional<Isa> ParseIsa(std::string_view name) {
  for (const auto& info : kNames) {
    if (info.name == name) return info.isa;
  }
  return std::nullopt;
}

std::string_view CpuFeatureName(CpuFeature feature) { return kFeatureNames[static_cast<int>(feature)]; }

bool CpuHas(CpuFeature feature) {
#if defined(__x86_64__)
  const Leaf basic = Cpuid(7, 0), more = Cpuid(7, 1);
  const uint64_t states = SavedStates();
  const bool ymm = (states & 0x6) == 0x6, zmm = (states & 0xe6) == 0xe6;
  const bool tiles = ((states >> 17) & 3) == 3 && Bit(basic.edx, 24) && KernelGrantsTiles();
  switch (feature) {
    case CpuFeature::kAvx512Vnni:
      return zmm && Bit(basic.ecx, 11);
    case CpuFeature::kAvxVnni:
      return ymm && Bit(more.eax, 4);
    case CpuFeature::kAvx512Bf16:
      return zmm && Bit(more.eax, 5);
    case CpuFeature::kAmxInt8:
      return tiles && Bit(basic.edx, 25);
    case CpuFeature::kAmxBf16:
      return tiles && Bit(basic.edx, 22);
    case CpuFeature::kBmi2:
      return Bit(basic.ebx, 8);
    case CpuFeature::kArmDotprod:
      return false;
  }
  return false;
#elif defined(__aarch64__) && defined(__linux__)
  constexpr unsigned long kDotprodBit = 1ul << 20;  // HWCAP_ASIMDDP
  return feature == CpuFeature::kArmDotprod && (getauxval(AT_HWCAP) & kDotprodBit) != 0;
#else
  static_cast<void>(feature);
  return false;
#endif
}

bool AllowTiles() {
#if defined(__x86_64__) && defined(__linux__)
  constexpr int kRequestState = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM
  static const bool granted =
      CpuHas(CpuFeature::kAmxBf16) && syscall(SYS_arch_prctl, kRequestState, kTileData) == 0;
  return granted;
#else
  return false;
#endif
}

bool IsaSupported(Isa isa) {
#if defined(__x86_64__)
  // __builtin_cpu_supports also checks XCR0, that is, what the operating system enabled.
  switch (isa) {
    case Isa::kScalar:
      return true;
    case Isa::kSse4:
      return __builtin_cpu_supports("sse4.2");
    case Isa::kAvx2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && HasF16c();
    case Isa::kAvx512:
      return IsaSupported(Isa::kAvx2) && __builtin_cpu_supports("avx512f") &&
             __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
             __builtin_cpu_supports("avx512vl");
  }
  return false;
#else
  return isa == Isa::kScalar;
#endif
}

Isa BestIsa() {
  Isa best = Isa::kScalar;
  for (Isa isa : kAllIsas) {
    if (IsaSupported(isa)) best = isa;
  }
  return best;
}

std::string SupportedIsas() {
  std::string out;
  for (int i = static_cast<int>(std::size(kAllIsas)) - 1; i >= 0; --i) {
    if (!IsaSupported(kAllIsas[i])) continue;
    if (!out.empty()) out += ' ';
    out += IsaName(kAllIsas[i]);
  }
  return out;
}

}  // namespace planish

#include "base/cpu.h"

#if defined(__x86_64__)
#include <cpuid.h>
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

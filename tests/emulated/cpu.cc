// The processor of the emulated tests: it has, besides what it really has, the instructions of immintrin.h
// beside this file. Takes the place of src/base/cpu.cc, of which it is made: only the questions are answered
// anew. PLANISH_EMULATED_WITHOUT names features that it lacks ("avx512-bf16 avx512-vnni"), so that the
// kernels which are chosen then run too.
#define CpuHas NativeCpuHas
#define IsaSupported NativeIsaSupported
#define BestIsa NativeBestIsa
#define SupportedIsas NativeSupportedIsas
#define AllowTiles NativeAllowTiles
#include "../../src/base/cpu.cc"
#undef CpuHas
#undef IsaSupported
#undef BestIsa
#undef SupportedIsas
#undef AllowTiles

#include <cstdlib>

namespace planish {

bool CpuHas(CpuFeature feature) {
  const char* without = std::getenv("PLANISH_EMULATED_WITHOUT");
  if (without != nullptr &&
      std::string_view(without).find(CpuFeatureName(feature)) != std::string_view::npos) {
    return false;
  }
  switch (feature) {
    case CpuFeature::kAvx512Vnni:
    case CpuFeature::kAvxVnni:
    case CpuFeature::kAvx512Bf16:
    case CpuFeature::kBmi2:
    case CpuFeature::kAmxBf16:
      return NativeIsaSupported(Isa::kAvx2);
    default:
      return false;
  }
}

bool AllowTiles() { return CpuHas(CpuFeature::kAmxBf16); }

bool IsaSupported(Isa isa) { return NativeIsaSupported(isa == Isa::kAvx512 ? Isa::kAvx2 : isa); }

Isa BestIsa() { return IsaSupported(Isa::kAvx512) ? Isa::kAvx512 : NativeBestIsa(); }

std::string SupportedIsas() { return "avx512 (emulated) " + NativeSupportedIsas(); }

}  // namespace planish

#include "grids/fit.h"

#include "grids/fit-inl.h"

namespace planish {

void FitPanelScalar(const PanelFit& fit) { FitPanelBody(fit); }

void FitPanel(Isa isa, const PanelFit& fit) {
#if defined(__x86_64__)
  if (isa == Isa::kAvx512) return FitPanelAvx512(fit);
  if (isa == Isa::kAvx2) return FitPanelAvx2(fit);
#endif
  FitPanelScalar(fit);
}

}  // namespace planish

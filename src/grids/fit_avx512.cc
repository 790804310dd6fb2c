#if defined(__x86_64__)

#include "grids/fit-inl.h"

namespace planish {

void FitPanelAvx512(const PanelFit& fit) { FitPanelBody(fit); }

}  // namespace planish

#endif

#if defined(__x86_64__)

#include "grids/integer_fit-inl.h"

namespace planish {

void FitPanelAvx512(const PanelFit& fit) { FitPanelBody(fit); }

}  // namespace planish

#endif

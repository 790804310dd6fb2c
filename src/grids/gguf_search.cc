#include "grids/gguf_search.h"

#include "grids/gguf_search-inl.h"

namespace planish {

const SearchKernels kSearchScalar = kBodies;

const SearchKernels& SelectSearchKernels(Isa isa) {
#if defined(__x86_64__)
  if (isa == Isa::kAvx512) return kSearchAvx512;
  if (isa == Isa::kAvx2) return kSearchAvx2;
#endif
  static_cast<void>(isa);
  return kSearchScalar;
}

}  // namespace planish

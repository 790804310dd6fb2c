#if defined(__x86_64__)

#include "grids/gguf_search-inl.h"

namespace planish {

const SearchKernels kSearchAvx512 = kBodies;

}  // namespace planish

#endif

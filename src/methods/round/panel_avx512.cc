#if defined(__x86_64__)

#include "methods/round/panel-inl.h"

namespace planish {

void RoundPanelAvx512(const PanelBlock& block, int64_t begin, int64_t end) { RoundBody(block, begin, end); }
void FeedPanelAvx512(const PanelBlock& block, int64_t first, int64_t last, int64_t begin, int64_t end) {
  FeedBody(block, first, last, begin, end);
}
void TargetPanelAvx512(const PanelBlock& block, int64_t begin, int64_t end, float* targets) {
  TargetBody(block, begin, end, targets);
}

}  // namespace planish

#endif

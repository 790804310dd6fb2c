#include "methods/round/panel.h"

#include "methods/round/panel-inl.h"

namespace planish {

void RoundPanelScalar(const PanelBlock& block, int64_t begin, int64_t end) { RoundBody(block, begin, end); }
void FeedPanelScalar(const PanelBlock& block, int64_t first, int64_t last, int64_t begin, int64_t end) {
  FeedBody(block, first, last, begin, end);
}
void TargetPanelScalar(const PanelBlock& block, int64_t begin, int64_t end, float* targets) {
  TargetBody(block, begin, end, targets);
}

void RoundPanel(Isa isa, const PanelBlock& block, int64_t begin, int64_t end) {
#if defined(__x86_64__)
  if (isa == Isa::kAvx512) return RoundPanelAvx512(block, begin, end);
  if (isa == Isa::kAvx2) return RoundPanelAvx2(block, begin, end);
#endif
  RoundPanelScalar(block, begin, end);
}

void FeedPanel(Isa isa, const PanelBlock& block, int64_t first, int64_t last, int64_t begin, int64_t end) {
#if defined(__x86_64__)
  if (isa == Isa::kAvx512) return FeedPanelAvx512(block, first, last, begin, end);
  if (isa == Isa::kAvx2) return FeedPanelAvx2(block, first, last, begin, end);
#endif
  FeedPanelScalar(block, first, last, begin, end);
}

void TargetPanel(Isa isa, const PanelBlock& block, int64_t begin, int64_t end, float* targets) {
#if defined(__x86_64__)
  if (isa == Isa::kAvx512) return TargetPanelAvx512(block, begin, end, targets);
  if (isa == Isa::kAvx2) return TargetPanelAvx2(block, begin, end, targets);
#endif
  TargetPanelScalar(block, begin, end, targets);
}

}  // namespace planish

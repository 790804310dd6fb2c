// Rounding in the block types of GGUF: from the engine's columns to blocks and back.
#include "methods/round/columns.h"

namespace planish {

void FitBlock(const ColumnProblem& problem, int64_t b, int64_t row, const float* x, int64_t ld,
              const float* weights, ColumnCoding& coding) {
  const BlockLayout& layout = problem.layout;
  const SearchKernels& kernels = SelectSearchKernels(problem.context->isa);
  LanePanel panel{};
  for (int64_t first = 0; first < kPanelRows; first += kSearchLanes / layout.subs) {
    for (int k = 0; k < layout.n; ++k) {
      for (int lane = 0; lane < kSearchLanes; ++lane) {
        const int64_t column = lane % layout.subs * layout.n + k, r = first + lane / layout.subs;
        panel.x[k * kSearchLanes + lane] = x[column * ld + r];
        panel.w[k * kSearchLanes + lane] = weights[column];
      }
    }
    FitLanes(kernels, layout, panel);
    for (int lane = 0; lane < kSearchLanes; ++lane) {
      const int64_t g = b * layout.subs + lane % layout.subs, r = row + first + lane / layout.subs;
      coding.scales(g, r) = LaneScale(layout, panel.out, lane);
      coding.zeros(g, r) = LaneMin(layout, panel.out, lane);
      coding.super_scales(b, r) = panel.out.d[lane];
      coding.super_mins(b, r) = panel.out.m[lane];
      coding.steps(g, r) = static_cast<int8_t>(panel.out.scale[lane]);
      coding.min_steps(g, r) = static_cast<uint8_t>(panel.out.min[lane]);
    }
  }
}

Buffer ToBlocks(const ColumnProblem& problem, const ColumnCoding& coding) {
  const BlockLayout& layout = problem.layout;
  const GgufType type = problem.grid.block_type;
  const int64_t blocks = problem.cols() / layout.block, bytes = InfoOf(type).bytes;
  Buffer out(static_cast<size_t>(problem.rows * blocks * bytes));
  problem.context->pool->ParallelFor(problem.rows, [&](int64_t r) {
    EncodedLanes lanes;
    for (int64_t b = 0; b < blocks; ++b) {
      for (int lane = 0; lane < layout.subs; ++lane) {
        const int64_t g = b * layout.subs + lane;
        lanes.d[lane] = coding.super_scales(b, r);
        lanes.m[lane] = coding.super_mins(b, r);
        lanes.scale[lane] = coding.steps(g, r);
        lanes.min[lane] = coding.min_steps(g, r);
        for (int k = 0; k < layout.n; ++k) {
          lanes.codes[lane * layout.n + k] = coding.codes(g * layout.n + k, r);
        }
      }
      auto* to = reinterpret_cast<uint8_t*>(out.data()) + (r * blocks + b) * bytes;
      PackBlock(type, lanes, 0, to);
    }
  });
  return out;
}

}  // namespace planish

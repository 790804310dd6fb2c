#include "runtime/packed_prefill.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>

#include "base/checked.h"

namespace planish {
namespace {

constexpr int64_t kGroup = packed::kMaxTokens;
// Tiles of a task, and groups of tokens that go through all of them before the next: 128 tokens of 2,048
// columns are 256 KiB.
constexpr int64_t kTilesOfTask = 8, kGroupsOfBlock = 16;

// Quantizes x in groups; false when a value is not finite.
bool SetAll(const Context& context, const packed::KernelSet& kernels, MatView<const float> x,
            const InputForm& form, std::vector<QuantizedInput>& groups) {
  const int64_t count = CeilDiv(x.rows, kGroup);
  if (static_cast<int64_t>(groups.size()) < count) groups.resize(static_cast<size_t>(count));
  std::atomic<bool> finite{true};
  context.pool->ParallelFor(count, [&](int64_t g) {
    QuantizedInput& group = groups[static_cast<size_t>(g)];
    group.Set(kernels, x.Rows(g * kGroup, std::min(kGroup, x.rows - g * kGroup)), form);
    if (!group.finite()) finite.store(false, std::memory_order_relaxed);
  });
  return finite.load();
}

void MultiplyGroups(const Context& context, const packed::KernelSet& kernels, const PackedLinear& layer,
                    const std::vector<QuantizedInput>& inputs, const std::vector<QuantizedInput>* paths,
                    MatView<float> y, const MultiplyOptions& options) {
  const int64_t groups = CeilDiv(y.rows, kGroup);
  context.pool->ParallelFor(CeilDiv(layer.tiles(), kTilesOfTask), [&](int64_t task) {
    const int64_t first = task * kTilesOfTask, last = std::min(layer.tiles(), first + kTilesOfTask);
    for (int64_t block = 0; block < groups; block += kGroupsOfBlock) {
      for (int64_t tile = first; tile < last; ++tile) {
        for (int64_t g = block; g < std::min(groups, block + kGroupsOfBlock); ++g) {
          const auto i = static_cast<size_t>(g);
          // The first tokens bring the next tile.
          const std::byte* next = g == block && tile + 1 < layer.tiles() ? layer.TileData(tile + 1) : nullptr;
          MultiplyTiles(kernels, layer, inputs[i], paths == nullptr ? nullptr : &(*paths)[i], tile, tile + 1,
                        y.Rows(g * kGroup, std::min(kGroup, y.rows - g * kGroup)), options, next);
        }
      }
    }
  });
}

}  // namespace

bool FastFromCodes(const packed::KernelSet& kernels, PackedKind kind) {
  if (!IsCoded(kind)) return false;
  return kernels.byte_dots || kind == PackedKind::kInt2 || kind == PackedKind::kInt3 ||
         kind == PackedKind::kInt4;
}

Status PackedPrefill::Multiply(const Context& context, const packed::KernelSet& kernels,
                               const PackedLinear& layer, MatView<const float> x, MatView<float> y,
                               const MultiplyOptions& options, const std::string& where) {
  PLANISH_CHECK(x.rows == y.rows && x.cols == layer.cols() && y.cols == layer.rows())
      << "[" << x.rows << "," << x.cols << "] -> [" << y.rows << "," << y.cols << "]";
  if (!SetAll(context, kernels, x, layer.InputFormFor(options), inputs_)) {
    return FailureError(fmt::format("{}: the activations are not finite", where));
  }
  if (layer.v() == nullptr) {
    MultiplyGroups(context, kernels, layer, inputs_, nullptr, y, options);
    return {};
  }
  path_outputs_.Resize(x.rows, layer.v()->rows());
  MultiplyGroups(context, kernels, *layer.v(), inputs_, nullptr, path_outputs_.view(), options);
  if (!SetAll(context, kernels, path_outputs_.view(), LowRankForm(options), paths_)) {
    return FailureError(fmt::format("{}: the low-rank path is not finite", where));
  }
  MultiplyGroups(context, kernels, layer, inputs_, &paths_, y, options);
  return {};
}

}  // namespace planish

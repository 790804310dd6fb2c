#include "pipeline/block_driver.h"

#include <fmt/format.h>

#include <algorithm>

namespace planish {
namespace {

constexpr int64_t kChunkTokens = 4096;

bool IsCheap(const Op& op) {
  return !std::holds_alternative<LinearOp>(op.body) && !std::holds_alternative<AttentionOp>(op.body) &&
         !std::holds_alternative<EmbedOp>(op.body);
}

int64_t Width(const Block& block, const std::vector<ValueId>& live) {
  int64_t width = 0;
  for (ValueId v : live) width += block.values[static_cast<size_t>(v)].width;
  return width;
}

}  // namespace

CalibrationSet CalibrationSet::Make(std::vector<std::vector<int32_t>> windows) {
  CalibrationSet set;
  set.windows = std::move(windows);
  set.windows_per_chunk = std::max<int64_t>(1, kChunkTokens / set.length());
  return set;
}

int64_t CalibrationSet::ChunkRows(int64_t chunk) const {
  const int64_t first = chunk * windows_per_chunk;
  return std::min(windows_per_chunk, static_cast<int64_t>(windows.size()) - first) * length();
}

Batch CalibrationSet::ChunkBatch(int64_t chunk) const {
  Batch batch;
  const int64_t first = chunk * windows_per_chunk;
  const int64_t last = std::min(first + windows_per_chunk, static_cast<int64_t>(windows.size()));
  for (int64_t w = first; w < last; ++w) {
    batch.Add(windows[static_cast<size_t>(w)], static_cast<int32_t>(w - first), 0);
  }
  return batch;
}

std::vector<ValueId> LiveBefore(const Block& block, int op) {
  std::vector<ValueId> live;
  const auto keep = [&](ValueId value) {
    if (block.LastUse(value) >= op) live.push_back(value);
  };
  if (block.input >= 0) keep(block.input);
  for (int i = 0; i < op; ++i) keep(block.ops[static_cast<size_t>(i)].output);
  return live;
}

Cut RestartCut(const Block& block, const Site& site) {
  Cut best{site.first_op, LiveBefore(block, site.first_op)};
  for (int op = site.first_op - 1; op >= 0 && IsCheap(block.ops[static_cast<size_t>(op)]); --op) {
    auto live = LiveBefore(block, op);
    if (Width(block, live) < Width(block, best.live)) best = {op, std::move(live)};
  }
  return best;
}

int64_t WidestCut(const Program& program) {
  int64_t widest = program.hidden;
  for (int b = 0; b < static_cast<int>(program.blocks.size()); ++b) {
    for (const auto& site : BlockSites(program, b)) {
      const Block& block = program.blocks[static_cast<size_t>(b)];
      widest = std::max(widest, Width(block, RestartCut(block, site).live));
    }
  }
  return widest;
}

double OpMacs(const Program& program, const Op& op, int64_t rows, int64_t length) {
  if (const auto* l = std::get_if<LinearOp>(&op.body)) {
    const auto& slot = program.linears[static_cast<size_t>(l->linear)];
    return static_cast<double>(rows) * static_cast<double>(slot.out * slot.in);
  }
  if (const auto* a = std::get_if<AttentionOp>(&op.body)) {
    // Scores and values, half of each above the diagonal.
    return static_cast<double>(rows) * static_cast<double>(length * a->shape.heads * a->shape.head_dim);
  }
  return 0;
}

Status BlockDriver::LoadCut(const Block& block, const Cut& cut, int64_t chunk, Values& values) {
  values.clear();
  values.resize(block.values.size());
  std::vector<MatView<float>> views;
  for (ValueId v : cut.live) {
    auto& value = values[static_cast<size_t>(v)];
    value = executor_.Take(set_.ChunkRows(chunk), block.values[static_cast<size_t>(v)].width);
    views.push_back(value.view());
  }
  return store_.Get(chunk, views);
}

Status BlockDriver::SaveCut(const Cut& cut, int64_t chunk, const Values& values) {
  std::vector<MatView<const float>> views;
  for (ValueId v : cut.live) views.push_back(values[static_cast<size_t>(v)].view());
  return store_.Put(chunk, views);
}

Status BlockDriver::RunSpan(const Context& context, const Block& block, int first, int last, int64_t chunk,
                            Cache& cache, Values& values) {
  PLANISH_RETURN_IF_ERROR(context.CheckCancelled());
  PLANISH_RETURN_IF_ERROR(
      executor_.RunOps(context, block, first, last, set_.ChunkBatch(chunk), cache, values));
  double macs = 0;
  for (int i = first; i < last; ++i) {
    macs += OpMacs(model_.program, block.ops[static_cast<size_t>(i)], set_.ChunkRows(chunk), set_.length());
  }
  if (on_work) on_work(macs);
  return {};
}

Status BlockDriver::Embed(const Context& context) {
  const Block& block = model_.program.blocks.front();
  DenseCache no_cache(0, 1, 0);
  const Cut cut{static_cast<int>(block.ops.size()), {block.output}};
  for (int64_t chunk = 0; chunk < set_.chunks(); ++chunk) {
    Values values;
    PLANISH_RETURN_IF_ERROR(
        RunSpan(context, block, 0, static_cast<int>(block.ops.size()), chunk, no_cache, values));
    PLANISH_RETURN_IF_ERROR(SaveCut(cut, chunk, values));
    executor_.Give(std::move(values[static_cast<size_t>(block.output)]));
  }
  return {};
}

Status BlockDriver::Sequential(const Context& context, int index, const SolveSite& solve) {
  const Block& block = model_.program.blocks[static_cast<size_t>(index)];
  const auto num_ops = static_cast<int>(block.ops.size());
  Cut from{0, {block.input}};
  DenseCache cache(model_.program.cache_layers, static_cast<int>(set_.windows_per_chunk), set_.length());
  for (const Site& site : BlockSites(model_.program, index)) {
    const Cut to = RestartCut(block, site);
    Moments moments(block.values[static_cast<size_t>(site.value)].width);
    for (int64_t chunk = 0; chunk < set_.chunks(); ++chunk) {
      Values values;
      PLANISH_RETURN_IF_ERROR(LoadCut(block, from, chunk, values));
      PLANISH_RETURN_IF_ERROR(RunSpan(context, block, from.op, to.op, chunk, cache, values));
      PLANISH_RETURN_IF_ERROR(SaveCut(to, chunk, values));
      PLANISH_RETURN_IF_ERROR(RunSpan(context, block, to.op, site.first_op, chunk, cache, values));
      const auto added = moments.Add(context, values[static_cast<size_t>(site.value)]);
      if (!added.ok()) return added.error().At(fmt::format("input of '{}'", site.name));
      const auto width = static_cast<double>(moments.width());
      if (on_work) on_work(static_cast<double>(set_.ChunkRows(chunk)) * width * width / 2);
      for (auto& value : values) executor_.Give(std::move(value));
    }
    PLANISH_RETURN_IF_ERROR(solve(site, std::move(moments)));
    from = to;
  }
  const Cut to{num_ops, {block.output}};
  for (int64_t chunk = 0; chunk < set_.chunks(); ++chunk) {
    Values values;
    PLANISH_RETURN_IF_ERROR(LoadCut(block, from, chunk, values));
    PLANISH_RETURN_IF_ERROR(RunSpan(context, block, from.op, num_ops, chunk, cache, values));
    PLANISH_RETURN_IF_ERROR(SaveCut(to, chunk, values));
    for (auto& value : values) executor_.Give(std::move(value));
  }
  return {};
}

Status BlockDriver::Independent(const Context& context, int index, const SolveSite& solve) {
  const Block& block = model_.program.blocks[static_cast<size_t>(index)];
  const auto num_ops = static_cast<int>(block.ops.size());
  const auto sites = BlockSites(model_.program, index);
  std::vector<Moments> moments;
  for (const auto& site : sites) moments.emplace_back(block.values[static_cast<size_t>(site.value)].width);
  DenseCache cache(model_.program.cache_layers, static_cast<int>(set_.windows_per_chunk), set_.length());
  const Cut from{0, {block.input}}, to{num_ops, {block.output}};
  for (int64_t chunk = 0; chunk < set_.chunks(); ++chunk) {
    Values values;
    PLANISH_RETURN_IF_ERROR(LoadCut(block, from, chunk, values));
    int op = 0;
    for (size_t s = 0; s < sites.size(); ++s) {
      PLANISH_RETURN_IF_ERROR(RunSpan(context, block, op, sites[s].first_op, chunk, cache, values));
      op = sites[s].first_op;
      const auto added = moments[s].Add(context, values[static_cast<size_t>(sites[s].value)]);
      if (!added.ok()) return added.error().At(fmt::format("input of '{}'", sites[s].name));
      const auto width = static_cast<double>(moments[s].width());
      if (on_work) on_work(static_cast<double>(set_.ChunkRows(chunk)) * width * width / 2);
    }
    PLANISH_RETURN_IF_ERROR(RunSpan(context, block, op, num_ops, chunk, cache, values));
    PLANISH_RETURN_IF_ERROR(SaveCut(to, chunk, values));
    for (auto& value : values) executor_.Give(std::move(value));
  }
  for (size_t s = 0; s < sites.size(); ++s) PLANISH_RETURN_IF_ERROR(solve(sites[s], std::move(moments[s])));
  return {};
}

}  // namespace planish

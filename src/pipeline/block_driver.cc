#include "pipeline/block_driver.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

namespace planish {
namespace {

constexpr int64_t kChunkTokens = 4096;

bool IsCheap(const Op& op) {
  return !std::holds_alternative<LinearOp>(op.body) && !std::holds_alternative<AttentionOp>(op.body) &&
         !std::holds_alternative<EmbedOp>(op.body) && !std::holds_alternative<ScanOp>(op.body);
}

// Floats a token needs at most. Of the experts' values a token is in as many as the router chooses.
int64_t Width(const Block& block, const std::vector<ValueId>& live) {
  int64_t width = 0;
  std::map<ValueId, std::vector<int64_t>> experts;  // widths, by routing
  for (const ValueId v : live) {
    const Value& value = block.values[static_cast<size_t>(v)];
    if (value.routing < 0) {
      width += value.width;
    } else {
      experts[value.routing].push_back(value.width);
    }
  }
  for (auto& [routing, widths] : experts) {
    const auto& shape = std::get<RouteOp>(block.Maker(routing)->body).shape;
    // The widest of each expert's values may be several of one expert, which then all count.
    std::ranges::sort(widths, std::greater());
    const size_t values_an_expert =
        (widths.size() + static_cast<size_t>(shape.experts) - 1) / static_cast<size_t>(shape.experts);
    const size_t most = std::min(widths.size(), values_an_expert * static_cast<size_t>(shape.chosen));
    for (size_t i = 0; i < most; ++i) width += widths[i];
  }
  return width;
}

// The operation that gathers the rows of the site's expert.
const Op* GatherOf(const Block& block, const Site& site) {
  for (const Op& op : block.ops) {
    const auto* gather = std::get_if<GatherOp>(&op.body);
    if (gather != nullptr && op.inputs[1] == site.routing && gather->expert == site.expert) return &op;
  }
  PLANISH_CHECK(false) << "no gather for " << site.name;
  return nullptr;
}

// Index of the first gather for the experts of the group, or its first operation.
int FirstGather(const Block& block, const SiteGroup& group) {
  for (int i = 0; i < group.first_op; ++i) {
    const Op& op = block.ops[static_cast<size_t>(i)];
    if (!std::holds_alternative<GatherOp>(op.body)) continue;
    for (const Site& site : group.sites) {
      if (site.routing == op.inputs[1]) return i;
    }
  }
  return group.first_op;
}

// True when an input of the group is what an expert gathered.
bool ReadsGathers(const Block& block, const SiteGroup& group) {
  return std::ranges::any_of(group.sites, [&](const Site& site) {
    return site.routing >= 0 && GatherOf(block, site)->output == site.value;
  });
}

// Operations that make `to` from `from`, in order.
std::vector<int> OpsBetween(const Block& block, ValueId from, ValueId to) {
  std::vector<int> ops;
  std::vector<ValueId> needed = {to};
  for (int i = static_cast<int>(block.ops.size()) - 1; i >= 0; --i) {
    const Op& op = block.ops[static_cast<size_t>(i)];
    if (op.output == from || std::ranges::find(needed, op.output) == needed.end()) continue;
    ops.insert(ops.begin(), i);
    needed.insert(needed.end(), op.inputs.begin(), op.inputs.end());
  }
  return ops;
}

const SiteGroup& GroupOf(const std::vector<SiteGroup>& groups, const Site& site) {
  for (const SiteGroup& group : groups) {
    for (const Site& member : group.sites) {
      if (&member == &site) return group;
    }
  }
  PLANISH_CHECK(false) << "no group has " << site.name;
  return groups.front();
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

Cut RestartCut(const Block& block, const SiteGroup& group) {
  const int start = std::min(group.first_op, FirstGather(block, group));
  Cut best{start, LiveBefore(block, start)};
  // What stands behind the gathers of experts starts at its own first operation.
  if (start < group.first_op && !ReadsGathers(block, group)) {
    best = {group.first_op, LiveBefore(block, group.first_op)};
  }
  for (int op = best.op - 1; op >= 0 && IsCheap(block.ops[static_cast<size_t>(op)]); --op) {
    auto live = LiveBefore(block, op);
    if (Width(block, live) < Width(block, best.live)) best = {op, std::move(live)};
  }
  return best;
}

int64_t WidestCut(const Program& program) {
  int64_t widest = program.hidden;
  for (int b = 0; b < static_cast<int>(program.blocks.size()); ++b) {
    const Block& block = program.blocks[static_cast<size_t>(b)];
    for (const auto& group : GroupSites(block, BlockSites(program, b))) {
      widest = std::max(widest, Width(block, RestartCut(block, group).live));
    }
  }
  return widest;
}

double OpMacs(const Program& program, const Block& block, const Op& op, int64_t rows, int64_t length) {
  const double own_rows = static_cast<double>(rows) * block.RowShare(op.output);
  if (const auto* l = std::get_if<LinearOp>(&op.body)) {
    const auto& slot = program.linears[static_cast<size_t>(l->linear)];
    return own_rows * static_cast<double>(slot.out * slot.in);
  }
  if (const auto* a = std::get_if<AttentionOp>(&op.body)) {
    // Scores and values, half of each above the diagonal.
    const int64_t widths = a->shape.head_dim + a->shape.ValueDim();
    return own_rows * static_cast<double>(length * a->shape.heads * widths) / 2;
  }
  if (const auto* scan = std::get_if<ScanOp>(&op.body)) {
    return own_rows * 3.0 * static_cast<double>(scan->shape.StateSize());
  }
  return 0;
}

double ExpectedRows(const Block& block, const Site& site, int64_t rows) {
  return static_cast<double>(rows) * block.RowShare(site.value);
}

Status BlockDriver::LoadCut(const Block& block, const Cut& cut, int64_t chunk, Values& values) {
  values.clear();
  values.resize(block.values.size());
  std::vector<MatView<float>> views;
  for (ValueId v : cut.live) {
    const Value& about = block.values[static_cast<size_t>(v)];
    const int64_t rows = about.routing >= 0 ? rows_[static_cast<size_t>(chunk)].at(v) : set_.ChunkRows(chunk);
    auto& value = values[static_cast<size_t>(v)];
    value = executor_.Take(rows, about.width);
    views.push_back(value.view());
  }
  return store_.Get(chunk, views);
}

Status BlockDriver::SaveCut(const Block& block, const Cut& cut, int64_t chunk, const Values& values) {
  rows_.resize(static_cast<size_t>(set_.chunks()));
  auto& rows = rows_[static_cast<size_t>(chunk)];
  rows.clear();
  std::vector<MatView<const float>> views;
  for (ValueId v : cut.live) {
    views.push_back(values[static_cast<size_t>(v)].view());
    if (block.values[static_cast<size_t>(v)].routing >= 0) rows[v] = views.back().rows;
  }
  return store_.Put(chunk, views);
}

Status BlockDriver::ForChunks(const Block& block, const Cut& cut,
                              const std::function<Status(int64_t chunk, Values& values)>& each) {
  for (int64_t chunk = 0; chunk < set_.chunks(); ++chunk) {
    Values values;
    PLANISH_RETURN_IF_ERROR(LoadCut(block, cut, chunk, values));
    PLANISH_RETURN_IF_ERROR(each(chunk, values));
    for (auto& value : values) executor_.Give(std::move(value));
  }
  return {};
}

Status BlockDriver::RunSpan(const Context& context, const Block& block, int first, int last, int64_t chunk,
                            Cache& cache, Values& values) {
  PLANISH_RETURN_IF_ERROR(context.CheckCancelled());
  PLANISH_RETURN_IF_ERROR(
      executor_.RunOps(context, block, first, last, set_.ChunkBatch(chunk), cache, values));
  double macs = 0;
  for (int i = first; i < last; ++i) {
    macs += OpMacs(model_.program, block, block.ops[static_cast<size_t>(i)], set_.ChunkRows(chunk),
                   set_.length());
  }
  if (on_work) on_work(macs);
  return {};
}

Status BlockDriver::AddSite(const Context& context, const Site& site, const Values& values,
                            Moments& moments) {
  const auto& x = values[static_cast<size_t>(site.value)];
  if (x.rows() == 0) return {};  // an expert without tokens in this chunk
  const auto added = moments.Add(context, x);
  if (!added.ok()) return added.error().At(fmt::format("input of '{}'", site.name));
  const auto width = static_cast<double>(moments.width());
  if (on_work) on_work(static_cast<double>(x.rows()) * width * width / 2);
  return {};
}

Status BlockDriver::AddForAllTokens(const Context& context, const Block& block, int64_t chunk, Cache& cache,
                                    const Values& values, Collection& rare) {
  const Batch batch = set_.ChunkBatch(chunk);
  std::map<ValueId, Mat<float>> scores;  // by routing
  for (size_t i = 0; i < rare.sites.size(); ++i) {
    const Site& site = *rare.sites[i];
    const Op& gather = *GatherOf(block, site);
    const auto& input = values[static_cast<size_t>(gather.inputs[0])];
    Mat<float>& score = scores[site.routing];
    if (score.rows() == 0) {
      const Op& route = *block.Maker(site.routing);
      const Op& router = *block.Maker(route.inputs[0]);
      PLANISH_CHECK(router.inputs[0] == gather.inputs[0]);
      score.Resize(input.rows(), block.values[static_cast<size_t>(site.routing)].width);
      Apply(context, model_.linears[static_cast<size_t>(std::get<LinearOp>(router.body).linear)], input,
            score);
      RouterScores(context, std::get<RouteOp>(route.body).shape.score, score, score);
    }
    Values own(block.values.size());
    auto& gathered = own[static_cast<size_t>(gather.output)];
    gathered = executor_.Take(input.rows(), input.cols());
    std::memcpy(gathered.data(), input.data(),
                static_cast<size_t>(input.rows() * input.cols()) * sizeof(float));
    for (const int op : OpsBetween(block, gather.output, site.value)) {
      PLANISH_RETURN_IF_ERROR(executor_.RunOps(context, block, op, op + 1, batch, cache, own));
    }
    std::vector<float> weights;
    for (int64_t row = 0; row < score.rows(); ++row) weights.push_back(score(row, site.expert));
    const auto& x = own[static_cast<size_t>(site.value)];
    const auto added = rare.moments[i].AddWeighted(context, x, weights);
    if (!added.ok()) return added.error().At(fmt::format("input of '{}'", site.name));
    for (auto& value : own) executor_.Give(std::move(value));
  }
  return {};
}

BlockDriver::Collection BlockDriver::TakeRare(const Block& block, Collection& from) {
  Collection rare, common;
  for (size_t i = 0; i < from.sites.size(); ++i) {
    Collection& to = IsRare(*from.sites[i]) ? rare : common;
    to.sites.push_back(from.sites[i]);
    to.moments.push_back(std::move(from.moments[i]));
  }
  for (size_t i = 0; i < rare.sites.size(); ++i) {
    rare.moments[i] = Moments(block.values[static_cast<size_t>(rare.sites[i]->value)].width);
  }
  from = std::move(common);
  return rare;
}

void BlockDriver::FindRare(const Block& block, const Collection& collection) {
  for (size_t i = 0; i < collection.sites.size(); ++i) {
    const Site& site = *collection.sites[i];
    if (site.routing < 0 || GatherOf(block, site)->output != site.value) continue;
    const Moments& moments = collection.moments[i];
    if (moments.count() * kRareFraction < moments.width()) {
      rare_[{site.routing, site.expert}] = moments.count();
    }
  }
}

Status BlockDriver::SolveAll(Collection collection, const SolveSite& solve) {
  for (size_t i = 0; i < collection.sites.size(); ++i) {
    const Site& site = *collection.sites[i];
    Moments& moments = collection.moments[i];
    if (IsRare(site)) moments.FinishWeighted(rare_.at({site.routing, site.expert}));
    PLANISH_RETURN_IF_ERROR(solve(site, std::move(moments)));
  }
  return {};
}

std::vector<BlockDriver::Collection> BlockDriver::Split(const Block& block,
                                                        const std::vector<const Site*>& sites) const {
  std::vector<Collection> parts(1);
  int64_t bytes = 0;
  for (const Site* site : sites) {
    const int64_t n = block.values[static_cast<size_t>(site->value)].width, own = 2 * 4 * n * n;
    if (!parts.back().sites.empty() && bytes + own > moment_bytes) {
      parts.emplace_back();
      bytes = 0;
    }
    bytes += own;
    parts.back().sites.push_back(site);
  }
  return parts;
}

void BlockDriver::MakeMoments(const Block& block, Collection& collection) {
  for (const Site* site : collection.sites) {
    collection.moments.emplace_back(block.values[static_cast<size_t>(site->value)].width);
  }
}

Status BlockDriver::Embed(const Context& context) {
  const Block& block = model_.program.blocks.front();
  DenseCache no_cache(0, 1, 0);
  const Cut cut{static_cast<int>(block.ops.size()), {block.output}};
  for (int64_t chunk = 0; chunk < set_.chunks(); ++chunk) {
    Values values;
    PLANISH_RETURN_IF_ERROR(
        RunSpan(context, block, 0, static_cast<int>(block.ops.size()), chunk, no_cache, values));
    PLANISH_RETURN_IF_ERROR(SaveCut(block, cut, chunk, values));
    executor_.Give(std::move(values[static_cast<size_t>(block.output)]));
  }
  return {};
}

Status BlockDriver::SolveGroup(const Context& context, const Block& block, const SiteGroup& group,
                               const Cut& from, const Cut& to, Cache& cache, const SolveSite& solve) {
  // Sites behind a rare expert's linears: their inputs for all tokens are made on the way, where the router's
  // input still is at hand.
  Collection behind;
  std::vector<const Site*> others;
  for (const Site& site : group.sites) (IsRare(site) ? behind.sites : others).push_back(&site);
  MakeMoments(block, behind);
  const int gathers = FirstGather(block, group);
  bool first = true;
  for (Collection& part : Split(block, others)) {
    MakeMoments(block, part);
    const Cut& start = first ? from : to;
    const auto pass = [&](int64_t chunk, Values& values) -> Status {
      int op = start.op;
      if (first && !behind.sites.empty()) {
        PLANISH_CHECK(op <= gathers) << op << " " << gathers;
        PLANISH_RETURN_IF_ERROR(RunSpan(context, block, op, gathers, chunk, cache, values));
        PLANISH_RETURN_IF_ERROR(AddForAllTokens(context, block, chunk, cache, values, behind));
        op = gathers;
      }
      PLANISH_RETURN_IF_ERROR(RunSpan(context, block, op, to.op, chunk, cache, values));
      if (first) PLANISH_RETURN_IF_ERROR(SaveCut(block, to, chunk, values));
      PLANISH_RETURN_IF_ERROR(RunSpan(context, block, to.op, group.first_op, chunk, cache, values));
      for (size_t i = 0; i < part.sites.size(); ++i) {
        PLANISH_RETURN_IF_ERROR(AddSite(context, *part.sites[i], values, part.moments[i]));
      }
      return {};
    };
    PLANISH_RETURN_IF_ERROR(ForChunks(block, start, pass));
    if (first) PLANISH_RETURN_IF_ERROR(SolveAll(std::move(behind), solve));
    first = false;
    FindRare(block, part);
    Collection rare = TakeRare(block, part);
    if (!rare.sites.empty()) {
      const auto rare_pass = [&](int64_t chunk, Values& values) -> Status {
        PLANISH_RETURN_IF_ERROR(RunSpan(context, block, to.op, gathers, chunk, cache, values));
        return AddForAllTokens(context, block, chunk, cache, values, rare);
      };
      PLANISH_RETURN_IF_ERROR(ForChunks(block, to, rare_pass));
    }
    PLANISH_RETURN_IF_ERROR(SolveAll(std::move(rare), solve));
    PLANISH_RETURN_IF_ERROR(SolveAll(std::move(part), solve));
  }
  return {};
}

Status BlockDriver::Sequential(const Context& context, int index, const SolveSite& solve) {
  const Block& block = model_.program.blocks[static_cast<size_t>(index)];
  const auto num_ops = static_cast<int>(block.ops.size());
  Cut from{0, {block.input}};
  DenseCache cache(model_.program.cache_layers, static_cast<int>(set_.windows_per_chunk), set_.length());
  rare_.clear();
  for (const SiteGroup& group : GroupSites(block, BlockSites(model_.program, index))) {
    Cut to = RestartCut(block, group);
    PLANISH_RETURN_IF_ERROR(SolveGroup(context, block, group, from, to, cache, solve));
    from = std::move(to);
  }
  const Cut to{num_ops, {block.output}};
  return ForChunks(block, from, [&](int64_t chunk, Values& values) -> Status {
    PLANISH_RETURN_IF_ERROR(RunSpan(context, block, from.op, num_ops, chunk, cache, values));
    return SaveCut(block, to, chunk, values);
  });
}

Status BlockDriver::Independent(const Context& context, int index, const SolveSite& solve) {
  const Block& block = model_.program.blocks[static_cast<size_t>(index)];
  const auto num_ops = static_cast<int>(block.ops.size());
  const auto sites = BlockSites(model_.program, index);
  const auto groups = GroupSites(block, sites);
  std::vector<const Site*> all;
  bool routed = false;
  for (const SiteGroup& group : groups) {
    for (const Site& site : group.sites) {
      all.push_back(&site);
      routed = routed || site.routing >= 0;
    }
  }
  DenseCache cache(model_.program.cache_layers, static_cast<int>(set_.windows_per_chunk), set_.length());
  const Cut from{0, {block.input}}, to{num_ops, {block.output}};
  rare_.clear();
  auto parts = Split(block, all);
  for (Collection& part : parts) {
    // The block's input stays in the store as long as another pass may need it.
    const bool last = !routed && &part == &parts.back();
    MakeMoments(block, part);
    const auto pass = [&](int64_t chunk, Values& values) -> Status {
      int op = 0;
      for (size_t i = 0; i < part.sites.size(); ++i) {
        const int at = GroupOf(groups, *part.sites[i]).first_op;
        PLANISH_RETURN_IF_ERROR(RunSpan(context, block, op, at, chunk, cache, values));
        op = at;
        PLANISH_RETURN_IF_ERROR(AddSite(context, *part.sites[i], values, part.moments[i]));
      }
      if (!last) return {};
      PLANISH_RETURN_IF_ERROR(RunSpan(context, block, op, num_ops, chunk, cache, values));
      return SaveCut(block, to, chunk, values);
    };
    PLANISH_RETURN_IF_ERROR(ForChunks(block, from, pass));
    FindRare(block, part);
    Collection rare = TakeRare(block, part);
    if (!rare.sites.empty()) {
      const int gathers = FirstGather(block, GroupOf(groups, *rare.sites.front()));
      const auto rare_pass = [&](int64_t chunk, Values& values) -> Status {
        PLANISH_RETURN_IF_ERROR(RunSpan(context, block, 0, gathers, chunk, cache, values));
        return AddForAllTokens(context, block, chunk, cache, values, rare);
      };
      PLANISH_RETURN_IF_ERROR(ForChunks(block, from, rare_pass));
    }
    PLANISH_RETURN_IF_ERROR(SolveAll(std::move(rare), solve));
    PLANISH_RETURN_IF_ERROR(SolveAll(std::move(part), solve));
  }
  if (!routed) return {};
  return ForChunks(block, from, [&](int64_t chunk, Values& values) -> Status {
    PLANISH_RETURN_IF_ERROR(RunSpan(context, block, 0, num_ops, chunk, cache, values));
    return SaveCut(block, to, chunk, values);
  });
}

}  // namespace planish

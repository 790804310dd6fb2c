#include "runtime/engine.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "math/gemm.h"

namespace planish {
namespace {

bool IsLinear(const Op& op) { return std::holds_alternative<LinearOp>(op.body); }
bool IsAttention(const Op& op) { return std::holds_alternative<AttentionOp>(op.body); }

// Of a phase's bytes, what goes to whoever is done first: about as much as other programs and the memory's
// moods make one thread slower than another.
constexpr double kTailShare = 0.125;

}  // namespace

Status Engine::Supports(const Program& program) {
  const auto refuse = [&](const char* what) {
    return InputError(fmt::format("the packed runtime has no {}, which {} needs; use --runtime plain", what,
                                  program.family));
  };
  if (program.states > 0) return refuse("state-space layers");
  for (const Block& block : program.blocks) {
    for (const Op& op : block.ops) {
      if (std::holds_alternative<RouteOp>(op.body)) return refuse("experts");
      const auto* attention = std::get_if<AttentionOp>(&op.body);
      if (attention != nullptr && attention->shape.ValueDim() != attention->shape.head_dim) {
        return refuse("values of another width than keys");
      }
    }
  }
  return {};
}

Result<std::unique_ptr<Engine>> Engine::Create(const Context& context, const Model& model,
                                               std::shared_ptr<const PackedModel> packed,
                                               const EngineOptions& options) {
  PLANISH_RETURN_IF_ERROR(Supports(model.program));
  auto engine = std::unique_ptr<Engine>(new Engine(context, model, std::move(packed), options));
  PLANISH_RETURN_IF_ERROR(engine->Compile());
  return engine;
}

Engine::Engine(const Context& context, const Model& model, std::shared_ptr<const PackedModel> packed,
               const EngineOptions& options)
    : model_(model),
      packed_(std::move(packed)),
      options_(options),
      kernels_(SelectPackedKernels(context.isa)),
      team_(context.pool->NumThreads()),
      solo_(1),
      cache_(model.program, {options.slots, options.capacity, options.cache}),
      executor_(model) {
  for (int i = 0; i < team_.size(); ++i) members_.push_back(std::make_unique<Member>(model));
  executor_.UseMultiply([this](const Context& call, LinearId linear, MatView<const float> x,
                               MatView<float> y) { return MultiplyMany(call, linear, x, y); });
}

const PackedLinear& Engine::LinearOf(const Block& block, int op) const {
  const auto id = std::get<LinearOp>(block.ops[static_cast<size_t>(op)].body).linear;
  return *packed_->linears[static_cast<size_t>(id)];
}

Status Engine::Compile() {
  size_t most_linears = 0, most_forms = 0;
  for (const Block& block : model_.program.blocks) {
    std::vector<Phase> phases;
    const auto count = static_cast<int>(block.ops.size());
    for (int i = 0; i < count;) {
      const Op& op = block.ops[static_cast<size_t>(i)];
      int end = i + 1;
      if (IsLinear(op)) {
        while (end < count && IsLinear(block.ops[static_cast<size_t>(end)]) &&
               block.ops[static_cast<size_t>(end)].inputs == op.inputs) {
          ++end;
        }
        phases.push_back(LinearPhase(block, i, end));
        most_linears = std::max(most_linears, static_cast<size_t>(end - i));
        most_forms = std::max(most_forms, phases.back().forms.size());
      } else if (IsAttention(op)) {
        phases.push_back({.kind = Phase::Kind::kAttention, .first = i, .last = end});
      } else {
        while (end < count && !IsLinear(block.ops[static_cast<size_t>(end)]) &&
               !IsAttention(block.ops[static_cast<size_t>(end)])) {
          ++end;
        }
        phases.push_back({.kind = Phase::Kind::kLocal, .first = i, .last = end});
      }
      i = end;
    }
    phases_.push_back(std::move(phases));
  }
  for (auto& outputs : outputs_) outputs.resize(most_linears);
  path_outputs_.resize(most_linears);
  output_widths_.resize(most_linears);
  path_widths_.resize(most_linears);
  for (size_t b = 0; b < phases_.size(); ++b) {
    for (const Phase& phase : phases_[b]) {
      for (int k = 0; phase.kind == Phase::Kind::kLinears && k < phase.last - phase.first; ++k) {
        const PackedLinear& linear = LinearOf(model_.program.blocks[b], phase.first + k);
        auto &width = output_widths_[static_cast<size_t>(k)], &rank = path_widths_[static_cast<size_t>(k)];
        // The last phase writes its result where the caller wants it.
        const bool last = b + 1 == phases_.size() && &phase == &phases_[b].back();
        width = std::max(width, last ? 0 : linear.rows());
        rank = std::max(rank, linear.v() == nullptr ? 0 : linear.v()->rows());
      }
    }
  }
  for (auto& member : members_) {
    member->inputs.resize(most_forms);
    member->paths.resize(most_linears);
  }
  return {};
}

Engine::Phase Engine::LinearPhase(const Block& block, int first, int last) const {
  Phase phase{.kind = Phase::Kind::kLinears, .first = first, .last = last};
  std::vector<const PackedLinear*> linears, paths;
  for (int i = first; i < last; ++i) {
    const PackedLinear& linear = LinearOf(block, i);
    const InputForm wanted = linear.InputFormFor(options_.multiply);
    int form = 0;
    const auto known = static_cast<int>(phase.forms.size());
    while (form < known && !JoinInputForms(wanted, phase.forms[static_cast<size_t>(form)])) ++form;
    if (form == known) phase.forms.push_back(wanted);
    phase.form_of.push_back(form);
    linears.push_back(&linear);
    paths.push_back(linear.v());
    phase.has_path = phase.has_path || linear.v() != nullptr;
  }
  phase.tiles = Divide(linears, team_.size(), team_.size() > 1 ? kTailShare : 0);
  phase.path_tiles = Divide(paths, team_.size(), 0);
  return phase;
}

Status Engine::Forward(const Context& context, const Batch& batch, std::span<const int64_t> logit_rows,
                       Mat<float>& logits) {
  if (batch.rows() > kMaxRows) {
    return planish::Forward(context, model_, executor_, batch, logit_rows, cache_, logits);
  }
  PLANISH_RETURN_IF_ERROR(context.CheckCancelled());
  PLANISH_RETURN_IF_ERROR(CheckTokenIds(model_, batch));
  for (int layer = 0; layer < model_.program.cache_layers; ++layer) {
    PLANISH_RETURN_IF_ERROR(cache_.Reserve(layer, batch));
  }
  int64_t most = 0;
  for (int layer = 0; layer < model_.program.cache_layers; ++layer) {
    for (const int32_t position : batch.positions) {
      const auto [first, last] = cache_.SpansOf(layer, position);
      most = std::max(most, (last - first) * cache_.PartialFloats(layer) * cache_.shape(layer).kv_heads);
    }
  }
  partials_.Resize(batch.rows(), most);
  slots_.clear();
  for (const auto& run : batch.runs) slots_.insert(slots_.end(), static_cast<size_t>(run.rows), run.slot);
  for (auto& outputs : outputs_) {
    for (size_t k = 0; k < outputs.size(); ++k) outputs[k].Resize(batch.rows(), output_widths_[k]);
  }
  for (size_t k = 0; k < path_outputs_.size(); ++k) path_outputs_[k].Resize(batch.rows(), path_widths_[k]);
  logits.Resize(static_cast<int64_t>(logit_rows.size()), model_.program.vocab);
  result_ = &logits;
  failed_.store(false);
  error_.reset();
  for (auto& taken : tail_taken_) taken.store(0);
  Context solo = context;
  solo.pool = &solo_;
  Batch head_batch;  // the head has no attention: only the number of rows matters
  head_batch.ids.resize(logit_rows.size());
  const Call call{solo, batch, head_batch, logit_rows};
  team_.Run([&](int member) { RunMember(call, member); });
  if (error_) return *error_;
  // Operations after the head's product leave the result with the members.
  if (phases_.back().back().kind != Phase::Kind::kLinears && !logit_rows.empty()) {
    logits = std::move(members_[0]->hidden);
  }
  return {};
}

Status Engine::MultiplyMany(const Context& context, LinearId linear, MatView<const float> x,
                            MatView<float> y) {
  const auto id = static_cast<size_t>(linear);
  const PackedLinear& packed = *packed_->linears[id];
  if (options_.multiply.exact_inputs || !FastFromCodes(kernels_, packed.shape().kind) ||
      HasMatrixTiles(context)) {
    Context own = context;
    if (!options_.multiply.exact_inputs && HasFastBf16(context)) own.precision = Precision::kBF16;
    Apply(own, model_.linears[id], x, y);
    return {};
  }
  return prefill_.Multiply(context, kernels_, packed, x, y, options_.multiply,
                           fmt::format("{}: {}", model_.path, model_.linears[id].name));
}

void Engine::RunMember(const Call& call, int member) {
  Member& m = *members_[static_cast<size_t>(member)];
  m.parity = 0;
  m.phase = 0;
  const auto& blocks = model_.program.blocks;
  for (size_t b = 0; b < blocks.size(); ++b) {
    const Block& block = blocks[b];
    const bool last_block = b + 1 == blocks.size();
    if (last_block && call.logit_rows.empty()) return;  // keys and values are all that was wanted
    if (last_block) SelectRows(call, m);
    m.values.clear();
    m.values.resize(block.values.size());
    if (block.input >= 0) m.values[static_cast<size_t>(block.input)] = std::move(m.hidden);
    for (size_t p = 0; p < phases_[b].size(); ++p) {
      const bool last_phase = last_block && p + 1 == phases_[b].size();
      if (!RunPhase(call, static_cast<int>(b), phases_[b][p], member, last_phase)) return;
    }
    m.executor.Give(std::move(m.hidden));
    m.hidden = std::move(m.values[static_cast<size_t>(block.output)]);
  }
}

// The rows whose logits are wanted go on into the head.
void Engine::SelectRows(const Call& call, Member& m) const {
  const auto count = static_cast<int64_t>(call.logit_rows.size());
  if (count == m.hidden.rows()) return;
  Mat<float> chosen = m.executor.Take(count, m.hidden.cols());
  for (int64_t i = 0; i < count; ++i) {
    std::copy_n(m.hidden.row(call.logit_rows[static_cast<size_t>(i)]), m.hidden.cols(), chosen.row(i));
  }
  m.executor.Give(std::move(m.hidden));
  m.hidden = std::move(chosen);
}

bool Engine::RunPhase(const Call& call, int block, const Phase& phase, int member, bool last) {
  switch (phase.kind) {
    case Phase::Kind::kLinears:
      return RunLinears(block, phase, member, last);
    case Phase::Kind::kAttention:
      return RunAttention(call, block, phase, member);
    case Phase::Kind::kLocal:
      break;
  }
  Member& m = *members_[static_cast<size_t>(member)];
  const Batch& batch = static_cast<size_t>(block) + 1 == phases_.size() ? call.head_batch : call.batch;
  const Status done = m.executor.RunOps(call.context, model_.program.blocks[static_cast<size_t>(block)],
                                        phase.first, phase.last, batch, cache_, m.values);
  if (!done.ok()) Fail(block, done.error());
  // Everybody computes the same, so everybody fails here.
  return done.ok();
}

bool Engine::RunLinears(int block_index, const Phase& phase, int member, bool last) {
  const Block& block = model_.program.blocks[static_cast<size_t>(block_index)];
  Member& m = *members_[static_cast<size_t>(member)];
  const Mat<float>& x = m.values[static_cast<size_t>(block.ops[static_cast<size_t>(phase.first)].inputs[0])];
  for (size_t f = 0; f < phase.forms.size(); ++f) {
    m.inputs[f].Set(kernels_, x, phase.forms[f]);
    if (!m.inputs[f].finite()) {
      Fail(block_index,
           FailureError(fmt::format("{}: {}: the activations are not finite", model_.path, block.name)));
      return false;  // as everywhere
    }
  }
  const int64_t rows = x.rows();
  const auto output = [&](int k) -> MatView<float> {
    const int64_t width = LinearOf(block, phase.first + k).rows();
    if (last) return result_->view();
    return {outputs_[m.parity][static_cast<size_t>(k)].data(), rows, width, width};
  };
  if (phase.has_path) RunPaths(block, phase, member, rows);
  RunTiles(block, phase, member, output);
  team_.Meet();
  for (int k = 0; !last && k < phase.last - phase.first; ++k) {
    const MatView<float> from = output(k);
    Mat<float> copy = m.executor.Take(rows, from.cols);
    std::copy_n(from.data, rows * from.cols, copy.data());
    m.values[static_cast<size_t>(block.ops[static_cast<size_t>(phase.first + k)].output)] = std::move(copy);
  }
  for (int i = phase.first; i < phase.last; ++i) Drop(block, i, m);
  m.parity ^= 1;
  return true;
}

// The member's own tiles, then from the tail what nobody has taken.
void Engine::RunTiles(const Block& block, const Phase& phase, int member,
                      const std::function<MatView<float>(int)>& output) {
  Member& m = *members_[static_cast<size_t>(member)];
  const auto multiply = [&](const TileShare& share, const TileShare* then) {
    const PackedLinear& linear = LinearOf(block, phase.first + share.linear);
    const QuantizedInput* path =
        linear.v() == nullptr ? nullptr : &m.paths[static_cast<size_t>(share.linear)];
    const std::byte* next =
        then == nullptr ? nullptr : LinearOf(block, phase.first + then->linear).TileData(then->begin);
    MultiplyTiles(kernels_, linear, InputOf(m, phase, share.linear), path, share.begin, share.end,
                  output(share.linear), options_.multiply, next);
  };
  const auto& own = phase.tiles.own[static_cast<size_t>(member)];
  for (size_t i = 0; i < own.size(); ++i) multiply(own[i], i + 1 < own.size() ? &own[i + 1] : nullptr);
  // The counter of the next phase is set back meanwhile: all have met since it was last used.
  if (member == 0) tail_taken_[(m.phase + 1) % 3].store(0, std::memory_order_relaxed);
  auto& taken = tail_taken_[m.phase];
  m.phase = (m.phase + 1) % 3;
  const auto& tail = phase.tiles.tail;
  for (size_t i = 0; (i = taken.fetch_add(1, std::memory_order_relaxed)) < tail.size();) {
    multiply(tail[i], nullptr);
  }
}

// t = V x of every linear that has a path, then quantized by each member for itself.
void Engine::RunPaths(const Block& block, const Phase& phase, int member, int64_t rows) {
  Member& m = *members_[static_cast<size_t>(member)];
  const auto output = [&](int k) -> MatView<float> {
    const int64_t rank = LinearOf(block, phase.first + k).v()->rows();
    return {path_outputs_[static_cast<size_t>(k)].data(), rows, rank, rank};
  };
  for (const TileShare& share : phase.path_tiles.own[static_cast<size_t>(member)]) {
    MultiplyTiles(kernels_, *LinearOf(block, phase.first + share.linear).v(), InputOf(m, phase, share.linear),
                  nullptr, share.begin, share.end, output(share.linear), options_.multiply);
  }
  team_.Meet();
  for (int k = 0; k < phase.last - phase.first; ++k) {
    if (LinearOf(block, phase.first + k).v() == nullptr) continue;
    m.paths[static_cast<size_t>(k)].Set(kernels_, output(k), LowRankForm(options_.multiply));
  }
}

bool Engine::RunAttention(const Call& call, int block_index, const Phase& phase, int member) {
  const Block& block = model_.program.blocks[static_cast<size_t>(block_index)];
  const Op& op = block.ops[static_cast<size_t>(phase.first)];
  const int layer = std::get<AttentionOp>(op.body).cache_layer;
  const AttentionShape& shape = cache_.shape(layer);
  Member& m = *members_[static_cast<size_t>(member)];
  const auto in = [&](int i) -> const Mat<float>& {
    return m.values[static_cast<size_t>(op.inputs[static_cast<size_t>(i)])];
  };
  const Mat<float>&q = in(0), &k = in(1), &v = in(2);
  const int64_t rows = q.rows(), heads = shape.kv_heads, dim = shape.head_dim,
                width = shape.heads / heads * dim;
  const int64_t head_floats = cache_.PartialFloats(layer);
  const auto store = Team::PartOf(rows * heads, member, team_.size());
  for (int64_t i = store.begin; i < store.end; ++i) {
    const int64_t row = i % rows, head = i / rows;
    if (!cache_.StoreHead(layer, slots_[static_cast<size_t>(row)], head,
                          call.batch.positions[static_cast<size_t>(row)], k.row(row) + head * dim,
                          v.row(row) + head * dim)) {
      Fail(block_index,
           FailureError(fmt::format("{}: {}: a key or value is not finite", model_.path, block.name)));
    }
  }
  team_.Meet();
  if (failed_.load()) return false;
  // Items (row, head, span), spans of a head side by side in `partials_`.
  int64_t items = 0;
  for (const int32_t position : call.batch.positions) items += SpanCount(layer, position) * heads;
  const auto own = Team::PartOf(items, member, team_.size());
  int64_t item = 0;
  for (int64_t row = 0; row < rows; ++row) {
    const int32_t position = call.batch.positions[static_cast<size_t>(row)];
    const auto [first, last] = cache_.SpansOf(layer, position);
    for (int64_t at = 0; at < heads * (last - first); ++at, ++item) {
      if (item < own.begin || item >= own.end) continue;
      const int64_t head = at / (last - first), span = first + at % (last - first);
      cache_.AttendSpan(call.context.isa, layer, slots_[static_cast<size_t>(row)], head, position, span,
                        q.row(row) + head * width, partials_.row(row) + at * head_floats);
    }
  }
  team_.Meet();
  Mat<float> out = m.executor.Take(rows, q.cols());
  for (int64_t row = 0; row < rows; ++row) {
    const auto [first, last] = cache_.SpansOf(layer, call.batch.positions[static_cast<size_t>(row)]);
    for (int64_t head = 0; head < heads; ++head) {
      cache_.JoinSpans(layer, first, last, partials_.row(row) + head * (last - first) * head_floats,
                       out.row(row) + head * width);
    }
  }
  m.values[static_cast<size_t>(op.output)] = std::move(out);
  Drop(block, phase.first, m);
  return true;
}

int64_t Engine::SpanCount(int layer, int64_t position) const {
  const auto [first, last] = cache_.SpansOf(layer, position);
  return last - first;
}

const QuantizedInput& Engine::InputOf(const Member& m, const Phase& phase, int linear) {
  return m.inputs[static_cast<size_t>(phase.form_of[static_cast<size_t>(linear)])];
}

void Engine::Drop(const Block& block, int op, Member& m) const {
  for (const ValueId input : block.ops[static_cast<size_t>(op)].inputs) {
    if (block.LastUse(input) != op) continue;
    m.executor.Give(std::move(m.values[static_cast<size_t>(input)]));
    m.values[static_cast<size_t>(input)] = {};
  }
}

void Engine::Fail(int block, Error error) {
  std::lock_guard lock(error_mutex_);
  if (!error_ || block < failed_block_) {
    error_ = std::move(error);
    failed_block_ = block;
  }
  failed_.store(true);
}

}  // namespace planish

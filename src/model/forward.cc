#include "model/forward.h"

#include <fmt/format.h>

#include <cstring>

#include "base/overloaded.h"

namespace planish {
namespace {

Status NonFiniteError(const Context& context, const Model& model, const Block& block, int64_t row) {
  PLANISH_RETURN_IF_ERROR(CheckFinite(context, model));
  return FailureError(
      fmt::format("{}: {}: the hidden state of row {} is not finite although all weights are; the "
                  "activations overflow",
                  model.path, block.name, row));
}

}  // namespace

Status CheckTokenIds(const Model& model, const Batch& batch) {
  for (size_t i = 0; i < batch.ids.size(); ++i) {
    if (batch.ids[i] < 0 || batch.ids[i] >= model.program.vocab) {
      return InputError(
          fmt::format("token {} of the batch has id {}; the vocabulary has {} (does the tokenizer "
                      "belong to this model?)",
                      i, batch.ids[i], model.program.vocab));
    }
  }
  return {};
}

Mat<float> Executor::Take(int64_t rows, int64_t cols) {
  // The smallest free matrix that is large enough, else the largest, so memory settles quickly.
  int best = -1;
  const auto size = [&](int i) { return free_[static_cast<size_t>(i)].capacity(); };
  for (int i = 0; i < static_cast<int>(free_.size()); ++i) {
    const bool fits = size(i) >= rows * cols;
    const bool best_fits = best >= 0 && size(best) >= rows * cols;
    if (best < 0 || (fits && (!best_fits || size(i) < size(best))) ||
        (!fits && !best_fits && size(i) > size(best))) {
      best = i;
    }
  }
  Mat<float> matrix;
  if (best >= 0) {
    matrix = std::move(free_[static_cast<size_t>(best)]);
    free_.erase(free_.begin() + best);
  }
  matrix.Resize(rows, cols);
  return matrix;
}

void Executor::Give(Mat<float> matrix) {
  if (matrix.capacity() > 0) free_.push_back(std::move(matrix));
}

void Executor::Embed(const Context& context, const EmbedOp& op, const Batch& batch, Mat<float>& out) {
  const Matrix& table = model_.linears[static_cast<size_t>(op.table)].w;
  context.pool->ParallelFor(batch.rows(), [&](int64_t i) {
    ReadRows(table, batch.ids[static_cast<size_t>(i)], 1, 0, table.cols, out.row(i), table.cols);
  });
}

Status Executor::RunOp(const Context& context, const Block& block, int index, const Batch& batch,
                       Cache& cache, Values& values) {
  const Op& op = block.ops[static_cast<size_t>(index)];
  const auto in = [&](size_t i) -> Mat<float>& { return values[static_cast<size_t>(op.inputs[i])]; };
  const auto last_use = [&](size_t i) { return block.LastUse(op.inputs[i]) == index; };
  const int64_t rows = batch.rows();
  // A copy of input 0 to work in place on: its own memory when nobody reads it later.
  const auto in_place = [&] {
    if (last_use(0)) return std::move(in(0));
    Mat<float> copy = Take(rows, in(0).cols());
    std::memcpy(copy.data(), in(0).data(), static_cast<size_t>(rows * in(0).cols()) * 4);
    return copy;
  };
  Mat<float> out;
  const auto fresh = [&]() -> Mat<float>& {
    out = Take(rows, block.values[static_cast<size_t>(op.output)].width);
    return out;
  };
  const Status done = std::visit(
      Overloaded{[&](const EmbedOp& o) -> Status {
                   Embed(context, o, batch, fresh());
                   return {};
                 },
                 [&](const RmsNormOp& o) -> Status {
                   RmsNorm(context, in(0), model_.vectors[static_cast<size_t>(o.weight)], o.eps, fresh());
                   return {};
                 },
                 [&](const LinearOp& o) -> Status {
                   Apply(context, model_.linears[static_cast<size_t>(o.linear)], in(0), fresh());
                   return {};
                 },
                 [&](const RopeOp& o) -> Status {
                   const RopeTable& r = model_.program.ropes[static_cast<size_t>(o.rope)];
                   out = in_place();
                   Rope(context, out, r.head_dim, batch.positions, r.inv_freq, r.attention_factor, r.pairing);
                   return {};
                 },
                 [&](const AttentionOp& o) -> Status {
                   PLANISH_RETURN_IF_ERROR(cache.Append(context, o.cache_layer, batch, in(1), in(2)));
                   return cache.Attend(context, o.cache_layer, o.shape, batch, in(0), fresh());
                 },
                 [&](const GateOp& o) -> Status {
                   GatedActivate(context, o.activation, in(0), in(1), fresh());
                   return {};
                 },
                 [&](const AddOp&) -> Status {
                   out = in_place();
                   AddScaled(context, 1.0f, in(1), out);
                   return {};
                 }},
      op.body);
  PLANISH_RETURN_IF_ERROR(done);
  for (size_t i = 0; i < op.inputs.size(); ++i) {
    if (last_use(i)) {
      Give(std::move(in(i)));
      in(i) = {};
    }
  }
  values[static_cast<size_t>(op.output)] = std::move(out);
  return {};
}

Status Executor::RunOps(const Context& context, const Block& block, int first, int last, const Batch& batch,
                        Cache& cache, Values& values) {
  values.resize(block.values.size());
  for (int i = first; i < last; ++i) {
    PLANISH_RETURN_IF_ERROR(RunOp(context, block, i, batch, cache, values));
  }
  return {};
}

Status Executor::RunBlock(const Context& context, const Block& block, const Batch& batch, Cache& cache,
                          Mat<float>& hidden) {
  Values values(block.values.size());
  if (block.input >= 0) values[static_cast<size_t>(block.input)] = std::move(hidden);
  PLANISH_RETURN_IF_ERROR(
      RunOps(context, block, 0, static_cast<int>(block.ops.size()), batch, cache, values));
  hidden = std::move(values[static_cast<size_t>(block.output)]);
  return {};
}

Status Forward(const Context& context, const Model& model, Executor& executor, const Batch& batch,
               std::span<const int64_t> logit_rows, Cache& cache, Mat<float>& logits) {
  PLANISH_RETURN_IF_ERROR(CheckTokenIds(model, batch));
  const auto& blocks = model.program.blocks;
  Mat<float> hidden;
  for (size_t i = 0; i + 1 < blocks.size(); ++i) {
    PLANISH_RETURN_IF_ERROR(context.CheckCancelled());
    PLANISH_RETURN_IF_ERROR(executor.RunBlock(context, blocks[i], batch, cache, hidden));
    const int64_t bad = FindNonFinite({hidden.data(), static_cast<size_t>(hidden.rows() * hidden.cols())});
    if (bad >= 0) return NonFiniteError(context, model, blocks[i], bad / hidden.cols());
  }
  const auto num_rows = static_cast<int64_t>(logit_rows.size());
  bool all = num_rows == hidden.rows();
  for (int64_t i = 0; i < num_rows && all; ++i) all = logit_rows[static_cast<size_t>(i)] == i;
  if (!all) {
    Mat<float> chosen = executor.Take(num_rows, hidden.cols());
    for (int64_t i = 0; i < num_rows; ++i) {
      std::memcpy(chosen.row(i), hidden.row(logit_rows[static_cast<size_t>(i)]),
                  static_cast<size_t>(hidden.cols()) * 4);
    }
    executor.Give(std::move(hidden));
    hidden = std::move(chosen);
  }
  Batch head_batch;  // the head has no attention: only the number of rows matters
  head_batch.ids.resize(static_cast<size_t>(num_rows));
  PLANISH_RETURN_IF_ERROR(executor.RunBlock(context, blocks.back(), head_batch, cache, hidden));
  executor.Give(std::move(logits));
  logits = std::move(hidden);
  return {};
}

}  // namespace planish

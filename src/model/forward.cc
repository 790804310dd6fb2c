#include "model/forward.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "base/overloaded.h"
#include "model/rope.h"

namespace planish {
namespace {

Status NonFiniteError(const Context& context, const Model& model, const Block& block, int64_t row) {
  PLANISH_RETURN_IF_ERROR(CheckFinite(context, model));
  return FailureError(
      fmt::format("{}: {}: the hidden state of row {} is not finite although all weights are; the "
                  "activations overflow",
                  model.path, block.name, row));
}

void SliceColumns(MatView<const float> x, const SliceOp& op, MatView<float> y) {
  for (int64_t i = 0; i < x.rows; ++i) {
    float* to = y.row(i);
    for (int64_t at = op.offset; at < x.cols; at += op.period, to += op.width) {
      std::copy_n(x.row(i) + at, op.width, to);
    }
  }
}

void JoinHeads(std::span<const MatView<const float>> parts, const JoinOp& op, MatView<float> y) {
  for (int64_t i = 0; i < y.rows; ++i) {
    float* to = y.row(i);
    for (int64_t head = 0; head < op.heads; ++head) {
      for (size_t p = 0; p < parts.size(); ++p) {
        const int64_t width = op.widths[p], from = parts[p].cols == width ? 0 : head * width;
        std::copy_n(parts[p].row(i) + from, width, to);
        to += width;
      }
    }
  }
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
  Mat<float> matrix;
  if (rows == 0) {  // of an expert without tokens
    matrix.Resize(0, cols);
    return matrix;
  }
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

Status Executor::LookUpPositions(const PositionOp& op, const Batch& batch, Mat<float>& out) {
  const auto& table = model_.vectors[static_cast<size_t>(op.table)];
  for (int64_t i = 0; i < batch.rows(); ++i) {
    const int64_t row = batch.positions[static_cast<size_t>(i)] + op.offset;
    if (row >= op.rows) {
      return InputError(fmt::format("{}: position {} is past the {} the model has learned", model_.path,
                                    batch.positions[static_cast<size_t>(i)], op.rows - op.offset));
    }
    std::copy_n(table.data() + row * out.cols(), out.cols(), out.row(i));
  }
  return {};
}

void Executor::Rotate(const Context& context, const RopeOp& op, const Batch& batch, Mat<float>& x) {
  const RopeTable& rope = model_.program.ropes[static_cast<size_t>(op.rope)];
  if (rope.longer_than == 0) {
    Rope(context, x, op.head_dim, batch.positions, rope.inv_freq, rope.attention_factor, rope.pairing,
         /*inverse=*/false, op.offset);
    return;
  }
  for (const auto& run : batch.runs) {
    const auto rows = static_cast<size_t>(run.rows);
    Rope(context, x.view().Rows(run.first_row, run.rows), op.head_dim,
         std::span(batch.positions).subspan(static_cast<size_t>(run.first_row), rows),
         RopeFrequencies(rope, run.first_position + run.rows), rope.attention_factor, rope.pairing,
         /*inverse=*/false, op.offset);
  }
}

void Executor::NormalizeLayer(const Context& context, const LayerNormOp& op, MatView<const float> x,
                              Mat<float>& y) {
  const std::span<const float> weight = model_.vectors[static_cast<size_t>(op.weight)];
  std::span<const float> bias;
  if (op.bias >= 0) bias = model_.vectors[static_cast<size_t>(op.bias)];
  const int64_t width = x.cols / op.groups;
  for (int64_t g = 0; g < op.groups; ++g) {
    const auto at = static_cast<size_t>(g * width), count = static_cast<size_t>(width);
    LayerNorm(context, x.Cols(g * width, width), weight.subspan(at, count),
              bias.empty() ? bias : bias.subspan(at, count), op.eps, y.view().Cols(g * width, width));
  }
}

void Executor::NormalizeParts(const Context& context, const RmsNormOp& op, MatView<const float> x,
                              Mat<float>& y) {
  const std::span<const float> weight = model_.vectors[static_cast<size_t>(op.weight)];
  const int64_t width = x.cols / op.parts;
  const size_t own = weight.size() / static_cast<size_t>(op.parts);
  for (int64_t p = 0; p < op.parts; ++p) {
    RmsNorm(context, x.Cols(p * width, width), weight.subspan(static_cast<size_t>(p) * own, own), op.eps,
            y.view().Cols(p * width, width));
  }
}

Status Executor::Convolve(const Context& context, const ConvOp& op, const Batch& batch, Cache& cache,
                          MatView<const float> x, Mat<float>& y) {
  const std::span<const float> weight = model_.vectors[static_cast<size_t>(op.weight)];
  std::span<const float> bias;
  if (op.bias >= 0) bias = model_.vectors[static_cast<size_t>(op.bias)];
  for (const auto& run : batch.runs) {
    PLANISH_TRY(const auto state, cache.AdvanceState(op.state, run, (op.kernel - 1) * x.cols));
    CausalConvolution(context, x.Rows(run.first_row, run.rows), weight, bias, op.kernel, state,
                      y.view().Rows(run.first_row, run.rows));
  }
  return {};
}

Status Executor::Scan(const Context& context, const ScanOp& op, const Batch& batch, Cache& cache,
                      const std::array<MatView<const float>, 4>& inputs, Mat<float>& y) {
  const auto vector = [&](VectorId id) -> std::span<const float> {
    return model_.vectors[static_cast<size_t>(id)];
  };
  const ScanWeights weights{vector(op.a_log), vector(op.d), vector(op.dt_bias)};
  for (const auto& run : batch.runs) {
    PLANISH_TRY(const auto state, cache.AdvanceState(op.state, run, op.shape.StateSize()));
    const auto rows = [&](size_t i) { return inputs[i].Rows(run.first_row, run.rows); };
    SelectiveScan(context, op.shape, weights, rows(0), rows(1), rows(2), rows(3), state,
                  y.view().Rows(run.first_row, run.rows));
  }
  return {};
}

Status Executor::RunOp(const Context& context, const Block& block, int index, const Batch& batch,
                       Cache& cache, Values& values) {
  const Op& op = block.ops[static_cast<size_t>(index)];
  const auto in = [&](size_t i) -> Mat<float>& { return values[static_cast<size_t>(op.inputs[i])]; };
  const auto last_use = [&](size_t i) { return block.LastUse(op.inputs[i]) == index; };
  Mat<float> out;
  // Values gathered for an expert have fewer rows than the batch, and so has what comes from them.
  const auto fresh_rows = [&](int64_t rows) -> Mat<float>& {
    out = Take(rows, block.values[static_cast<size_t>(op.output)].width);
    return out;
  };
  const auto fresh = [&]() -> Mat<float>& {
    return fresh_rows(op.inputs.empty() ? batch.rows() : in(0).rows());
  };
  // Input 0 to work in place on: its own memory when nobody reads it later, else a copy.
  const auto in_place = [&]() -> Mat<float>& {
    if (last_use(0)) {
      out = std::move(in(0));
    } else {
      std::memcpy(fresh().data(), in(0).data(), static_cast<size_t>(in(0).rows() * in(0).cols()) * 4);
    }
    return out;
  };
  const Status done = std::visit(
      Overloaded{[&](const EmbedOp& o) -> Status {
                   Embed(context, o, batch, fresh());
                   return {};
                 },
                 [&](const PositionOp& o) { return LookUpPositions(o, batch, fresh()); },
                 [&](const LinearOp& o) -> Status {
                   Apply(context, model_.linears[static_cast<size_t>(o.linear)], in(0), fresh());
                   return {};
                 },
                 [&](const RmsNormOp& o) -> Status {
                   NormalizeParts(context, o, in(0), fresh());
                   return {};
                 },
                 [&](const LayerNormOp& o) -> Status {
                   NormalizeLayer(context, o, in(0), fresh());
                   return {};
                 },
                 [&](const SliceOp& o) -> Status {
                   SliceColumns(in(0), o, fresh());
                   return {};
                 },
                 [&](const JoinOp& o) -> Status {
                   std::vector<MatView<const float>> parts;
                   for (size_t i = 0; i < op.inputs.size(); ++i) parts.push_back(in(i).view());
                   JoinHeads(parts, o, fresh());
                   return {};
                 },
                 [&](const RopeOp& o) -> Status {
                   Rotate(context, o, batch, in_place());
                   return {};
                 },
                 [&](const AttentionOp& o) -> Status {
                   PLANISH_RETURN_IF_ERROR(cache.Append(context, o.cache_layer, batch, in(1), in(2)));
                   return cache.Attend(context, o.cache_layer, o.shape, batch, in(0), fresh());
                 },
                 [&](const ActivationOp& o) -> Status {
                   Activate(context, o.activation, in(0), fresh());
                   return {};
                 },
                 [&](const GateOp& o) -> Status {
                   GatedActivate(context, o.activation, in(0), in(1), fresh());
                   return {};
                 },
                 [&](const AddOp& o) -> Status {
                   AddScaled(context, o.scale, in(1), in_place());
                   return {};
                 },
                 [&](const ScaleOp& o) -> Status {
                   Scale(context, o.factor, in_place());
                   return {};
                 },
                 [&](const RowScaleOp&) -> Status {
                   ScaleRows(context, in(1), in_place());
                   return {};
                 },
                 [&](const SoftCapOp& o) -> Status {
                   SoftCap(context, o.cap, in_place());
                   return {};
                 },
                 [&](const RouteOp& o) -> Status {
                   Route(context, o.shape, in(0), fresh());
                   return {};
                 },
                 [&](const GatherOp& o) -> Status {
                   const auto rows = RowsOfExpert(in(1), o.expert);
                   GatherRows(context, in(0), rows, fresh_rows(static_cast<int64_t>(rows.size())));
                   return {};
                 },
                 [&](const CombineOp&) -> Status {
                   std::vector<MatView<const float>> outputs;
                   for (size_t i = 1; i < op.inputs.size(); ++i) outputs.push_back(in(i).view());
                   CombineExperts(context, in(0), outputs, fresh());
                   return {};
                 },
                 [&](const ConvOp& o) { return Convolve(context, o, batch, cache, in(0), fresh()); },
                 [&](const ScanOp& o) {
                   return Scan(context, o, batch, cache,
                               {in(0).view(), in(1).view(), in(2).view(), in(3).view()}, fresh());
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

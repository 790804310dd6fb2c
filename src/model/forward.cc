#include "model/forward.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

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

// One operation at work: a function for each kind. Values gathered for an expert have fewer rows than the
// batch, and so has what comes from them.
class OpRunner {
 public:
  OpRunner(const Context& context, const Model& model, Executor& executor, const Block& block, int index,
           const Batch& batch, Cache& cache, Values& values)
      : context_(context),
        model_(model),
        executor_(executor),
        block_(block),
        op_(block.ops[static_cast<size_t>(index)]),
        index_(index),
        batch_(batch),
        cache_(cache),
        values_(values) {}

  Status operator()(const EmbedOp& op) {
    const Matrix& table = model_.linears[static_cast<size_t>(op.table)].w;
    Mat<float>& y = Fresh();
    context_.pool->ParallelFor(batch_.rows(), [&](int64_t i) {
      ReadRows(table, batch_.ids[static_cast<size_t>(i)], 1, 0, table.cols, y.row(i), table.cols);
    });
    return {};
  }
  Status operator()(const PositionOp& op) {
    const auto table = Vector(op.table);
    Mat<float>& y = Fresh();
    for (int64_t i = 0; i < batch_.rows(); ++i) {
      const int64_t position = batch_.positions[static_cast<size_t>(i)], row = position + op.offset;
      if (row >= op.rows) {
        return InputError(fmt::format("{}: position {} is past the {} the model has learned", model_.path,
                                      position, op.rows - op.offset));
      }
      std::copy_n(table.data() + row * y.cols(), y.cols(), y.row(i));
    }
    return {};
  }
  Status operator()(const LinearOp& op) {
    Mat<float>& y = Fresh();
    return executor_.MultiplyLinear(context_, op.linear, View(0), y.view());
  }
  Status operator()(const RmsNormOp& op) {
    const auto weight = Vector(op.weight);
    const int64_t width = In(0).cols() / op.parts;
    const size_t own = weight.size() / static_cast<size_t>(op.parts);
    Mat<float>& y = Fresh();
    for (int64_t p = 0; p < op.parts; ++p) {
      RmsNorm(context_, View(0).Cols(p * width, width), weight.subspan(static_cast<size_t>(p) * own, own),
              op.eps, y.view().Cols(p * width, width));
    }
    return {};
  }
  Status operator()(const LayerNormOp& op) {
    const auto weight = Vector(op.weight), bias = Vector(op.bias);
    const int64_t width = In(0).cols() / op.groups;
    Mat<float>& y = Fresh();
    for (int64_t g = 0; g < op.groups; ++g) {
      const auto at = static_cast<size_t>(g * width), count = static_cast<size_t>(width);
      LayerNorm(context_, View(0).Cols(g * width, width), weight.subspan(at, count),
                bias.empty() ? bias : bias.subspan(at, count), op.eps, y.view().Cols(g * width, width));
    }
    return {};
  }
  Status operator()(const SliceOp& op) {
    SliceColumns(In(0), op, Fresh());
    return {};
  }
  Status operator()(const JoinOp& op) {
    JoinHeads(Views(0), op, Fresh());
    return {};
  }
  Status operator()(const RopeOp& op) {
    const RopeTable& rope = model_.program.ropes[static_cast<size_t>(op.rope)];
    Mat<float>& x = InPlace();
    if (rope.longer_than == 0) {
      Rope(context_, x, op.head_dim, batch_.positions, rope.inv_freq, rope.attention_factor, rope.pairing,
           /*inverse=*/false, op.offset);
      return {};
    }
    for (const auto& run : batch_.runs) {
      const auto positions = std::span(batch_.positions)
                                 .subspan(static_cast<size_t>(run.first_row), static_cast<size_t>(run.rows));
      Rope(context_, x.view().Rows(run.first_row, run.rows), op.head_dim, positions,
           RopeFrequencies(rope, run.first_position + run.rows), rope.attention_factor, rope.pairing,
           /*inverse=*/false, op.offset);
    }
    return {};
  }
  Status operator()(const AttentionOp& op) {
    PLANISH_RETURN_IF_ERROR(cache_.Append(context_, op.cache_layer, batch_, In(1), In(2)));
    return cache_.Attend(context_, op.cache_layer, op.shape, batch_, In(0), FreshRows(In(0).rows()));
  }
  Status operator()(const ActivationOp& op) {
    Activate(context_, op.activation, In(0), Fresh());
    return {};
  }
  Status operator()(const GateOp& op) {
    GatedActivate(context_, op.activation, In(0), In(1), Fresh());
    return {};
  }
  Status operator()(const AddOp& op) {
    AddScaled(context_, op.scale, In(1), InPlace());
    return {};
  }
  Status operator()(const ScaleOp& op) {
    Scale(context_, op.factor, InPlace());
    return {};
  }
  Status operator()(const RowScaleOp&) {
    ScaleRows(context_, In(1), InPlace());
    return {};
  }
  Status operator()(const SoftCapOp& op) {
    SoftCap(context_, op.cap, InPlace());
    return {};
  }
  Status operator()(const RouteOp& op) {
    Route(context_, op.shape, In(0), Fresh());
    return {};
  }
  Status operator()(const GatherOp& op) {
    const auto rows = RowsOfExpert(In(1), op.expert);
    GatherRows(context_, In(0), rows, FreshRows(static_cast<int64_t>(rows.size())));
    return {};
  }
  Status operator()(const CombineOp&) {
    CombineExperts(context_, In(0), Views(1), Fresh());
    return {};
  }
  Status operator()(const ConvOp& op) {
    const auto weight = Vector(op.weight), bias = Vector(op.bias);
    Mat<float>& y = Fresh();
    for (const auto& run : batch_.runs) {
      PLANISH_TRY(const auto state, cache_.AdvanceState(op.state, run, (op.kernel - 1) * y.cols()));
      CausalConvolution(context_, View(0).Rows(run.first_row, run.rows), weight, bias, op.kernel, state,
                        y.view().Rows(run.first_row, run.rows));
    }
    return {};
  }
  Status operator()(const ScanOp& op) {
    const ScanWeights weights{Vector(op.a_log), Vector(op.d), Vector(op.dt_bias)};
    Mat<float>& y = Fresh();
    for (const auto& run : batch_.runs) {
      PLANISH_TRY(const auto state, cache_.AdvanceState(op.state, run, op.shape.StateSize()));
      const auto rows = [&](size_t input) { return View(input).Rows(run.first_row, run.rows); };
      SelectiveScan(context_, op.shape, weights, rows(0), rows(1), rows(2), rows(3), state,
                    y.view().Rows(run.first_row, run.rows));
    }
    return {};
  }

  // Puts the output among the values and drops those that nobody reads any more.
  void Finish() {
    for (size_t i = 0; i < op_.inputs.size(); ++i) {
      if (!IsLastUse(i)) continue;
      executor_.Give(std::move(In(i)));
      In(i) = {};
    }
    values_[static_cast<size_t>(op_.output)] = std::move(out_);
  }

 private:
  Mat<float>& In(size_t i) { return values_[static_cast<size_t>(op_.inputs[i])]; }
  MatView<const float> View(size_t i) { return In(i).view(); }
  std::vector<MatView<const float>> Views(size_t first) {
    std::vector<MatView<const float>> views;
    for (size_t i = first; i < op_.inputs.size(); ++i) views.push_back(View(i));
    return views;
  }
  bool IsLastUse(size_t i) const { return block_.LastUse(op_.inputs[i]) == index_; }
  std::span<const float> Vector(VectorId id) const {
    if (id < 0) return {};
    return model_.vectors[static_cast<size_t>(id)];
  }
  Mat<float>& FreshRows(int64_t rows) {
    out_ = executor_.Take(rows, block_.values[static_cast<size_t>(op_.output)].width);
    return out_;
  }
  Mat<float>& Fresh() { return FreshRows(op_.inputs.empty() ? batch_.rows() : In(0).rows()); }
  // Input 0 to work in place on: its own memory when nobody reads it later, else a copy.
  Mat<float>& InPlace() {
    if (IsLastUse(0)) {
      out_ = std::move(In(0));
    } else {
      const auto bytes = static_cast<size_t>(In(0).rows() * In(0).cols()) * sizeof(float);
      std::memcpy(Fresh().data(), In(0).data(), bytes);
    }
    return out_;
  }

  const Context& context_;
  const Model& model_;
  Executor& executor_;
  const Block& block_;
  const Op& op_;
  int index_;
  const Batch& batch_;
  Cache& cache_;
  Values& values_;
  Mat<float> out_;
};

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

Status Executor::MultiplyLinear(const Context& context, LinearId linear, MatView<const float> x,
                                MatView<float> y) const {
  if (multiply_) return multiply_(context, linear, x, y);
  Apply(context, model_.linears[static_cast<size_t>(linear)], x, y);
  return {};
}

Status Executor::RunOps(const Context& context, const Block& block, int first, int last, const Batch& batch,
                        Cache& cache, Values& values) {
  values.resize(block.values.size());
  for (int i = first; i < last; ++i) {
    OpRunner runner(context, model_, *this, block, i, batch, cache, values);
    PLANISH_RETURN_IF_ERROR(std::visit(runner, block.ops[static_cast<size_t>(i)].body));
    runner.Finish();
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

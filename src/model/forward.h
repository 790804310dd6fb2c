// Runs a program: the plain forward in fp32 over weights as they are stored. The definition that
// every faster runtime is compared with.
#pragma once

#include <functional>
#include <vector>

#include "model/cache.h"
#include "model/model.h"

namespace planish {

// The values of one block while it runs, by ValueId; an empty matrix is not alive.
using Values = std::vector<Mat<float>>;

// Executes spans of operations. Keeps the memory of dead values for the next ones, so that a
// steady state allocates nothing. Not thread-safe; parallel inside.
class Executor {
 public:
  explicit Executor(const Model& model) : model_(model) {}

  // Runs operations [first, last) of the block on `batch`. `values` must hold what they read; a value
  // is dropped after its last use in the block. Errors: the cache is full, a position past the learned ones,
  // a state-space sequence that does not go on where it stopped.
  Status RunOps(const Context& context, const Block& block, int first, int last, const Batch& batch,
                Cache& cache, Values& values);
  // The whole block: hidden [rows, hidden] in and out (ids in for the embedding block).
  Status RunBlock(const Context& context, const Block& block, const Batch& batch, Cache& cache,
                  Mat<float>& hidden);
  // Linears are multiplied by `multiply` instead of Apply of layer/matrix.h. y [x.rows, out] is set.
  using Multiply = std::function<Status(const Context& context, LinearId linear, MatView<const float> x,
                                        MatView<float> y)>;
  void UseMultiply(Multiply multiply) { multiply_ = std::move(multiply); }
  Status MultiplyLinear(const Context& context, LinearId linear, MatView<const float> x,
                        MatView<float> y) const;
  // A matrix from the pool of dead ones.
  Mat<float> Take(int64_t rows, int64_t cols);
  void Give(Mat<float> matrix);

 private:
  const Model& model_;
  Multiply multiply_;
  std::vector<Mat<float>> free_;
};

// An input error that names the first id that is not in the vocabulary.
Status CheckTokenIds(const Model& model, const Batch& batch);

// Logits [logit_rows.size(), vocab] of the batch's rows named by `logit_rows`. Ids must be below the
// vocabulary's size: an input error names the first that is not. NaN or infinity in a hidden state is
// an error that names the block and, if a weight is the cause, the tensor.
Status Forward(const Context& context, const Model& model, Executor& executor, const Batch& batch,
               std::span<const int64_t> logit_rows, Cache& cache, Mat<float>& logits);

}  // namespace planish

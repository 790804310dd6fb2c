// What generates, serves or evaluates token by token runs on: the plain forward pass, or the engine on
// packed weights.
#pragma once

#include "model/forward.h"

namespace planish {

class Runner {
 public:
  virtual ~Runner() = default;
  // Logits [logit_rows.size(), vocab] of the batch's rows named by `logit_rows`, in ascending order. Keys and
  // values stay in the runner's cache. Errors: as of Forward in model/forward.h.
  virtual Status Forward(const Context& context, const Batch& batch, std::span<const int64_t> logit_rows,
                         Mat<float>& logits) = 0;
};

// The definition: weights as they are stored, fp32 cache.
class PlainRunner : public Runner {
 public:
  // `model` must live as long.
  PlainRunner(const Model& model, int slots, int64_t capacity)
      : model_(model), executor_(model), cache_(model.program.cache_layers, slots, capacity) {}
  Status Forward(const Context& context, const Batch& batch, std::span<const int64_t> logit_rows,
                 Mat<float>& logits) override {
    return planish::Forward(context, model_, executor_, batch, logit_rows, cache_, logits);
  }

 private:
  const Model& model_;
  Executor executor_;
  DenseCache cache_;
};

}  // namespace planish

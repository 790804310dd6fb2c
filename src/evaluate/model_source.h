// A model as a source of logits for the evaluator.
#pragma once

#include <optional>

#include "evaluate/damage.h"
#include "model/forward.h"

namespace planish {

class ModelSource : public LogitSource {
 public:
  // `precision`: instead of the context's.
  ModelSource(const Model& model, int64_t max_window, std::optional<Precision> precision = {})
      : model_(model),
        executor_(model),
        cache_(model.program.cache_layers, 1, max_window),
        precision_(precision) {}
  int64_t vocab_size() const override { return model_.program.vocab; }
  Status Logits(const Context& context, std::span<const int32_t> ids, MatView<float> logits) override;

 private:
  const Model& model_;
  Executor executor_;
  DenseCache cache_;
  std::optional<Precision> precision_;
};

}  // namespace planish

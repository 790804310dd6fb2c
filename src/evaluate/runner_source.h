// A runner as a source of logits for the evaluator: a window goes through in steps of a few tokens, as
// decoding would, so that what the runtime adds to a model's damage is measured too.
#pragma once

#include "evaluate/damage.h"
#include "runtime/runner.h"

namespace planish {

class RunnerSource : public LogitSource {
 public:
  // Both must live as long. `step`: tokens of a forward pass.
  RunnerSource(const Program& program, Runner& runner, int64_t step)
      : program_(program), runner_(runner), step_(step) {}
  int64_t vocab_size() const override { return program_.vocab; }
  Status Logits(const Context& context, std::span<const int32_t> ids, MatView<float> logits) override;

 private:
  const Program& program_;
  Runner& runner_;
  int64_t step_;
  Mat<float> part_;
};

}  // namespace planish

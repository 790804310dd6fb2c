// b += E[(W - W_hat) x], the closed form of bias tuning (AdaQuant, arXiv 2006.10518, section on bias
// correction). What is left of the loss is E|(W - W_hat) x - d|^2 with d the change of the bias as stored:
//   tr(E H E^T) - 2 d . E m + |d|^2,   m the mean input,
// which for d = E m is the loss under the covariance H - m m^T.
#include "methods/compensate/bias_stage.h"

#include <fmt/format.h>

#include <cmath>

#include "tensor/dtype.h"

namespace planish {
namespace {

Status SolveBias(const Context& context, std::span<const LayerProblem> problems, std::span<const Options>,
                 std::span<LayerSolution> solutions) {
  for (size_t i = 0; i < problems.size(); ++i) {
    const LayerProblem& p = problems[i];
    LayerSolution& solution = solutions[i];
    const Mat<float> w_hat = Reconstruct(solution.matrix);
    // Under H itself, whatever the stages before counted.
    const double before = LayerLoss(context, p.w, w_hat, p.h);
    double after = before;
    solution.bias.resize(static_cast<size_t>(p.w.rows));
    for (int64_t r = 0; r < p.w.rows; ++r) {
      double mean_error = 0;
      for (int64_t j = 0; j < p.w.cols; ++j) {
        mean_error += (static_cast<double>(p.w(r, j)) - w_hat(r, j)) * p.mean[static_cast<size_t>(j)];
      }
      const double old = p.bias.empty() ? 0.0 : p.bias[static_cast<size_t>(r)];
      const float stored = ToFloat(ToF16(static_cast<float>(old + mean_error)));
      if (!std::isfinite(stored)) {
        return InputError(
            fmt::format("{}: the bias of row {} would be {:.3g}, beyond fp16; leave out stage "
                        "'bias' for this tensor",
                        p.name, r, old + mean_error));
      }
      const double d = stored - old;
      after += d * d - 2 * d * mean_error;
      solution.bias[static_cast<size_t>(r)] = stored;
    }
    solution.steps.push_back({"bias", after, fmt::format("without the bias {:.6g}", before)});
  }
  return {};
}

}  // namespace

const SolveStage& BiasStage() {
  static const SolveStage stage = {
      "bias",
      "fold the mean error of a linear's output into its bias",
      StageKind::kBias,
      false,
      {{"centered",
        true,
        0,
        0,
        {},
        "the stages before it count errors under the covariance of the input: the "
        "bias will take what they do to its mean"}},
      SolveBias,
      nullptr};
  return stage;
}

}  // namespace planish

#include "pipeline/site_solver.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <memory>
#include <tuple>

namespace planish {
namespace {

// Everything the stages of one site work on, by index of the linear in the site.
struct SiteWork {
  std::vector<LinearId> linears;
  std::vector<LayerPlan> plans;
  std::vector<Mat<float>> weights;
  std::vector<LayerSolution> solutions;
  Mat<float> h;
  std::vector<float> mean;
  // H - mean mean^T, for linears whose bias will take what their errors do to the mean input.
  Mat<float> covariance;
  // Factorizations differ only by what FactorSite reads.
  std::map<std::tuple<int64_t, double, int, bool>, SiteFactor> factors;
};

// True when a stage to come frees the rounding from the mean input.
bool FreesMean(const LayerPlan& plan, size_t step) {
  for (size_t s = step + 1; s < plan.stages.size(); ++s) {
    const auto& [stage, options] = plan.stages[s];
    if (stage->kind == StageKind::kBias && options.Bool("centered")) return true;
  }
  return false;
}

Mat<float> Covariance(MatView<const float> h, const std::vector<float>& mean) {
  Mat<float> c(h.rows, h.cols);
  for (int64_t i = 0; i < h.rows; ++i) {
    const double m = mean[static_cast<size_t>(i)];
    for (int64_t j = 0; j < h.cols; ++j) {
      c(i, j) = static_cast<float>(h(i, j) - m * mean[static_cast<size_t>(j)]);
    }
    c(i, i) = std::max(c(i, i), 0.0f);  // below 0 by rounding only
  }
  return c;
}

Result<const SiteFactor*> Factor(const Context& context, SiteWork& work, const SolveStage& stage,
                                 const Options& options, bool centered) {
  const FeedbackOptions feedback = stage.factor_options(options);
  const int64_t group = GridOfOptions(options, work.h.rows()).group;
  const auto key = std::tuple(group, feedback.damping, static_cast<int>(feedback.order), centered);
  auto known = work.factors.find(key);
  if (known == work.factors.end()) {
    PLANISH_TRY(SiteFactor factor, FactorSite(context, centered ? work.covariance : work.h, group, feedback));
    known = work.factors.emplace(key, std::move(factor)).first;
  }
  return &known->second;
}

// Runs stage number `step` of every linear that has it; those with the same stage are solved together.
Status RunStep(const Context& context, const Model& model, SiteWork& work, size_t step, bool& any) {
  std::vector<bool> done(work.linears.size());
  for (size_t first = 0; first < work.linears.size(); ++first) {
    if (done[first] || work.plans[first].skip || step >= work.plans[first].stages.size()) continue;
    any = true;
    const SolveStage* stage = work.plans[first].stages[step].first;
    std::vector<size_t> members;
    std::vector<LayerProblem> problems;
    std::vector<Options> options;
    std::vector<LayerSolution> solutions;
    for (size_t i = first; i < work.linears.size(); ++i) {
      if (work.plans[i].skip || step >= work.plans[i].stages.size() ||
          work.plans[i].stages[step].first != stage)
        continue;
      done[i] = true;
      members.push_back(i);
      options.push_back(work.plans[i].stages[step].second);
      const bool centered = FreesMean(work.plans[i], step);
      if (centered && work.covariance.rows() == 0) work.covariance = Covariance(work.h, work.mean);
      const Linear& linear = model.linears[static_cast<size_t>(work.linears[i])];
      problems.push_back({linear.name, work.weights[i], centered ? work.covariance : work.h, nullptr,
                          work.mean, linear.bias});
      if (stage->needs_factor) {
        PLANISH_TRY(problems.back().factor, Factor(context, work, *stage, options.back(), centered));
      }
      solutions.push_back(std::move(work.solutions[i]));
    }
    PLANISH_RETURN_IF_ERROR(context.CheckCancelled());
    PLANISH_RETURN_IF_ERROR(stage->solve(context, problems, options, solutions));
    for (size_t k = 0; k < members.size(); ++k) work.solutions[members[k]] = std::move(solutions[k]);
  }
  return {};
}

// A site no token reached: H = 0 says nothing, so the identity stands in and all columns count alike.
Mat<float> UnseenMoments(int64_t width) {
  Mat<float> h(width, width);
  h.Fill(0);
  for (int64_t i = 0; i < width; ++i) h(i, i) = 1;
  return h;
}

}  // namespace

Result<std::vector<SolvedLinear>> SolveSite(const Context& context, const Model& model, const Site& site,
                                            const Moments& moments, const Recipe& recipe) {
  SiteWork work;
  work.h = moments.count() > 0 ? moments.MeanSquare() : UnseenMoments(moments.width());
  work.mean =
      moments.count() > 0 ? moments.Mean() : std::vector<float>(static_cast<size_t>(moments.width()), 0.0f);
  for (LinearId id : site.linears) {
    const Linear& linear = model.linears[static_cast<size_t>(id)];
    PLANISH_TRY(LayerPlan plan, PlanFor(recipe, linear.name));
    if (plan.skip) continue;
    work.linears.push_back(id);
    work.plans.push_back(std::move(plan));
    work.weights.push_back(Reconstruct(linear.w));
    const auto& w = work.weights.back();
    const int64_t bad = FindNonFinite({w.data(), static_cast<size_t>(w.rows() * w.cols())});
    if (bad >= 0) {
      return InputError(fmt::format("tensor '{}': element [{}, {}] is {}; the checkpoint is damaged",
                                    linear.name, bad / w.cols(), bad % w.cols(), w.data()[bad]));
    }
  }
  work.solutions.resize(work.linears.size());
  bool any = true;
  for (size_t step = 0; any; ++step) {
    any = false;
    PLANISH_RETURN_IF_ERROR(RunStep(context, model, work, step, any));
  }
  std::vector<SolvedLinear> solved;
  for (size_t i = 0; i < work.linears.size(); ++i) {
    if (moments.count() == 0) {
      work.solutions[i].warnings.emplace_back("its input was never seen in calibration: solved with H = I");
    }
    if (moments.count() > 0 && moments.is_fallback()) {
      work.solutions[i].warnings.push_back(fmt::format(
          "{} of {} tokens were routed to this expert, too few to solve with: the moments of all tokens, "
          "weighted by the router's score of it, are taken instead",
          moments.seen(), moments.count()));
    }
    solved.push_back({work.linears[i], std::move(work.solutions[i]), site.expert >= 0 ? moments.seen() : -1});
  }
  return solved;
}

OrderedJson LayerReport(const Model& model, const SolvedLinear& solved) {
  const auto& slot = model.program.linears[static_cast<size_t>(solved.linear)];
  const int64_t bytes =
      StoredBytes(solved.solution.matrix) + 2 * static_cast<int64_t>(solved.solution.bias.size());
  OrderedJson report;
  report["name"] = slot.weight;
  report["parts"] = Describe(solved.solution.matrix) + (solved.solution.bias.empty() ? "" : " + bias");
  report["bits"] = 8.0 * static_cast<double>(bytes) / static_cast<double>(slot.out * slot.in);
  report["bytes"] = bytes;
  report["loss_nearest"] = solved.solution.loss_nearest;
  report["loss"] = solved.solution.steps.empty() ? 0.0 : solved.solution.steps.back().loss;
  report["steps"] = OrderedJson::array();
  for (const auto& step : solved.solution.steps) {
    OrderedJson entry = {{"method", step.method}, {"loss", step.loss}};
    if (!step.note.empty()) entry["note"] = step.note;
    report["steps"].push_back(std::move(entry));
  }
  if (solved.tokens >= 0) report["tokens"] = solved.tokens;
  if (!solved.solution.warnings.empty()) report["warnings"] = solved.solution.warnings;
  return report;
}

}  // namespace planish

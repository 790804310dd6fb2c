#include "methods/round/round_stages.h"

#include <fmt/format.h>

namespace planish {
namespace {

std::vector<OptionSpec> GridOptions() {
  return {
      {"bits", int64_t{4}, 2, 8, {}, "bits of a code"},
      {"group", int64_t{128}, 0, 1 << 20, {}, "columns that share a scale; 0: the whole row"},
      {"symmetric", false, 0, 0, {}, "no stored zero point"},
      {"search",
       std::string("weighted"),
       0,
       0,
       {"weighted", "minmax"},
       "how scale and zero are chosen: clip search weighted by diag H, or the range"},
  };
}

IntegerGrid ReadGrid(const Options& o) {
  return {static_cast<int>(o.Int("bits")), o.Int("group"), o.Bool("symmetric")};
}

ClipSearch ReadSearch(const Options& o) {
  return o.Text("search") == "minmax" ? ClipSearch::kMinMax : ClipSearch::kWeighted;
}

FeedbackOptions ReadFeedback(const Options& o) {
  FeedbackOptions f;
  f.damping = o.Number("damping");
  const std::string& order = o.Text("order");
  f.order = order == "natural"      ? ColumnOrder::kNatural
            : order == "activation" ? ColumnOrder::kActivation
                                    : ColumnOrder::kGroupAware;
  f.search = ReadSearch(o);
  f.refit_rounds = static_cast<int>(o.Int("refit"));
  f.polish = o.Bool("polish");
  f.dynamic_groups = o.Bool("dynamic_groups");
  return f;
}

Status SolveRtn(const Context& context, std::span<const LayerProblem> problems,
                std::span<const Options> options, std::span<LayerSolution> solutions) {
  for (size_t i = 0; i < problems.size(); ++i) {
    auto rounded =
        RoundToNearest(context, problems[i].w, problems[i].h, ReadGrid(options[i]), ReadSearch(options[i]));
    if (!rounded.ok()) return rounded.error().At(problems[i].name);
    solutions[i].matrix = PackInteger(rounded->matrix);
    solutions[i].loss_nearest = rounded->loss;
    solutions[i].steps.push_back({"rtn", rounded->loss, ""});
  }
  return {};
}

Status SolveGptq(const Context& context, std::span<const LayerProblem> problems,
                 std::span<const Options> options, std::span<LayerSolution> solutions) {
  for (size_t i = 0; i < problems.size(); ++i) {
    const SiteFactor& site = *problems[i].factor;
    auto rounded =
        RoundWithFeedback(context, problems[i].w, site, ReadGrid(options[i]), ReadFeedback(options[i]));
    if (!rounded.ok()) return rounded.error().At(problems[i].name);
    LayerSolution& solution = solutions[i];
    solution.matrix = PackInteger(rounded->matrix);
    solution.loss_nearest = rounded->loss_nearest;
    solution.steps.push_back({"gptq", rounded->loss, ""});
    if (site.retries > 0) {
      solution.warnings.push_back(fmt::format(
          "H was not positive definite: damping raised {} times, to {:.3g}", site.retries, site.lambda));
    }
    if (!site.dead.empty()) {
      solution.warnings.push_back(
          fmt::format("{} input channels are always zero; their weights became 0", site.dead.size()));
    }
  }
  return {};
}

}  // namespace

const SolveStage& RtnStage() {
  static const SolveStage stage = {
      "rtn", "round to nearest", StageKind::kRound, false, GridOptions(), SolveRtn, nullptr};
  return stage;
}

const SolveStage& GptqStage() {
  static const SolveStage stage = [] {
    SolveStage s = {"gptq",
                    "rounding with error feedback (GPTQ, LDLQ) and refit of the grid",
                    StageKind::kRound,
                    true,
                    GridOptions(),
                    SolveGptq,
                    ReadFeedback};
    s.options.push_back({"damping", 0.01, 0, 10, {}, "added to the diagonal of H, relative to its mean"});
    s.options.push_back({"order",
                         std::string("group_aware"),
                         0,
                         0,
                         {"natural", "activation", "group_aware"},
                         "column order; groups always keep their original columns"});
    s.options.push_back(
        {"refit", int64_t{2}, 0, 16, {}, "rounds of closed-form refit of scale and zero under H"});
    s.options.push_back(
        {"polish", true, 0, 0, {}, "also move single codes while that lowers the loss (needs refit)"});
    s.options.push_back(
        {"dynamic_groups", false, 0, 0, {}, "choose a group's grid from weights that hold the feedback"});
    return s;
  }();
  return stage;
}

}  // namespace planish

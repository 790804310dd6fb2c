#include "methods/round/round_stages.h"

#include <fmt/format.h>

#include <algorithm>

namespace planish {
namespace {

std::vector<OptionSpec> GridOptions() {
  std::vector<std::string> names = {"int"};
  for (const NamedGrid& named : NamedGrids()) names.emplace_back(named.name);
  return {
      {"grid", std::string("int"), 0, 0, names, "number format; int: as many bits as `bits` says"},
      {"bits", int64_t{4}, 2, 8, {}, "bits of a code of grid int"},
      {"group",
       int64_t{128},
       0,
       1 << 20,
       {},
       "columns that share a scale; 0: the whole row (MX and NVFP4 have their own groups and scales)"},
      {"scale_bits",
       int64_t{16},
       4,
       16,
       {"4", "5", "6", "7", "8", "16"},
       "bits of a scale: 16 (fp16), or steps of an fp16 unit a row"},
      {"zero_bits",
       int64_t{0},
       0,
       8,
       {},
       "bits of a zero of an integer grid, at least a code's, up to 8; 0: as a code's"},
      {"symmetric", false, 0, 0, {}, "no stored zero point"},
      {"search",
       std::string("weighted"),
       0,
       0,
       {"weighted", "minmax"},
       "how scale and zero are chosen: clip search weighted by diag H, or the range"},
  };
}

}  // namespace

// MX and NVFP4 fix groups and scales; group and scale_bits say nothing about them.
GridSpec GridOfOptions(const Options& o) {
  GridSpec grid;
  if (o.Text("grid") == "int") {
    grid.bits = static_cast<int>(o.Int("bits"));
  } else {
    grid = *FindGrid(o.Text("grid"));
  }
  if (grid.scale == ScaleKind::kHalf) {
    grid.group = o.Int("group");
    if (o.Int("scale_bits") < 16) {
      grid.scale = ScaleKind::kSteps;
      grid.scale_bits = static_cast<int>(o.Int("scale_bits"));
    }
  }
  if (grid.Uniform()) {
    grid.symmetric = o.Bool("symmetric");
    // More bits than a code's are a finer zero; fewer would not reach every code.
    if (grid.HasZeros()) grid.zero_bits = std::max(grid.bits, static_cast<int>(o.Int("zero_bits")));
  }
  return grid;
}

namespace {

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
    auto rounded = RoundToNearest(context, problems[i].w, problems[i].h, GridOfOptions(options[i]),
                                  ReadSearch(options[i]));
    if (!rounded.ok()) return rounded.error().At(problems[i].name);
    solutions[i].matrix = PackCodes(rounded->matrix);
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
        RoundWithFeedback(context, problems[i].w, site, GridOfOptions(options[i]), ReadFeedback(options[i]));
    if (!rounded.ok()) return rounded.error().At(problems[i].name);
    LayerSolution& solution = solutions[i];
    solution.matrix = PackCodes(rounded->matrix);
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

#include "methods/round/round_stages.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "grids/gguf_fit.h"
#include "methods/options.h"
#include "methods/round/outliers.h"

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
       "columns that share a scale; 0: the whole row (MX, NVFP4 and the types of GGUF have their own)"},
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
      {"tables",
       std::string("tensor"),
       0,
       0,
       {"tensor", "row", "group"},
       "what shares a table of grid table2 to table4; a group's own, or a row's with group 0, has no scales"},
      {"sparse", 0.0, 0, 20, {}, "percent of the weights kept apart as fp16"},
      {"sparse_by",
       std::string("sensitivity"),
       0,
       0,
       {"magnitude", "sensitivity"},
       "which: the largest |w|, or the largest |w| sqrt(H_jj)"},
      {"search",
       std::string("weighted"),
       0,
       0,
       {"weighted", "minmax"},
       "how scale and zero are chosen: clip search weighted by diag H, or the range"},
  };
}

// The grid of the name or of `bits`, with its own groups and scales.
GridSpec NamedGridOf(const Options& o) {
  if (o.Text("grid") != "int") return *FindGrid(o.Text("grid"));
  GridSpec grid;
  grid.bits = static_cast<int>(o.Int("bits"));
  return grid;
}

// An option that the grid does not have must keep its default: it would be ignored.
Status CheckGridOptions(const Options& o) {
  static const std::vector<OptionSpec> kSpecs = GridOptions();
  const std::string& name = o.Text("grid");
  const GridSpec grid = NamedGridOf(o);
  const auto only_default = [&](const char* option, const std::string& reason) -> Status {
    const OptionValue& fallback = FindOption(kSpecs, option)->fallback;
    const OptionValue& value = o.values().at(option);
    if (value == fallback) return {};
    return InputError(fmt::format("option '{}': {} does not go with grid '{}', {}; leave it at {}", option,
                                  OptionText(value), name, reason, OptionText(fallback)));
  };
  if (name != "int") PLANISH_RETURN_IF_ERROR(only_default("bits", "whose codes have bits of their own"));
  if (grid.InBlocks() || grid.scale != ScaleKind::kHalf) {
    const char* reason = grid.InBlocks() ? "a block type with groups and scales of its own"
                                         : "which has groups and scales of its own";
    PLANISH_RETURN_IF_ERROR(only_default("group", reason));
    PLANISH_RETURN_IF_ERROR(only_default("scale_bits", reason));
  }
  if (grid.InBlocks()) {
    PLANISH_RETURN_IF_ERROR(only_default("search", "whose scales are always searched"));
    PLANISH_RETURN_IF_ERROR(only_default("sparse", "a block type that other programs read whole"));
  }
  if (o.Number("sparse") == 0) {
    PLANISH_RETURN_IF_ERROR(only_default("sparse_by", "without outliers"));
  }
  if (grid.levels != LevelKind::kTable) {
    PLANISH_RETURN_IF_ERROR(only_default("tables", "which has no learned tables"));
  } else if (o.Text("tables") == "group" || (o.Text("tables") == "row" && o.Int("group") == 0)) {
    PLANISH_RETURN_IF_ERROR(only_default("scale_bits", "whose own tables have no scales"));
    PLANISH_RETURN_IF_ERROR(only_default("search", "whose own tables have no scales"));
    if (o.Text("tables") == "group" && o.Int("group") == 0) {
      return InputError("option 'tables': group 0 is the whole row; say \"row\", or a group size");
    }
  }
  if (!grid.Uniform()) {
    PLANISH_RETURN_IF_ERROR(only_default("symmetric", "which has no zeros"));
    return only_default("zero_bits", "which has no zeros");
  }
  if (o.Bool("symmetric")) return only_default("zero_bits", "which is symmetric");
  const int64_t zero_bits = o.Int("zero_bits");
  if (zero_bits != 0 && zero_bits < grid.bits) {
    return InputError(
        fmt::format("option 'zero_bits': {} bits do not reach every code of {} bits, expected 0 or {} to 8",
                    zero_bits, grid.bits, grid.bits));
  }
  return {};
}

}  // namespace

GridSpec GridOfOptions(const Options& o, int64_t cols) {
  GridSpec grid = NamedGridOf(o);
  if (grid.InBlocks()) return FitToRows(grid, cols);
  if (grid.levels == LevelKind::kTable) {
    const std::string& tables = o.Text("tables");
    grid.tables = tables == "row"     ? TableScope::kRow
                  : tables == "group" ? TableScope::kGroup
                                      : TableScope::kTensor;
    const bool own =
        grid.tables == TableScope::kGroup || (grid.tables == TableScope::kRow && o.Int("group") == 0);
    if (own) {
      grid.scale = ScaleKind::kNone;
      grid.group = o.Int("group");
    }
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
    // More bits than a code's are a finer zero.
    if (grid.HasZeros() && o.Int("zero_bits") > 0) grid.zero_bits = static_cast<int>(o.Int("zero_bits"));
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

// The weights without their outliers, and these. Weights of dead inputs, which error feedback makes zero, are
// none.
struct Split {
  Mat<float> rest;
  std::vector<SparseEntry> outliers;
  MatView<const float> w;
};

Split SplitOff(const LayerProblem& problem, const Options& o) {
  Split split;
  split.w = problem.w;
  if (o.Number("sparse") == 0) return split;
  std::vector<float> diag;
  if (o.Text("sparse_by") == "sensitivity") {
    for (int64_t j = 0; j < problem.w.cols; ++j) diag.push_back(problem.h(j, j));
  }
  split.rest.Resize(problem.w.rows, problem.w.cols);
  for (int64_t i = 0; i < problem.w.rows; ++i) {
    std::copy_n(problem.w.row(i), problem.w.cols, split.rest.row(i));
    if (problem.factor == nullptr) continue;
    for (const int32_t j : problem.factor->dead) split.rest(i, j) = 0.0f;
  }
  split.outliers = ChooseOutliers(split.rest, diag, o.Number("sparse") / 100);
  for (const SparseEntry& entry : split.outliers) split.rest(entry.row, entry.col) = 0;
  split.w = split.rest;
  return split;
}

// What was rounded as a part of the solution, outliers beside it; a block type that gave way is told.
void TakeMatrix(Rounded& rounded, const Options& o, const GridSpec& grid, const Split& split,
                LayerSolution& solution) {
  const int64_t rows = split.w.rows, cols = split.w.cols;
  if (!grid.InBlocks()) {
    solution.matrix = PackCodes(rounded.matrix);
    if (split.outliers.empty()) return;
    Matrix sparse = SparseMatrix(rows, cols, split.outliers);
    solution.matrix = {rows, cols, SumPart{{std::move(solution.matrix), std::move(sparse)}}};
    return;
  }
  solution.matrix = BlockMatrix(grid.block_type, rows, cols, std::move(rounded.blocks));
  const GgufType wanted = NamedGridOf(o).block_type;
  if (wanted != grid.block_type) {
    solution.warnings.push_back("made of " + FallbackText(wanted, grid.block_type, cols));
  }
}

// Options of error feedback that would be ignored.
Status CheckFeedbackOptions(const Options& o) {
  PLANISH_RETURN_IF_ERROR(CheckGridOptions(o));
  const bool own_tables = GridOfOptions(o, 256).scale == ScaleKind::kNone;
  if (o.Bool("dynamic_groups") && o.Text("order") == "activation") {
    return InputError(
        "option 'dynamic_groups': groups are chosen one after the other, which order 'activation' does not "
        "allow; "
        "take order 'group_aware' or 'natural'");
  }
  if (o.Bool("dynamic_groups") && own_tables) {
    return InputError(
        "option 'dynamic_groups': tables of their own are learned before rounding; leave it false");
  }
  if (own_tables && o.Int("refit") > 0 && !o.Bool("polish")) {
    return InputError(
        "option 'refit': tables of their own have no scales to refit, and without 'polish' no codes move; "
        "leave 'polish' at true, or that and refit = 0");
  }
  if (o.Int("refit") == 0 && !o.Bool("polish")) {
    return InputError("option 'polish': false says nothing without rounds of 'refit'; leave it at true");
  }
  return {};
}

// The linears of a site without their outliers, the grid of each, and the largest weight under FP8 scales: a
// server that joins some of them (q, k and v; gate and up) has one unit for all.
struct SiteRounding {
  std::vector<Split> splits;
  std::vector<GridSpec> grids;
  float largest = 0;  // 0: no grid has FP8 scales
};

// What of `w` reaches a parameter of its grid: not the weights of inputs that are always zero.
float LargestOf(MatView<const float> w, const SiteFactor* factor) {
  if (factor == nullptr || factor->dead.empty()) return LargestMagnitude(w);
  float largest = 0;
  size_t next = 0;
  for (int64_t j = 0; j < w.cols; ++j) {
    if (next < factor->dead.size() && factor->dead[next] == j) {
      ++next;
      continue;
    }
    for (int64_t i = 0; i < w.rows; ++i) largest = std::max(largest, std::fabs(w(i, j)));
  }
  return largest;
}

SiteRounding MakeSiteRounding(std::span<const LayerProblem> problems, std::span<const Options> options) {
  SiteRounding site;
  for (size_t i = 0; i < problems.size(); ++i) {
    site.splits.push_back(SplitOff(problems[i], options[i]));
    site.grids.push_back(GridOfOptions(options[i], problems[i].w.cols));
    if (site.grids.back().scale == ScaleKind::kE4M3) {
      site.largest = std::max(site.largest, LargestOf(site.splits.back().w, problems[i].factor));
    }
  }
  return site;
}

Status SolveRtn(const Context& context, std::span<const LayerProblem> problems,
                std::span<const Options> options, std::span<LayerSolution> solutions) {
  SiteRounding rounding = MakeSiteRounding(problems, options);
  for (size_t i = 0; i < problems.size(); ++i) {
    Split& split = rounding.splits[i];
    const GridSpec& grid = rounding.grids[i];
    auto rounded =
        RoundToNearest(context, split.w, problems[i].h, grid, ReadSearch(options[i]), rounding.largest);
    if (!rounded.ok()) return rounded.error().At(problems[i].name);
    if (!split.outliers.empty()) RestoreOutliers(problems[i].w, rounded->matrix, split.outliers);
    TakeMatrix(*rounded, options[i], grid, split, solutions[i]);
    if (!split.outliers.empty()) {
      rounded->loss = LayerLoss(context, problems[i].w, Reconstruct(solutions[i].matrix), problems[i].h);
    }
    solutions[i].loss_nearest = rounded->loss;
    solutions[i].steps.push_back({"rtn", rounded->loss, ""});
  }
  return {};
}

Status SolveGptq(const Context& context, std::span<const LayerProblem> problems,
                 std::span<const Options> options, std::span<LayerSolution> solutions) {
  SiteRounding rounding = MakeSiteRounding(problems, options);
  for (size_t i = 0; i < problems.size(); ++i) {
    const SiteFactor& site = *problems[i].factor;
    Split& split = rounding.splits[i];
    const GridSpec& grid = rounding.grids[i];
    FeedbackOptions feedback = ReadFeedback(options[i]);
    feedback.largest = rounding.largest;
    auto rounded = RoundWithFeedback(context, split.w, site, grid, feedback);
    if (!rounded.ok()) return rounded.error().At(problems[i].name);
    LayerSolution& solution = solutions[i];
    if (!split.outliers.empty()) {
      rounded->loss =
          RefitOutliers(context, problems[i].w, rounded->matrix, site, problems[i].h, split.outliers);
    }
    TakeMatrix(*rounded, options[i], grid, split, solution);
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
  static const SolveStage stage = {"rtn",         "round to nearest", StageKind::kRound, false,
                                   GridOptions(), SolveRtn,           nullptr,           CheckGridOptions};
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
                    ReadFeedback,
                    CheckFeedbackOptions};
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

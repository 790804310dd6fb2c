// planish grids: number formats beside each other on a model's layers.
#include <fmt/format.h>

#include "apps/app.h"
#include "apps/calibration_text.h"
#include "base/file.h"
#include "evaluate/plot.h"
#include "pipeline/calibrate_model.h"
#include "pipeline/compare_grids.h"

namespace planish::app {
namespace {

struct GridsFlags {
  RunOptions run;
  std::string model, statistics, svg, layers = "sample";
  std::vector<std::string> grids;
  CalibrationSpec spec{.windows = 16, .context = 512};
  int64_t refit = 2;
};

Result<std::vector<GridChoice>> Choices(const std::vector<std::string>& texts) {
  if (texts.empty()) return AllGridChoices();
  std::vector<GridChoice> choices;
  for (const std::string& text : texts) {
    PLANISH_TRY(GridChoice choice, ParseGridChoice(text));
    choices.push_back(std::move(choice));
  }
  return choices;
}

Result<StatisticsFile> Statistics(const Context& context, const GridsFlags& flags, const Model& model) {
  if (!flags.statistics.empty()) return LoadStatistics(flags.statistics);
  PLANISH_TRY(auto windows, LoadCalibration(model, flags.spec));
  const CalibrationSet set = CalibrationSet::Make(std::move(windows));
  constexpr int64_t kStateMemory = int64_t{1} << 40;  // all of it: there are few windows
  return CalibrateModel(context, model, set, "", kStateMemory);
}

// A series for each kind of number format: the name up to its digits, blocks apart.
Plot MakePlot(const std::string& model, const std::vector<GridResult>& results) {
  Plot plot{fmt::format("{}: loss of layers by number format", model),
            "bits per weight",
            "loss over the energy of the output",
            {}};
  for (const GridResult& r : results) {
    std::string kind = r.name.substr(0, r.name.find_first_of("0123456789"));
    if (kind == "e") kind = "minifloat";
    auto series = std::ranges::find(plot.series, kind, &PlotSeries::name);
    if (series == plot.series.end()) series = plot.series.insert(plot.series.end(), PlotSeries{kind, {}});
    const std::string substitutes = r.SubstitutesText();
    series->points.push_back({r.bits, r.loss,
                              fmt::format("{}: {:.3f} bits, {:.3e}{}{}", r.name, r.bits, r.loss,
                                          substitutes.empty() ? "" : "; ", substitutes)});
  }
  return plot;
}

Status RunGrids(const GridsFlags& flags) {
  PLANISH_TRY(const auto choices, Choices(flags.grids));
  if (!flags.svg.empty() && FileExists(flags.svg)) {
    return InputError(fmt::format("{}: already exists", flags.svg));
  }
  PLANISH_TRY(const auto run, Run::Start(flags.run, flags.spec.seed));
  PLANISH_TRY(const Model model, OpenModel(flags.model, flags.run));
  PLANISH_RETURN_IF_ERROR(CheckFinite(run->context(), model));
  PLANISH_TRY(const StatisticsFile statistics, Statistics(run->context(), flags, model));
  FeedbackOptions options;  // as stage gptq has them
  options.damping = 0.01;
  options.dynamic_groups = false;
  options.refit_rounds = static_cast<int>(flags.refit);
  const LayerChoice layers = flags.layers == "all" ? LayerChoice::kAll : LayerChoice::kSample;
  PLANISH_TRY(const auto results, CompareGrids(run->context(), model, statistics, choices, layers, options));
  if (!flags.svg.empty()) {
    PLANISH_TRY(const std::string svg, PlotSvg(MakePlot(model.name, results)));
    PLANISH_RETURN_IF_ERROR(WriteFileAtomically(flags.svg, svg));
  }
  if (flags.run.json) {
    PrintJson(GridResultsJson(results));
  } else {
    fmt::print("{}", GridTable(results));
  }
  return {};
}

}  // namespace

void AddGridsVerb(CLI::App& app) {
  auto flags = std::make_shared<GridsFlags>();
  CLI::App* verb = app.add_subcommand(
      "grids", "Number formats beside each other: exact bits and loss on a model's layers");
  verb->add_option("MODEL", flags->model, "The original model")->required();
  verb->add_option("--layers", flags->layers, "sample: the linears of the middle block; all")
      ->check(CLI::IsMember({"sample", "all"}))
      ->capture_default_str();
  verb->add_option(
      "--grid", flags->grids,
      "Only this one: a name and its parts, e.g. \"int4 g64 s5\" (see below); may be given again "
      "(default: all of 2 to 5 bits)");
  auto* text =
      verb->add_option("--calibration", flags->spec.text, "UTF-8 text file(s) to take statistics from");
  verb->add_option("--statistics", flags->statistics, "Or what `calibrate` wrote")->excludes(text);
  verb->add_option("--windows", flags->spec.windows, "Windows of the text")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  verb->add_option("--context", flags->spec.context, "Tokens a window")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  verb->add_option("--seed", flags->spec.seed, "Places the windows")->capture_default_str();
  verb->add_option("--refit", flags->refit, "Rounds of refit, as in stage gptq")
      ->check(CLI::Range(0, 16))
      ->capture_default_str();
  verb->add_option("--svg", flags->svg, "Also draw loss against bits per weight")->check(NotEmpty);
  AddRunOptions(*verb, flags->run);
  verb->footer(
      "Parts of --grid, behind a name of docs/grids.md, in any order, each kind once:\n"
      "  gN    groups of N columns; g0: the whole row (without it: 128)\n"
      "  sN    scales as steps of N bits, 4 to 8, under one unit a row (without it: fp16)\n"
      "  sym   integers: no stored zeros\n"
      "  zN    integers: zeros of N bits, from a code's to 8, so that they lie between codes too\n"
      "  row   table2 to table4: a table for every row; with g0 it has no scales\n"
      "  each  table2 to table4: a table for every group, without scales\n"
      "Blocks (mxfp4, nvfp4, q4_k, ...) take none.\n"
      "Examples:\n"
      "  planish grids demo --calibration book.txt --svg grids.svg\n"
      "  planish grids model/ --statistics statistics.safetensors --layers all --grid \"int4 g64 s5\" --grid "
      "nf4");
  AddVerb(*verb, [flags] { return RunGrids(*flags); });
}

}  // namespace planish::app

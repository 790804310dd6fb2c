// planish compress: a smaller model, with the damage repaired as far as the recipe says.
#include <fmt/format.h>

#include <cstdio>

#include "apps/adapter_options.h"
#include "apps/app.h"
#include "apps/calibration_text.h"
#include "base/file.h"
#include "methods/options.h"
#include "pipeline/compress.h"

namespace planish::app {
namespace {

struct CompressFlags {
  RunOptions run;
  std::vector<std::string> adapters;
  std::string model, recipe, log, statistics;
  CompressRequest request;
  std::optional<int64_t> bits, group, scale_bits, zero_bits, rank, windows, context, head_bits;
  std::optional<double> path_bits, sparse;
  std::optional<uint64_t> seed;
  std::optional<std::string> method, grid, tables, sparse_by, mode, states;
  std::vector<std::string> calibration;
  bool symmetric = false, bias_tuning = false;
  int64_t state_memory_mb = 256;
};

// The recipe that the command line's own flags describe.
Result<Recipe> RecipeFromFlags(const CompressFlags& flags) {
  Recipe recipe;
  const SolveStage* round = FindStage(flags.method.value_or("gptq"));
  std::map<std::string, OptionValue> given;
  if (flags.bits) given["bits"] = *flags.bits;
  if (flags.group) given["group"] = *flags.group;
  if (flags.symmetric) given["symmetric"] = true;
  if (flags.grid) given["grid"] = *flags.grid;
  if (flags.scale_bits) given["scale_bits"] = *flags.scale_bits;
  if (flags.zero_bits) given["zero_bits"] = *flags.zero_bits;
  if (flags.tables) given["tables"] = *flags.tables;
  if (flags.sparse) given["sparse"] = *flags.sparse;
  if (flags.sparse_by) given["sparse_by"] = *flags.sparse_by;
  PLANISH_TRY(Options options, ResolveOptions(*round, given));
  recipe.stages.push_back({round, std::move(options)});
  if (flags.rank.value_or(0) > 0 || flags.path_bits.value_or(0) > 0) {
    const SolveStage* path = FindStage("eora");
    PLANISH_TRY(Options path_options, ResolveOptions(*path, {{"rank", flags.rank.value_or(0)},
                                                             {"path_bits", flags.path_bits.value_or(0)}}));
    recipe.stages.push_back({path, std::move(path_options)});
  }
  if (flags.bias_tuning) {
    const SolveStage* bias = FindStage("bias");
    PLANISH_TRY(Options bias_options, ResolveOptions(*bias, {}));
    recipe.stages.push_back({bias, std::move(bias_options)});
  }
  return recipe;
}

// Flags that stand beside a recipe file override what it says.
Result<Recipe> MakeRecipe(const CompressFlags& flags) {
  Recipe recipe;
  if (flags.recipe.empty()) {
    PLANISH_TRY(recipe, RecipeFromFlags(flags));
  } else {
    if (flags.bits || flags.group || flags.rank || flags.path_bits || flags.method || flags.symmetric ||
        flags.grid || flags.scale_bits || flags.zero_bits || flags.bias_tuning || flags.tables ||
        flags.sparse || flags.sparse_by) {
      return InputError(
          "--recipe: --bits, --grid, --group, --scale-bits, --zero-bits, --tables, --sparse, --sparse-by, "
          "--symmetric, --rank, --path-bits, "
          "--bias-tuning and --method belong into the "
          "recipe's stages when there is one");
    }
    PLANISH_TRY(const std::string text, ReadTextFile(flags.recipe));
    PLANISH_TRY(recipe, ParseRecipe(text, flags.recipe, AllStages()));
  }
  if (flags.mode)
    recipe.mode = *flags.mode == "independent" ? Recipe::Mode::kIndependent : Recipe::Mode::kSequential;
  if (flags.states) recipe.states = *flags.states == "fp32" ? Recipe::States::kFp32 : Recipe::States::kBf16;
  if (flags.head_bits) recipe.head_bits = static_cast<int>(*flags.head_bits);
  if (flags.windows) recipe.calibration.windows = *flags.windows;
  if (flags.context) recipe.calibration.context = *flags.context;
  if (flags.seed) recipe.calibration.seed = *flags.seed;
  if (!flags.calibration.empty()) recipe.calibration.text = flags.calibration;
  return recipe;
}

Status WriteLog(const std::string& path, const OrderedJson& layers) {
  if (path.empty()) return {};
  std::string lines;
  for (const auto& layer : layers) lines += DumpJson(layer) + "\n";
  return WriteFileAtomically(path, lines);
}

void PrintPreflight(const Context& context, const Preflight& p) {
  if (context.progress == nullptr) return;
  context.progress->Note(fmt::format(
      "about {} for {} multiply-adds on {} thread{} at {}/s; {} of memory; output about {}",
      FormatDuration(p.seconds), FormatCount(p.macs), context.pool->NumThreads(),
      context.pool->NumThreads() == 1 ? "" : "s", FormatCount(p.rate),
      FormatBytes(static_cast<double>(p.memory_bytes)), FormatBytes(static_cast<double>(p.output_bytes))));
}

void PrintResult(const CompressFlags& flags, const Model& model, const Preflight& preflight,
                 const CompressResult& result) {
  if (flags.run.json) {
    OrderedJson json;
    json["output"] = flags.request.output;
    json["already_done"] = result.already_done;
    json["resumed_at_block"] = result.resumed_at;
    json["seconds"] = result.seconds;
    json["multiply_adds"] = preflight.macs;
    json["multiply_adds_per_second"] = preflight.rate;
    json["linear_bits_per_weight"] = model.LinearBitsPerWeight();
    json["layers"] = result.layers;
    PrintJson(json);
    return;
  }
  if (result.already_done) {
    fmt::print("{}: already there, made with the same model, text and recipe\n", flags.request.output);
    return;
  }
  fmt::print("{}", LayerTable(result.layers));
  fmt::print("{}: {:.3f} bits per weight in the layers' linears, {}; {:.2f} x the estimate\n",
             flags.request.output, model.LinearBitsPerWeight(), FormatDuration(result.seconds),
             preflight.seconds > 0 ? result.seconds / preflight.seconds : 0.0);
}

Status RunCompress(CompressFlags& flags) {
  PLANISH_TRY(Recipe recipe, MakeRecipe(flags));
  flags.request.state_memory = flags.state_memory_mb << 20;
  while (flags.request.output.size() > 1 && flags.request.output.back() == '/')
    flags.request.output.pop_back();
  PLANISH_TRY(const auto run, Run::Start(flags.run, recipe.calibration.seed));
  const Context& context = run->context();
  PLANISH_TRY(Model model, OpenModel(flags.model, flags.run));
  PLANISH_RETURN_IF_ERROR(AttachAdapters(run->context(), flags.adapters, model));
  if (!flags.adapters.empty() && context.progress != nullptr) {
    context.progress->Note("paths of adapters are added to the matrix before it is rounded");
  }
  PLANISH_TRY(auto windows, LoadCalibration(model, recipe.calibration));
  const CalibrationSet set = CalibrationSet::Make(std::move(windows));
  std::optional<StatisticsFile> statistics;
  if (!flags.statistics.empty()) {
    PLANISH_TRY(statistics, LoadStatistics(flags.statistics));
    flags.request.statistics = &*statistics;
  }
  PLANISH_TRY(const Preflight preflight, Estimate(context, model, set, recipe, flags.request));
  flags.request.expected_macs = preflight.macs;
  if (!flags.run.quiet) PrintPreflight(context, preflight);
  PLANISH_TRY(const CompressResult result, Compress(context, model, set, recipe, flags.request));
  if (result.resumed_at > 1 && !flags.run.json) fmt::print("resumed at block {}\n", result.resumed_at);
  PLANISH_RETURN_IF_ERROR(WriteLog(flags.log, result.layers));
  PrintResult(flags, model, preflight, result);
  return {};
}

void AddRecipeFlags(CLI::App& verb, CompressFlags& flags) {
  verb.add_option("--recipe", flags.recipe, "TOML file: ordered stages and rules by tensor name");
  verb.add_option("--method", flags.method, "rtn or gptq (default gptq)")
      ->check(CLI::IsMember({"rtn", "gptq"}));
  auto* grid = verb.add_option("--grid", flags.grid,
                               "Number format: int2 to int8, nf4, e2m1, bitmod3, mxfp4, nvfp4, ... "
                               "(docs/grids.md; default: integers of --bits)");
  verb.add_option("--scale-bits", flags.scale_bits,
                  "Bits of a group's scale: 16 (default), or 4 to 8 as steps of one unit a row");
  verb.add_option("--zero-bits", flags.zero_bits, "Bits of an integer grid's zero, more than its codes have");
  verb.add_option("--tables", flags.tables,
                  "What shares a learned table of --grid table2 to table4: tensor (default), row or group")
      ->check(CLI::IsMember({"tensor", "row", "group"}));
  verb.add_option("--sparse", flags.sparse, "Percent of the weights kept apart as fp16 outliers (default 0)")
      ->check(CLI::Range(0.0, 20.0));
  verb.add_option("--sparse-by", flags.sparse_by,
                  "Outliers by sensitivity, |w| sqrt(H_jj) (default), or by magnitude")
      ->check(CLI::IsMember({"magnitude", "sensitivity"}));
  verb.add_option("--bits", flags.bits, "Bits of a code, 2 to 8 (default 4)")
      ->check(CLI::Range(2, 8))
      ->excludes(grid);
  verb.add_option("--group", flags.group, "Columns that share a scale; 0: the row (default 128)")
      ->check(CLI::Range(0, 1 << 20));
  verb.add_flag("--symmetric", flags.symmetric, "No stored zero points");
  auto* rank =
      verb.add_option("--rank", flags.rank, "Rank of a low-rank path beside every linear (default none)")
          ->check(CLI::NonNegativeNumber);
  verb.add_option("--path-bits", flags.path_bits,
                  "Or: extra bits per weight for paths, ranks chosen per linear")
      ->check(CLI::Range(0.0, 16.0))
      ->excludes(rank);
  verb.add_flag("--bias-tuning", flags.bias_tuning,
                "Give every linear a bias that makes up for its mean error (stage bias)");
  verb.add_option("--head-bits", flags.head_bits,
                  "Also round embedding and head to this many bits (default: keep)")
      ->check(CLI::Range(2, 8));
  verb.add_option("--mode", flags.mode,
                  "sequential: statistics from the compressed stream (default); independent: original")
      ->check(CLI::IsMember({"sequential", "independent"}));
  verb.add_option("--states", flags.states, "Hidden states kept as bf16 (default) or fp32")
      ->check(CLI::IsMember({"bf16", "fp32"}));
}

}  // namespace

void AddCompressVerb(CLI::App& app) {
  auto flags = std::make_shared<CompressFlags>();
  CLI::App* verb = app.add_subcommand("compress", "Make a smaller model: round, compensate, write");
  verb->add_option("MODEL", flags->model, "The original model")->required();
  AddOutputOption(*verb, flags->request.output, "Folder to make")->required();
  AddRecipeFlags(*verb, *flags);
  verb->add_option("--calibration", flags->calibration, "UTF-8 text file(s) to take statistics from");
  verb->add_option("--windows", flags->windows, "Windows of the text (default 128)")
      ->check(CLI::PositiveNumber);
  verb->add_option("--context", flags->context, "Tokens a window (default 1024)")->check(CLI::PositiveNumber);
  verb->add_option("--seed", flags->seed, "Places the windows and starts random methods (default 0)");
  verb->add_option(
      "--statistics", flags->statistics,
      "What `calibrate` wrote of the same --calibration, for --mode independent: no forward pass");
  verb->add_option("--state-memory", flags->state_memory_mb,
                   "MB of hidden states kept in memory; more goes to disk")
      ->check(CLI::Range(0, 1 << 24))
      ->capture_default_str();
  verb->add_flag("--restart", flags->request.restart,
                 "Discard an unfinished run instead of going on with it");
  verb->add_option("--log", flags->log, "Write the report of every layer as JSON lines")->check(NotEmpty);
  AddAdapterOption(*verb, flags->adapters);
  AddPrecisionOption(*verb, flags->run);
  AddRunOptions(*verb, flags->run);
  verb->footer(
      "A killed or interrupted run goes on where it was when the same command is given again.\n"
      "Examples:\n"
      "  planish compress model/ -o small/ --bits 4 --calibration book.txt\n"
      "  planish compress demo -o demo3/ --bits 3 --path-bits 0.2 --calibration book.txt --windows 32\n"
      "  planish compress model/ -o small/ --recipe recipe.toml --calibration book.txt --log layers.jsonl");
  AddVerb(*verb, [flags] { return RunCompress(*flags); });
}

}  // namespace planish::app

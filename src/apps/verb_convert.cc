// planish convert: a model in the format of another program.
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "apps/adapter_options.h"
#include "apps/app.h"
#include "base/file.h"
#include "export/importance.h"
#include "export/refusals.h"
#include "export/target.h"

namespace planish::app {
namespace {

struct ConvertFlags {
  RunOptions run;
  std::vector<std::string> adapters;
  std::string model, output, target, statistics, imatrix, drop, allow;
  bool merge = false;
  int64_t shard_bytes = 0;
};

// What --statistics or --imatrix say of the model's columns.
Status ReadImportance(const ConvertFlags& flags, const ConvertTarget& target, const Model& model,
                      ConvertOptions& options) {
  const std::string& path = flags.statistics.empty() ? flags.imatrix : flags.statistics;
  if (path.empty()) return {};
  if (!target.takes_importance) {
    return InputError(fmt::format("--statistics and --imatrix: target '{}' weighs no errors", target.name));
  }
  if (!flags.statistics.empty()) {
    PLANISH_TRY(const StatisticsFile statistics, LoadStatistics(path));
    auto importance = ImportanceOf(model, statistics);
    if (!importance.ok()) return importance.error().At(path);
    options.importance = std::move(importance).value();
    return {};
  }
  PLANISH_TRY(const Imatrix imatrix, OpenImatrix(path));
  auto importance = ImportanceOf(model, imatrix);
  if (!importance.ok()) return importance.error().At(path);
  options.importance = std::move(importance).value();
  options.importance_source = {
      .file = std::filesystem::path(path).filename().string(),
      .texts = fmt::format("{}", fmt::join(imatrix.datasets, ", ")),
      .entries = static_cast<int64_t>(imatrix.entries.size()),
      .chunks = imatrix.chunk_count,
  };
  return {};
}

// The adapters of --adapter: those that exist go on the model; one that does not is made of its paths.
struct Adapters {
  std::vector<std::string> in;
  std::string out;
};

Result<Adapters> SortAdapters(const ConvertFlags& flags) {
  Adapters adapters;
  for (const std::string& path : flags.adapters) {
    if (FileExists(path) || DirectoryExists(path)) {
      adapters.in.push_back(path);
      continue;
    }
    if (!adapters.out.empty()) {
      return InputError(fmt::format("--adapter: neither {} nor {} exists; the paths are written to one place",
                                    adapters.out, path));
    }
    adapters.out = path;
  }
  if (!adapters.out.empty() && (flags.merge || !flags.drop.empty())) {
    return InputError(
        fmt::format("--adapter {}: no such adapter; to write the low-rank paths there, leave "
                    "out --merge and --drop",
                    adapters.out));
  }
  return adapters;
}

Paths PathsOf(const ConvertFlags& flags, const Adapters& adapters) {
  if (!flags.drop.empty() || !adapters.out.empty()) return Paths::kDrop;
  // An adapter is given to be in the output: where a format has no place for it, it is merged.
  return flags.merge || !adapters.in.empty() ? Paths::kMerge : Paths::kRefuse;
}

// An adapter that exists goes on the model. On one with paths of its own it may be these very paths, left by
// a conversion that was cut off: adding them a second time is not what anybody asks for unsaid.
Status CheckAdapters(const ConvertFlags& flags, const Adapters& adapters, const Model& model) {
  if (adapters.in.empty() || flags.merge || !flags.drop.empty()) return {};
  const auto with_path = std::find_if(model.linears.begin(), model.linears.end(), HasPath);
  if (with_path == model.linears.end()) return {};
  return Error{Code::kRefused,
               fmt::format("--adapter {}: exists, and {} has low-rank paths of its own ({} and others); to "
                           "write these to an adapter, name one that does not exist (or remove it, if a "
                           "conversion left it); to have both in the output, --merge",
                           adapters.in.front(), flags.model, ModuleName(with_path->name))};
}

// The paths as an adapter beside the output: a GGUF file for a name that ends so, else a PEFT folder.
Status WriteAdapter(const Context& context, const Model& model, const std::string& path) {
  ConvertOptions options;
  PLANISH_TRY(const ConvertTarget* target,
              ParseConvertTarget(path.ends_with(".gguf") ? "lora:gguf" : "lora:peft", options));
  auto written = target->write(context, model, options, path);
  if (written.ok()) return {};
  return written.error().At(
      fmt::format("--adapter {}: no adapter is there, and none is made of paths", path));
}

Result<Converted> Write(const Context& context, const ConvertTarget& target, const Model& model,
                        const ConvertOptions& options, const std::string& output,
                        const std::string& adapter) {
  if (adapter.empty()) return target.write(context, model, options, output);
  PLANISH_RETURN_IF_ERROR(WriteAdapter(context, model, adapter));
  auto done = target.write(context, model, options, output);
  if (!done.ok()) {  // both or neither
    std::error_code ignored;
    std::filesystem::remove_all(adapter, ignored);
    return done;
  }
  done->notes.push_back(fmt::format("{}: the low-rank paths, which {} is without", adapter, output));
  return done;
}

Status RunConvert(const ConvertFlags& flags) {
  ConvertOptions options;
  PLANISH_TRY(const Adapters adapters, SortAdapters(flags));
  options.paths = PathsOf(flags, adapters);
  options.shard_bytes = flags.shard_bytes;
  options.mixed_fused = !flags.allow.empty();
  PLANISH_TRY(const ConvertTarget* target, ParseConvertTarget(flags.target, options));
  if (flags.shard_bytes > 0 && !target->divides) {
    return InputError(fmt::format("--shard-size: target '{}' is not divided into files", target->name));
  }
  if (options.mixed_fused && !target->joined) {
    return InputError(fmt::format("--allow {}: target '{}' is read by no server that joins layers",
                                  flags.allow, target->name));
  }
  if (FileExists(flags.output) || DirectoryExists(flags.output)) {
    return InputError(fmt::format("{}: already exists; choose another output or remove it", flags.output));
  }
  PLANISH_TRY(const auto run, Run::Start(flags.run));
  PLANISH_TRY(Model model, OpenModel(flags.model, flags.run));
  if (target->takes_tokenizer) PLANISH_RETURN_IF_ERROR(GgufTokenizerText(model.path));
  PLANISH_RETURN_IF_ERROR(CheckAdapters(flags, adapters, model));
  PLANISH_RETURN_IF_ERROR(AttachAdapters(run->context(), adapters.in, model));
  PLANISH_RETURN_IF_ERROR(ReadImportance(flags, *target, model, options));
  PLANISH_TRY(const Converted done,
              Write(run->context(), *target, model, options, flags.output, adapters.out));
  const std::string& path = done.path.empty() ? flags.output : done.path;
  if (flags.run.json) {
    PrintJson({{"output", path}, {"tensors", done.tensors}, {"bytes", done.bytes}, {"notes", done.notes}});
    return {};
  }
  for (const auto& note : done.notes) fmt::print("{}\n", note);
  fmt::print("{}: {} tensors, {}\n", path, done.tensors, FormatBytes(static_cast<double>(done.bytes)));
  return {};
}

// The targets as a block of --help.
std::string TargetsText() {
  std::string text = "Targets:\n";
  for (const ConvertTarget& target : AllConvertTargets()) {
    std::string name = target.name;
    if (target.types != nullptr) name += target.type_optional ? "[:TYPE]" : ":TYPE";
    text += fmt::format("  {:<26}{}\n", name, target.summary);
    if (target.types == nullptr) continue;
    text += fmt::format("  {:<26}TYPE: {}\n", "", fmt::join(target.types(), ", "));
  }
  return text;
}

}  // namespace

void AddConvertVerb(CLI::App& app) {
  auto flags = std::make_shared<ConvertFlags>();
  CLI::App* verb = app.add_subcommand("convert", "Write a model in the format of another program");
  verb->add_option("MODEL", flags->model, "The model")->required();
  AddOutputOption(*verb, flags->output, "File or folder to make")->required();
  verb->add_option("--to", flags->target, "Format, and its type after a colon: gguf:q4_k (see below)")
      ->required();
  auto* statistics =
      verb->add_option("--statistics", flags->statistics,
                       "What `calibrate` wrote: errors are weighed by the inputs' mean squares");
  verb->add_option("--imatrix", flags->imatrix, "The same from llama.cpp's importance matrix")
      ->excludes(statistics);
  auto* merge = verb->add_flag("--merge", flags->merge, "Add low-rank paths to the matrix beside them");
  verb->add_option("--drop", flags->drop, "paths: leave low-rank paths out")
      ->check(CLI::IsMember({"paths"}))
      ->excludes(merge);
  verb->add_option("--allow", flags->allow,
                   "mixed-fused: write layers that servers join (q, k, v; gate, up; experts) though their "
                   "parts are of "
                   "different grids, for programs that join none")
      ->check(CLI::IsMember({"mixed-fused"}));
  verb->add_option(
          "--shard-size", flags->shard_bytes,
          "Most bytes of tensors in a file: 2GB, 500MB; folders: 5GB if not given. A larger GGUF file "
          "becomes parts NAME-00001-of-00003.gguf")
      ->transform(CLI::AsSizeValue(true))
      ->check(CLI::PositiveNumber);
  verb->add_option(
          "--adapter", flags->adapters,
          "LoRA adapter(s) on the model: a PEFT folder or a GGUF file; may be repeated. One of a name "
          "that does not exist is written: the low-rank paths, as a PEFT folder or, for a name in "
          ".gguf, for llama.cpp; the output then is without them")
      ->allow_extra_args(false);
  AddRunOptions(*verb, flags->run);
  verb->footer(TargetsText() +
               "Examples:\n  planish convert model/ -o model.gguf --to gguf:q4_k\n"
               "  planish convert model/ -o model.gguf --to gguf:q3_k --statistics statistics.safetensors\n"
               "  planish convert model/ -o model.gguf --to gguf:bf16 --shard-size 2GB\n"
               "  planish convert small/ -o small-gptq/ --to gptq --adapter small-paths/");
  AddVerb(*verb, [flags] { return RunConvert(*flags); });
}

}  // namespace planish::app

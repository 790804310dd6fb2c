// planish convert: a model in the format of another program.
#include <fmt/format.h>

#include "apps/app.h"
#include "base/file.h"
#include "export/gguf_export.h"

namespace planish::app {
namespace {

struct ConvertFlags {
  RunOptions run;
  std::string model, output, target;
  GgufExport gguf;
};

Status RunConvert(ConvertFlags& flags) {
  constexpr std::string_view kPrefix = "gguf:";
  const auto type =
      flags.target.starts_with(kPrefix) ? ParseGgufType(flags.target.substr(kPrefix.size())) : std::nullopt;
  if (!type) {
    std::vector<std::string> names = {"gguf:F32", "gguf:F16", "gguf:BF16"};
    for (const auto& info : AllGgufTypes()) {
      if (info.encodes) names.push_back(fmt::format("gguf:{}", info.name));
    }
    return InputError(
        fmt::format("--to: expected one of {}, found '{}'", fmt::join(names, ", "), flags.target));
  }
  flags.gguf.type = *type;
  if (FileExists(flags.output) || DirectoryExists(flags.output)) {
    return InputError(fmt::format("{}: already exists; choose another output or remove it", flags.output));
  }
  PLANISH_TRY(const auto run, Run::Start(flags.run));
  PLANISH_TRY(const Model model, LoadModel(flags.model));
  PLANISH_TRY(const GgufExported done, ExportGguf(run->context(), model, flags.gguf, flags.output));
  if (flags.run.json) {
    PrintJson(
        {{"output", flags.output}, {"tensors", done.tensors}, {"bytes", done.bytes}, {"notes", done.notes}});
    return {};
  }
  for (const auto& note : done.notes) fmt::print("{}\n", note);
  fmt::print("{}: {} tensors, {}\n", flags.output, done.tensors,
             FormatBytes(static_cast<double>(done.bytes)));
  return {};
}

}  // namespace

void AddConvertVerb(CLI::App& app) {
  auto flags = std::make_shared<ConvertFlags>();
  CLI::App* verb = app.add_subcommand("convert", "Write a model in the format of another program");
  verb->add_option("MODEL", flags->model, "The model")->required();
  verb->add_option("-o,--output", flags->output, "File to make")->required();
  verb->add_option("--to", flags->target, "Format and type: gguf:q8_0, gguf:q4_k, gguf:bf16, ...")
      ->required();
  auto* merge = verb->add_flag("--merge", flags->gguf.merge, "Add low-rank paths to the matrix beside them");
  verb->add_flag("--drop-paths", flags->gguf.drop_paths, "Leave low-rank paths out")->excludes(merge);
  AddRunOptions(*verb, flags->run);
  verb->footer("Example:\n  planish convert model/ -o model.gguf --to gguf:q4_k");
  AddVerb(*verb, [flags] { return RunConvert(*flags); });
}

}  // namespace planish::app

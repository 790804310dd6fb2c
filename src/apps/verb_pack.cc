// planish pack: writes a model's weights as the packed runtime reads them, so that starting is a copy.
#include <fmt/format.h>

#include <filesystem>

#include "apps/runner_options.h"
#include "base/file.h"
#include "model/model.h"

namespace planish::app {
namespace {

struct PackFlags {
  RunOptions run;
  CodePrecision precision;
  std::string model, output;
  PackOptions options;
};

Status Pack(const PackFlags& flags) {
  PLANISH_TRY(const auto run, Run::Start(flags.run));
  PLANISH_TRY(const Model model, OpenAtPrecision(run->context(), flags.model, flags.run, flags.precision));
  PLANISH_RETURN_IF_ERROR(CheckFinite(run->context(), model));
  std::string output = flags.output;
  if (output.empty()) {
    // What every verb picks up must compute as the model does.
    if (flags.options.scales8) return InputError("--scales8 rounds scales: name a file for it with -o");
    output = CachedPackPath(model);
    if (output.empty()) {
      return InputError("no cache folder: neither XDG_CACHE_HOME nor HOME is set; name a file with -o");
    }
    PLANISH_RETURN_IF_ERROR(MakeDirectories(std::filesystem::path(output).parent_path().string()));
  }
  PLANISH_TRY(const auto packed, PackModel(run->context(), model, flags.options));
  PLANISH_RETURN_IF_ERROR(WritePack(output, model, *packed));
  if (flags.run.json) {
    PrintJson({{"output", output}, {"bytes", packed->bytes}, {"notes", packed->notes}});
    return {};
  }
  for (const std::string& note : packed->notes) fmt::print("{}\n", note);
  fmt::print("{}: {} of packed weights\n", output, FormatBytes(static_cast<double>(packed->bytes)));
  return {};
}

}  // namespace

void AddPackVerb(CLI::App& app) {
  auto flags = std::make_shared<PackFlags>();
  CLI::App* verb = app.add_subcommand("pack", "Write the weights as the packed runtime reads them");
  verb->add_option("MODEL", flags->model, "The model")->required();
  AddOutputOption(*verb, flags->output,
                  "The pack file; must not exist. Without it: in the user's cache folder, where every verb "
                  "that decodes looks for it");
  verb->add_flag("--scales8", flags->options.scales8,
                 "Scales as bytes under a row scale: smaller, scales rounded to 1/255 of the row's largest; "
                 "needs -o");
  AddPrecisionOptions(*verb, flags->precision);
  AddRunOptions(*verb, flags->run);
  verb->footer(
      "Examples:\n"
      "  planish pack q4/\n"
      "  planish pack q4/ -o q4.pack\n"
      "  planish generate q4/ --pack q4.pack -p \"Once\" --stats\n"
      "  planish pack q8/ --precision-bits 4     for verbs that read it with the same option");
  AddVerb(*verb, [flags] { return Pack(*flags); });
}

}  // namespace planish::app

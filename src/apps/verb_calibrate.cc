// planish calibrate: statistics of every site of the original model, to a file.
#include <fmt/format.h>

#include <filesystem>

#include "apps/app.h"
#include "apps/calibration_text.h"
#include "base/file.h"
#include "export/imatrix_export.h"
#include "pipeline/calibrate_model.h"

namespace planish::app {
namespace {

struct CalibrateFlags {
  RunOptions run;
  std::string model, output, imatrix;
  CalibrationSpec spec;
  int64_t state_memory_mb = 256;
};

Status SaveImatrix(const CalibrateFlags& flags, const Model& model, const CalibrationSet& set,
                   const StatisticsFile& statistics) {
  PLANISH_TRY(Imatrix imatrix, ImatrixOf(model, statistics));
  for (const auto& text : flags.spec.text) {
    imatrix.datasets.push_back(std::filesystem::path(text).filename().string());
  }
  imatrix.chunk_count = static_cast<int64_t>(set.windows.size());
  imatrix.chunk_size = flags.spec.context;
  return WriteImatrix(flags.imatrix, imatrix);
}

// What a person should know about a site, behind its numbers; mostly nothing.
std::string SiteNote(const Moments& moments, const std::vector<int32_t>& dead) {
  if (moments.count() == 0) return "  never seen";
  if (moments.is_fallback()) {
    return fmt::format("  {} of {} tokens, solved with all tokens' moments", moments.seen(), moments.count());
  }
  if (dead.empty()) return "";
  return fmt::format("  {} dead channels, the first {}", dead.size(), dead.front());
}

void PrintSites(const CalibrateFlags& flags, const StatisticsFile& statistics) {
  OrderedJson sites = OrderedJson::array();
  for (const auto& [name, moments] : statistics.sites) {
    const auto dead = moments.DeadChannels();
    if (!flags.run.json) {
      fmt::print("{:<48} {:>6} channels {:>9} tokens{}\n", name, moments.width(), moments.seen(),
                 SiteNote(moments, dead));
    }
    sites.push_back({{"site", name},
                     {"width", moments.width()},
                     {"seen", moments.seen()},
                     {"count", moments.count()},
                     {"fallback", moments.is_fallback()},
                     {"dead", dead}});
  }
  if (flags.run.json) PrintJson(sites);
}

Status RunCalibrate(const CalibrateFlags& flags) {
  PLANISH_TRY(const auto run, Run::Start(flags.run, flags.spec.seed));
  if (flags.output.empty() && flags.imatrix.empty()) return InputError("give --output, --imatrix or both");
  for (const std::string& path : {flags.output, flags.imatrix}) {
    if (!path.empty() && FileExists(path)) return InputError(fmt::format("{}: already exists", path));
  }
  PLANISH_TRY(Model model, OpenModel(flags.model, flags.run));
  PLANISH_RETURN_IF_ERROR(CheckFinite(run->context(), model));
  PLANISH_TRY(auto windows, LoadCalibration(model, flags.spec));
  const CalibrationSet set = CalibrationSet::Make(std::move(windows));
  PLANISH_TRY(const StatisticsFile statistics,
              CalibrateModel(run->context(), model, set,
                             (flags.output.empty() ? flags.imatrix : flags.output) + ".spill",
                             flags.state_memory_mb << 20));
  if (!flags.output.empty()) PLANISH_RETURN_IF_ERROR(SaveStatistics(flags.output, statistics));
  if (!flags.imatrix.empty()) PLANISH_RETURN_IF_ERROR(SaveImatrix(flags, model, set, statistics));
  PrintSites(flags, statistics);
  return {};
}

}  // namespace

void AddCalibrateVerb(CLI::App& app) {
  auto flags = std::make_shared<CalibrateFlags>();
  CLI::App* verb = app.add_subcommand("calibrate", "Statistics of every linear's input on a text, to a file");
  verb->add_option("MODEL", flags->model, "The model")->required();
  verb->add_option("--text", flags->spec.text, "UTF-8 text file(s)")->required();
  AddOutputOption(*verb, flags->output, "File to make (safetensors)");
  verb->add_option("--imatrix", flags->imatrix,
                   "Importance matrix for llama.cpp to make (GGUF, or the older form for a name in .dat)")
      ->check(NotEmpty);
  verb->add_option("--windows", flags->spec.windows, "Windows, spread over the whole text")
      ->capture_default_str();
  verb->add_option("--context", flags->spec.context, "Tokens a window")->capture_default_str();
  verb->add_option("--seed", flags->spec.seed, "Places the windows")->capture_default_str();
  verb->add_option("--state-memory", flags->state_memory_mb,
                   "MB of hidden states kept in memory; more goes to disk")
      ->check(CLI::Range(1, 1 << 24))
      ->capture_default_str();
  AddPrecisionOption(*verb, flags->run);
  AddRunOptions(*verb, flags->run);
  verb->footer(
      "`compress` takes the file with the same text, --windows, --context and --seed; it checks them.\n"
      "Examples:\n"
      "  planish calibrate model/ --text book.txt -o statistics.safetensors\n"
      "  planish compress model/ -o small/ --mode independent --calibration book.txt --statistics "
      "statistics.safetensors");
  AddVerb(*verb, [flags] { return RunCalibrate(*flags); });
}

}  // namespace planish::app

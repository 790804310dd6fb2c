// planish eval: perplexity of a model on a text and, with a reference, how far it is from that.
#include <fmt/format.h>

#include "apps/adapter_options.h"
#include "apps/runner_options.h"
#include "evaluate/damage.h"
#include "evaluate/model_source.h"
#include "evaluate/runner_source.h"
#include "formats/text.h"
#include "model/model.h"

namespace planish::app {
namespace {

struct EvalFlags {
  RunOptions run;
  std::vector<std::string> adapters;
  CodePrecision precision;
  RuntimeOptions runtime{.runtime = "plain"};
  std::vector<std::string> models;
  std::string reference, reference_precision, text, set = "full";
  int64_t context = 1024, stride = 0, tokens = 0;
  bool bos = false;
};

Result<std::vector<int32_t>> TokenizeFile(const EvalFlags& flags, const std::string& model_path) {
  PLANISH_TRY(const auto tokenizer, Tokenizer::Load(ResolveModelPath(model_path)));
  PLANISH_TRY(const std::string text, LoadText(flags.text));
  auto ids = tokenizer->Encode(text, /*add_special=*/false);
  if (!ids.ok()) return ids.error().At(flags.text);
  return ids;
}

Status CheckSameTokenizer(const EvalFlags& flags, const std::string& other,
                          const std::vector<int32_t>& tokens) {
  PLANISH_TRY(const auto ids, TokenizeFile(flags, other));
  if (ids != tokens) {
    return InputError(fmt::format("{} and {} tokenize {} differently; their probabilities cannot be compared",
                                  flags.models.front(), other, flags.text));
  }
  return {};
}

void Print(const EvalFlags& flags, const std::vector<DamageReport>& reports) {
  if (!flags.run.json) {
    fmt::print("{}", ReportTable(reports, flags.models));
    return;
  }
  if (reports.size() == 1) {
    PrintJson(ReportJson(reports.front()));
    return;
  }
  OrderedJson list = OrderedJson::array();
  for (size_t i = 0; i < reports.size(); ++i) {
    OrderedJson entry;
    entry["model"] = flags.models[i];
    entry.update(ReportJson(reports[i]));
    list.push_back(std::move(entry));
  }
  PrintJson(list);
}

Status Eval(const EvalFlags& flags) {
  PLANISH_TRY(const auto run, Run::Start(flags.run));
  if (flags.run.strict && !flags.reference_precision.empty() && flags.reference_precision != "fp32") {
    return InputError(fmt::format("--reference-precision {} with --strict: leave one of them out",
                                  flags.reference_precision));
  }
  EvalOptions options{.context = flags.context, .stride = flags.stride, .max_tokens = flags.tokens};
  options.set = flags.set == "screen" ? EvalSet::kScreen : EvalSet::kFull;
  PLANISH_TRY(const auto tokens, TokenizeFile(flags, flags.models.front()));
  std::vector<std::unique_ptr<Model>> models;  // stable addresses for the sources
  std::vector<std::unique_ptr<LogitSource>> sources;
  std::vector<std::unique_ptr<Runner>> runners;
  const auto open = [&](const std::string& path, bool reference) -> Status {
    PLANISH_TRY(auto model, reference ? OpenModel(path, flags.run)
                                      : OpenAtPrecision(run->context(), path, flags.run, flags.precision));
    if (!reference) PLANISH_RETURN_IF_ERROR(AttachAdapters(run->context(), flags.adapters, model));
    PLANISH_RETURN_IF_ERROR(CheckFinite(run->context(), model));
    models.push_back(std::make_unique<Model>(std::move(model)));
    if (reference || flags.runtime.runtime == "plain") {
      sources.push_back(std::make_unique<ModelSource>(
          *models.back(), flags.context + 1,
          reference ? ParsePrecision(flags.reference_precision) : std::optional<Precision>()));
      return {};
    }
    PLANISH_TRY(auto runner, MakeRunner(run->context(), *models.back(), flags.runtime, 1, flags.context + 1));
    sources.push_back(std::make_unique<RunnerSource>(models.back()->program, *runner, Engine::kMaxRows));
    runners.push_back(std::move(runner));
    return {};
  };
  for (const auto& path : flags.models) {
    PLANISH_RETURN_IF_ERROR(open(path, false));
    if (path != flags.models.front()) PLANISH_RETURN_IF_ERROR(CheckSameTokenizer(flags, path, tokens));
  }
  if (!flags.reference.empty()) {
    PLANISH_RETURN_IF_ERROR(open(flags.reference, true));
    PLANISH_RETURN_IF_ERROR(CheckSameTokenizer(flags, flags.reference, tokens));
  }
  if (flags.bos) {
    if (models.front()->program.bos_id < 0) return InputError("--bos: config.json has no bos_token_id");
    options.bos = models.front()->program.bos_id;
  }
  std::vector<LogitSource*> judged;
  for (size_t i = 0; i < flags.models.size(); ++i) judged.push_back(sources[i].get());
  LogitSource* reference = flags.reference.empty() ? nullptr : sources.back().get();
  PLANISH_TRY(auto reports, Evaluate(run->context(), tokens, judged, reference, options));
  for (size_t i = 0; i < reports.size(); ++i) {
    reports[i].bytes = models[i]->Bytes();
    reports[i].bits_per_weight = models[i]->BitsPerWeight();
    reports[i].linear_bits_per_weight = models[i]->LinearBitsPerWeight();
  }
  Print(flags, reports);
  return {};
}

}  // namespace

void AddEvalVerb(CLI::App& app) {
  auto flags = std::make_shared<EvalFlags>();
  CLI::App* verb =
      app.add_subcommand("eval", "Perplexity on a text; with --reference, the damage: KL, flips, dp");
  verb->add_option("MODEL", flags->models, "One or more models; several share one run of the reference")
      ->required();
  verb->add_option("--reference", flags->reference, "The original model to compare with");
  verb->add_option("--reference-precision", flags->reference_precision,
                   "fp32, bf16 or split for the reference (default: as --precision); a model against itself "
                   "then shows what a precision adds")
      ->check(CLI::IsMember({"fp32", "bf16", "split"}));
  verb->add_option("--text", flags->text, "UTF-8 text file, tokenized as one string")->required();
  verb->add_option("--context", flags->context, "Tokens a window")
      ->check(CLI::Range(2, 1 << 24))
      ->capture_default_str();
  verb->add_option("--stride", flags->stride,
                   "Windows start at multiples of this; only new tokens count (0: context)");
  verb->add_option("--set", flags->set, "full, or screen: 32 windows spread evenly")
      ->check(CLI::IsMember({"full", "screen"}))
      ->capture_default_str();
  verb->add_option("--tokens", flags->tokens, "Only the first N tokens of the text (0: all)")
      ->check(CLI::NonNegativeNumber);
  verb->add_flag("--bos", flags->bos, "Put the BOS token before each window");
  AddRuntimeOptions(*verb, flags->runtime);
  AddPrecisionOptions(*verb, flags->precision);
  AddAdapterOption(*verb, flags->adapters);
  AddPrecisionOption(*verb, flags->run);
  AddRunOptions(*verb, flags->run);
  verb->footer(
      "Examples:\n"
      "  planish eval demo --text book.txt\n"
      "  planish eval small/ --reference original/ --text wikitext2-raw-test.txt --json\n"
      "  planish eval q4/ q3/ q2/ --reference original/ --text wikitext2-raw-test.txt --set screen\n"
      "  planish eval m/ --precision bf16 --reference m/ --reference-precision fp32 --text book.txt\n"
      "  planish eval q4/ --runtime packed --reference original/ --text book.txt   with what decoding adds");
  AddVerb(*verb, [flags] { return Eval(*flags); });
}

}  // namespace planish::app

#include "apps/app.h"

#include <fmt/format.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>

#include "base/check.h"
#include "formats/gguf_folder.h"
#include "formats/gguf_tokenizer.h"
#include "formats/text.h"
#include "math/gemm.h"

namespace planish::app {
namespace {

std::atomic<bool> cancelled{false};

void OnSignal(int) {
  if (cancelled.exchange(true)) _exit(static_cast<int>(Code::kInterrupted));
}

}  // namespace

void AddRunOptions(CLI::App& verb, RunOptions& options) {
  verb.add_option("--threads", options.threads, "Threads; 0 means one per core. Results do not depend on it")
      ->check(CLI::Range(0, 1024));
  verb.add_option("--isa", options.isa, "Kernel set: scalar, sse4, avx2 or avx512 (default: the best here)");
  verb.add_flag("--strict", options.strict, "The same bytes on any CPU, not only on this one");
  verb.add_flag("--quiet,-q", options.quiet, "No progress");
  verb.add_option("--ignore-config-fields", options.load.ignored_fields,
                  "Read config.json as if it had not these fields, a,b (of options that are not implemented)")
      ->delimiter(',');
  verb.add_option("--ignore-tensors", options.load.ignored_tensors,
                  "Read the checkpoint as if it had not these tensors, a,b (of ones that the model does not "
                  "read); the beginning of a name is enough, * stands for any text")
      ->delimiter(',');
  verb.add_flag("--json", options.json, "Results as JSON on standard output");
}

CLI::Option* AddOutputOption(CLI::App& verb, std::string& output, const std::string& help) {
  return verb.add_option("-o,--output", output, help)->check(NotEmpty);
}

std::string NotEmpty(const std::string& name) { return name.empty() ? "expected a name, found ''" : ""; }

void AddPrecisionOption(CLI::App& verb, RunOptions& options) {
  options.precision = "auto";
  verb.add_option(
          "--precision", options.precision,
          "Of matrix products in forward passes and statistics: fp32; bf16: factors rounded to 8 bits; "
          "split: to 16, as two bf16; auto: split where the processor multiplies bf16 faster, else fp32")
      ->check(CLI::IsMember({"auto", "fp32", "bf16", "split"}))
      ->capture_default_str();
}

Run::Run(const RunOptions& options)
    : pool_(options.threads),
      progress_(options.quiet ? ConsoleProgress::Style::kQuiet : ConsoleProgress::Style::kAuto) {}

Result<std::unique_ptr<Run>> Run::Start(const RunOptions& options, uint64_t seed) {
  auto run = std::unique_ptr<Run>(new Run(options));
  Context& context = run->context_;
  context.pool = &run->pool_;
  context.progress = &run->progress_;
  context.cancel = &CancelFlag();
  context.seed = seed;
  context.profile = options.strict ? Profile::kStrict : Profile::kFast;
  context.isa = BestIsa();
  if (!options.isa.empty()) {
    const auto isa = ParseIsa(options.isa);
    if (!isa) {
      return InputError(fmt::format("--isa: expected scalar, sse4, avx2 or avx512, found '{}'", options.isa));
    }
    if (!IsaSupported(*isa)) {
      return InputError(fmt::format("--isa {}: not supported by this machine, which has: {}", options.isa,
                                    SupportedIsas()));
    }
    context.isa = *isa;
  }
  if (context.profile == Profile::kStrict && context.isa == Isa::kSse4) {
    context.isa = Isa::kScalar;
    if (!options.quiet) {
      fmt::print(stderr,
                 "strict needs fused multiply-add, which this kernel set lacks: using scalar (slow)\n");
    }
  }
  if (options.precision == "auto") {
    context.precision = HasFastBf16(context) ? Precision::kSplit : Precision::kF32;
  } else {
    const auto precision = ParsePrecision(options.precision);
    PLANISH_CHECK(precision.has_value()) << options.precision;
    context.precision = *precision;
  }
  if (context.profile == Profile::kStrict && context.precision != Precision::kF32) {
    return InputError(fmt::format(
        "--precision {} with --strict: only fp32 gives the same bytes on any CPU; leave one of them out",
        options.precision));
  }
  return run;
}

const std::atomic<bool>& CancelFlag() { return cancelled; }

void ClearCancelFlag() { cancelled = false; }

void InstallSignalHandlers() {
  struct sigaction action {};
  action.sa_handler = OnSignal;
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
  struct sigaction hangup {};
  if (sigaction(SIGHUP, nullptr, &hangup) == 0 && hangup.sa_handler != SIG_IGN) {
    sigaction(SIGHUP, &action, nullptr);
  }
  std::signal(SIGPIPE, SIG_IGN);
}

Action& ChosenAction() {
  static Action action;
  return action;
}

void AddVerb(CLI::App& verb, Action action) {
  verb.callback([action = std::move(action)] { ChosenAction() = action; });
}

Result<Model> OpenModel(const std::string& path, const RunOptions& options) {
  PLANISH_TRY(Model model, LoadModel(path, options.load));
  if (!options.quiet) {
    for (const std::string& note : model.notes) fmt::print(stderr, "{}: {}\n", model.path, note);
  }
  return model;
}

Result<std::string> GgufTokenizerText(const std::string& path) {
  PLANISH_TRY(const std::string place, GgufWithTokenizer(path));
  if (place.empty()) return std::string();
  PLANISH_TRY(const auto file, GgufFile::Open(place));
  auto text = DescribeGgufTokenizer(*file);
  if (!text.ok()) return text.error().At(place);
  return text;
}

Result<std::string> CheckedText(const std::string& text, const std::string& where) {
  const auto valid = ValidateUtf8(text);
  if (!valid.ok()) return valid.error().At(where);
  return text;
}

void PrintJson(const OrderedJson& value) { fmt::print("{}\n", DumpJson(value, 1)); }

}  // namespace planish::app

// The program: parses the command line, runs one verb, turns its error into an exit status.
#include <fmt/format.h>

#include <cstdio>
#include <iostream>
#include <new>
#include <system_error>

#include "apps/app.h"
#include "apps/embedded_demo.h"

namespace planish::app {
namespace {

void Describe(CLI::App& app) {
  app.description("Compress a trained language model, take the dents out, prove what is left, run it.");
  app.set_version_flag("--version", PLANISH_VERSION);
  app.require_subcommand(1);
  app.footer(
      "A MODEL is a Hugging Face folder, a GGUF file, a folder that `compress` wrote, or `demo` (embedded).\n"
      "Exit status: 0 done, 1 failure, 2 bad input or usage, 3 refused by a contract or a format, 130 "
      "interrupted.\n"
      "`planish VERB --help` shows a verb's options and examples.");
}

int Report(const Error& error) {
  fmt::print(stderr, "planish: {}\n", error.message);
  return static_cast<int>(error.code);
}

int Main(int argc, char** argv) {
  InstallSignalHandlers();
  RegisterEmbeddedDemo();
  CLI::App app("", "planish");
  Describe(app);
  AddEvalVerb(app);
  AddGenerateVerb(app);
  AddChatVerb(app);
  AddLogitsVerb(app);
  AddInspectVerb(app);
  AddCalibrateVerb(app);
  AddCompressVerb(app);
  AddGridsVerb(app);
  AddConvertVerb(app);
  AddBenchVerb(app);
  AddDiffVerb(app);
  AddPackVerb(app);
  AddCompletionVerb(app);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (app.exit(error) != 0) return static_cast<int>(Code::kInput);
    return std::cout.flush() ? 0 : Report(FailureError("standard output: cannot write"));
  }
  try {
    const Status status = ChosenAction()();
    if (!status.ok()) return Report(status.error());
  } catch (const std::bad_alloc&) {
    return Report(FailureError("out of memory; try a smaller --context or fewer windows"));
  } catch (const std::system_error& error) {  // fmt::print throws when a write fails
    return Report(FailureError(fmt::format("standard output: {}", error.what())));
  }
  // Text that never reached a full disk or a closed pipe must not count as success.
  if (std::fflush(stdout) != 0) return Report(FailureError("standard output: cannot write"));
  return 0;
}

}  // namespace
}  // namespace planish::app

int main(int argc, char** argv) { return planish::app::Main(argc, argv); }

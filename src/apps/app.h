// What the verbs share: the options of every run, the context they make, and how a verb ends.
#pragma once

#include <CLI/CLI.hpp>
#include <memory>
#include <optional>
#include <string>

#include "base/context.h"
#include "base/json.h"
#include "formats/tokenizer.h"
#include "model/load.h"

namespace planish::app {

// --threads, --isa, --strict, --quiet, --json, --ignore-config-fields, --ignore-tensors: the same on every
// verb that computes.
struct RunOptions {
  int threads = 0;
  std::string isa;
  bool strict = false;
  bool quiet = false;
  bool json = false;
  std::string precision = "fp32";
  LoadOptions load;
};
void AddRunOptions(CLI::App& verb, RunOptions& options);
// -o, --output: a name that is not empty.
CLI::Option* AddOutputOption(CLI::App& verb, std::string& output, const std::string& help);
// The check of names of files to make: "" is refused at once.
std::string NotEmpty(const std::string& name);
// --precision, on verbs whose forward passes may be less exact than fp32.
void AddPrecisionOption(CLI::App& verb, RunOptions& options);

// Owns what a Context points to.
class Run {
 public:
  static Result<std::unique_ptr<Run>> Start(const RunOptions& options, uint64_t seed = 0);
  const Context& context() const { return context_; }

 private:
  explicit Run(const RunOptions& options);
  ThreadPool pool_;
  ConsoleProgress progress_;
  Context context_;
};

// Set by SIGINT, SIGTERM and SIGHUP (unless that is ignored, as nohup has it); a second signal ends the
// process at once.
const std::atomic<bool>& CancelFlag();
void InstallSignalHandlers();
// Takes back a signal that has been answered.
void ClearCancelFlag();

// A verb adds its subcommand; `action` runs after parsing and its error ends the program.
using Action = std::function<Status()>;
void AddVerb(CLI::App& verb, Action action);
// What the chosen verb is to do, or nullptr.
Action& ChosenAction();

// The model; what of its files is not applied goes to standard error unless --quiet.
Result<Model> OpenModel(const std::string& path, const RunOptions& options);

// Of a model whose tokenizer lies in a GGUF file: what it is (DescribeGgufTokenizer); of others nothing.
Result<std::string> GgufTokenizerText(const std::string& path);

// Text of --prompt or of a file, checked to be UTF-8.
Result<std::string> CheckedText(const std::string& text, const std::string& where);

// Prints a JSON value and a newline to standard output.
void PrintJson(const OrderedJson& value);

void AddEvalVerb(CLI::App& app);
void AddGenerateVerb(CLI::App& app);
void AddChatVerb(CLI::App& app);
void AddLogitsVerb(CLI::App& app);
void AddInspectVerb(CLI::App& app);
void AddCalibrateVerb(CLI::App& app);
void AddCompressVerb(CLI::App& app);
void AddGridsVerb(CLI::App& app);
void AddConvertVerb(CLI::App& app);
void AddBenchVerb(CLI::App& app);
void AddDiffVerb(CLI::App& app);
void AddPackVerb(CLI::App& app);
void AddCompletionVerb(CLI::App& app);

}  // namespace planish::app

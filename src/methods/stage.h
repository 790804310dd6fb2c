// A method is a stage with a descriptor: plain data that recipe parsing, --help, the documentation
// index and the conformance tests read, and one function. Methods see layers, sites and statistics;
// never files, families or devices.
#pragma once

#include <map>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "base/context.h"
#include "layer/matrix.h"
#include "methods/round/feedback.h"

namespace planish {

using OptionValue = std::variant<bool, int64_t, double, std::string>;

// One option of a method. The default's type is the option's type.
struct OptionSpec {
  std::string name;
  OptionValue fallback;
  double min = 0, max = 0;           // numbers: allowed range
  std::vector<std::string> choices;  // strings and integers: allowed values; empty: any
  std::string help;
};

// Resolved options: every option of the stage, checked against its spec.
class Options {
 public:
  explicit Options(std::map<std::string, OptionValue> values) : values_(std::move(values)) {}
  Options() = default;
  bool Bool(const std::string& name) const { return std::get<bool>(At(name)); }
  int64_t Int(const std::string& name) const { return std::get<int64_t>(At(name)); }
  double Number(const std::string& name) const { return std::get<double>(At(name)); }
  const std::string& Text(const std::string& name) const { return std::get<std::string>(At(name)); }
  const std::map<std::string, OptionValue>& values() const { return values_; }

 private:
  const OptionValue& At(const std::string& name) const;
  std::map<std::string, OptionValue> values_;
};

// What is known about the linear to solve. A site's linears are solved one after the other with the
// same moments and factor.
struct LayerProblem {
  std::string name;
  MatView<const float> w;              // [out, in] original weights
  MatView<const float> h;              // [in, in] mean of x x^T at its input, in the stream of the run
  const SiteFactor* factor = nullptr;  // of h; null for stages that do not need it
  std::span<const float> mean = {};    // [in] mean of x
  std::span<const float> bias = {};    // [out] of the original layer; empty: none
};

// One linear of a site in work: stages change `matrix` in turn.
struct LayerSolution {
  Matrix matrix;            // parts so far; empty (0 rows) before the first stage
  std::vector<float> bias;  // [out], fp16 numbers, in place of the original's; empty: that one stays
  struct Step {
    std::string method;
    double loss = 0;   // tr(E H E^T) after the stage
    std::string note;  // e.g. "rank 12"; empty
  };
  double loss_nearest = 0;  // of round-to-nearest on the same grid
  std::vector<Step> steps;
  std::vector<std::string> warnings;  // fallbacks taken, e.g. more damping
};

enum class StageKind {
  kRound,
  kCompensate,
  kBias,  // sets the bias to what the stages before it left; the last stage of a recipe
};

struct SolveStage {
  std::string name;     // "gptq": what recipes say
  std::string summary;  // one line
  StageKind kind = StageKind::kRound;
  bool needs_factor = false;  // wants LayerProblem::factor
  std::vector<OptionSpec> options;
  // Solves the linears of one site together (a stage may share a budget between them).
  // options[i] belongs to problems[i]: rules may differ by layer. solutions is in and out.
  Status (*solve)(const Context& context, std::span<const LayerProblem> problems,
                  std::span<const Options> options, std::span<LayerSolution> solutions) = nullptr;
  // How the site has to be factored for these options; null when needs_factor is false.
  FeedbackOptions (*factor_options)(const Options& options) = nullptr;
  // What no single option's spec can say: options that do not go together. Null: any do. Called wherever
  // options are resolved, so that `solve` sees none that it would have to ignore.
  Status (*check)(const Options& options) = nullptr;
};

// The grid that the options of a rounding stage describe, for rows of `cols` values (FitToRows).
GridSpec GridOfOptions(const Options& options, int64_t cols);

// All stages, in the order of the documentation.
std::span<const SolveStage* const> AllStages();
const SolveStage* FindStage(const std::string& name);

}  // namespace planish

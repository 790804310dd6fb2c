// Recipes that are read: their canonical text, and what their rules make of one tensor.
#include <fmt/format.h>

#include "base/glob.h"
#include "base/names.h"
#include "methods/options.h"
#include "pipeline/recipe.h"

namespace planish {
namespace {

using OptionValues = std::map<std::string, OptionValue>;

void AddLine(std::string& text, const std::string& key, const OptionValue& value) {
  text += fmt::format("{} = {}\n", key, OptionText(value));
}

void AddLines(std::string& text, const OptionValues& values) {
  for (const auto& [key, value] : values) AddLine(text, key, value);
}

// What `values`, made for another stage, leave valid for this one.
Result<Options> Carry(const SolveStage& stage, const OptionValues& values) {
  OptionValues kept;
  for (const auto& [name, value] : values) {
    const OptionSpec* spec = FindOption(stage.options, name);
    if (spec != nullptr && CheckOption(*spec, value).ok()) kept.emplace(name, value);
  }
  // Not checked together yet: rules may still change them.
  return ResolveOptions("method '" + stage.name + "'", stage.options, kept);
}

}  // namespace

std::string RecipeText(const Recipe& recipe, TextPaths paths) {
  std::string text;
  AddLine(text, "mode", std::string(recipe.mode == Recipe::Mode::kSequential ? "sequential" : "independent"));
  AddLine(text, "states", std::string(recipe.states == Recipe::States::kBf16 ? "bf16" : "fp32"));
  AddLine(text, "head_bits", int64_t{recipe.head_bits});
  AddLine(text, "head_group", recipe.head_group);

  text += "\n[calibration]\n";
  const CalibrationSpec& calibration = recipe.calibration;
  if (paths == TextPaths::kKeep && !calibration.text.empty()) {
    text += "text = [";
    for (const std::string& path : calibration.text) {
      text += (&path == calibration.text.data() ? "" : ", ") + OptionText(path);
    }
    text += "]\n";
  }
  AddLine(text, "windows", calibration.windows);
  AddLine(text, "context", calibration.context);
  AddLine(text, "seed", static_cast<int64_t>(calibration.seed));

  for (const StageEntry& entry : recipe.stages) {
    text += "\n[[stage]]\n";
    AddLine(text, "method", entry.stage->name);
    AddLines(text, entry.options.values());
  }
  for (const Rule& rule : recipe.rules) {
    text += "\n[[rule]]\n";
    AddLine(text, "match", rule.match);
    if (rule.skip) AddLine(text, "skip", *rule.skip);
    if (rule.method != nullptr) AddLine(text, "method", rule.method->name);
    AddLines(text, rule.options);
  }
  return text;
}

Result<LayerPlan> PlanFor(const Recipe& recipe, const std::string& tensor_name) {
  std::vector<const Rule*> matching;
  bool skip = false;
  const SolveStage* method = nullptr;
  for (const Rule& rule : recipe.rules) {
    if (!GlobMatch(rule.match, tensor_name)) continue;
    matching.push_back(&rule);
    skip = rule.skip.value_or(skip);
    if (rule.method != nullptr) method = rule.method;
  }
  LayerPlan plan;
  plan.skip = skip;
  if (skip) return plan;
  for (const StageEntry& entry : recipe.stages) {
    const bool replaced = method != nullptr && entry.stage->kind == StageKind::kRound;
    const SolveStage* stage = replaced ? method : entry.stage;
    PLANISH_TRY(const Options start, Carry(*stage, entry.options.values()));
    OptionValues values = start.values();
    for (const Rule* rule : matching) {
      for (const auto& [name, given] : rule->options) {
        const OptionSpec* spec = FindOption(stage->options, name);
        if (spec == nullptr) continue;
        auto value = CheckOption(*spec, given);
        if (!value.ok()) {
          return value.error().At(fmt::format(
              "tensor '{}': method '{}' by other rules: rule {} (match = {})", Abbreviate(tensor_name),
              stage->name, rule - recipe.rules.data() + 1, Abbreviate(OptionText(rule->match))));
        }
        values[name] = std::move(value).value();
      }
    }
    Options options(std::move(values));
    const Status together = stage->check == nullptr ? Status() : stage->check(options);
    if (!together.ok()) {
      return together.error().At(
          fmt::format("tensor '{}': method '{}'", Abbreviate(tensor_name), stage->name));
    }
    plan.stages.emplace_back(stage, std::move(options));
  }
  return plan;
}

}  // namespace planish

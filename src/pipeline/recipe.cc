#include "pipeline/recipe.h"

#include <fmt/format.h>

#include <algorithm>

// Compiled into this file: the shared library has only the functions that throw.
#undef TOML_SHARED_LIB
#undef TOML_HEADER_ONLY
#define TOML_HEADER_ONLY 1
#define TOML_EXCEPTIONS 0
#define TOML_ENABLE_FORMATTERS 0
#include <toml++/toml.h>

#include "base/check.h"
#include "base/names.h"
#include "methods/options.h"
#include "pipeline/toml_nesting.h"

namespace planish {
namespace {

constexpr size_t kMaxBytes = size_t{1} << 20;
constexpr size_t kMaxStages = 64;
constexpr size_t kMaxRules = 4096;

using Values = std::map<std::string, OptionValue>;

const std::vector<OptionSpec>& TopSpecs() {
  static const std::vector<OptionSpec> specs = {
      {"mode", std::string("sequential"), 0, 0, {"sequential", "independent"}, ""},
      {"states", std::string("bf16"), 0, 0, {"bf16", "fp32"}, ""},
      {"head_bits", int64_t{0}, 0, 8, {}, ""},
      {"head_group", int64_t{128}, 0, 1 << 20, {}, ""}};
  return specs;
}

const std::vector<OptionSpec>& CalibrationSpecs() {
  static const std::vector<OptionSpec> specs = {{"windows", int64_t{128}, 1, 1 << 20, {}, ""},
                                                {"context", int64_t{1024}, 2, 1 << 20, {}, ""},
                                                {"seed", int64_t{0}, 0, 0x1p63, {}, ""}};
  return specs;
}

// A bool, integer, number or string; nothing for other kinds.
std::optional<OptionValue> Scalar(const toml::node& node) {
  if (const auto* flag = node.as_boolean()) return OptionValue(flag->get());
  if (const auto* integer = node.as_integer()) return OptionValue(integer->get());
  if (const auto* number = node.as_floating_point()) return OptionValue(number->get());
  if (const auto* text = node.as_string()) return OptionValue(text->get());
  return std::nullopt;
}

std::string Found(const toml::node& node) {
  if (const auto value = Scalar(node)) return Abbreviate(OptionText(*value));
  if (node.is_table()) return "a table";
  if (node.is_array()) return "a list";
  return "a date or time";
}

class Reader {
 public:
  Reader(const std::string& name, std::span<const SolveStage* const> methods)
      : name_(name), methods_(methods) {}
  Result<Recipe> Read(const toml::table& root);

 private:
  Error At(const toml::source_region& where, const std::string& message) const;
  Result<std::string> Text(const toml::table& table, const std::string& key,
                           const std::string& expected) const;
  Result<OptionValue> Value(const toml::key& key, const toml::node& node, const OptionSpec& spec) const;
  Result<Values> Section(const toml::table& table, const std::string& owner,
                         std::span<const OptionSpec> specs, const std::vector<std::string>& other_keys) const;
  Result<const SolveStage*> Method(const toml::table& table, const std::string& expected) const;
  Result<std::vector<const toml::table*>> Tables(const toml::table& root, const std::string& key,
                                                 size_t max_count) const;
  Status Top(const toml::table& root);
  Status Calibration(const toml::table& root);
  Result<std::vector<std::string>> Paths(const toml::node& node) const;
  Result<StageEntry> Stage(const toml::table& table) const;
  Result<Rule> RuleHead(const toml::table& table) const;
  Status RuleOptions(const toml::table& table, Rule& rule) const;
  Result<OptionValue> Override(const toml::key& key, const toml::node& node, const Rule& rule) const;
  std::vector<const SolveStage*> Reached(const Rule& rule) const;
  std::vector<const SolveStage*> RuleMethods() const;

  const std::string& name_;
  std::span<const SolveStage* const> methods_;
  Recipe recipe_;
};

Error Reader::At(const toml::source_region& where, const std::string& message) const {
  // What no text stands for (an empty file, a table only implied) is placed at the start.
  return InputError(fmt::format("{}:{}:{}: {}", name_, std::max<uint32_t>(1, where.begin.line),
                                std::max<uint32_t>(1, where.begin.column), message));
}

// A string of at least one byte that must be there.
Result<std::string> Reader::Text(const toml::table& table, const std::string& key,
                                 const std::string& expected) const {
  const toml::node* node = table.get(key);
  if (node == nullptr) return At(table.source(), fmt::format("'{}' is missing, expected {}", key, expected));
  const auto* text = node->as_string();
  if (text == nullptr || text->get().empty()) {
    return At(node->source(), fmt::format("'{}': found {}, expected {}", key, Found(*node), expected));
  }
  return text->get();
}

Result<OptionValue> Reader::Value(const toml::key& key, const toml::node& node,
                                  const OptionSpec& spec) const {
  const auto given = Scalar(node);
  if (!given) {
    return At(key.source(),
              fmt::format("option '{}': found {}, expected {}", spec.name, Found(node), ExpectedText(spec)));
  }
  auto value = CheckOption(spec, *given);
  if (!value.ok()) return At(node.source(), value.error().message);
  return value;
}

// The values that the table states for the specs. Keys that are neither theirs nor `other_keys` are errors.
Result<Values> Reader::Section(const toml::table& table, const std::string& owner,
                               std::span<const OptionSpec> specs,
                               const std::vector<std::string>& other_keys) const {
  Values values;
  for (const auto& [key, node] : table) {
    const std::string name(key.str());
    if (std::find(other_keys.begin(), other_keys.end(), name) != other_keys.end()) continue;
    const OptionSpec* spec = FindOption(specs, name);
    if (spec == nullptr) {
      std::vector<std::string> known = other_keys;
      for (const OptionSpec& s : specs) known.push_back(s.name);
      return At(key.source(), fmt::format("{} has no option {}; {}", owner, Abbreviate(OptionText(name)),
                                          NameHint(name, known)));
    }
    PLANISH_TRY(values[name], Value(key, node, *spec));
  }
  return values;
}

Result<const SolveStage*> Reader::Method(const toml::table& table, const std::string& expected) const {
  PLANISH_TRY(const std::string name, Text(table, "method", expected));
  std::vector<std::string> known;
  for (const SolveStage* method : methods_) {
    if (method->name == name) return method;
    known.push_back(method->name);
  }
  return At(table.get("method")->source(),
            fmt::format("there is no method {}; {}", Abbreviate(OptionText(name)), NameHint(name, known)));
}

// The tables [[key]]; none when the key is missing.
Result<std::vector<const toml::table*>> Reader::Tables(const toml::table& root, const std::string& key,
                                                       size_t max_count) const {
  std::vector<const toml::table*> tables;
  const toml::node* node = root.get(key);
  if (node == nullptr) return tables;
  const auto* list = node->as_array();
  if (list == nullptr) {
    return At(node->source(), fmt::format("'{}': found {}, expected tables [[{}]]", key, Found(*node), key));
  }
  for (const toml::node& element : *list) {
    const auto* table = element.as_table();
    if (table == nullptr) {
      return At(element.source(),
                fmt::format("'{}': found {}, expected a table [[{}]]", key, Found(element), key));
    }
    if (tables.size() == max_count) {
      return At(element.source(),
                fmt::format("found {} tables [[{}]], at most {} are read", list->size(), key, max_count));
    }
    tables.push_back(table);
  }
  return tables;
}

Status Reader::Top(const toml::table& root) {
  PLANISH_TRY(const Values given, Section(root, "a recipe", TopSpecs(), {"calibration", "stage", "rule"}));
  PLANISH_TRY(const Options options, ResolveOptions("a recipe", TopSpecs(), given));
  recipe_.mode =
      options.Text("mode") == "independent" ? Recipe::Mode::kIndependent : Recipe::Mode::kSequential;
  recipe_.states = options.Text("states") == "fp32" ? Recipe::States::kFp32 : Recipe::States::kBf16;
  recipe_.head_bits = static_cast<int>(options.Int("head_bits"));
  recipe_.head_group = options.Int("head_group");
  if (recipe_.head_bits == 1) {
    return At(root.get("head_bits")->source(),
              "option 'head_bits': found 1, expected 0 (as they are) or 2 to 8");
  }
  return {};
}

Result<std::vector<std::string>> Reader::Paths(const toml::node& node) const {
  std::vector<std::string> paths;
  const auto add = [&](const toml::node& element) -> Status {
    const auto* path = element.as_string();
    if (path == nullptr || path->get().empty()) {
      return At(element.source(),
                fmt::format("option 'text': found {}, expected a path or a list of paths", Found(element)));
    }
    paths.push_back(path->get());
    return {};
  };
  if (const auto* list = node.as_array()) {
    for (const toml::node& element : *list) PLANISH_RETURN_IF_ERROR(add(element));
  } else {
    PLANISH_RETURN_IF_ERROR(add(node));
  }
  return paths;
}

Status Reader::Calibration(const toml::table& root) {
  const toml::node* node = root.get("calibration");
  if (node == nullptr) return {};
  const auto* table = node->as_table();
  if (table == nullptr) {
    return At(node->source(),
              fmt::format("'calibration': found {}, expected one table [calibration]", Found(*node)));
  }
  PLANISH_TRY(const Values given, Section(*table, "[calibration]", CalibrationSpecs(), {"text"}));
  PLANISH_TRY(const Options options, ResolveOptions("[calibration]", CalibrationSpecs(), given));
  recipe_.calibration.windows = options.Int("windows");
  recipe_.calibration.context = options.Int("context");
  recipe_.calibration.seed = static_cast<uint64_t>(options.Int("seed"));
  if (const toml::node* text = table->get("text")) {
    PLANISH_TRY(recipe_.calibration.text, Paths(*text));
  }
  return {};
}

Result<StageEntry> Reader::Stage(const toml::table& table) const {
  PLANISH_TRY(const SolveStage* stage, Method(table, "the name of a method"));
  if (recipe_.stages.empty() && stage->kind != StageKind::kRound) {
    return At(table.get("method")->source(),
              fmt::format("method '{}' does not round, expected a rounding method in the first stage",
                          stage->name));
  }
  PLANISH_TRY(const Values given, Section(table, "method '" + stage->name + "'", stage->options, {"method"}));
  PLANISH_TRY(Options options, ResolveOptions(*stage, given));
  return StageEntry{stage, std::move(options)};
}

// All but the options, which can be read only when the methods of all rules are known.
Result<Rule> Reader::RuleHead(const toml::table& table) const {
  Rule rule;
  PLANISH_TRY(rule.match, Text(table, "match", "a pattern over tensor names, e.g. \"*.down_proj.weight\""));
  if (const toml::node* skip = table.get("skip")) {
    const auto* flag = skip->as_boolean();
    if (flag == nullptr) {
      return At(skip->source(), fmt::format("'skip': found {}, expected true or false", Found(*skip)));
    }
    rule.skip = flag->get();
  }
  if (const toml::node* method = table.get("method")) {
    PLANISH_TRY(rule.method, Method(table, "the name of a rounding method"));
    if (rule.method->kind != StageKind::kRound) {
      return At(method->source(),
                fmt::format("method '{}' does not round, expected a rounding method: a rule replaces "
                            "the rounding stage only",
                            rule.method->name));
    }
  }
  const size_t heads = 1 + (rule.skip ? 1 : 0) + (rule.method != nullptr ? 1 : 0);
  if (table.size() == 1) {
    return At(table.source(), "the rule changes nothing, expected skip, method or an option beside match");
  }
  if (rule.skip == true && (rule.method != nullptr || table.size() > heads)) {
    return At(table.get("skip")->source(),
              "skip = true leaves nothing for the rule's other keys; use two rules");
  }
  return rule;
}

// The stages that a matching tensor has by this rule alone.
std::vector<const SolveStage*> Reader::Reached(const Rule& rule) const {
  std::vector<const SolveStage*> stages;
  if (rule.method != nullptr) stages.push_back(rule.method);
  for (const StageEntry& entry : recipe_.stages) {
    if (rule.method == nullptr || entry.stage->kind != StageKind::kRound) stages.push_back(entry.stage);
  }
  return stages;
}

std::vector<const SolveStage*> Reader::RuleMethods() const {
  std::vector<const SolveStage*> stages;
  for (const SolveStage* method : methods_) {
    const auto uses = [&](const Rule& rule) { return rule.method == method; };
    if (std::any_of(recipe_.rules.begin(), recipe_.rules.end(), uses)) stages.push_back(method);
  }
  return stages;
}

Result<OptionValue> Reader::Override(const toml::key& key, const toml::node& node, const Rule& rule) const {
  const std::string name(key.str());
  std::vector<std::string> known = {"match", "skip", "method"};
  std::optional<OptionValue> value;
  const auto offer = [&](const std::vector<const SolveStage*>& stages) -> Status {
    for (const SolveStage* stage : stages) {
      for (const OptionSpec& spec : stage->options) known.push_back(spec.name);
      const OptionSpec* spec = FindOption(stage->options, name);
      if (spec == nullptr) continue;
      auto checked = Value(key, node, *spec);
      if (!checked.ok())
        return Error{checked.error().code, checked.error().message + " by method '" + stage->name + "'"};
      // Where an integer suits both an integer option and a number, the integer is what both accept.
      if (!value || !std::holds_alternative<int64_t>(*value)) value = std::move(checked).value();
    }
    return {};
  };
  PLANISH_RETURN_IF_ERROR(offer(Reached(rule)));
  // Other rules may give the tensor a method that has the option.
  if (!value && rule.method == nullptr) PLANISH_RETURN_IF_ERROR(offer(RuleMethods()));
  if (value) return *value;
  std::sort(known.begin(), known.end());
  known.erase(std::unique(known.begin(), known.end()), known.end());
  const std::string where =
      rule.method == nullptr ? "in this recipe" : "with method '" + rule.method->name + "'";
  return At(key.source(), fmt::format("no stage {} has an option {}; {}", where, Abbreviate(OptionText(name)),
                                      NameHint(name, known)));
}

Status Reader::RuleOptions(const toml::table& table, Rule& rule) const {
  for (const auto& [key, node] : table) {
    const std::string name(key.str());
    if (name == "match" || name == "skip" || name == "method") continue;
    PLANISH_TRY(rule.options[name], Override(key, node, rule));
  }
  return {};
}

Result<Recipe> Reader::Read(const toml::table& root) {
  PLANISH_RETURN_IF_ERROR(Top(root));
  PLANISH_RETURN_IF_ERROR(Calibration(root));
  PLANISH_TRY(const auto stages, Tables(root, "stage", kMaxStages));
  for (const toml::table* table : stages) {
    PLANISH_TRY(StageEntry entry, Stage(*table));
    recipe_.stages.push_back(std::move(entry));
  }
  if (stages.empty()) return At(root.source(), "found no stage, expected at least one table [[stage]]");
  PLANISH_TRY(const auto rules, Tables(root, "rule", kMaxRules));
  for (const toml::table* table : rules) {
    PLANISH_TRY(Rule rule, RuleHead(*table));
    recipe_.rules.push_back(std::move(rule));
  }
  for (size_t i = 0; i < rules.size(); ++i) PLANISH_RETURN_IF_ERROR(RuleOptions(*rules[i], recipe_.rules[i]));
  return std::move(recipe_);
}

}  // namespace

Result<Recipe> ParseRecipe(std::string_view toml, const std::string& name,
                           std::span<const SolveStage* const> stages) {
  for (const SolveStage* stage : stages) {
    for (const char* key : {"match", "skip", "method"}) {
      PLANISH_CHECK(FindOption(stage->options, key) == nullptr) << stage->name << " uses '" << key << "'";
    }
  }
  if (toml.size() > kMaxBytes) {
    return InputError(
        fmt::format("{}:1:1: found {} bytes, a recipe has at most {}", name, toml.size(), kMaxBytes));
  }
  const Status nesting = CheckTomlNesting(toml);
  if (!nesting.ok()) return Error{nesting.error().code, name + ":" + nesting.error().message};
  const toml::parse_result parsed = toml::parse(toml, name);
  if (!parsed) {
    const toml::parse_error& error = parsed.error();
    return InputError(fmt::format("{}:{}:{}: not valid TOML: {}", name, error.source().begin.line,
                                  error.source().begin.column, Abbreviate(error.description(), 300)));
  }
  return Reader(name, stages).Read(parsed.table());
}

}  // namespace planish

#include "methods/options.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "base/names.h"

namespace planish {
namespace {

std::string QuotedText(std::string_view text) {
  std::string quoted = "\"";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      quoted += '\\';
      quoted += c;
    } else if (byte < 0x20 || byte == 0x7f) {
      quoted += fmt::format("\\u{:04X}", byte);
    } else {
      quoted += c;
    }
  }
  return quoted + '"';
}

std::string NumberText(double value) {
  std::string text = fmt::format("{}", value);  // the shortest that reads back the same
  const bool is_float = !std::isfinite(value) || text.find_first_of(".e") != std::string::npos;
  return is_float ? text : text + ".0";
}

std::string ListText(const std::vector<std::string>& names, const char* last_word) {
  std::string text;
  for (size_t i = 0; i < names.size(); ++i) {
    if (i > 0) text += i + 1 == names.size() ? fmt::format(" {} ", last_word) : ", ";
    text += "'" + names[i] + "'";
  }
  return text;
}

// 2^63 and above as the largest integer there is.
int64_t IntegerBound(double bound) {
  return bound >= 0x1p63 ? INT64_MAX : bound < -0x1p63 ? INT64_MIN : static_cast<int64_t>(bound);
}

bool IsChoice(const OptionSpec& spec, const std::string& text) {
  return spec.choices.empty() ||
         std::find(spec.choices.begin(), spec.choices.end(), text) != spec.choices.end();
}

Error BadValue(const OptionSpec& spec, const OptionValue& given) {
  std::string hint;
  if (const auto* text = std::get_if<std::string>(&given)) hint = DidYouMean(*text, spec.choices, 1);
  return InputError(fmt::format("option '{}': found {}, expected {}{}", spec.name,
                                Abbreviate(OptionText(given)), ExpectedText(spec),
                                hint.empty() ? "" : "; " + hint));
}

}  // namespace

const OptionValue& Options::At(const std::string& name) const {
  const auto it = values_.find(name);
  PLANISH_CHECK(it != values_.end()) << "no option '" << name << "'";
  return it->second;
}

const OptionSpec* FindOption(std::span<const OptionSpec> specs, const std::string& name) {
  const auto it =
      std::find_if(specs.begin(), specs.end(), [&](const OptionSpec& s) { return s.name == name; });
  return it == specs.end() ? nullptr : &*it;
}

std::string OptionText(const OptionValue& value) {
  if (const auto* flag = std::get_if<bool>(&value)) return *flag ? "true" : "false";
  if (const auto* integer = std::get_if<int64_t>(&value)) return fmt::format("{}", *integer);
  if (const auto* number = std::get_if<double>(&value)) return NumberText(*number);
  return QuotedText(std::get<std::string>(value));
}

std::string ExpectedText(const OptionSpec& spec) {
  if (std::holds_alternative<bool>(spec.fallback)) return "true or false";
  if (std::holds_alternative<int64_t>(spec.fallback) && spec.choices.empty()) {
    return fmt::format("an integer from {} to {}", IntegerBound(spec.min), IntegerBound(spec.max));
  }
  if (std::holds_alternative<double>(spec.fallback)) {
    return fmt::format("a number from {} to {}", spec.min, spec.max);
  }
  return spec.choices.empty() ? "a string" : "one of " + ListText(spec.choices, "and");
}

std::string NameHint(const std::string& name, const std::vector<std::string>& known) {
  const std::string near = DidYouMean(name, known);
  if (!near.empty()) return near;
  return known.empty() ? "none are known here" : "known: " + ListText(known, "and");
}

Result<OptionValue> CheckOption(const OptionSpec& spec, const OptionValue& given) {
  OptionValue value = given;
  if (std::holds_alternative<double>(spec.fallback)) {
    if (const auto* integer = std::get_if<int64_t>(&given)) value = static_cast<double>(*integer);
  }
  if (value.index() != spec.fallback.index()) return BadValue(spec, given);
  if (const auto* integer = std::get_if<int64_t>(&value)) {
    const auto as_number = static_cast<double>(*integer);
    if (as_number < spec.min || as_number > spec.max || !IsChoice(spec, OptionText(value))) {
      return BadValue(spec, given);
    }
  } else if (auto* number = std::get_if<double>(&value)) {
    // A NaN is in no range.
    if (!std::isfinite(*number) || *number < spec.min || *number > spec.max) return BadValue(spec, given);
    *number += 0.0;  // -0.0 would be another text for the same recipe
  } else if (const auto* text = std::get_if<std::string>(&value)) {
    if (!IsChoice(spec, *text)) return BadValue(spec, given);
  }
  return value;
}

Result<Options> ResolveOptions(const std::string& owner, std::span<const OptionSpec> specs,
                               const std::map<std::string, OptionValue>& given) {
  std::map<std::string, OptionValue> values;
  for (const OptionSpec& spec : specs) {
    auto fallback = CheckOption(spec, spec.fallback);
    PLANISH_CHECK(fallback.ok()) << "default of " << owner << ": " << fallback.error().message;
    const bool added = values.emplace(spec.name, std::move(fallback).value()).second;
    PLANISH_CHECK(added) << owner << " has two options '" << spec.name << "'";
  }
  for (const auto& [name, value] : given) {
    const OptionSpec* spec = FindOption(specs, name);
    if (spec == nullptr) {
      std::vector<std::string> names;
      for (const OptionSpec& known : specs) names.push_back(known.name);
      return InputError(
          fmt::format("{} has no option '{}'; {}", owner, Abbreviate(name), NameHint(name, names)));
    }
    PLANISH_TRY(values[name], CheckOption(*spec, value));
  }
  return Options(std::move(values));
}

Result<Options> ResolveOptions(const SolveStage& stage, const std::map<std::string, OptionValue>& given) {
  PLANISH_TRY(Options options, ResolveOptions("method '" + stage.name + "'", stage.options, given));
  if (stage.check != nullptr) PLANISH_RETURN_IF_ERROR(stage.check(options));
  return options;
}

}  // namespace planish

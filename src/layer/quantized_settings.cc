#include "layer/quantized_settings.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <span>

#include "base/names.h"
#include "layer/quantized.h"
#include "layer/quantized_parts.h"

namespace planish::quantized {
namespace {

constexpr size_t kMaxRules = 100'000;  // a rule for every expert of the largest models

using Names = std::span<const char* const>;
constexpr const char* kBits[] = {"bits", "w_bit", "wbits"};
constexpr const char* kGroup[] = {"group_size", "q_group_size"};
constexpr const char* kFormat[] = {"checkpoint_format", "format"};
constexpr const char* kMethod[] = {"quant_method", "method"};
constexpr const char* kVersion[] = {"version"};
constexpr const char* kSymmetric[] = {"sym"};
constexpr const char* kZeroPoint[] = {"zero_point"};
constexpr const char* kActOrder[] = {"desc_act"};
constexpr const char* kDynamic[] = {"dynamic"};
constexpr const char* kNotConverted[] = {"modules_to_not_convert"};
constexpr Names kAll[] = {kBits,      kGroup,     kFormat,   kMethod,  kVersion,
                          kSymmetric, kZeroPoint, kActOrder, kDynamic, kNotConverted};

// How a module was rounded, which its tensors show.
constexpr const char* kHowRounded[] = {"mse",
                                       "damp_percent",
                                       "damp_auto_increment",
                                       "act_group_aware",
                                       "static_groups",
                                       "fallback",
                                       "hessian",
                                       "gptaq",
                                       "foem",
                                       "smooth",
                                       "smoother",
                                       "v2",
                                       "v2_alpha"};

struct Refused {
  const char* field;
  const char* why;
};
constexpr Refused kRefused[] = {
    {"rotation", "inputs would have to be rotated at run time, which is not done"},
    {"adapter",
     "low-rank paths in files of their own belong to the model; --ignore-config-fields "
     "quantization_config.adapter reads it without them, and --adapter adds a PEFT folder"},
    {"is_marlin_format",
     "codes repacked for one kernel cannot be read; use the checkpoint they were made from"}};

bool IsSet(const Json& value) {
  return !value.is_null() && value != Json(false) && !(value.is_structured() && value.empty()) &&
         value != Json("");
}

// Names of kernels are written in either case.
Json Lower(const Json& value) {
  if (!value.is_string()) return value;
  auto text = value.get<std::string>();
  std::ranges::transform(text, text.begin(), [](unsigned char c) { return std::tolower(c); });
  return text;
}

std::string Shown(const Json& value) { return Abbreviate(DumpJson(value), 60); }

// The name under which a field is there, or the first of its names.
std::string NameIn(const Json& object, Names names) {
  for (const char* name : names) {
    if (const auto it = object.find(name); it != object.end() && IsSet(*it)) return name;
  }
  for (const char* name : names) {
    if (object.contains(name)) return name;
  }
  return names.front();
}

Status CheckNames(const Json& object) {
  for (const Names names : kAll) {
    const std::string first = NameIn(object, names);
    for (const char* name : names) {
      const auto it = object.find(name);
      if (it == object.end() || !IsSet(*it) || Lower(*it) == Lower(object[first])) continue;
      return InputError(fmt::format("{} is {} and {} is {}, expected one value", first, Shown(object[first]),
                                    name, Shown(*it)));
    }
  }
  return {};
}

std::string OneOf(const std::vector<int64_t>& values) {
  std::string text = std::to_string(values.front());
  for (size_t i = 1; i < values.size(); ++i) {
    text += fmt::format("{}{}", i + 1 == values.size() ? " or " : ", ", values[i]);
  }
  return text;
}

Result<std::optional<bool>> FlagIn(const Json& object, const char* name) {
  if (JsonMember(object, name).is_null()) return std::optional<bool>();
  PLANISH_TRY(const bool flag, JsonBool(object, name, false));
  return std::optional<bool>(flag);
}

// `sym`, or `zero_point`, which says the contrary.
Result<std::optional<bool>> SymmetryIn(const Json& object) {
  PLANISH_TRY(const auto symmetric, FlagIn(object, "sym"));
  PLANISH_TRY(const auto zeros, FlagIn(object, "zero_point"));
  if (!zeros) return symmetric;
  if (symmetric && *symmetric == *zeros) {
    return InputError(fmt::format("sym and zero_point are both {}, expected one of them to be true", *zeros));
  }
  return std::optional<bool>(!*zeros);
}

// The one name that a pattern "^a\.b$" matches.
std::optional<std::string> OnlyName(std::string_view pattern) {
  if (pattern.size() < 2 || pattern.front() != '^' || pattern.back() != '$') return std::nullopt;
  std::string name;
  for (size_t i = 1; i + 1 < pattern.size(); ++i) {
    const bool escaped = pattern[i] == '\\';
    if (escaped && (++i + 1 == pattern.size() || std::isalnum(static_cast<unsigned char>(pattern[i]))))
      return std::nullopt;
    if (!escaped && std::string_view(".^$*+?{}[]()|").find(pattern[i]) != std::string_view::npos)
      return std::nullopt;
    name += pattern[i];
  }
  return name;
}

// Whole components of the path: "gate" names "mlp.gate" and what is in it, and not "mlp.gate_proj", which
// programs that look for parts of names leave out too.
bool Covers(const std::string& name, const std::string& module) {
  return !name.empty() && ("." + module + ".").find("." + name + ".") != std::string::npos;
}

}  // namespace

Status QuantizeSettings::ReadFields(const Json& object, const std::vector<int64_t>& widths, Rule& rule) {
  PLANISH_RETURN_IF_ERROR(CheckNames(object));
  const std::string bits = NameIn(object, kBits), group = NameIn(object, kGroup);
  if (!JsonMember(object, bits.c_str()).is_null()) {
    PLANISH_TRY(rule.bits, JsonInt(object, bits));
    if (std::ranges::find(widths, *rule.bits) == widths.end())
      return InputError(fmt::format("bits: expected {}, found {}", OneOf(widths), *rule.bits));
  }
  if (!JsonMember(object, group.c_str()).is_null()) {
    PLANISH_TRY(rule.group, JsonInt(object, group));
    if (*rule.group != -1 && (*rule.group < 1 || *rule.group > (int64_t{1} << 24)))
      return InputError(fmt::format("group_size: expected -1 or a positive size, found {}", *rule.group));
  }
  PLANISH_TRY(rule.symmetric, SymmetryIn(object));
  PLANISH_TRY(rule.act_order, FlagIn(object, "desc_act"));
  return {};
}

Status QuantizeSettings::AddRule(const std::string& key, const Json& change,
                                 const std::vector<int64_t>& widths) {
  Rule rule{.key = key, .negative = key.starts_with("-:")};
  const std::string pattern = rule.negative || key.starts_with("+:") ? key.substr(2) : key;
  if (!change.is_object() && !rule.negative) {
    return InputError(fmt::format("expected an object of settings, found {}", Shown(change)));
  }
  if (!rule.negative) {
    constexpr const char* kKnown[] = {"bits", "group_size", "sym", "desc_act"};
    for (const auto& [name, value] : change.items()) {
      if (std::ranges::find(kKnown, name) != std::end(kKnown) ||
          std::ranges::find(kHowRounded, name) != std::end(kHowRounded) ||
          (name == "pack_dtype" && value == "int32"))
        continue;
      return InputError(fmt::format(
          "'{}' {} of single modules is not known, expected {}; if it changes no tensor, remove it "
          "from the file",
          Abbreviate(name), Shown(value), fmt::join(kKnown, ", ")));
    }
    PLANISH_RETURN_IF_ERROR(ReadFields(change, widths, rule));
  }
  if (auto name = OnlyName(pattern)) {
    names_.try_emplace(*std::move(name), rules_.size());
  } else {
    PLANISH_TRY(Regex regex, Regex::Compile(pattern));
    patterns_.emplace_back(rules_.size(), std::move(regex));
  }
  rules_.push_back(std::move(rule));
  return {};
}

Result<QuantizeSettings> QuantizeSettings::Parse(const Json& config, const std::vector<int64_t>& widths,
                                                 const std::vector<std::string>& order) {
  QuantizeSettings settings;
  for (const auto& [field, why] : kRefused) {
    const Json value = JsonMember(config, field);
    if (IsSet(value)) return InputError(fmt::format("{} {}: {}", field, Shown(value), why));
  }
  Rule general;
  PLANISH_RETURN_IF_ERROR(ReadFields(config, widths, general));
  if (!general.bits) return JsonInt(config, "bits").error();
  if (!general.group) return JsonInt(config, "group_size").error();
  settings.general_ = {.bits = *general.bits,
                       .group = *general.group,
                       .symmetric = general.symmetric,
                       .act_order = general.act_order,
                       .plain_field = "",
                       .plain_reason = ""};
  PLANISH_TRY(settings.head_, JsonBool(config, "lm_head", true));
  const Json names = JsonMember(config, "modules_to_not_convert");
  if (!names.is_null() && !names.is_array()) {
    return InputError(
        fmt::format("modules_to_not_convert: expected a list of names, found {}", Shown(names)));
  }
  for (const Json& name : names) {
    if (!name.is_string())
      return InputError(fmt::format("modules_to_not_convert: expected names, found {}", Shown(name)));
    settings.not_converted_.push_back(name.get<std::string>());
  }
  const Json dynamic = JsonMember(config, "dynamic");
  if (!IsSet(dynamic)) return settings;
  if (!dynamic.is_object() || dynamic.size() > kMaxRules) {
    return InputError(fmt::format("dynamic: expected an object of at most {} patterns", kMaxRules));
  }
  std::vector<std::string> keys;
  for (const std::string& key : order) {
    if (dynamic.contains(key)) keys.push_back(key);
  }
  if (keys.size() != dynamic.size()) {
    keys.clear();
    for (const auto& [key, change] : dynamic.items()) keys.push_back(key);
  }
  for (const std::string& key : keys) {
    const Status added = settings.AddRule(key, dynamic[key], widths);
    if (!added.ok()) return added.error().At(fmt::format("dynamic '{}'", Abbreviate(key)));
  }
  return settings;
}

Result<ModuleSettings> QuantizeSettings::Of(const std::string& module) const {
  ModuleSettings settings = general_;
  const auto plain = [&](std::string field, std::string reason) {
    settings.plain_field = std::move(field);
    settings.plain_reason = std::move(reason);
    return settings;
  };
  for (const std::string& name : not_converted_) {
    if (Covers(name, module)) {
      return plain("modules_to_not_convert", fmt::format("modules_to_not_convert '{}'", Abbreviate(name)));
    }
  }
  const auto exact = names_.find(module);
  size_t found = exact == names_.end() ? rules_.size() : exact->second;
  for (const auto& [index, regex] : patterns_) {
    if (index > found) break;
    PLANISH_TRY(const bool matches, MatchesFromFront(regex, module));
    if (matches) found = index;
  }
  if (found == rules_.size()) {
    if (!head_ && (module == "lm_head" || module.ends_with(".lm_head"))) {
      return plain("lm_head", "lm_head false");
    }
    return settings;
  }
  const Rule& rule = rules_[found];
  if (rule.negative) return plain("dynamic", fmt::format("dynamic '{}'", Abbreviate(rule.key)));
  settings.bits = rule.bits.value_or(settings.bits);
  settings.group = rule.group.value_or(settings.group);
  if (rule.symmetric) settings.symmetric = rule.symmetric;
  if (rule.act_order) settings.act_order = rule.act_order;
  return settings;
}

}  // namespace planish::quantized

namespace planish {

Status CheckSameSettings(const Json& config, const Json& other, const std::string& other_name) {
  for (const quantized::Names names : quantized::kAll) {
    const std::string name = quantized::NameIn(config, names), theirs = quantized::NameIn(other, names);
    Json value = JsonMember(config, name.c_str()), its = JsonMember(other, theirs.c_str());
    // Without the field, files of GPTQ are read as version 1.
    if (names.data() == quantized::kFormat && value.is_null() && JsonMember(config, "quant_method") == "gptq")
      value = "gptq";
    const bool unset = value.is_structured() || its.is_structured()
                           ? !quantized::IsSet(value) || !quantized::IsSet(its)
                           : value.is_null() || its.is_null();
    if (unset || quantized::Lower(value) == quantized::Lower(its)) continue;
    return InputError(
        fmt::format("{} is {}, and {} says {} {}: expected one value; remove the file that the tensors were "
                    "not made with",
                    name, quantized::Shown(value), other_name, theirs, quantized::Shown(its)));
  }
  return {};
}

}  // namespace planish

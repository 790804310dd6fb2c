#include "model/family.h"

#include <fmt/format.h>

#include <algorithm>
#include <span>
#include <string_view>
#include <vector>

#include "base/names.h"
#include "layer/quantized.h"

namespace planish {
namespace {

std::span<const Config::Field> FirstOf(std::span<const Config::Field> fields, size_t most) {
  return fields.first(std::min(fields.size(), most));
}

std::string RefusedText(const std::vector<std::string>& refused) {
  constexpr size_t kShown = 6;
  const std::vector<std::string> shown(
      refused.begin(), refused.begin() + static_cast<ptrdiff_t>(std::min(refused.size(), kShown)));
  return fmt::format("{}{}", fmt::join(shown, "; "),
                     refused.size() > kShown ? fmt::format("; and {} more", refused.size() - kShown) : "");
}

// What keeps a config from being one of a family.
struct Apartness {
  std::vector<Config::Field> unread;  // neither as it is, nor where all fields have their defaults
  std::vector<std::string> refused;   // values
  size_t count() const { return unread.size() + refused.size(); }
};

Apartness ApartFrom(const Family& family, const Json& config) {
  static const Json kDefaults = Json::object();
  const Config defaults(kDefaults), given(config);
  (void)family.build(defaults);  // for the notes: what else may be wrong with the config matters not
  (void)family.build(given);
  given.TakeNotesOf(defaults);
  given.LeaveAside({"bos_token_id", "eos_token_id"});  // every family reads them, at the end
  return {given.Unread(), given.Refused()};
}

// 0: the same name, 1: nothing in common.
double Apart(std::string_view a, std::string_view b) {
  return static_cast<double>(EditDistance(a, b)) /
         static_cast<double>(std::max({a.size(), b.size(), size_t{1}}));
}

std::string_view Stem(std::string_view architecture) {
  constexpr std::string_view kSuffix = "ForCausalLM";
  if (architecture.ends_with(kSuffix)) architecture.remove_suffix(kSuffix.size());
  return architecture;
}

double NamesApart(const Family& family, const std::string& type, const Json& config) {
  double apart = Apart(type, family.model_type);
  if (family.also != nullptr) apart = std::min(apart, Apart(type, family.also));
  const Json architectures = JsonMember(config, "architectures");
  if (!architectures.is_array() || architectures.empty() || !architectures[0].is_string()) return apart;
  const std::string architecture = Abbreviate(architectures[0].get<std::string>());
  return std::min(apart, Apart(Stem(architecture), Stem(family.architecture)));
}

Error UnknownFamily(const std::string& type, const Json& config) {
  // A name that has nothing in common weighs as much as that many fields that are not read.
  constexpr double kNameWeight = 6;
  std::vector<std::string> known;
  const Family* nearest = nullptr;
  double least = 0;
  Apartness difference;
  for (const Family* family : AllFamilies()) {
    known.emplace_back(family->model_type);
    Apartness apart = ApartFrom(*family, config);
    const double distance =
        static_cast<double>(apart.count()) + kNameWeight * NamesApart(*family, type, config);
    if (nearest != nullptr && distance >= least) continue;
    nearest = family;
    least = distance;
    difference = std::move(apart);
  }
  std::string message = fmt::format("model_type '{}' is not known; known: {}; the nearest is '{}' ({})", type,
                                    fmt::join(known, ", "), nearest->model_type, nearest->summary);
  constexpr size_t kShown = 8;
  std::vector<std::string> names;
  const auto& unread = difference.unread;
  for (const auto& field : FirstOf(unread, kShown)) names.push_back(Abbreviate(field.path, 40));
  if (!names.empty()) message += fmt::format(", which has no {}", fmt::join(names, ", "));
  if (unread.size() > kShown) message += fmt::format(" and {} more", unread.size() - kShown);
  if (!difference.refused.empty()) message += "; " + RefusedText(difference.refused);
  if (difference.count() == 0)
    message += "; its fields are all known to it: what differs is not in the config";
  return InputError(message);
}

Status CheckAllRead(const Family& family, const Config& config) {
  const auto unread = config.Unread();
  if (unread.empty()) return {};
  constexpr size_t kShown = 4;
  std::vector<std::string> fields, names;
  for (const auto& field : FirstOf(unread, kShown)) {
    names.push_back(Abbreviate(field.path, 60));
    fields.push_back(fmt::format("'{}': {}", names.back(), Abbreviate(DumpJson(*field.value), 60)));
  }
  const std::string more = unread.size() > kShown ? fmt::format(" and {} more", unread.size() - kShown) : "";
  return InputError(
      fmt::format("{} {}{}: not implemented for {}; where that changes nothing of what the model computes, "
                  "--ignore-config-fields {} reads the config without",
                  unread.size() == 1 ? "field" : "fields", fmt::join(fields, ", "), more, family.model_type,
                  fmt::join(names, ",")));
}

Status CheckReadable(const Json& quantization) {
  PLANISH_TRY(const std::string method, JsonString(quantization, "quant_method", "unnamed"));
  if (method == "planish" || IsQuantizedMethod(method)) return {};
  return InputError(
      fmt::format("the checkpoint is already compressed with '{}', which cannot be read (gptq, awq and "
                  "compressed-tensors can); use the original model",
                  Abbreviate(method)));
}

}  // namespace

const Family* FindFamily(const std::string& model_type) {
  for (const Family* family : AllFamilies()) {
    if (model_type == family->model_type || (family->also != nullptr && model_type == family->also))
      return family;
  }
  return nullptr;
}

Result<Program> BuildProgram(const Json& config) {
  if (!config.is_object()) return InputError("expected a JSON object");
  PLANISH_TRY(const std::string type, JsonString(config, "model_type"));
  if (const auto quantization = config.find("quantization_config");
      quantization != config.end() && quantization->is_object()) {
    PLANISH_RETURN_IF_ERROR(CheckReadable(*quantization));
  }
  const Family* family = FindFamily(type);
  if (family == nullptr) return UnknownFamily(Abbreviate(type), config);
  const Config fields(config);
  auto program = family->build(fields);
  if (!fields.Refused().empty()) return InputError(RefusedText(fields.Refused()));
  if (!program.ok()) return program;
  PLANISH_RETURN_IF_ERROR(CheckAllRead(*family, fields));
  return program;
}

void IgnoreFields(const std::vector<std::string>& paths, Json& config) {
  for (const std::string& path : paths) {
    Json* object = &config;
    std::string name = path;
    size_t dot = 0;
    // Some names have a dot of their own.
    while (object->is_object() && !object->contains(name) && (dot = name.find('.')) != std::string::npos) {
      const auto inside = object->find(name.substr(0, dot));
      if (inside == object->end()) break;
      object = &*inside;
      name.erase(0, dot + 1);
    }
    if (object->is_object()) object->erase(name);
  }
}

}  // namespace planish

#include "layer/compressed_tensors.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>

#include "base/names.h"
#include "formats/tokenizer_regex.h"
#include "layer/quantized_parts.h"

namespace planish::quantized {
namespace {

using Strategy = TensorArgs::Strategy;

constexpr size_t kMaxGroups = 4096;      // a scheme for every layer of the largest models
constexpr size_t kMaxTargets = 100'000;  // names in all lists together

constexpr const char* kStrategies[] = {"tensor", "channel",      "group",    "block",
                                       "token",  "tensor_group", "attn_head"};

constexpr const char* kFormats[] = {
    "pack-quantized",       "int-quantized",   "float-quantized", "naive-quantized", "nvfp4-pack-quantized",
    "mxfp4-pack-quantized", "mxfp8-quantized", "dense",           "sparse-bitmask",  "mixed-precision"};

Status CheckFormat(const std::string& format) {
  if (std::ranges::find(kFormats, format) != std::end(kFormats)) return {};
  return InputError(
      fmt::format("format '{}': expected one of {}", Abbreviate(format), fmt::join(kFormats, ", ")));
}

// Of files whose weights are what a program would compute with; in the other states of a quantization they
// are still to be rounded, or are decoded beside the scales they were rounded with.
Status CheckState(const Json& config) {
  PLANISH_TRY(const std::string state, JsonString(config, "quantization_status", "compressed"));
  if (state == "compressed" || state == "frozen") return {};
  return InputError(
      fmt::format("quantization_status '{}': expected compressed or frozen (in other states weights are not "
                  "the values that the model computes with)",
                  Abbreviate(state)));
}

// `sparsity_config`: how weights without zeros are stored; "" where there is none.
Result<std::string> ReadSparsity(const Json& sparsity) {
  if (sparsity.is_null()) return std::string();
  if (!sparsity.is_object()) return InputError("sparsity_config: expected an object");
  PLANISH_TRY(std::string format, JsonString(sparsity, "format", ""));
  constexpr const char* kSparse[] = {"", "dense", "sparse-bitmask", "sparse-24-bitmask"};
  if (std::ranges::find(kSparse, format) != std::end(kSparse)) return format;
  return InputError(
      fmt::format("sparsity_config: format '{}': expected dense, sparse-bitmask or sparse-24-bitmask",
                  Abbreviate(format)));
}

// Whether groups are stated by an index: "weight" and "static" are orders of the rounding alone.
Result<bool> ReadActOrder(const Json& json) {
  const Json order = JsonMember(json, "actorder");
  if (order.is_null()) return false;
  if (order.is_boolean()) return order.get<bool>();
  std::string name = order.is_string() ? order.get<std::string>() : DumpJson(order);
  std::ranges::transform(name, name.begin(), [](unsigned char c) { return std::tolower(c); });
  if (name == "group" || name == "dynamic") return true;
  if (name == "weight" || name == "static") return false;
  return InputError(
      fmt::format("actorder '{}': expected group, weight, dynamic, static or null", Abbreviate(name)));
}

Result<Strategy> ReadStrategy(const Json& json, int64_t group) {
  if (!json.contains("strategy") || json["strategy"].is_null()) {
    return group == 0 ? Strategy::kTensor : group == -1 ? Strategy::kChannel : Strategy::kGroup;
  }
  PLANISH_TRY(const std::string name, JsonString(json, "strategy"));
  const auto* it = std::ranges::find(kStrategies, name);
  if (it == std::end(kStrategies)) {
    return InputError(
        fmt::format("strategy '{}': expected one of {}", Abbreviate(name), fmt::join(kStrategies, ", ")));
  }
  return static_cast<Strategy>(it - std::begin(kStrategies));
}

Status ReadBlock(const Json& json, TensorArgs& args) {
  const auto block = json.find("block_structure");
  const auto positive = [](const Json& v) {
    return v.is_number_integer() && v > 0 && v <= (int64_t{1} << 24);
  };
  if (block == json.end() || !block->is_array() || block->size() != 2 || !positive((*block)[0]) ||
      !positive((*block)[1])) {
    return InputError("block_structure: expected two positive sizes");
  }
  args.block_rows = (*block)[0].get<int64_t>();
  args.block_cols = (*block)[1].get<int64_t>();
  return {};
}

Result<TensorArgs> ReadArgs(const Json& json) {
  if (!json.is_object()) return InputError("expected an object");
  TensorArgs args;
  PLANISH_TRY(const int64_t bits, JsonInt(json, "num_bits", 8));
  if (bits < 1 || bits > 16) return InputError(fmt::format("num_bits: expected 1 to 16, found {}", bits));
  args.bits = static_cast<int>(bits);
  PLANISH_TRY(const std::string type, JsonString(json, "type", "int"));
  if (type != "int" && type != "float") {
    return InputError(fmt::format("type '{}': expected int or float", Abbreviate(type)));
  }
  args.is_float = type == "float";
  PLANISH_TRY(args.symmetric, JsonBool(json, "symmetric", true));
  PLANISH_TRY(args.group, JsonInt(json, "group_size", 0));
  if (args.group < -1 || args.group > (int64_t{1} << 24)) {
    return InputError(fmt::format("group_size: expected -1 or a positive size, found {}", args.group));
  }
  PLANISH_TRY(args.strategy, ReadStrategy(json, args.group));
  const bool grouped = args.strategy == Strategy::kGroup || args.strategy == Strategy::kTensorGroup;
  if (grouped && args.group < 1) {
    return InputError(fmt::format("group_size: expected a positive size, found {}", args.group));
  }
  if (!grouped && args.group > 0) {
    return InputError(
        fmt::format("group_size {} with strategy {}: expected group or tensor_group, or no size", args.group,
                    kStrategies[static_cast<int>(args.strategy)]));
  }
  if (args.strategy == Strategy::kBlock) {
    PLANISH_RETURN_IF_ERROR(ReadBlock(json, args));
  } else if (!JsonMember(json, "block_structure").is_null()) {
    return InputError(fmt::format("block_structure with strategy {}: expected block, or no structure",
                                  kStrategies[static_cast<int>(args.strategy)]));
  }
  PLANISH_TRY(args.act_order, ReadActOrder(json));
  if (args.act_order && !grouped) {
    return InputError(fmt::format("actorder group with strategy {}: expected group or tensor_group",
                                  kStrategies[static_cast<int>(args.strategy)]));
  }
  if (json.contains("dynamic") && json["dynamic"].is_string()) {
    args.dynamic = "local";
  } else {
    PLANISH_TRY(const bool dynamic, JsonBool(json, "dynamic", false));
    args.dynamic = dynamic ? "dynamic" : "";
  }
  return args;
}

// A scheme by the name that newer programs write instead of its arguments.
std::optional<Scheme> Preset(const std::string& name) {
  const auto args = [](int bits, bool is_float, Strategy strategy, int64_t group, const char* dynamic = "") {
    TensorArgs a;
    a.bits = bits;
    a.is_float = is_float;
    a.strategy = strategy;
    a.group = group;
    a.dynamic = dynamic;
    return a;
  };
  const TensorArgs int8_token = args(8, false, Strategy::kToken, 0, "dynamic");
  const TensorArgs fp8_token = args(8, true, Strategy::kToken, 0, "dynamic");
  Scheme s{.name = name};
  if (name.size() == 5 && name[0] == 'W' && name[1] >= '2' && name[1] <= '8' && name.substr(2) == "A16") {
    s.weights = args(name[1] - '0', false, Strategy::kGroup, 128);
  } else if (name == "W4A16_ASYM") {
    s.weights = args(4, false, Strategy::kGroup, 128);
    s.weights->symmetric = false;
  } else if (name == "W8A8" || name == "INT8") {
    s.weights = args(8, false, Strategy::kChannel, 0);
    s.inputs = int8_token;
  } else if (name.size() == 4 && name[0] == 'W' && name[1] >= '2' && name[1] <= '7' && name[2] == 'A' &&
             (name[3] == '8' || name[3] == '4')) {
    s.weights = args(name[1] - '0', false, Strategy::kGroup, 128);
    s.inputs = args(name[3] - '0', false, Strategy::kToken, 0, "dynamic");
  } else if (name == "W4AFP8") {
    s.weights = args(4, false, Strategy::kGroup, 128);
    s.inputs = fp8_token;
  } else if (name == "FP8") {
    s.weights = s.inputs = args(8, true, Strategy::kTensor, 0);
  } else if (name == "FP8_DYNAMIC") {
    s.weights = args(8, true, Strategy::kChannel, 0);
    s.inputs = fp8_token;
  } else if (name == "FP8_BLOCK") {
    s.weights = args(8, true, Strategy::kBlock, 0);
    s.weights->block_rows = s.weights->block_cols = 128;
    s.inputs = args(8, true, Strategy::kGroup, 128, "dynamic");
  } else if (name == "NVFP4" || name == "NVFP4A16") {
    s.weights = args(4, true, Strategy::kTensorGroup, 16);
    if (name == "NVFP4") s.inputs = args(4, true, Strategy::kTensorGroup, 16, "local");
  } else if (name == "MXFP4" || name == "MXFP4A16" || name == "MXFP8" || name == "MXFP8A16") {
    s.weights = args(name[4] - '0', true, Strategy::kGroup, 32);
    if (!name.ends_with("A16")) s.inputs = args(name[4] - '0', true, Strategy::kGroup, 32, "dynamic");
  } else {
    return std::nullopt;
  }
  return s;
}

Result<std::vector<std::string>> ReadNames(const Json& list, const char* what) {
  if (list.is_null()) return std::vector<std::string>();
  if (!list.is_array() || list.size() > kMaxTargets) {
    return InputError(fmt::format("{}: expected a list of names", what));
  }
  std::vector<std::string> names;
  for (const Json& name : list) {
    if (!name.is_string())
      return InputError(fmt::format("{}: expected names, found {}", what, Abbreviate(DumpJson(name))));
    names.push_back(name.get<std::string>());
  }
  return names;
}

// Rotations that are multiplied into the weights are part of the model; others would have to be computed.
Status CheckTransforms(const Json& config) {
  if (config.is_null() || (config.is_object() && config.empty())) return {};
  const Json groups = JsonMember(config, "config_groups");
  if (!config.is_object() || (!groups.is_object() && !groups.is_null())) {
    return InputError("transform_config: expected an object of config_groups");
  }
  for (const auto& [name, group] : groups.items()) {
    const Json uses = JsonMember(group, "apply");
    if (!uses.is_array()) {
      return InputError(
          fmt::format("transform_config: '{}': expected an object with a list 'apply'", Abbreviate(name)));
    }
    for (const Json& use : uses) {
      const std::string location = use.is_object() && use.contains("location") && use["location"].is_string()
                                       ? use["location"].get<std::string>()
                                       : "";
      if (location.starts_with("weight_")) continue;
      return InputError(fmt::format(
          "transform_config: '{}' acts at run time (location '{}'), which planish cannot compute; without "
          "it the model's output would be wrong",
          Abbreviate(name), Abbreviate(location)));
    }
  }
  return {};
}

// How well a target names a module: 0 not, 1 by class, 2 by pattern, 3 by name.
Result<int> Match(const std::string& target, const std::string& module) {
  if (target == module) return 3;
  if (target == "Linear") return 1;
  if (!target.starts_with("re:")) return 0;
  auto regex = Regex::Compile(std::string_view(target).substr(3));
  if (!regex.ok()) return regex.error().At(fmt::format("target '{}'", Abbreviate(target)));
  PLANISH_TRY(const bool found, MatchesFromFront(*regex, module));
  return found ? 2 : 0;
}

Result<int> BestMatch(const std::vector<std::string>& targets, const std::string& module) {
  int best = 0;
  for (const std::string& target : targets) {
    PLANISH_TRY(const int match, Match(target, module));
    best = std::max(best, match);
  }
  return best;
}

}  // namespace

std::string TensorArgs::Text() const {
  std::string text =
      fmt::format("{}{} {}", is_float ? "float" : "int", bits, kStrategies[static_cast<int>(strategy)]);
  if (group > 0) text += fmt::format(" {}", group);
  if (!dynamic.empty()) text += " dynamic";
  return text;
}

Status CompressedConfig::ReadGroup(const std::string& name, const Json& group) {
  Scheme scheme;
  if (group.is_array()) {
    const auto preset = Preset(name);
    if (!preset) return InputError(fmt::format("no preset has this name"));
    scheme = *preset;
    PLANISH_TRY(scheme.targets, ReadNames(group, "targets"));
  } else {
    if (!group.is_object()) return InputError("expected an object");
    scheme.name = name;
    PLANISH_TRY(scheme.targets, ReadNames(group.value("targets", Json()), "targets"));
    for (const auto& [key, args] :
         {std::pair("weights", &scheme.weights), std::pair("input_activations", &scheme.inputs),
          std::pair("output_activations", &scheme.outputs)}) {
      if (!group.contains(key) || group[key].is_null()) continue;
      auto read = ReadArgs(group[key]);
      if (!read.ok()) return read.error().At(key);
      *args = *read;
    }
  }
  if (scheme.weights && !scheme.weights->dynamic.empty()) {
    return InputError("weights: dynamic: expected false, as stored weights have stored scales");
  }
  if (group.is_object()) {
    PLANISH_TRY(scheme.format, JsonString(group, "format", ""));
    if (!scheme.format.empty()) PLANISH_RETURN_IF_ERROR(CheckFormat(scheme.format));
  }
  schemes_.push_back(std::move(scheme));
  return {};
}

Result<CompressedConfig> CompressedConfig::Parse(const Json& config) {
  CompressedConfig parsed;
  PLANISH_TRY(parsed.format_, JsonString(config, "format", ""));
  if (!parsed.format_.empty()) PLANISH_RETURN_IF_ERROR(CheckFormat(parsed.format_));
  PLANISH_RETURN_IF_ERROR(CheckState(config));
  PLANISH_TRY(parsed.sparse_format_, ReadSparsity(JsonMember(config, "sparsity_config")));
  const auto groups = config.find("config_groups");
  if (groups != config.end() && !groups->is_null()) {
    if (!groups->is_object() || groups->size() > kMaxGroups) {
      return InputError(fmt::format("config_groups: expected an object of at most {} groups", kMaxGroups));
    }
    for (const auto& [name, group] : groups->items()) {
      const Status read = parsed.ReadGroup(name, group);
      if (!read.ok()) return read.error().At(fmt::format("config_groups: '{}'", Abbreviate(name)));
    }
  }
  PLANISH_TRY(parsed.ignore_, ReadNames(config.value("ignore", Json()), "ignore"));
  if (const auto kv = config.find("kv_cache_scheme"); kv != config.end() && !kv->is_null()) {
    auto args = ReadArgs(*kv);
    if (!args.ok()) return args.error().At("kv_cache_scheme");
    parsed.kv_scheme_ = args->Text();
  }
  PLANISH_RETURN_IF_ERROR(CheckTransforms(config.value("transform_config", Json())));
  return parsed;
}

Result<const Scheme*> CompressedConfig::FindAbove(const std::string& module, int least) const {
  // An ignore entry by name or pattern; "Linear" would ignore everything and is taken at its word.
  PLANISH_TRY(const bool ignored, Ignores(module));
  const Scheme *best = nullptr, *other = nullptr;
  if (ignored) return best;
  int best_match = least;
  for (const Scheme& scheme : schemes_) {
    PLANISH_TRY(const int match, BestMatch(scheme.targets, module));
    if (match > best_match) {
      best = &scheme;
      other = nullptr;
      best_match = match;
    } else if (best != nullptr && match == best_match && scheme.weights != best->weights) {
      other = &scheme;
    }
  }
  if (other == nullptr) return best;
  return InputError(
      fmt::format("'{}': the config groups '{}' and '{}' match it as well as each other and differ in their "
                  "weights; expected one of them (a target of its whole name wins)",
                  module, Abbreviate(best->name), Abbreviate(other->name)));
}

Result<bool> CompressedConfig::Ignores(const std::string& module) const {
  PLANISH_TRY(const int match, BestMatch(ignore_, module));
  return match > 0;
}

Result<const Scheme*> CompressedConfig::Find(const std::string& module) const { return FindAbove(module, 0); }
Result<const Scheme*> CompressedConfig::FindNamed(const std::string& module) const {
  return FindAbove(module, 2);
}

}  // namespace planish::quantized

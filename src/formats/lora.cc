#include "formats/lora.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <map>
#include <optional>
#include <set>

#include "base/file.h"
#include "base/json.h"
#include "base/names.h"
#include "formats/gguf.h"
#include "formats/safetensors.h"
#include "formats/tokenizer_regex.h"

namespace planish {
namespace {

constexpr int64_t kMaxPeftConfigBytes = int64_t{16} << 20;
constexpr int64_t kMaxRank = int64_t{1} << 16;
constexpr int64_t kMaxExperts = 1024;
constexpr size_t kMaxPairs = size_t{1} << 18;
constexpr size_t kMaxPatterns = 4096;

std::string Module(std::string_view target) { return fmt::format("module '{}'", Abbreviate(target)); }

// ---- adapter_config.json ----

// rank_pattern and alpha_pattern: values of modules whose path, or its end behind a dot, matches the key.
struct Patterns {
  struct Entry {
    std::string key;
    Regex regex;
    double value;
  };
  std::vector<Entry> entries;
};

Result<bool> Matches(const Regex& regex, std::string_view path) {
  Regex::Matcher matcher(regex, path);
  size_t begin = 0, end = 0;
  const bool found = matcher.Next(&begin, &end);
  PLANISH_RETURN_IF_ERROR(matcher.status());
  return found;
}

Result<Regex> WholePath(const std::string& key, const std::string& field) {
  auto regex = Regex::Compile(fmt::format(R"(\A(?:.*\.)?(?:{})\z)", key));
  if (!regex.ok()) return regex.error().At(fmt::format("{}: '{}'", field, Abbreviate(key)));
  return regex;
}

Result<Patterns> ReadPatterns(const Json& config, const std::string& field) {
  Patterns patterns;
  const auto object = config.find(field);
  if (object == config.end() || object->is_null()) return patterns;
  if (!object->is_object() || object->size() > kMaxPatterns) {
    return InputError(fmt::format("{}: expected an object of at most {} keys", field, kMaxPatterns));
  }
  for (const auto& [key, value] : object->items()) {
    if (!value.is_number() || !std::isfinite(value.get<double>())) {
      return InputError(fmt::format("{}: '{}': expected a number", field, Abbreviate(key)));
    }
    PLANISH_TRY(Regex regex, WholePath(key, field));
    patterns.entries.push_back({key, std::move(regex), value.get<double>()});
  }
  return patterns;
}

// The order of keys decides in PEFT, and is lost in other readers: keys that disagree are refused.
Result<double> ValueFor(const Patterns& patterns, const std::string& module, double fallback) {
  const Patterns::Entry* found = nullptr;
  for (const auto& entry : patterns.entries) {
    PLANISH_TRY(const bool matches, Matches(entry.regex, module));
    if (!matches) continue;
    if (found != nullptr && found->value != entry.value) {
      return InputError(fmt::format("{}: the patterns '{}' and '{}' disagree", Module(module),
                                    Abbreviate(found->key), Abbreviate(entry.key)));
    }
    found = &entry;
  }
  return found != nullptr ? found->value : fallback;
}

// A choice of modules: ends of paths, or what whole paths match.
struct Modules {
  std::vector<std::string> ends;
  std::optional<Regex> pattern;
};

// Which layers have factors: the number behind the name of a list of layers, or the first number that stands
// third or later in the path.
struct Layers {
  std::set<int64_t> numbers;
  std::vector<Regex> lists;  // each matches from the front to behind the number; none: any list
};

struct PeftConfig {
  double rank = 0, alpha = 0;
  bool root_scale = false;  // s = alpha / sqrt(r)
  Patterns ranks, alphas;
  std::optional<Modules> targets;  // none: all
  Modules excluded;
  std::optional<Layers> layers;  // none: all
};

bool IsSet(const Json& config, const char* field) {
  const auto it = config.find(field);
  return it != config.end() && !it->is_null() && *it != Json(false) && *it != Json("") &&
         !((it->is_object() || it->is_array()) && it->empty());
}

Status RefuseOtherKinds(const Json& config) {
  PLANISH_TRY(const std::string type, JsonString(config, "peft_type"));
  if (type != "LORA") {
    return InputError(fmt::format("peft_type '{}': only LORA can be read", Abbreviate(type)));
  }
  PLANISH_TRY(const std::string bias, JsonString(config, "bias", "none"));
  if (bias != "none") {
    return InputError(fmt::format("bias '{}': adapters with biases of the base cannot be read, expected none",
                                  Abbreviate(bias)));
  }
  struct Refused {
    const char* field;
    const char* why;
  };
  constexpr Refused kRefused[] = {
      {"use_dora", "DoRA rescales the rows of the sum, which a low-rank path cannot"},
      {"lora_bias", "biases of factors cannot be read"},
      {"modules_to_save", "whole copies of modules cannot be read"},
      {"layer_replication", "replicated layers cannot be read"},
      {"trainable_token_indices", "single rows of an embedding cannot be read"},
      {"megatron_config", "sharded adapters cannot be read"},
      {"target_parameters", "factors of parameters that are no module's weight cannot be read"},
      {"use_qalora", "factors of pooled inputs cannot be read"},
      {"use_bdlora", "factors in blocks cannot be read"},
      {"arrow_config", "adapters that are chosen for every token cannot be read"},
      {"kasa_config", "a diagonal between the factors cannot be read"},
      {"monteclora_config", "factors that are drawn at random cannot be read"},
      {"alora_invocation_tokens", "adapters that start at a token cannot be read"}};
  for (const auto& [field, why] : kRefused) {
    if (IsSet(config, field)) return InputError(fmt::format("{}: {}", field, why));
  }
  return {};
}

// PEFT puts factors of these beginnings beside a base that it changes: W less the first s B A, or W rounded.
Status CheckStart(const Json& config) {
  const Json start = JsonMember(config, "init_lora_weights");
  if (start.is_null() || start.is_boolean()) return {};
  constexpr const char* kOfTheBase[] = {"gaussian", "eva", "orthogonal", "mica"};
  std::string name = start.is_string() ? start.get<std::string>() : DumpJson(start);
  std::ranges::transform(name, name.begin(), [](unsigned char c) { return std::tolower(c); });
  if (std::ranges::find(kOfTheBase, name) != std::end(kOfTheBase)) return {};
  return InputError(fmt::format(
      "init_lora_weights '{}': expected true, false or one of {}, as adapters of other beginnings (pissa, "
      "olora, corda, lora_ga, loftq) belong to a base that PEFT changes when it loads them; save the adapter "
      "with path_initial_model_for_weight_conversion, which makes it one of the original",
      Abbreviate(name), fmt::join(kOfTheBase, ", ")));
}

// A list of ends of paths, or a pattern for whole ones.
Result<Modules> ReadModules(const Json& value, const char* field) {
  Modules modules;
  if (value.is_string()) {
    auto regex = Regex::Compile(fmt::format(R"(\A(?:{})\z)", value.get<std::string>()));
    if (!regex.ok()) return regex.error().At(field);
    modules.pattern = std::move(regex).value();
    return modules;
  }
  if (!value.is_array()) {
    return InputError(fmt::format("{}: expected a list of names or a pattern, found {}", field,
                                  Abbreviate(DumpJson(value), 60)));
  }
  for (const Json& name : value) {
    if (!name.is_string()) return InputError(fmt::format("{}: expected names", field));
    modules.ends.push_back(name.get<std::string>());
  }
  return modules;
}

Result<bool> IsAmong(const Modules& modules, const std::string& module) {
  if (modules.pattern) return Matches(*modules.pattern, module);
  return std::ranges::any_of(
      modules.ends, [&](const std::string& end) { return module == end || module.ends_with("." + end); });
}

// layers_to_transform, a number or a list of them, and layers_pattern, which only says what is counted.
Result<std::optional<Layers>> ReadLayers(const Json& config) {
  const bool named = IsSet(config, "layers_pattern");
  if (!IsSet(config, "layers_to_transform")) {
    if (!named) return std::optional<Layers>();
    return InputError("layers_pattern: expected layers_to_transform beside it");
  }
  if (JsonMember(config, "target_modules").is_string()) {
    return InputError(
        "layers_to_transform: expected a list of target_modules, a pattern says the layers itself");
  }
  const Json stated = config["layers_to_transform"], pattern = JsonMember(config, "layers_pattern");
  Layers layers;
  for (const Json& number : stated.is_array() ? stated : Json::array({stated})) {
    if (!number.is_number_integer() || number < 0) {
      return InputError(fmt::format("layers_to_transform: expected numbers of layers, found {}",
                                    Abbreviate(DumpJson(number), 60)));
    }
    layers.numbers.insert(number.get<int64_t>());
  }
  for (const Json& list : !named ? Json::array() : pattern.is_array() ? pattern : Json::array({pattern})) {
    if (!list.is_string()) return InputError("layers_pattern: expected names of lists of layers");
    auto regex = Regex::Compile(fmt::format(R"(\A.*?\.(?:{})\.\d+\.)", list.get<std::string>()));
    if (!regex.ok()) return regex.error().At("layers_pattern");
    layers.lists.push_back(std::move(regex).value());
  }
  return std::optional<Layers>(std::move(layers));
}

// The number of the layer a module is in, "" where none is found.
Result<std::string> LayerOf(const Layers& layers, const std::string& module) {
  const auto is_number = [](std::string_view part) {
    return !part.empty() && part.find_first_not_of("0123456789") == std::string_view::npos;
  };
  size_t begin = 0, part = 0;
  for (size_t dot = 0; layers.lists.empty() && (dot = module.find('.', begin)) != std::string::npos; ++part) {
    const std::string text = module.substr(begin, dot - begin);
    if (part >= 2 && is_number(text)) return text;
    begin = dot + 1;
  }
  for (const Regex& list : layers.lists) {
    Regex::Matcher matcher(list, module);
    size_t from = 0, to = 0;
    const bool found = matcher.Next(&from, &to);
    PLANISH_RETURN_IF_ERROR(matcher.status());
    if (!found) continue;
    const size_t dot = module.rfind('.', to - 2);
    return module.substr(dot + 1, to - 2 - dot);
  }
  return std::string();
}

Result<PeftConfig> ReadPeftConfig(const std::string& text) {
  PLANISH_TRY(const Json config, ParseJson(text));
  if (!config.is_object()) return InputError("expected an object");
  PLANISH_RETURN_IF_ERROR(RefuseOtherKinds(config));
  PeftConfig read;
  PLANISH_TRY(const int64_t rank, JsonInt(config, "r"));
  if (rank < 1 || rank > kMaxRank) return InputError(fmt::format("r: {}, expected 1 to {}", rank, kMaxRank));
  read.rank = static_cast<double>(rank);
  PLANISH_TRY(read.alpha, JsonNumber(config, "lora_alpha"));
  if (!std::isfinite(read.alpha)) return InputError("lora_alpha: expected a finite number");
  PLANISH_TRY(read.root_scale, JsonBool(config, "use_rslora", false));
  PLANISH_TRY(read.ranks, ReadPatterns(config, "rank_pattern"));
  PLANISH_TRY(read.alphas, ReadPatterns(config, "alpha_pattern"));
  PLANISH_RETURN_IF_ERROR(CheckStart(config));
  // Says how the base is stored; factors are [r, in] and [out, r] either way.
  PLANISH_TRY([[maybe_unused]] const bool transposed, JsonBool(config, "fan_in_fan_out", false));
  const Json targets = JsonMember(config, "target_modules");
  if (!targets.is_null() && targets != Json("") && targets != Json("all-linear")) {
    PLANISH_TRY(read.targets, ReadModules(targets, "target_modules"));
  }
  if (IsSet(config, "exclude_modules")) {
    PLANISH_TRY(read.excluded, ReadModules(config["exclude_modules"], "exclude_modules"));
  }
  PLANISH_TRY(read.layers, ReadLayers(config));
  return read;
}

// A tensor whose module is no target would not be loaded by PEFT.
Status CheckTarget(const PeftConfig& config, const std::string& module) {
  constexpr const char* kMixed = "which PEFT would not load (files of two adapters in one folder?)";
  if (config.targets) {
    PLANISH_TRY(const bool matches, IsAmong(*config.targets, module));
    if (!matches)
      return InputError(
          fmt::format("{} has factors but is none of target_modules, {}", Module(module), kMixed));
  }
  PLANISH_TRY(const bool excluded, IsAmong(config.excluded, module));
  if (excluded)
    return InputError(fmt::format("{} has factors but is among exclude_modules, {}", Module(module), kMixed));
  if (!config.layers) return {};
  PLANISH_TRY(const std::string layer, LayerOf(*config.layers, module));
  int64_t number = -1;
  std::from_chars(layer.data(), layer.data() + layer.size(), number);
  if (config.layers->numbers.contains(number)) return {};
  return InputError(
      fmt::format("{} has factors but {} of layers_to_transform ({}), {}", Module(module),
                  layer.empty() ? "is in no layer, and so none"
                                : fmt::format("is in layer {}, which is none", Abbreviate(layer, 20)),
                  Abbreviate(fmt::format("{}", fmt::join(config.layers->numbers, ", "))), kMixed));
}

// ---- adapter_model.safetensors ----

struct PeftName {
  std::string module;
  bool is_a = false, embedding = false;
};

// "base_model.model.M.lora_A.weight", with the adapter's name in it or not.
Result<PeftName> ParseName(const std::string& name) {
  constexpr std::string_view kPrefix = "base_model.model.";
  if (!name.starts_with(kPrefix)) {
    return InputError(
        fmt::format("tensor '{}': expected a name that starts with {}", Abbreviate(name), kPrefix));
  }
  std::string rest = name.substr(kPrefix.size());
  if (rest.ends_with(".lora_magnitude_vector") || rest.find(".lora_magnitude_vector.") != std::string::npos) {
    return InputError(fmt::format(
        "tensor '{}': DoRA rescales the rows of the sum, which a low-rank path cannot", Abbreviate(name)));
  }
  struct Form {
    std::string_view infix;
    bool is_a, embedding;
    std::string_view suffix;
  };
  constexpr Form kForms[] = {{".lora_A", true, false, ".weight"},
                             {".lora_B", false, false, ".weight"},
                             {".lora_embedding_A", true, true, ""},
                             {".lora_embedding_B", false, true, ""}};
  for (const Form& form : kForms) {
    const size_t at = rest.rfind(form.infix);
    if (at == std::string::npos || at == 0 || !rest.ends_with(form.suffix)) continue;
    // Nothing, or ".default" and the like.
    const std::string_view between = std::string_view(rest).substr(
        at + form.infix.size(), rest.size() - at - form.infix.size() - form.suffix.size());
    if (!between.empty() && (between.front() != '.' || between.rfind('.') != 0)) continue;
    return PeftName{rest.substr(0, at), form.is_a, form.embedding};
  }
  return InputError(
      fmt::format("tensor '{}': expected {{module}}.lora_A.weight or lora_B.weight, or "
                  "lora_embedding_A or lora_embedding_B",
                  Abbreviate(name)));
}

Result<LoraFactor> PeftFactor(const TensorInfo& info, TensorView view) {
  LoraFactor factor;
  switch (info.type) {
    case DType::kF32:
      factor.type = GgufType::kF32;
      break;
    case DType::kF16:
      factor.type = GgufType::kF16;
      break;
    case DType::kBF16:
      factor.type = GgufType::kBF16;
      break;
    default:
      return InputError(fmt::format("tensor '{}': type {}, expected F32, F16 or BF16", Abbreviate(info.name),
                                    DTypeName(info.type)));
  }
  if (info.shape.size() != 2 || info.shape[0] < 1 || info.shape[1] < 1) {
    return InputError(fmt::format("tensor '{}': shape {}, expected a matrix", Abbreviate(info.name),
                                  ShapeText(info.shape)));
  }
  factor.rows = info.shape[0];
  factor.cols = info.shape[1];
  factor.bytes = view.bytes();
  return factor;
}

// Both halves are there and have one rank.
Status CheckPair(const LoraPair& pair, const char* a_name, const char* b_name) {
  if (pair.a.rows == 0 || pair.b.rows == 0) {
    return InputError(
        fmt::format("{}: {} is missing", Module(pair.target), pair.a.rows == 0 ? a_name : b_name));
  }
  const int64_t rank_a = pair.rank;
  if (pair.b.cols != rank_a || rank_a > kMaxRank) {
    return InputError(fmt::format("{}: rank {} of {} and {} of {}, expected the same, at most {}",
                                  Module(pair.target), rank_a, a_name, pair.b.cols, b_name, kMaxRank));
  }
  return {};
}

Status FinishPeft(const PeftConfig& config, LoraPair& pair) {
  pair.rank = pair.a.rows;
  PLANISH_RETURN_IF_ERROR(CheckPair(pair, pair.embedding ? "lora_embedding_A" : "lora_A",
                                    pair.embedding ? "lora_embedding_B" : "lora_B"));
  PLANISH_RETURN_IF_ERROR(CheckTarget(config, pair.target));
  PLANISH_TRY(const double rank, ValueFor(config.ranks, pair.target, config.rank));
  PLANISH_TRY(const double alpha, ValueFor(config.alphas, pair.target, config.alpha));
  if (rank != static_cast<double>(pair.rank)) {
    return InputError(fmt::format("{}: factors of rank {}, the configuration says {}", Module(pair.target),
                                  pair.rank, rank));
  }
  pair.scale = static_cast<float>(alpha / (config.root_scale ? std::sqrt(rank) : rank));
  if (!std::isfinite(pair.scale)) {
    return InputError(fmt::format("{}: alpha {} for rank {}", Module(pair.target), alpha, rank));
  }
  return {};
}

Result<std::vector<LoraPair>> ReadPeftTensors(const PeftConfig& config, const SafetensorsFile& file) {
  std::map<std::string, LoraPair> pairs;
  for (const TensorInfo& info : file.tensors()) {
    PLANISH_TRY(const PeftName name, ParseName(info.name));
    LoraPair& pair = pairs[name.module];
    LoraFactor& factor = name.is_a ? pair.a : pair.b;
    const bool first = pair.target.empty();
    if (factor.rows != 0 || (!first && pair.embedding != name.embedding)) {
      return InputError(
          fmt::format("tensor '{}': the module has such a factor already", Abbreviate(info.name)));
    }
    pair.target = name.module;
    pair.embedding = name.embedding;
    PLANISH_TRY(factor, PeftFactor(info, file.View(info)));
  }
  if (pairs.empty()) return InputError("no factors");
  std::vector<LoraPair> list;
  for (auto& [module, pair] : pairs) {
    PLANISH_RETURN_IF_ERROR(FinishPeft(config, pair));
    list.push_back(std::move(pair));
  }
  return list;
}

Result<LoraAdapter> ReadPeft(const std::string& config_text,
                             const std::shared_ptr<const SafetensorsFile>& file, const std::string& name) {
  const auto config = ReadPeftConfig(config_text);
  if (!config.ok()) return config.error().At(JoinPath(name, kLoraConfigName));
  auto pairs = ReadPeftTensors(*config, *file);
  if (!pairs.ok()) return pairs.error().At(JoinPath(name, kLoraTensorsName));
  return LoraAdapter{name, false, "", std::move(pairs).value(), file};
}

// ---- GGUF ----

// A matrix, or one of each expert of a layer: A {in, r, experts}, B {r, out, experts}.
Status AddFactors(const GgufTensor& tensor, std::map<std::pair<std::string, int64_t>, LoraPair>& pairs) {
  const std::string& name = tensor.name;
  const bool is_a = name.ends_with(".lora_a"), is_b = name.ends_with(".lora_b");
  const bool bank = tensor.dims.size() == 3;
  const int64_t experts = bank ? tensor.dims[2] : 1;
  if ((!is_a && !is_b) || (tensor.dims.size() != 2 && !bank) || experts > kMaxExperts) {
    return InputError(fmt::format(
        "tensor '{}' [{}]: expected matrices {{weight}}.lora_a and .lora_b, or those of at most {} experts",
        Abbreviate(name), fmt::join(tensor.dims, ", "), kMaxExperts));
  }
  const std::string target = name.substr(0, name.size() - 7);
  const size_t bytes = tensor.bytes.size() / static_cast<size_t>(experts);
  for (int64_t expert = 0; expert < experts; ++expert) {
    LoraPair& pair = pairs[{target, bank ? expert : -1}];
    pair.target = target;
    pair.expert = bank ? expert : -1;
    pair.embedding = target == "token_embd.weight";
    LoraFactor& factor = is_a ? pair.a : pair.b;
    factor = {tensor.type, tensor.dims[1], tensor.cols(),
              tensor.bytes.subspan(static_cast<size_t>(expert) * bytes, bytes)};
  }
  if (pairs.size() <= kMaxPairs) return {};
  return InputError(fmt::format("more than {} pairs of factors", kMaxPairs));
}

Result<LoraAdapter> ReadGguf(const std::shared_ptr<const GgufFile>& file) {
  LoraAdapter adapter{file->path(), true, "", {}, file};
  PLANISH_TRY(const std::string general, file->String("general.type", ""));
  PLANISH_TRY(const std::string type, file->String("adapter.type", ""));
  if (general != "adapter" || type != "lora") {
    return InputError(fmt::format("general.type '{}' and adapter.type '{}': expected adapter and lora",
                                  Abbreviate(general), Abbreviate(type)));
  }
  if (file->Has("adapter.alora.invocation_tokens")) {
    return InputError("adapter.alora.invocation_tokens: adapters that start at a token cannot be read");
  }
  PLANISH_TRY(adapter.architecture, file->String("general.architecture"));
  PLANISH_TRY(const double alpha, file->Number("adapter.lora.alpha", 0));
  if (!std::isfinite(alpha)) return InputError("adapter.lora.alpha: expected a finite number");
  std::map<std::pair<std::string, int64_t>, LoraPair> pairs;  // by target and expert
  for (const GgufTensor& tensor : file->tensors()) {
    PLANISH_RETURN_IF_ERROR(AddFactors(tensor, pairs));
  }
  if (pairs.empty()) return InputError("no factors");
  for (auto& [key, pair] : pairs) {
    pair.rank = pair.embedding ? pair.a.cols : pair.a.rows;
    PLANISH_RETURN_IF_ERROR(CheckPair(pair, "lora_a", "lora_b"));
    pair.scale = alpha == 0 ? 1.0f : static_cast<float>(alpha / static_cast<double>(pair.rank));
    adapter.pairs.push_back(std::move(pair));
  }
  return adapter;
}

}  // namespace

Result<LoraAdapter> ParsePeftLora(const std::string& config, std::span<const std::byte> tensors,
                                  const std::string& name) {
  PLANISH_TRY(const auto file, SafetensorsFile::Parse(tensors, JoinPath(name, kLoraTensorsName)));
  return ReadPeft(config, file, name);
}

Result<LoraAdapter> ParseGgufLora(std::span<const std::byte> bytes, const std::string& name) {
  PLANISH_TRY(const auto file, GgufFile::Parse(bytes, name));
  auto adapter = ReadGguf(file);
  if (!adapter.ok()) return adapter.error().At(name);
  return adapter;
}

Result<LoraAdapter> OpenLora(const std::string& path) {
  if (FileExists(path)) {
    PLANISH_TRY(const auto file, GgufFile::Open(path));
    auto adapter = ReadGguf(file);
    if (!adapter.ok()) return adapter.error().At(path);
    return adapter;
  }
  const std::string config_path = JoinPath(path, kLoraConfigName);
  if (!FileExists(config_path)) {
    return InputError(fmt::format("{}: no adapter there; expected a folder with {}, or a GGUF file", path,
                                  kLoraConfigName));
  }
  const std::string tensors = JoinPath(path, kLoraTensorsName);
  if (!FileExists(tensors) && FileExists(JoinPath(path, "adapter_model.bin"))) {
    return InputError(
        fmt::format("{}: adapter_model.bin is a pickle, which is not read; save the adapter as "
                    "safetensors",
                    path));
  }
  PLANISH_TRY(const std::string config, ReadTextFile(config_path, kMaxPeftConfigBytes));
  PLANISH_TRY(const auto file, SafetensorsFile::Open(tensors));
  return ReadPeft(config, file, path);
}

}  // namespace planish

#include "model/gguf_rope.h"

#include <fmt/format.h>

#include <cmath>
#include <cstring>

#include "base/names.h"
#include "model/rope.h"

namespace planish {
namespace {

constexpr const char* kFreqs = "rope_freqs.weight";
constexpr const char* kLong = "rope_factors_long.weight";
constexpr const char* kShort = "rope_factors_short.weight";
// The multiplier of deepseek2's files is this times mscale_all_dim, that of all others mscale_all_dim.
constexpr double kLatentMultiplier = 0.1;

// ---- reading

Result<Json> ReadDivisors(const GgufFile& file, const char* name) {
  const GgufTensor* tensor = file.Find(name);
  if (tensor == nullptr) return InputError(fmt::format("tensor '{}' is missing", name));
  if (tensor->type != GgufType::kF32) {
    return InputError(fmt::format("tensor '{}': type {}, expected F32", name, InfoOf(tensor->type).name));
  }
  Json divisors = Json::array();
  for (size_t i = 0; i + 4 <= tensor->bytes.size(); i += 4) {
    float divisor;
    std::memcpy(&divisor, tensor->bytes.data() + i, 4);
    if (!(divisor > 0) || !std::isfinite(divisor)) {
      return InputError(fmt::format("tensor '{}': factor {} is {}", name, i / 4, divisor));
    }
    divisors.push_back(divisor);
  }
  return divisors;
}

// What yarn multiplies q and k by. Files say it in up to three keys: a whole number that replaces the usual
// one, a factor beside the usual one, and mscale_all_dim, by whose scale the usual one is divided.
Status ReadYarn(const GgufFile& file, const GgufFamily& family, const std::string& s, Json& scaling) {
  for (const auto& [key, field] :
       {std::pair("yarn_beta_fast", "beta_fast"), std::pair("yarn_beta_slow", "beta_slow"),
        std::pair("yarn_attn_factor", "attention_factor")}) {
    if (!file.Has(s + key)) continue;
    PLANISH_TRY(scaling[field], file.Number(s + key, 0));
  }
  PLANISH_TRY(const double extrapolation, file.Number(s + "yarn_ext_factor", 1.0));
  if (extrapolation != 1) {
    return InputError(fmt::format("{}yarn_ext_factor: expected 1, found {}", s, extrapolation));
  }
  PLANISH_TRY(const double multiplier, file.Number(s + "yarn_log_multiplier", 0.0));
  PLANISH_TRY(const double beside, file.Number(s + "attn_factor", 1.0));
  if (family.latent) {
    if (multiplier == 0) return InputError(fmt::format("key '{}yarn_log_multiplier' is missing", s));
    if (beside != 1) return InputError(fmt::format("{}attn_factor: expected 1, found {}", s, beside));
    scaling["mscale"] = scaling["mscale_all_dim"] = multiplier / kLatentMultiplier;
    return {};
  }
  if (scaling.contains("attention_factor") || (multiplier == 0 && beside == 1)) return {};
  const double factor = scaling["factor"].get<double>();
  scaling["attention_factor"] =
      beside * YarnScale(factor, 1) / (multiplier == 0 ? 1 : YarnScale(factor, multiplier));
  return {};
}

Status ReadLong(const GgufFile& file, const std::string& s, Json& scaling) {
  PLANISH_TRY(scaling["long_factor"], ReadDivisors(file, kLong));
  PLANISH_TRY(scaling["short_factor"], ReadDivisors(file, kShort));
  PLANISH_TRY(scaling["attention_factor"], file.Number(s + "attn_factor", 1.0));
  return {};
}

// ---- writing

struct Scaling {
  std::string type;
  Json fields;
  double theta = 0;
  int64_t original = 0;  // positions before they were stretched
};

Result<Scaling> ScalingOf(const GgufFamily& family, const Json& config, const Program& program) {
  const Json parameters = config.contains("rope_parameters") && config["rope_parameters"].is_object()
                              ? config["rope_parameters"]
                              : Json::object();
  // Gemma 3 nests one set for each kind of layer.
  const Json nested = parameters.contains("full_attention") ? parameters["full_attention"] : parameters;
  Scaling scaling;
  const bool own = config.contains("rope_scaling") && config["rope_scaling"].is_object();
  scaling.fields = own && parameters.empty() ? config["rope_scaling"] : nested;
  PLANISH_TRY(const std::string old_type, JsonString(scaling.fields, "type", "default"));
  PLANISH_TRY(scaling.type, JsonString(scaling.fields, "rope_type", old_type));
  PLANISH_TRY(const double usual,
              JsonNumber(config, "rotary_emb_base", Json::parse(family.theta).get<double>()));
  PLANISH_TRY(const double top, JsonNumber(config, "rope_theta", usual));
  PLANISH_TRY(scaling.theta, JsonNumber(nested, "rope_theta", top));
  PLANISH_TRY(const int64_t beside,
              JsonInt(config, "original_max_position_embeddings", program.max_positions));
  PLANISH_TRY(scaling.original, JsonInt(scaling.fields, "original_max_position_embeddings", beside));
  return scaling;
}

// Frequencies before scaling over `scaled` ones.
Result<std::vector<float>> DivisorsOf(const std::vector<double>& scaled, double theta) {
  const auto pairs = static_cast<int64_t>(scaled.size());
  const Json unscaled = {{"rope_theta", theta}};
  PLANISH_TRY(const RopeTable plain, ReadRope(Config(unscaled), 2 * pairs, {.theta = theta}));
  std::vector<float> divisors;
  for (size_t i = 0; i < scaled.size(); ++i) {
    divisors.push_back(static_cast<float>(plain.inv_freq[i] / scaled[i]));
  }
  return divisors;
}

Status WriteYarn(const GgufFamily& family, const Scaling& scaling, const RopeTable& rope,
                 const std::string& s, GgufMetadata& metadata) {
  PLANISH_TRY(const double factor, JsonNumber(scaling.fields, "factor"));
  PLANISH_TRY(const bool truncate, JsonBool(scaling.fields, "truncate", true));
  if (!truncate) return CannotHold(family, "yarn with truncate = false");
  metadata.String(s + "type", "yarn");
  metadata.Float(s + "factor", static_cast<float>(factor));
  metadata.Int(s + "original_context_length", scaling.original);
  for (const auto& [key, field] :
       {std::pair("yarn_beta_fast", "beta_fast"), std::pair("yarn_beta_slow", "beta_slow")}) {
    PLANISH_TRY(const double beta, JsonNumber(scaling.fields, field, 0.0));
    if (beta != 0) metadata.Float(s + key, static_cast<float>(beta));
  }
  const double attention = double{rope.attention_factor};
  if (family.latent) {
    PLANISH_TRY(const double all, JsonNumber(scaling.fields, "mscale_all_dim", 0.0));
    if (all == 0 || std::fabs(attention - 1) > 1e-6) {
      return CannotHold(family, "yarn whose mscale and mscale_all_dim are not the same number");
    }
    metadata.Float(s + "yarn_log_multiplier", static_cast<float>(kLatentMultiplier * all));
    return {};
  }
  const double beside = attention / YarnScale(factor, 1);
  if (std::fabs(beside - 1) > 1e-6) metadata.Float(s + "attn_factor", static_cast<float>(beside));
  return {};
}

Result<std::vector<GgufRopeTensor>> WriteLong(const GgufFamily& family, const Scaling& scaling,
                                              const RopeTable& rope, const std::string& s,
                                              GgufMetadata& metadata) {
  if (!family.rope_factors) return CannotHold(family, "rope_type 'longrope'");
  PLANISH_TRY(auto longs, DivisorsOf(rope.long_inv_freq, scaling.theta));
  PLANISH_TRY(auto shorts, DivisorsOf(rope.inv_freq, scaling.theta));
  metadata.String(s + "type", "longrope");
  metadata.Int(s + "original_context_length", rope.longer_than);
  metadata.Float(s + "attn_factor", rope.attention_factor);
  return std::vector<GgufRopeTensor>{{kLong, std::move(longs)}, {kShort, std::move(shorts)}};
}

}  // namespace

bool IsRopeTensor(const std::string& name) { return name == kFreqs || name == kLong || name == kShort; }

Status ReadGgufRope(const GgufFile& file, const GgufFamily& family, Json& config) {
  if (family.theta == nullptr) return {};
  const std::string a = std::string(family.arch) + ".", s = a + "rope.scaling.";
  PLANISH_TRY(const double old_factor, file.Number(a + "rope.scale_linear", 1.0));
  PLANISH_TRY(const double factor, file.Number(s + "factor", old_factor));
  // llama.cpp's converter writes the factors of Phi-3 without naming their kind.
  const bool has_factors = file.Find(kLong) != nullptr || file.Find(kShort) != nullptr;
  PLANISH_TRY(const std::string type, file.String(s + "type", has_factors ? "longrope" : "linear"));
  if (has_factors && type != "longrope") {
    return InputError(fmt::format("{}type '{}' beside tensors '{}' and '{}': expected longrope", s,
                                  Abbreviate(type), kLong, kShort));
  }
  if (file.Find(kFreqs) != nullptr) {
    PLANISH_TRY(Json divisors, ReadDivisors(file, kFreqs));
    if (type != "none" && (type != "linear" || factor != 1)) {
      return InputError(fmt::format("{}type '{}' with factor {} beside tensor '{}': expected one of the two",
                                    s, Abbreviate(type), factor, kFreqs));
    }
    config["rope_scaling"] = {{"rope_type", "factors"}, {"factors", std::move(divisors)}};
    return {};
  }
  if (type == "none" || (type == "linear" && factor == 1)) return {};
  if (type != "linear" && type != "yarn" && type != "longrope") {
    return InputError(
        fmt::format("{}type '{}': expected none, linear, yarn or longrope", s, Abbreviate(type)));
  }
  Json scaling = {{"rope_type", type}};
  if (type != "longrope") scaling["factor"] = factor;
  if (file.Has(s + "original_context_length")) {
    PLANISH_TRY(scaling["original_max_position_embeddings"], file.Int(s + "original_context_length"));
  }
  if (type == "yarn") PLANISH_RETURN_IF_ERROR(ReadYarn(file, family, s, scaling));
  if (type == "longrope") PLANISH_RETURN_IF_ERROR(ReadLong(file, s, scaling));
  config["rope_scaling"] = std::move(scaling);
  return {};
}

Result<std::vector<GgufRopeTensor>> WriteGgufRope(const GgufFamily& family, const Json& config,
                                                  const Program& program, GgufMetadata& metadata) {
  using Tensors = std::vector<GgufRopeTensor>;
  if (family.theta == nullptr) return Tensors{};
  const std::string a = std::string(family.arch) + ".", s = a + "rope.scaling.";
  PLANISH_TRY(const Scaling scaling, ScalingOf(family, config, program));
  const RopeTable& rope = program.ropes.front();
  metadata.Int(a + "rope.dimension_count", static_cast<int64_t>(2 * rope.inv_freq.size()));
  metadata.Float(a + "rope.freq_base", static_cast<float>(scaling.theta));
  if (scaling.type == "default") return Tensors{};
  if (scaling.type == "yarn") {
    PLANISH_RETURN_IF_ERROR(WriteYarn(family, scaling, rope, s, metadata));
    return Tensors{};
  }
  if (scaling.type == "linear" && !family.latent) {
    PLANISH_TRY(const double factor, JsonNumber(scaling.fields, "factor"));
    metadata.String(s + "type", "linear");
    metadata.Float(s + "factor", static_cast<float>(factor));
    return Tensors{};
  }
  if (scaling.type == "longrope" || scaling.type == "su") {
    return WriteLong(family, scaling, rope, s, metadata);
  }
  if ((scaling.type == "llama3" || scaling.type == "factors") && family.rope_freqs) {
    PLANISH_TRY(auto divisors, DivisorsOf(rope.inv_freq, scaling.theta));
    return Tensors{{kFreqs, std::move(divisors)}};
  }
  return CannotHold(family, fmt::format("rope_type '{}'", Abbreviate(scaling.type)));
}

}  // namespace planish

#include "model/rope.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <numbers>
#include <type_traits>

#include "base/names.h"

namespace planish {
namespace {

struct RopeFields {
  Config scaling;
  double theta = 10000;
  double partial = 1;
};

// rope_parameters, or what they hold for that kind of layer, or rope_scaling; empty where there is neither.
Result<Config> ScalingFields(const Config& config, const RopeDefaults& defaults,
                             const std::string& layer_type) {
  static const Json kNone = Json::object();
  if (config.Find("rope_parameters") != nullptr) {
    PLANISH_TRY(const Config parameters, config.Object("rope_parameters"));
    return parameters.Find(layer_type) == nullptr ? parameters : parameters.Object(layer_type);
  }
  return defaults.scaled ? config.Object("rope_scaling") : Config(kNone);
}

struct Place {
  const Config& config;
  const char* key;  // null: none
};

// One number that may stand in several places, and then is the same in all of them.
template <class T>
Result<T> Agreed(std::initializer_list<Place> places, T fallback) {
  std::string path;
  T found = fallback;
  for (const Place& place : places) {
    if (place.key == nullptr || place.config.Find(place.key) == nullptr) continue;
    T value{};
    if constexpr (std::is_integral_v<T>) {
      PLANISH_TRY(value, place.config.Int(place.key));
    } else {
      PLANISH_TRY(value, place.config.Number(place.key));
    }
    if (path.empty()) {
      found = value;
      path = place.config.Path(place.key);
    } else if (value != found) {
      return InputError(fmt::format("{} is {}, but {} is {}: expected one of the two, or the same number",
                                    path, found, place.config.Path(place.key), value));
    }
  }
  return found;
}

Result<RopeFields> ReadFields(const Config& config, const RopeDefaults& defaults,
                              const std::string& layer_type) {
  PLANISH_TRY(const Config scaling, ScalingFields(config, defaults, layer_type));
  RopeFields fields{scaling};
  PLANISH_TRY(fields.theta, Agreed<double>({{fields.scaling, "rope_theta"},
                                            {config, defaults.theta_field},
                                            {config, defaults.older_theta}},
                                           defaults.theta));
  PLANISH_TRY(fields.partial, Agreed<double>({{fields.scaling, "partial_rotary_factor"},
                                              {config, "partial_rotary_factor"},
                                              {config, defaults.older_partial}},
                                             defaults.partial));
  // At 1 all dimensions turn alike and yarn divides by ln 1; below, the fast ones would be the slow ones.
  if (!(fields.theta > 1) || !std::isfinite(fields.theta)) {
    return InputError(fmt::format("rope_theta: expected a number above 1, found {}", fields.theta));
  }
  if (!(fields.partial > 0) || fields.partial > 1) {
    return InputError(fmt::format("partial_rotary_factor: expected in (0, 1], found {}", fields.partial));
  }
  return fields;
}

// Published models stay below 2; scores grow with its square, and in fp32 they must not overflow.
constexpr double kMaxAttentionFactor = 1000;

Result<double> Factor(const Config& scaling) {
  PLANISH_TRY(const double factor, scaling.Number("factor"));
  if (!(factor >= 1) || !std::isfinite(factor)) {
    return InputError(fmt::format("rope factor: expected at least 1, found {}", factor));
  }
  return factor;
}

// Llama 3.1: long wavelengths are stretched by `factor`, short ones kept, a ramp between.
Status ScaleLlama3(const Config& scaling, double original_positions, std::vector<double>& inv_freq) {
  PLANISH_TRY(const double factor, Factor(scaling));
  PLANISH_TRY(const double low, scaling.Number("low_freq_factor"));
  PLANISH_TRY(const double high, scaling.Number("high_freq_factor"));
  if (!(high > low) || !(low > 0)) {
    return InputError(fmt::format(
        "llama3 rope: expected 0 < low_freq_factor < high_freq_factor, found {} and {}", low, high));
  }
  for (double& f : inv_freq) {
    const double wavelength = 2 * std::numbers::pi / f;
    if (wavelength < original_positions / high) continue;
    if (wavelength > original_positions / low) {
      f /= factor;
    } else {
      const double s = (original_positions / wavelength - low) / (high - low);
      f = (1 - s) * f / factor + s * f;
    }
  }
  return {};
}

// Logarithm and power from additions, multiplications and divisions alone, good to 1e-15: libm has variants
// with and without fused multiply-add that differ in the last bit, and the strict profile promises the same
// bytes on any CPU.
double FixedLog(double x) {
  int exponent = 0;
  double m = std::frexp(x, &exponent);
  if (m < 0.7071) m *= 2, --exponent;
  const double t = (m - 1) / (m + 1), t2 = t * t;  // ln m = 2 atanh t, |t| < 0.172
  double sum = 0;
  for (int k = 27; k >= 1; k -= 2) sum = sum * t2 + 1.0 / k;
  return 2 * t * sum + exponent * std::numbers::ln2;
}

double FixedPow(double base, double power) {
  const double x = power * FixedLog(base), n = std::nearbyint(x / std::numbers::ln2);
  const double r = x - n * std::numbers::ln2;  // |r| < 0.35
  double sum = 1;
  for (int k = 18; k >= 1; --k) sum = 1 + sum * r / k;
  return std::ldexp(sum, static_cast<int>(n));
}

std::vector<double> Powers(double theta, size_t pairs) {
  std::vector<double> inv_freq;
  for (size_t i = 0; i < pairs; ++i) {
    inv_freq.push_back(FixedPow(theta, -static_cast<double>(i) / static_cast<double>(pairs)));
  }
  return inv_freq;
}

Status CheckAttentionFactor(const char* kind, double factor) {
  if (factor > 0 && factor <= kMaxAttentionFactor) return {};
  return InputError(
      fmt::format("{} rope: expected an attention factor (attention_factor, or from mscale and "
                  "mscale_all_dim) above 0 "
                  "and up to {}, found {}",
                  kind, kMaxAttentionFactor, factor));
}

// A list of one positive factor a pair.
Result<std::vector<double>> FactorList(const Config& scaling, const char* key, size_t pairs) {
  const Json* list = scaling.Find(key);
  if (list == nullptr || !list->is_array() || list->size() != pairs) {
    return InputError(
        fmt::format("longrope: {}: expected a list of {} numbers, one a rotated pair", key, pairs));
  }
  std::vector<double> factors;
  for (const Json& entry : *list) {
    const double value = entry.is_number() ? entry.get<double>() : 0;
    if (!(value >= 1e-3) || !(value <= 1e9)) {
      return InputError(fmt::format("longrope: {}[{}]: expected a number of 0.001 to 1e9, found {}", key,
                                    factors.size(), Abbreviate(DumpJson(entry))));
    }
    factors.push_back(value);
  }
  return factors;
}

// LongRoPE (arXiv 2402.13753) as Phi-3 uses it: a factor of its own for every pair, one list for sequences of
// up to the original length and one for longer ones.
Status ScaleLong(const Config& scaling, int64_t original, int64_t max_positions, RopeTable& rope) {
  PLANISH_TRY(const auto shorts, FactorList(scaling, "short_factor", rope.inv_freq.size()));
  PLANISH_TRY(const auto longs, FactorList(scaling, "long_factor", rope.inv_freq.size()));
  const double stretched = static_cast<double>(max_positions) / static_cast<double>(original);
  PLANISH_TRY(const double factor, scaling.Number("factor", stretched));
  double attention = 1;
  if (factor > 1 && original > 1) {
    attention = std::sqrt(1 + FixedLog(factor) / FixedLog(static_cast<double>(original)));
  }
  PLANISH_TRY(attention, scaling.Number("attention_factor", attention));
  PLANISH_RETURN_IF_ERROR(CheckAttentionFactor("longrope", attention));
  rope.attention_factor = static_cast<float>(attention);
  rope.longer_than = original;
  rope.long_inv_freq = rope.inv_freq;
  for (size_t i = 0; i < shorts.size(); ++i) {
    rope.inv_freq[i] /= shorts[i];
    rope.long_inv_freq[i] /= longs[i];
  }
  return {};
}

Status ScaleDynamic(const Config& scaling, int64_t max_positions, double theta, RopeTable& rope) {
  PLANISH_TRY(rope.factor, Factor(scaling));
  // Far above any model, and the stretched base stays a number.
  if (rope.factor > 1e6 || theta > 1e200) {
    return InputError(
        fmt::format("dynamic rope: expected a factor up to 1e6 and a rope_theta up to 1e200, found {} and {}",
                    rope.factor, theta));
  }
  if (rope.inv_freq.size() < 2) return InputError("dynamic rope: needs at least two rotated pairs");
  rope.theta = theta;
  rope.longer_than = max_positions;
  return {};
}

// YaRN (arXiv 2309.00071): interpolate dimensions that turn slowly, keep those that turn fast.
Status ScaleYarn(const Config& scaling, double original_positions, double theta, RopeTable& rope) {
  PLANISH_TRY(const double factor, Factor(scaling));
  PLANISH_TRY(const double fast, scaling.Number("beta_fast", 32.0));
  PLANISH_TRY(const double slow, scaling.Number("beta_slow", 1.0));
  PLANISH_TRY(const bool truncate, scaling.Bool("truncate", true));
  PLANISH_TRY(const double mscale, scaling.Number("mscale", 0.0));
  PLANISH_TRY(const double mscale_all, scaling.Number("mscale_all_dim", 0.0));
  const double both = mscale != 0 && mscale_all != 0
                          ? YarnScale(factor, mscale) / YarnScale(factor, mscale_all)
                          : YarnScale(factor, 1);
  PLANISH_TRY(const double attention_factor, scaling.Number("attention_factor", both));
  PLANISH_RETURN_IF_ERROR(CheckAttentionFactor("yarn", attention_factor));
  if (!(slow > 0) || !(fast > slow)) {
    return InputError(
        fmt::format("yarn rope: expected 0 < beta_slow < beta_fast, found {} and {}", slow, fast));
  }
  rope.attention_factor = static_cast<float>(attention_factor);
  const double d = 2.0 * static_cast<double>(rope.inv_freq.size());
  const auto dim = [&](double rotations) {
    return d * FixedLog(original_positions / (2 * std::numbers::pi * rotations)) / (2 * FixedLog(theta));
  };
  double low = dim(fast), high = dim(slow);
  if (truncate) low = std::floor(low), high = std::ceil(high);
  low = std::max(low, 0.0);
  high = std::min(high, d - 1);
  if (low == high) high += 0.001;
  for (size_t i = 0; i < rope.inv_freq.size(); ++i) {
    const double ramp = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    rope.inv_freq[i] = rope.inv_freq[i] / factor * ramp + rope.inv_freq[i] * (1 - ramp);
  }
  return {};
}

}  // namespace

Result<RopeTable> ReadRope(const Config& config, int64_t head_dim, const RopeDefaults& defaults,
                           const std::string& layer_type) {
  PLANISH_TRY(const RopeFields fields, ReadFields(config, defaults, layer_type));
  RopeTable rope;
  rope.pairing = defaults.pairing;
  const int64_t pairs = static_cast<int64_t>(fields.partial * static_cast<double>(head_dim)) / 2;
  if (pairs < 1) return InputError(fmt::format("rope: head_dim {} leaves no pair to rotate", head_dim));
  rope.inv_freq = Powers(fields.theta, static_cast<size_t>(pairs));
  PLANISH_TRY(const std::string old_name, fields.scaling.String("type", "default"));
  PLANISH_TRY(const std::string type, fields.scaling.String("rope_type", old_name));
  PLANISH_TRY(const int64_t max_positions, config.Int("max_position_embeddings", defaults.max_positions));
  // Phi-3 has it beside the other fields.
  constexpr const char* kOriginal = "original_max_position_embeddings";
  PLANISH_TRY(const int64_t original,
              Agreed<int64_t>({{fields.scaling, kOriginal}, {config, kOriginal}}, max_positions));
  if (type == "default") return rope;
  if (original < 1) {
    return InputError(
        fmt::format("original_max_position_embeddings: expected at least 1, found {}", original));
  }
  if (type == "linear") {
    PLANISH_TRY(const double factor, Factor(fields.scaling));
    for (double& f : rope.inv_freq) f /= factor;
    return rope;
  }
  if (type == "llama3") {
    PLANISH_RETURN_IF_ERROR(ScaleLlama3(fields.scaling, static_cast<double>(original), rope.inv_freq));
    return rope;
  }
  if (type == "yarn") {
    PLANISH_RETURN_IF_ERROR(ScaleYarn(fields.scaling, static_cast<double>(original), fields.theta, rope));
    return rope;
  }
  if (type == "longrope" || type == "su") {
    PLANISH_RETURN_IF_ERROR(ScaleLong(fields.scaling, original, max_positions, rope));
    return rope;
  }
  if (type == "dynamic") {
    PLANISH_RETURN_IF_ERROR(ScaleDynamic(fields.scaling, max_positions, fields.theta, rope));
    return rope;
  }
  if (type == "factors") {  // of a GGUF file: one divisor for each frequency
    const Json* factors = fields.scaling.Find("factors");
    if (factors == nullptr || !factors->is_array() || factors->size() != rope.inv_freq.size()) {
      return InputError(fmt::format("rope: expected {} factors", rope.inv_freq.size()));
    }
    for (size_t i = 0; i < rope.inv_freq.size(); ++i) {
      const Json& factor = (*factors)[i];
      if (!factor.is_number() || !(factor.get<double>() > 0))
        return InputError("rope: factors must be above 0");
      rope.inv_freq[i] /= factor.get<double>();
    }
    return rope;
  }
  return InputError(
      fmt::format("rope_type '{}' is not supported: expected one of default, linear, dynamic, llama3, "
                  "yarn, longrope",
                  Abbreviate(type)));
}

std::vector<double> RopeFrequencies(const RopeTable& rope, int64_t length) {
  if (rope.longer_than == 0 || length <= rope.longer_than) return rope.inv_freq;
  if (!rope.long_inv_freq.empty()) return rope.long_inv_freq;
  const double ratio = static_cast<double>(length) / static_cast<double>(rope.longer_than);
  const double d = 2.0 * static_cast<double>(rope.inv_freq.size());
  return Powers(rope.theta * FixedPow(rope.factor * ratio - (rope.factor - 1), d / (d - 2)),
                rope.inv_freq.size());
}

bool RotatesAnewAt(const Program& program, int64_t length) {
  return std::ranges::any_of(program.ropes, [&](const RopeTable& rope) {
    return !rope.long_inv_freq.empty() && length == rope.longer_than + 1;
  });
}

double YarnScale(double factor, double mscale) {
  return factor <= 1 ? 1 : 0.1 * mscale * FixedLog(factor) + 1;
}

}  // namespace planish

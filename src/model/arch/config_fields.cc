#include "model/arch/config_fields.h"

#include <fmt/format.h>

#include <cmath>

#include "base/names.h"

namespace planish {

Result<int64_t> ReadSize(const Config& config, const char* key, int64_t fallback, int64_t limit) {
  PLANISH_TRY(const int64_t value, config.Int(key, fallback));
  if (value < 1 || value > limit) {
    return InputError(fmt::format("field '{}': expected 1 to {}, found {}", key, limit, value));
  }
  return value;
}

Result<float> ReadEpsilon(const Config& config, const char* key, double fallback) {
  PLANISH_TRY(const double eps, config.Number(key, fallback));
  const auto rounded = static_cast<float>(eps);  // may round a tiny one to 0
  if (!(rounded > 0) || eps > 1) {
    return InputError(fmt::format("{}: expected in (0, 1], found {}", key, eps));
  }
  return rounded;
}

Result<float> ReadFactor(const Config& config, const char* key, double fallback) {
  PLANISH_TRY(const double value, config.Number(key, fallback));
  if (!(std::abs(value) >= 1e-9) || !(std::abs(value) <= 1e9)) {
    return InputError(fmt::format("{}: expected a factor of 1e-9 to 1e9, found {}", key, value));
  }
  return static_cast<float>(value);
}

Result<float> ReadCap(const Config& config, const char* key, double fallback) {
  if (!config.Has(key)) return static_cast<float>(fallback);
  if (config.Find(key) == nullptr) return 0.0f;
  PLANISH_TRY(const float cap, ReadFactor(config, key, 0));
  if (cap < 0) return InputError(fmt::format("{}: expected a positive number, found {}", key, cap));
  return cap;
}

Result<Activation> ReadActivation(const Config& config, const char* key, const std::string& fallback) {
  PLANISH_TRY(const std::string name, config.String(key, fallback));
  if (name == "silu" || name == "swish") return Activation::kSilu;
  if (name == "gelu_pytorch_tanh" || name == "gelu_new" || name == "gelu_fast") return Activation::kGeluTanh;
  if (name == "gelu") return Activation::kGelu;
  if (name == "relu") return Activation::kRelu;
  return InputError(fmt::format("{} '{}' is not supported: expected silu, gelu, gelu_pytorch_tanh or relu",
                                key, Abbreviate(name)));
}

Status ReadTokens(const Config& config, Program& program) {
  const auto add = [&](const Json& id) -> Status {
    if (!id.is_number_integer() || id < 0 || id >= program.vocab) {
      return InputError(fmt::format("eos_token_id: expected ids below {}, found {}", program.vocab,
                                    Abbreviate(DumpJson(id))));
    }
    program.eos_ids.push_back(id.get<int32_t>());
    return {};
  };
  const Json* eos = config.Find("eos_token_id");
  if (eos != nullptr && eos->is_array()) {
    for (const auto& id : *eos) PLANISH_RETURN_IF_ERROR(add(id));
  } else if (eos != nullptr) {
    PLANISH_RETURN_IF_ERROR(add(*eos));
  }
  PLANISH_TRY(const int64_t bos, config.Int("bos_token_id", -1));
  // A cast to 32 bits would turn some numbers below -1 into ids.
  if (bos < -1 || bos >= program.vocab) {
    return InputError(
        fmt::format("bos_token_id: expected an id below {} or -1 for none, found {}", program.vocab, bos));
  }
  program.bos_id = static_cast<int32_t>(bos);
  return {};
}

void Require(const Config& config, const char* family, const char* key, const Json& expected) {
  const Json* found = config.Find(key);
  if (found == nullptr || *found == expected) return;
  config.Refuse(fmt::format("{}: {} is not implemented for {}; expected {}", key,
                            Abbreviate(DumpJson(*found)), family, DumpJson(expected)));
}

Status CheckHeads(int64_t heads, int64_t kv_heads, int64_t head_dim) {
  if (heads % kv_heads != 0) {
    return InputError(
        fmt::format("num_attention_heads {} is no multiple of num_key_value_heads {}", heads, kv_heads));
  }
  if (head_dim % 2 != 0) return InputError(fmt::format("head_dim {} is odd", head_dim));
  if (heads * head_dim > kMaxDimension) {
    return InputError(fmt::format("{} heads of {} are too wide", heads, head_dim));
  }
  return {};
}

}  // namespace planish

#include "model/family.h"

#include <fmt/format.h>

#include "base/names.h"

namespace planish {

Result<Program> BuildProgram(const Json& config) {
  if (!config.is_object()) return InputError("expected a JSON object");
  PLANISH_TRY(const std::string type, JsonString(config, "model_type"));
  if (config.contains("quantization_config") && config["quantization_config"].is_object()) {
    PLANISH_TRY(const std::string method,
                JsonString(config["quantization_config"], "quant_method", "unnamed"));
    if (method != "planish") {
      return InputError(fmt::format(
          "the checkpoint is already compressed with '{}', which cannot be read yet; use the original model",
          method));
    }
  }
  std::vector<std::string> known;
  for (const Family* family : AllFamilies()) {
    if (type == family->model_type) return family->build(config);
    known.push_back(family->model_type);
  }
  const auto nearest = NearestNames(type, known, 1);
  std::string message = fmt::format("model_type '{}' is not known", type);
  for (const Family* family : AllFamilies()) {
    if (!nearest.empty() && nearest.front() == family->model_type) {
      message += fmt::format("; the nearest known is '{}' ({})", family->model_type, family->summary);
    }
  }
  return InputError(message + fmt::format("; known: {}", fmt::join(known, ", ")));
}

}  // namespace planish

#include "apps/calibration_text.h"

#include <fmt/format.h>

#include "calibrate/token_windows.h"
#include "formats/text.h"
#include "formats/tokenizer.h"

namespace planish::app {

Result<std::vector<std::vector<int32_t>>> LoadCalibration(const Model& model, const CalibrationSpec& spec) {
  if (spec.text.empty()) {
    return InputError(
        "calibration: no text; give --calibration FILE (plain UTF-8 text like what the model will see)");
  }
  PLANISH_TRY(const auto tokenizer, Tokenizer::Load(model.path));
  std::vector<int32_t> tokens;
  for (const auto& path : spec.text) {
    PLANISH_TRY(const std::string text, LoadText(path));
    auto ids = tokenizer->Encode(text, /*add_special=*/false);
    if (!ids.ok()) return ids.error().At(path);
    tokens.insert(tokens.end(), ids->begin(), ids->end());
  }
  if (spec.context > model.program.max_positions) {
    return InputError(fmt::format("calibration: windows of {} tokens, the model's longest context is {}",
                                  spec.context, model.program.max_positions));
  }
  auto windows = ChooseWindows(tokens, spec.windows, spec.context, spec.seed);
  if (!windows.ok()) return windows.error().At(fmt::format("{}", fmt::join(spec.text, ", ")));
  return windows;
}

}  // namespace planish::app

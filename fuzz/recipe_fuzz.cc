// The recipe reader over arbitrary text: no crash, messages with their place, and what it accepts
// has every option, survives its own text, and plans any tensor.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/check.h"
#include "pipeline/recipe.h"
#include "pipeline/recipe_test_stages.h"

namespace {

using namespace planish;

void CheckMessage(const Error& error, std::string_view start) {
  PLANISH_CHECK(error.code == Code::kInput && error.message.starts_with(start) && error.message.size() < 4000)
      << error.message;
}

void CheckPlan(const Recipe& recipe, const std::string& name) {
  const auto plan = PlanFor(recipe, name);
  if (!plan.ok()) {
    CheckMessage(plan.error(), "tensor '");
    return;
  }
  PLANISH_CHECK(plan->stages.size() == (plan->skip ? 0 : recipe.stages.size()));
  for (const auto& [stage, options] : plan->stages) {
    PLANISH_CHECK(options.values().size() == stage->options.size()) << stage->name;
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto recipe = ParseRecipe(text, "input", RecipeTestStages());
  if (!recipe.ok()) {
    CheckMessage(recipe.error(), "input:");
    return 0;
  }
  PLANISH_CHECK(!recipe->stages.empty() && recipe->stages.front().stage->kind == StageKind::kRound);
  for (const TextPaths paths : {TextPaths::kKeep, TextPaths::kLeaveOut}) {
    const std::string canonical = RecipeText(*recipe, paths);
    const auto again = ParseRecipe(canonical, "again", RecipeTestStages());
    // The text states every default, and may so be too long to be read.
    if (!again.ok() && canonical.size() > (size_t{1} << 20)) continue;
    PLANISH_CHECK(again.ok()) << again.error().message << "\n" << canonical;
    PLANISH_CHECK(RecipeText(*again, paths) == canonical) << canonical;
    PLANISH_CHECK(paths == TextPaths::kLeaveOut || again->calibration.text == recipe->calibration.text);
  }
  CheckPlan(*recipe, "model.layers.1.mlp.down_proj.weight");
  CheckPlan(*recipe, "");
  for (const Rule& rule : recipe->rules) CheckPlan(*recipe, rule.match);
  return 0;
}

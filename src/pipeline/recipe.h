// Recipes: what to do to a model, as a TOML file. A recipe in memory is resolved: every option has a
// value, checked against the descriptors of its stages, so that its text (RecipeText) says all that
// decides the result, whatever the defaults of a later version are.
//
//   mode = "sequential"        # or "independent"
//   states = "bf16"            # or "fp32"
//   head_bits = 0              # 0: embedding and head as they are; 2 to 8: rounded to nearest
//   head_group = 128
//   [calibration]
//   text = "a.txt"             # or a list of paths; may be missing
//   windows = 128
//   context = 1024
//   seed = 0
//   [[stage]]                  # in order; the first one rounds
//   method = "gptq"
//   bits = 3                   # and any other option of the method
//   [[rule]]                   # every rule that matches a tensor applies, later ones win
//   match = "*.down_proj.weight"   # base/glob.h
//   bits = 4                   # or skip = true, or method = "...", see Rule
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "methods/stage.h"

namespace planish {

struct CalibrationSpec {
  std::vector<std::string> text;  // paths; empty: not stated
  int64_t windows = 128;
  int64_t context = 1024;  // tokens of a window
  uint64_t seed = 0;
};

struct StageEntry {
  const SolveStage* stage = nullptr;
  Options options;
};

// What differs for the tensors whose name matches.
struct Rule {
  std::string match;
  std::optional<bool> skip;  // true: the tensor stays as it is; false undoes an earlier rule's true
  // Takes the place of every rounding stage and is one itself; null: no change. Options of the
  // replaced stage that the new one has and accepts are kept, its others have their defaults.
  const SolveStage* method = nullptr;
  std::map<std::string, OptionValue> options;  // for each stage of the tensor that has them
};

struct Recipe {
  enum class Mode {
    kSequential,   // a block is solved on the outputs of the blocks compressed before it
    kIndependent,  // every block is solved on the original model's states
  };
  enum class States { kBf16, kFp32 };  // how hidden states are kept between blocks

  Mode mode = Mode::kSequential;
  States states = States::kBf16;
  int head_bits = 0;
  int64_t head_group = 128;  // 0: the whole row
  CalibrationSpec calibration;
  std::vector<StageEntry> stages;  // 1 to 64
  std::vector<Rule> rules;         // at most 4096
};

// Reads a recipe of at most 1 MiB. `name` stands in messages: "name:line:column: what was found, what was
// expected". Entries point into `stages`, the methods that exist. Options of rules are checked
// against every stage they reach unless another rule replaces that stage; PlanFor checks those.
Result<Recipe> ParseRecipe(std::string_view toml, const std::string& name,
                           std::span<const SolveStage* const> stages);

enum class TextPaths { kKeep, kLeaveOut };

// The recipe as TOML with every option stated, in one fixed order and form: equal recipes give equal
// bytes, and ParseRecipe reads them back to the same recipe. Fingerprints leave the paths of
// calibration texts out: a file is known by its content, not its place.
std::string RecipeText(const Recipe& recipe, TextPaths paths = TextPaths::kKeep);

// What happens to one tensor.
struct LayerPlan {
  bool skip = false;  // then there are no stages
  std::vector<std::pair<const SolveStage*, Options>> stages;
};

// Errors: the rules that match, each valid alone, give a stage an option value it does not accept.
Result<LayerPlan> PlanFor(const Recipe& recipe, const std::string& tensor_name);

}  // namespace planish

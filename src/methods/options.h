// Options of methods: values given by name are checked against the specs of a stage, and what is
// not given takes its default. Messages name the option, not the place: the caller adds that.
#pragma once

#include <map>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "methods/stage.h"

namespace planish {

// Null when there is none of that name.
const OptionSpec* FindOption(std::span<const OptionSpec> specs, const std::string& name);

// The value as TOML and messages write it: true, 3, 0.01, "text" (escaped). A number always reads
// back as the same number of the same type.
std::string OptionText(const OptionValue& value);
// What a spec allows: "true or false", "an integer from 2 to 8", "one of 'a' and 'b'".
std::string ExpectedText(const OptionSpec& spec);
// What to try for a name that does not exist: "did you mean 'bits'?", or the known names when none is near.
std::string NameHint(const std::string& name, const std::vector<std::string>& known);

// The value in the spec's own type: an integer becomes a number where a number is wanted (never the
// other way), and -0.0 becomes 0.0. Errors: another type, out of range, not finite, not a choice.
Result<OptionValue> CheckOption(const OptionSpec& spec, const OptionValue& given);

// Every option of the stage: given or default. Errors: as CheckOption, a name the stage does not have, or
// what the stage's own `check` finds. Defaults that break their own spec are a mistake of the method
// (PLANISH_CHECK).
Result<Options> ResolveOptions(const SolveStage& stage, const std::map<std::string, OptionValue>& given);
// The same for any list of specs; `owner` stands in messages: "method 'gptq'".
Result<Options> ResolveOptions(const std::string& owner, std::span<const OptionSpec> specs,
                               const std::map<std::string, OptionValue>& given);

}  // namespace planish

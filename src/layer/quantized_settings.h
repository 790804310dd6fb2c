// What the configurations of GPTQ and AWQ checkpoints say of single modules, under all the names by which
// programs write it. Fields and `dynamic`: https://github.com/ModelCloud/GPTQModel (quantization/config.py).
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "formats/tokenizer_regex.h"

namespace planish::quantized {

// Of one module.
struct ModuleSettings {
  int64_t bits = 0;
  int64_t group = -1;                        // inputs that share a scale; -1: all
  std::optional<bool> symmetric, act_order;  // none: not stated
  // The field that says that the module is not quantized, and how; "" where none does.
  std::string plain_field, plain_reason;
};

class QuantizeSettings {
 public:
  // `widths`: the bits that the format has. `order`: the keys of `dynamic` as the file has them, of which the
  // first that matches a module from its front holds ("-:REGEX" not quantized, "+:REGEX" or "REGEX" other
  // settings). Errors: fields of a wrong type or size, two names of one field that differ, patterns that are
  // none, overrides that are not known, fields that would change what the tensors mean.
  static Result<QuantizeSettings> Parse(const Json& config, const std::vector<int64_t>& widths,
                                        const std::vector<std::string>& order);
  // Of "model.layers.0.mlp.up_proj". Error: a pattern that takes too long.
  Result<ModuleSettings> Of(const std::string& module) const;

 private:
  struct Rule {
    std::string key;
    bool negative = false;
    std::optional<int64_t> bits, group;
    std::optional<bool> symmetric, act_order;
  };
  Status AddRule(const std::string& key, const Json& change, const std::vector<int64_t>& widths);
  static Status ReadFields(const Json& object, const std::vector<int64_t>& widths, Rule& rule);

  ModuleSettings general_;
  std::vector<Rule> rules_;                         // in order
  std::vector<std::pair<size_t, Regex>> patterns_;  // of those rules whose keys are no names
  std::map<std::string, size_t> names_;             // and of those that match just one
  std::vector<std::string> not_converted_;
  bool head_ = true;  // false: `lm_head` says that the head is not quantized
};

}  // namespace planish::quantized

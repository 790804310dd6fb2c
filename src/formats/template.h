// Chat templates: the part of the Jinja language that the templates of published models use, rendered as
// transformers renders it (trim_blocks, lstrip_blocks, its tojson, immutable values). docs/chat.md lists what
// is supported; everything else is refused by name.
//
// A template can reach only the values that it is given: no files, no environment, no clock. Steps, depth,
// memory and output are bounded.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/json.h"
#include "base/result.h"

namespace planish {

struct TemplateLimits {
  int64_t steps = 10'000'000;                // nodes evaluated, and a step for every 64 bytes looked at
  int64_t memory_bytes = int64_t{1} << 30;   // of all values made
  int64_t output_bytes = int64_t{64} << 20;  // of the text
  int depth = 400;                           // of expressions and macros in each other
};

// A moment for strftime_now, in the zone that the caller chose.
struct TemplateTime {
  int year = 1970, month = 1, day = 1;  // month and day from 1
  int hour = 0, minute = 0, second = 0;
};

struct TemplateInput {
  OrderedJson variables = OrderedJson::object();  // by name; what is not there is undefined
  std::optional<TemplateTime> now;                // none: strftime_now is an error
  TemplateLimits limits;
};

// Never changes after it is parsed; any number of threads may render it at once.
class Template {
 public:
  static constexpr size_t kMaxSourceBytes = size_t{1} << 20;

  // Errors: "line 3: expected ..., found ..."; what the language has and this program does not, named.
  static Result<Template> Parse(std::string_view source);
  // Errors: raise_exception ("line 3: the template refuses: ..."), operations on values of the wrong type,
  // limits, all with the line.
  Result<std::string> Render(const TemplateInput& input) const;

 private:
  struct Impl;
  explicit Template(std::shared_ptr<const Impl> impl) : impl_(std::move(impl)) {}
  std::shared_ptr<const Impl> impl_;
};

}  // namespace planish

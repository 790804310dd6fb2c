// Filters and tests by name.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "formats/template_value.h"

namespace planish::jinja {

struct Args {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;

  // The arguments by parameter, null where not given. Errors: more than there are parameters, an unknown
  // name, a parameter given twice, fewer than `required`.
  Result<std::vector<const Value*>> Bind(std::string_view callee, const std::vector<const char*>& params,
                                         size_t required = 0) const;
};

struct Filter {
  const char* name;
  Result<Value> (*apply)(Meter& meter, const Value& input, const Args& args);
};
struct Test {
  const char* name;
  Result<bool> (*apply)(Meter& meter, const Value& input, const Args& args);
};

// Errors: names that the language has and this program does not; unknown ones, with the nearest.
Result<const Filter*> FindFilter(std::string_view name);
Result<const Test*> FindTest(std::string_view name);

// "filter 'x' of the template language is not supported": shared by all that is known and left out.
Error NotSupported(std::string_view what, std::string_view name);

// Python's "text" % values, for %s %r %d %i %f %e %g %x %X %o with flags, width and precision.
// `may_be_left`: values without a conversion are no error, as for a list on the right of "%".
Result<Value> FormatPercent(Meter& meter, const std::string& format, const std::vector<Value>& values,
                            bool may_be_left = false);
// left op right, for + - * / // % **.
Result<Value> Arithmetic(Meter& meter, const std::string& op, const Value& left, const Value& right);
// Text with & < > " ' as entities.
std::string EscapeHtml(std::string_view text);

}  // namespace planish::jinja

#include "pipeline/toml_nesting.h"

#include <fmt/format.h>

#include <algorithm>
#include <string>

namespace planish {
namespace {

// The place behind the string whose first quote is at `at`. Strings of one line end with the line
// when they are not closed.
size_t SkipString(std::string_view toml, size_t at) {
  const char quote = toml[at];
  const std::string three(3, quote);
  const bool multi_line = toml.substr(at, 3) == three;
  size_t i = at + (multi_line ? 3 : 1);
  while (i < toml.size()) {
    if (quote == '"' && toml[i] == '\\') {
      i += 2;
    } else if (!multi_line && (toml[i] == quote || toml[i] == '\n')) {
      return toml[i] == quote ? i + 1 : i;
    } else if (multi_line && toml.substr(i, 3) == three) {
      // Up to two quotes right before the closing three belong to the text.
      i += 3;
      for (int more = 0; more < 2 && i < toml.size() && toml[i] == quote; ++more) ++i;
      return i;
    } else {
      ++i;
    }
  }
  return toml.size();
}

Error TooDeep(std::string_view toml, size_t at) {
  const std::string_view before = toml.substr(0, at);
  const auto line = 1 + std::count(before.begin(), before.end(), '\n');
  const size_t line_start = before.rfind('\n') + 1;  // npos + 1 is 0: the first line
  return InputError(
      fmt::format("{}:{}: nested deeper than {} levels", line, at - line_start + 1, kMaxTomlNesting));
}

}  // namespace

Status CheckTomlNesting(std::string_view toml) {
  int dots = 0, brackets = 0;
  for (size_t i = 0; i < toml.size();) {
    const char c = toml[i];
    if (c == '"' || c == '\'') {
      i = SkipString(toml, i);
      continue;
    }
    if (c == '#') {
      i = std::min(toml.find('\n', i), toml.size());
      continue;
    }
    if (c == '\n' || c == ',') dots = 0;
    if (c == '.') ++dots;
    if (c == '[' || c == '{') ++brackets;
    if (c == ']' || c == '}') brackets = std::max(0, brackets - 1);
    if (dots > kMaxTomlNesting || brackets > kMaxTomlNesting) return TooDeep(toml, i);
    ++i;
  }
  return {};
}

}  // namespace planish

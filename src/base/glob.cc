#include "base/glob.h"

#include <cstddef>

namespace planish {

// When a later part fails, only the last * needs to take one byte more: an earlier * that took more
// would leave the last one a shorter text, which it could have skipped to itself.
bool GlobMatch(std::string_view pattern, std::string_view text) {
  size_t p = 0, t = 0;
  size_t star = std::string_view::npos;  // the last * passed
  size_t resume = 0;                     // where the text goes on behind that *
  while (t < text.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      resume = t;
    } else if (p < pattern.size() && (pattern[p] == '?' || pattern[p] == text[t])) {
      ++p;
      ++t;
    } else if (star != std::string_view::npos) {
      p = star + 1;
      t = ++resume;
    } else {
      return false;
    }
  }
  while (p < pattern.size() && pattern[p] == '*') ++p;
  return p == pattern.size();
}

}  // namespace planish

// Patterns over names: * stands for any bytes (none, dots and slashes included), ? for exactly one
// byte, everything else for itself. There are no classes and no escapes.
#pragma once

#include <string_view>

namespace planish {

// Whether the pattern matches the whole text. Time O(|pattern| |text|) at worst, no memory.
bool GlobMatch(std::string_view pattern, std::string_view text);

}  // namespace planish

// A guard in front of the TOML parser. toml++ frees tables by recursion and limits the nesting of
// values, but not of dotted keys: "a.a.a. ..." of a megabyte would be half a million tables inside
// each other and overflow the stack.
#pragma once

#include <string_view>

#include "base/result.h"

namespace planish {

// At most this many brackets may be open, and dots stand in one key.
constexpr int kMaxTomlNesting = 16;

// Error: deeper; the message starts with "line:column: ". Text that is not TOML may pass: it goes
// as far as a parser would get.
Status CheckTomlNesting(std::string_view toml);

}  // namespace planish

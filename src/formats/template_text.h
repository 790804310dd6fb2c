// Strings as Python has them, over valid UTF-8: white space, positions in characters, case, repr.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace planish::jinja {

// Python's str.isspace of one character.
bool IsSpace(uint32_t code_point);

// Without white space, or the characters of `set`, at the start or the end.
std::string_view StripLeft(std::string_view text);
std::string_view StripRight(std::string_view text);
std::string_view StripLeft(std::string_view text, std::string_view set);
std::string_view StripRight(std::string_view text, std::string_view set);

size_t CountCharacters(std::string_view text);
// Byte offsets of all characters and of the end, [characters + 1].
std::vector<size_t> CharacterOffsets(std::string_view text);

std::string Lower(std::string_view text);
// Errors: a character whose upper case is several characters (all but sharp s are rare ligatures).
Result<std::string> Upper(std::string_view text);
// The first character in upper case, the others in lower case.
Result<std::string> Capitalize(std::string_view text);
// Words, as str.title has them: runs of letters.
Result<std::string> Title(std::string_view text);
bool IsLetter(uint32_t code_point);

// Lines without their ends, as str.splitlines.
std::vector<std::string_view> SplitLines(std::string_view text);

// Python's repr: in single quotes, or double ones where that avoids a backslash.
void AppendRepr(std::string_view text, std::string& out);
// Python's repr of a float: the shortest digits that read back, always with a point or an exponent.
std::string FloatRepr(double value);

// Control characters as \xNN, for messages.
std::string EscapeForMessage(std::string_view text);

}  // namespace planish::jinja

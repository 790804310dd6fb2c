// Text files: UTF-8, checked.
#pragma once

#include <string>
#include <string_view>

#include "base/result.h"

namespace planish {

// Well-formed UTF-8 as in table 3-7 of the Unicode standard: no overlong forms, no surrogates, nothing
// above U+10FFFF. The error gives the offset of the first byte of the first bad sequence.
Result<void> ValidateUtf8(std::string_view text);

// The whole file; an error if it cannot be read or is not UTF-8. Nothing is stripped or converted.
Result<std::string> LoadText(const std::string& path);

}  // namespace planish

// Normalization forms and lower case of Unicode, as UAX 15 defines them. Thread-safe.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace planish {

enum class UnicodeForm { kNfc, kNfd, kNfkc, kNfkd };

// `text` is valid UTF-8. Grows at most 18 characters for one.
std::string NormalizeUnicode(std::string_view text, UnicodeForm form);

// Appends the lower case of a character (one, or two for U+0130), independent of language and of
// what stands around.
void AppendLower(uint32_t code_point, std::string* out);

}  // namespace planish

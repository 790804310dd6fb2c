// The script of a character, as the UnicodeScripts pre-tokenizer knows it.
#pragma once

#include <cstdint>

namespace planish {

// Of Unicode 9.0, Hiragana and Katakana taken for Han. Numbers have no meaning of their own; 0 is a character
// of no script: one that is not assigned there, private use, a surrogate.
uint32_t ScriptOf(uint32_t code_point);

}  // namespace planish

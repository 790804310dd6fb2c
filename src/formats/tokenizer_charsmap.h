// Character maps of SentencePiece ("precompiled_charsmap"): strings and what replaces them, such as the rules
// of NFKC. A map is the number of bytes of a double-array trie (u32, little-endian), the trie's units (u32
// each), and a pool of strings that each end in a zero byte; the trie's values are offsets into the pool.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace planish {

class CharsMap {
 public:
  // Errors: sizes that do not fit, values outside of the pool or inside of a character, a pool that is not
  // UTF-8.
  static Result<CharsMap> Parse(std::string_view bytes);

  struct Match {
    size_t length = 0;  // of what is replaced; 0: no rule applies
    std::string_view replacement;
  };
  // The longest (shortest) rule for the beginning of `text`.
  Match Longest(std::string_view text) const { return Find(text, true); }
  Match Shortest(std::string_view text) const { return Find(text, false); }
  // True when no rule applies to an ASCII character before another one, whatever follows.
  bool KeepsAscii(char c) const { return keeps_ascii_[static_cast<uint8_t>(c)]; }

 private:
  // Of a unit: its label, where its children are (relative), whether a value is there too, and that value.
  static uint32_t Label(uint32_t unit) { return unit & 0x800000FFu; }
  static uint32_t Offset(uint32_t unit) { return (unit >> 10) << ((unit & 0x200u) >> 6); }
  static bool HasLeaf(uint32_t unit) { return (unit >> 8 & 1) != 0; }
  static bool IsValue(uint32_t unit) { return unit >> 31 != 0; }
  static uint32_t Value(uint32_t unit) { return unit & 0x7FFFFFFFu; }

  // Follows `byte` from the children at `node`, which becomes the place of the next ones. False: no such
  // child.
  bool Step(uint8_t byte, uint32_t* node, uint32_t* unit) const {
    const uint32_t at = *node ^ byte;
    if (at >= units_.size() || Label(units_[at]) != byte) return false;
    *unit = units_[at];
    *node = at ^ Offset(*unit);
    return true;
  }
  Match Find(std::string_view text, bool longest) const;
  bool FindsKeptAscii(uint8_t c) const;

  std::vector<uint32_t> units_;
  std::string pool_;
  std::array<bool, 128> keeps_ascii_{};
};

}  // namespace planish

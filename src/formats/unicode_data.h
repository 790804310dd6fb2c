// Unicode data as text, read once by unicode_normalize.cc and unicode_scripts.cc. Items end in ';', code
// points are hexadecimal. RANGE is "41", "41-5A" or, for every second one, "100-12E/2".
#pragma once

#include <cstdint>

namespace planish {

extern const char kUnicodeShifts[];            // RANGE~FIRST or RANGE!FIRST: compatibility or canonical
extern const char kUnicodeDecompositions[];    // CODE~A,B,C compatibility; CODE=A,B canonical; CODE!A,B
                                               // canonical and excluded from composition
extern const char kUnicodeCombiningClasses[];  // RANGE:CLASS, decimal
extern const char kUnicodeLower[];             // RANGE>FIRST
extern const char kUnicodeScripts[];           // RANGE:SCRIPT, decimal, ascending

// Reads the items.
class ItemReader {
 public:
  explicit ItemReader(const char* at) : at_(at) {}
  bool Done() const { return *at_ == '\0'; }
  // One of the marks, or the end of the item.
  char Mark() { return *at_++; }
  uint32_t Number(uint32_t base = 16) {
    uint32_t value = 0;
    for (;; ++at_) {
      const char c = *at_;
      const uint32_t digit = c >= '0' && c <= '9'   ? static_cast<uint32_t>(c - '0')
                             : c >= 'A' && c <= 'F' ? static_cast<uint32_t>(c - 'A' + 10)
                                                    : 16;
      if (digit >= base) return value;
      value = value * base + digit;
    }
  }
  struct Range {
    uint32_t first, last, step;
  };
  Range ReadRange() {
    Range range{Number(), 0, 1};
    range.last = range.first;
    if (*at_ == '-') {
      ++at_;
      range.last = Number();
    }
    if (*at_ == '/') {
      ++at_;
      range.step = Number();
    }
    return range;
  }

 private:
  const char* at_;
};

}  // namespace planish

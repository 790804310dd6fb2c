// Unicode data as text, read once by unicode_normalize.cc. Items end in ';', code points are
// hexadecimal. RANGE is "41", "41-5A" or, for every second one, "100-12E/2".
#pragma once

namespace planish {

extern const char kUnicodeShifts[];            // RANGE~FIRST or RANGE!FIRST: compatibility or canonical
extern const char kUnicodeDecompositions[];    // CODE~A,B,C compatibility; CODE=A,B canonical; CODE!A,B
                                               // canonical and excluded from composition
extern const char kUnicodeCombiningClasses[];  // RANGE:CLASS, decimal
extern const char kUnicodeLower[];             // RANGE>FIRST

}  // namespace planish

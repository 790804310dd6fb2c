#include "formats/unicode_normalize.h"

#include <algorithm>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/check.h"
#include "formats/tokenizer_unicode.h"
#include "formats/unicode_data.h"

namespace planish {
namespace {

// Hangul syllables are composed by arithmetic (Unicode standard, section 3.12).
constexpr uint32_t kSBase = 0xAC00, kLBase = 0x1100, kVBase = 0x1161, kTBase = 0x11A7;
constexpr uint32_t kLCount = 19, kVCount = 21, kTCount = 28, kSCount = kLCount * kVCount * kTCount;

// Below this nothing changes in NFC; below 0xA0 in no form.
constexpr uint32_t kFirstComposing = 0x300, kFirstCompatible = 0xA0;

struct Tables {
  struct Decomposition {
    bool compatible = false;
    std::u32string parts;
  };
  std::unordered_map<uint32_t, Decomposition> decompositions;
  std::unordered_map<uint64_t, uint32_t> compositions;  // first << 32 | second
  std::unordered_map<uint32_t, uint8_t> classes;
  std::unordered_map<uint32_t, uint32_t> lower;

  Tables() {
    for (ItemReader in(kUnicodeShifts); !in.Done();) {
      const auto range = in.ReadRange();
      const bool compatible = in.Mark() == '~';
      const uint32_t to = in.Number();
      for (uint32_t c = range.first; c <= range.last; c += range.step) {
        decompositions[c] = {compatible, {static_cast<char32_t>(to + c - range.first)}};
      }
      PLANISH_CHECK(in.Mark() == ';');
    }
    for (ItemReader in(kUnicodeDecompositions); !in.Done();) {
      const uint32_t c = in.Number();
      const char mark = in.Mark();
      Decomposition& entry = decompositions[c];
      entry.compatible = mark == '~';
      do {
        entry.parts.push_back(static_cast<char32_t>(in.Number()));
      } while (in.Mark() == ',');
      if (mark == '=') compositions[uint64_t{entry.parts[0]} << 32 | entry.parts[1]] = c;
    }
    for (ItemReader in(kUnicodeCombiningClasses); !in.Done();) {
      const auto range = in.ReadRange();
      in.Mark();
      const auto value = static_cast<uint8_t>(in.Number(10));
      for (uint32_t c = range.first; c <= range.last; c += range.step) classes[c] = value;
      in.Mark();
    }
    for (ItemReader in(kUnicodeLower); !in.Done();) {
      const auto range = in.ReadRange();
      in.Mark();
      const uint32_t to = in.Number();
      for (uint32_t c = range.first; c <= range.last; c += range.step) lower[c] = to + c - range.first;
      in.Mark();
    }
  }
  static const Tables& Get() {
    static const Tables tables;
    return tables;
  }
  uint8_t Class(uint32_t c) const {
    if (c < kFirstComposing) return 0;
    const auto it = classes.find(c);
    return it == classes.end() ? 0 : it->second;
  }
  // 0: the pair does not compose.
  uint32_t Compose(uint32_t a, uint32_t b) const {
    if (a - kLBase < kLCount && b - kVBase < kVCount) {
      return kSBase + ((a - kLBase) * kVCount + (b - kVBase)) * kTCount;
    }
    if (a - kSBase < kSCount && (a - kSBase) % kTCount == 0 && b > kTBase && b < kTBase + kTCount) {
      return a + (b - kTBase);
    }
    const auto it = compositions.find(uint64_t{a} << 32 | b);
    return it == compositions.end() ? 0 : it->second;
  }
  void AppendDecomposed(uint32_t c, bool compatible, std::u32string* out) const {
    if (c - kSBase < kSCount) {
      const uint32_t s = c - kSBase;
      out->push_back(static_cast<char32_t>(kLBase + s / (kVCount * kTCount)));
      out->push_back(static_cast<char32_t>(kVBase + s / kTCount % kVCount));
      if (s % kTCount > 0) out->push_back(static_cast<char32_t>(kTBase + s % kTCount));
      return;
    }
    const auto it = c < kFirstCompatible ? decompositions.end() : decompositions.find(c);
    if (it == decompositions.end() || (it->second.compatible && !compatible)) {
      out->push_back(static_cast<char32_t>(c));
      return;
    }
    for (const char32_t part : it->second.parts) AppendDecomposed(part, compatible, out);
  }
};

// Sorts each run of combining marks by class, keeping the order of equals.
void Reorder(const Tables& tables, std::u32string* text) {
  for (size_t begin = 0; begin < text->size();) {
    if (tables.Class((*text)[begin]) == 0) {
      ++begin;
      continue;
    }
    size_t end = begin;
    while (end < text->size() && tables.Class((*text)[end]) != 0) ++end;
    std::stable_sort(text->begin() + static_cast<std::ptrdiff_t>(begin),
                     text->begin() + static_cast<std::ptrdiff_t>(end),
                     [&](char32_t a, char32_t b) { return tables.Class(a) < tables.Class(b); });
    begin = end;
  }
}

void ComposeInPlace(const Tables& tables, std::u32string* text) {
  size_t out = 0, starter = text->size();
  uint8_t last_class = 0;  // of what stands between the starter and here; 0 right behind it
  for (size_t i = 0; i < text->size(); ++i) {
    const char32_t c = (*text)[i];
    const uint8_t own = tables.Class(c);
    const bool adjacent = starter < out && starter + 1 == out;
    if (starter < out && (adjacent || (last_class != 0 && last_class < own))) {
      if (const uint32_t joined = tables.Compose((*text)[starter], c)) {
        (*text)[starter] = static_cast<char32_t>(joined);
        continue;
      }
    }
    if (own == 0) starter = out;
    last_class = own;
    (*text)[out++] = c;
  }
  text->resize(out);
}

}  // namespace

std::string NormalizeUnicode(std::string_view text, UnicodeForm form) {
  const bool composed = form == UnicodeForm::kNfc || form == UnicodeForm::kNfkc;
  const bool compatible = form == UnicodeForm::kNfkc || form == UnicodeForm::kNfkd;
  const uint32_t inert = form == UnicodeForm::kNfc ? kFirstComposing : kFirstCompatible;
  const Tables& tables = Tables::Get();
  std::string out;
  out.reserve(text.size());
  std::u32string span;
  for (size_t at = 0, length = 0; at < text.size();) {
    // Characters that stay as they are, up to the last one before a character that may change: with
    // that one a mark could compose.
    size_t end = at, last = at;
    for (uint32_t c = 0; end < text.size(); end += length) {
      c = Utf8Decode(text.data() + end, &length);
      if (c >= inert) break;
      last = end;
    }
    const bool all = end == text.size();
    out.append(text.substr(at, (all ? end : last) - at));
    if (all) break;
    at = last;
    span.clear();
    // On to the next inert character that is not the first of this span.
    for (bool changed = false; at < text.size(); at += length) {
      const uint32_t c = Utf8Decode(text.data() + at, &length);
      if (c < inert && changed) break;
      changed |= c >= inert;
      tables.AppendDecomposed(c, compatible, &span);
    }
    Reorder(tables, &span);
    if (composed) ComposeInPlace(tables, &span);
    for (const char32_t c : span) AppendUtf8(c, &out);
  }
  return out;
}

void AppendLower(uint32_t c, std::string* out) {
  if (c == 0x130) {
    out->append("i\xCC\x87");
    return;
  }
  const auto& lower = Tables::Get().lower;
  const auto it = lower.find(c);
  AppendUtf8(it == lower.end() ? c : it->second, out);
}

}  // namespace planish

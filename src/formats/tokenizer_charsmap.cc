#include "formats/tokenizer_charsmap.h"

#include <fmt/format.h>

#include <cstring>

#include "formats/tokenizer_unicode.h"

namespace planish {

Result<CharsMap> CharsMap::Parse(std::string_view bytes) {
  constexpr size_t kUnitBytes = 4;
  uint32_t trie_bytes = 0;
  if (bytes.size() < sizeof(trie_bytes)) {
    return InputError(fmt::format("charsmap: {} bytes, expected at least 4", bytes.size()));
  }
  std::memcpy(&trie_bytes, bytes.data(), sizeof(trie_bytes));
  bytes.remove_prefix(sizeof(trie_bytes));
  if (trie_bytes == 0 || trie_bytes % kUnitBytes != 0 || trie_bytes > bytes.size()) {
    return InputError(
        fmt::format("charsmap: a trie of {} bytes, expected a multiple of {} up to the {} that follow",
                    trie_bytes, kUnitBytes, bytes.size()));
  }
  CharsMap map;
  map.units_.resize(trie_bytes / kUnitBytes);
  std::memcpy(map.units_.data(), bytes.data(), trie_bytes);
  map.pool_ = bytes.substr(trie_bytes);
  if (const auto offset = FindInvalidUtf8(map.pool_)) {
    return InputError(fmt::format("charsmap: its strings are not UTF-8 at byte {}", *offset));
  }
  // A string begins at a character and ends before a zero, so every value gives valid UTF-8.
  if (!map.pool_.empty() && map.pool_.back() != '\0')
    return InputError("charsmap: its last string does not end");
  for (size_t i = 0; i < map.units_.size(); ++i) {
    const uint32_t value = Value(map.units_[i]);
    if (!IsValue(map.units_[i])) continue;
    if (value >= map.pool_.size()) {
      return InputError(fmt::format("charsmap: unit {}: string at {} is outside of the {} bytes of strings",
                                    i, value, map.pool_.size()));
    }
    if ((static_cast<uint8_t>(map.pool_[value]) & 0xC0) == 0x80) {
      return InputError(
          fmt::format("charsmap: unit {}: string at {} begins inside of a character", i, value));
    }
  }
  for (size_t c = 0; c < map.keeps_ascii_.size(); ++c)
    map.keeps_ascii_[c] = map.FindsKeptAscii(static_cast<uint8_t>(c));
  return map;
}

bool CharsMap::FindsKeptAscii(uint8_t c) const {
  uint32_t node = Offset(units_[0]), unit = 0;
  if (!Step(c, &node, &unit)) return true;
  if (HasLeaf(unit)) return false;
  for (uint8_t next = 0; next < 128; ++next) {
    uint32_t below = node;
    if (Step(next, &below, &unit)) return false;
  }
  return true;
}

CharsMap::Match CharsMap::Find(std::string_view text, bool longest) const {
  Match found;
  uint32_t node = Offset(units_[0]), unit = 0;
  for (size_t i = 0; i < text.size() && Step(static_cast<uint8_t>(text[i]), &node, &unit); ++i) {
    if (!HasLeaf(unit) || node >= units_.size() || !IsValue(units_[node])) continue;
    found.length = i + 1;
    found.replacement = pool_.data() + Value(units_[node]);
    if (!longest) break;
  }
  return found;
}

}  // namespace planish

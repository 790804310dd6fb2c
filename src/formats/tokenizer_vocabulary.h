// Token strings and their ids, of the model and of the added tokens.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "base/result.h"

namespace planish {

// U+2581, which stands for a space in the tokens of SentencePiece and its relatives.
inline constexpr std::string_view kSpaceSymbol = "\xE2\x96\x81";

// Ids are refused from here on, so that a hostile file cannot ask for gigabytes of tables. Real
// vocabularies stay below 0.3 million.
inline constexpr int64_t kMaxTokenId = int64_t{1} << 22;

// An id from JSON: an integer in [0, kMaxTokenId).
Result<int32_t> ParseTokenId(const Json& json, std::string_view place);

class Vocabulary {
 public:
  // An id or a string that is there already is an error, unless both belong together.
  Status Add(std::string_view token, int32_t id);
  std::optional<int32_t> Find(std::string_view token) const;
  // The token's string; nullopt for ids that no token has.
  std::optional<std::string_view> Token(int32_t id) const;
  // Highest id + 1.
  int64_t size() const { return static_cast<int64_t>(entries_.size()); }

 private:
  struct Entry {
    size_t offset = 0;
    uint32_t length = kAbsent;
  };
  static constexpr uint32_t kAbsent = UINT32_MAX;
  size_t Slot(std::string_view token) const;
  void Grow();

  std::string arena_;
  std::vector<Entry> entries_;  // by id
  std::vector<int32_t> slots_;  // open addressing, power of two; -1: free
  size_t used_ = 0;
};

}  // namespace planish

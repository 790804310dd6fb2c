#include "formats/tokenizer_vocabulary.h"

#include <fmt/format.h>

#include <functional>

namespace planish {

Result<int32_t> ParseTokenId(const Json& json, std::string_view place) {
  if (json.is_number_integer()) {
    const bool huge = json.is_number_unsigned() && json.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX);
    const int64_t id = huge ? INT64_MAX : json.get<int64_t>();
    if (id >= 0 && id < kMaxTokenId) return static_cast<int32_t>(id);
  }
  return InputError(fmt::format("{}: id {} is not an integer in [0, {})", place, DumpJson(json).substr(0, 40),
                                kMaxTokenId));
}

size_t Vocabulary::Slot(std::string_view token) const {
  const size_t mask = slots_.size() - 1;
  size_t slot = std::hash<std::string_view>()(token) & mask;
  while (slots_[slot] >= 0 && Token(slots_[slot]) != token) slot = (slot + 1) & mask;
  return slot;
}

void Vocabulary::Grow() {
  const std::vector<int32_t> old = std::move(slots_);
  slots_.assign(old.empty() ? 256 : old.size() * 2, -1);
  for (const int32_t id : old) {
    if (id >= 0) slots_[Slot(*Token(id))] = id;
  }
}

Status Vocabulary::Add(std::string_view token, int32_t id) {
  const auto known = Find(token);
  const auto holder = Token(id);
  if (known == id) return {};
  if (known) {
    return InputError(fmt::format("token '{}' has two ids, {} and {}", token, *known, id));
  }
  if (holder) {
    return InputError(fmt::format("id {} belongs to two tokens, '{}' and '{}'", id, *holder, token));
  }
  if ((used_ + 1) * 2 > slots_.size()) Grow();
  if (static_cast<size_t>(id) >= entries_.size()) entries_.resize(static_cast<size_t>(id) + 1);
  const size_t slot = Slot(token);
  entries_[id] = {arena_.size(), static_cast<uint32_t>(token.size())};
  arena_.append(token);
  slots_[slot] = id;
  ++used_;
  return {};
}

std::optional<int32_t> Vocabulary::Find(std::string_view token) const {
  if (slots_.empty()) return std::nullopt;
  const int32_t id = slots_[Slot(token)];
  if (id < 0) return std::nullopt;
  return id;
}

std::optional<std::string_view> Vocabulary::Token(int32_t id) const {
  if (id < 0 || id >= size() || entries_[id].length == kAbsent) return std::nullopt;
  return std::string_view(arena_).substr(entries_[id].offset, entries_[id].length);
}

}  // namespace planish

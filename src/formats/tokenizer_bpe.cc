#include "formats/tokenizer_bpe.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <functional>

#include "formats/tokenizer_unicode.h"

namespace planish {
namespace {

// Below this many symbols a scan for the lowest rank beats a heap.
constexpr size_t kShortWord = 64;
// Of continuing_subword_prefix and end_of_word_suffix, which every character may get.
constexpr size_t kMaxAffixBytes = 64;

// The two parts of a merge: "left right" or ["left", "right"].
Result<std::pair<std::string, std::string>> MergeParts(const Json& merge) {
  if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
    return std::pair{merge[0].get<std::string>(), merge[1].get<std::string>()};
  }
  if (merge.is_string()) {
    const auto& text = merge.get_ref<const std::string&>();
    const size_t space = text.find(' ');
    if (space != std::string::npos && text.find(' ', space + 1) == std::string::npos) {
      return std::pair{text.substr(0, space), text.substr(space + 1)};
    }
  }
  return InputError(fmt::format("expected \"left right\" or [\"left\", \"right\"], found {}",
                                DumpJson(merge).substr(0, 60)));
}

// Start of the first run of space symbols behind `from`, or the end.
size_t NextSpaceRun(std::string_view text, size_t from) {
  for (size_t at = text.find(kSpaceSymbol, from + 1); at != text.npos; at = text.find(kSpaceSymbol, at + 1)) {
    if (at < kSpaceSymbol.size() ||
        text.substr(at - kSpaceSymbol.size(), kSpaceSymbol.size()) != kSpaceSymbol) {
      return at;
    }
  }
  return text.size();
}

// True for tokens in which a run of space symbols begins behind something else.
bool ReachesOverSpaces(std::string_view token) {
  return !token.empty() && NextSpaceRun(token, 0) < token.size();
}

// Pieces that merging can make. User-defined ones are cut out before.
bool Joins(const Piece& piece) {
  return piece.type == PieceType::kNormal || piece.type == PieceType::kUnused;
}

// A word of at most 24 bytes as three numbers: together with the length they determine it.
std::array<uint64_t, 3> PackWord(std::string_view word) {
  const char* p = word.data();
  const size_t n = word.size();
  const auto load = [p]<typename T>(size_t at, T value) {
    std::memcpy(&value, p + at, sizeof(T));
    return value;
  };
  if (n >= 16) return {load(0, uint64_t{}), load(8, uint64_t{}), load(n - 8, uint64_t{})};
  if (n >= 8) return {load(0, uint64_t{}), load(n - 8, uint64_t{}), 0};
  if (n >= 4) return {uint64_t{load(0, uint32_t{})} << 32 | load(n - 4, uint32_t{}), 0, 0};
  const auto at = [p](size_t i) { return static_cast<uint64_t>(static_cast<uint8_t>(p[i])); };
  return {at(0) << 16 | at(n / 2) << 8 | at(n - 1), 0, 0};
}

size_t HashWord(const std::array<uint64_t, 3>& key, size_t length) {
  uint64_t h = (key[0] + length) * 0x9E3779B97F4A7C15u;
  h = (std::rotl(h, 29) ^ key[1]) * 0xBF58476D1CE4E5B9u;
  h = (std::rotl(h, 29) ^ key[2]) * 0x94D049BB133111EBu;
  return h ^ h >> 32;
}

}  // namespace

void MergeTable::Reserve(size_t merges) {
  const size_t size = std::bit_ceil(merges * 2 + 2);
  slots_.assign(size, Slot{kFree, kNone, -1});
  mask_ = size - 1;
}

void MergeTable::Add(int32_t left, int32_t right, int32_t joined, uint32_t rank) {
  const uint64_t key = Key(left, right);
  size_t slot = Hash(key) & mask_;
  while (slots_[slot].key != kFree && slots_[slot].key != key) slot = (slot + 1) & mask_;
  slots_[slot] = {key, rank, joined};
}

void BpeModel::CharacterTable::Set(uint32_t character, int32_t symbol) {
  uint16_t& page = index_[character >> 8];
  if (page == 0) {
    page = static_cast<uint16_t>(pages_.size());
    pages_.push_back(EmptyPage());
  }
  pages_[page][character & 255] = symbol;
}

// Large enough for the frequent words of a text, small enough for the second-level cache.
BpeModel::Scratch::Scratch(const BpeModel& model) : slots_(model.cache_slots_) {}

Status BpeModel::ParseOptions(const Json& json) {
  PLANISH_TRY(const double dropout, JsonNumber(json, "dropout", 0.0));
  if (dropout != 0)
    return InputError(fmt::format("dropout {} is not supported, expected null or 0", dropout));
  PLANISH_TRY(continuing_prefix_, JsonString(json, "continuing_subword_prefix", ""));
  PLANISH_TRY(end_suffix_, JsonString(json, "end_of_word_suffix", ""));
  for (const std::string* affix : {&continuing_prefix_, &end_suffix_}) {
    if (affix->size() > kMaxAffixBytes) {
      return InputError(fmt::format("a prefix or suffix of {} bytes; at most {} are accepted", affix->size(),
                                    kMaxAffixBytes));
    }
  }
  PLANISH_TRY(ignore_merges_, JsonBool(json, "ignore_merges", false));
  PLANISH_TRY(byte_fallback_, JsonBool(json, "byte_fallback", false));
  PLANISH_TRY(fuse_unk_, JsonBool(json, "fuse_unk", false));
  return {};
}

Status BpeModel::ParseMerges(const Json& json) {
  const auto it = json.find("merges");
  if (it == json.end() || !it->is_array()) {
    return InputError("merges: expected a list of pairs (a BPE model needs one, if only an empty one)");
  }
  merges_.Reserve(it->size());
  for (size_t i = 0; i < it->size(); ++i) {
    const std::string place = fmt::format("merges[{}]", i);
    auto parts = MergeParts((*it)[i]);
    if (!parts.ok()) return parts.error().At(place);
    const auto& [left, right] = *parts;
    int32_t ids[3];
    int n = 0;
    // The prefix of continuations stands in front of the joined token only once.
    const size_t skip = right.starts_with(continuing_prefix_) ? continuing_prefix_.size() : 0;
    for (const std::string& token : {left, right, left + right.substr(skip)}) {
      const auto id = vocabulary_.Find(token);
      if (token.empty() || !id) {
        return InputError(fmt::format("{}: '{}' + '{}' needs token '{}', which is not in the vocabulary",
                                      place, left, right, token));
      }
      ids[n++] = *id;
    }
    merges_.Add(ids[0], ids[1], ids[2], static_cast<uint32_t>(i));
  }
  return {};
}

Status BpeModel::ResolveSpecials(const Json& json) {
  PLANISH_TRY(const std::string unk, JsonString(json, "unk_token", ""));
  if (!unk.empty()) {
    const auto id = vocabulary_.Find(unk);
    if (!id) return InputError(fmt::format("unk_token '{}' is not in the vocabulary", unk));
    unk_ = *id;
  }
  return {};
}

void BpeModel::FillTables() {
  for (int b = 0; b < 256; ++b) {
    fallback_[b] = vocabulary_.Find(fmt::format("<0x{:02X}>", b)).value_or(-1);
  }
  for (int32_t id = 0; id < vocabulary_.size(); ++id) {
    const auto token = vocabulary_.Token(id);
    if (!token || token->empty() || Utf8Length(token->front()) != token->size()) continue;
    size_t length = 0;
    characters_.Set(Utf8Decode(token->data(), &length), id);
  }
  cache_slots_ = std::bit_ceil(std::clamp<size_t>(static_cast<size_t>(vocabulary_.size()), 128, 8192) * 2);
}

Result<BpeModel> BpeModel::Parse(const Json& json, bool byte_level) {
  BpeModel model;
  model.byte_level_ = byte_level;
  PLANISH_RETURN_IF_ERROR(model.ParseOptions(json));
  const auto it = json.find("vocab");
  if (it == json.end() || !it->is_object()) return InputError("vocab: expected an object {token: id}");
  for (const auto& [token, value] : it->items()) {
    PLANISH_TRY(const int32_t id, ParseTokenId(value, fmt::format("vocab['{}']", token)));
    const Status status = model.vocabulary_.Add(token, id);
    if (!status.ok()) return status.error().At("vocab");
  }
  PLANISH_RETURN_IF_ERROR(model.ParseMerges(json));
  PLANISH_RETURN_IF_ERROR(model.ResolveSpecials(json));
  model.FillTables();
  if (byte_level) {
    for (int b = 0; b < 256; ++b) {
      Initial initial = model.InitialOf(ByteToAlphabet(static_cast<uint8_t>(b)));
      model.byte_symbols_[b] = initial.kind == Initial::kIds ? initial.ids[0] : -1;
      model.byte_initial_.push_back(std::move(initial));
    }
  }
  model.cut_at_spaces_ = model.CanCutAtSpaces();
  return model;
}

Status BpeModel::AddPieces(const SentencePieceModel& pieces) {
  for (size_t i = 0; i < pieces.pieces.size(); ++i) {
    const Piece& piece = pieces.pieces[i];
    const auto id = static_cast<int32_t>(i);
    PLANISH_RETURN_IF_ERROR(vocabulary_.Add(piece.text, id));
    if (piece.type == PieceType::kUserDefined)
      user_defined_.Add({.id = id, .content = piece.text}, piece.text);
  }
  return {};
}

// The symbol of a part of a piece: a character, or a piece that merging can make; -1: neither.
int32_t BpeModel::PieceSymbol(const SentencePieceModel& pieces, std::string_view text) {
  size_t length = 0;
  const uint32_t character = Utf8Decode(text.data(), &length);
  if (length < text.size()) {
    const auto id = vocabulary_.Find(text);
    return id && Joins(pieces.pieces[static_cast<size_t>(*id)]) ? *id : -1;
  }
  if (characters_[character] < 0) {
    const Initial initial = InitialOf(text);
    const auto symbol = static_cast<int32_t>(vocabulary_.size() + static_cast<int64_t>(written_.size()));
    written_[symbol] = initial.kind == Initial::kFallback ? initial.ids : std::vector<int32_t>{unk_};
    characters_.Set(character, symbol);
  }
  return characters_[character];
}

void BpeModel::AddPieceMerges(const SentencePieceModel& pieces) {
  struct Merge {
    int32_t left, right, joined;
  };
  std::vector<Merge> merges;
  std::vector<float> scores;
  for (size_t i = 0; i < pieces.pieces.size(); ++i) {
    const Piece& piece = pieces.pieces[i];
    if (!Joins(piece)) continue;
    const std::string_view text = piece.text;
    for (size_t at = Utf8Length(text[0]); at < text.size(); at += Utf8Length(text[at])) {
      const int32_t left = PieceSymbol(pieces, text.substr(0, at)),
                    right = PieceSymbol(pieces, text.substr(at));
      if (left >= 0 && right >= 0) merges.push_back({left, right, static_cast<int32_t>(i)});
    }
    scores.push_back(piece.score);
  }
  std::ranges::sort(scores, std::greater<>());
  scores.erase(std::unique(scores.begin(), scores.end()), scores.end());
  merges_.Reserve(merges.size());
  for (const Merge& merge : merges) {
    const float score = pieces.pieces[static_cast<size_t>(merge.joined)].score;
    const auto rank = std::ranges::lower_bound(scores, score, std::greater<>()) - scores.begin();
    merges_.Add(merge.left, merge.right, merge.joined, static_cast<uint32_t>(rank));
  }
}

// An unused piece is written as what merging its characters gives before they become that piece.
void BpeModel::AddUnused(int32_t id, std::string_view piece) {
  std::vector<int32_t> symbols;
  FillSymbols(piece, &symbols);
  if (symbols.size() < 2) return;  // a character stays
  while (symbols.size() > 1) {
    size_t best = 0;
    uint32_t lowest = MergeTable::kNone;
    for (size_t i = 0; i + 1 < symbols.size(); ++i) {
      const uint32_t rank = merges_.Rank(symbols[i], symbols[i + 1]);
      if (rank < lowest) lowest = rank, best = i;
    }
    if (lowest == MergeTable::kNone) break;
    const int32_t joined = merges_.Joined(symbols[best], symbols[best + 1]);
    if (joined == id) break;
    symbols[best] = joined;
    symbols.erase(symbols.begin() + static_cast<std::ptrdiff_t>(best) + 1);
  }
  std::vector<int32_t> ids;
  AppendWritten(symbols, &ids);
  written_[id] = std::move(ids);
}

Result<BpeModel> BpeModel::FromPieces(const SentencePieceModel& pieces) {
  BpeModel model;
  model.from_pieces_ = true;
  model.byte_fallback_ = pieces.byte_fallback;
  model.fuse_unk_ = true;
  model.unk_ = pieces.unk;
  PLANISH_RETURN_IF_ERROR(model.AddPieces(pieces));
  model.FillTables();
  model.AddPieceMerges(pieces);
  std::vector<int32_t> unused;
  model.cut_at_spaces_ = model.vocabulary_.Find(kSpaceSymbol).has_value();
  for (size_t i = 0; i < pieces.pieces.size(); ++i) {
    const Piece& piece = pieces.pieces[i];
    if (piece.type == PieceType::kUnused) unused.push_back(static_cast<int32_t>(i));
    if (Joins(piece) && ReachesOverSpaces(piece.text)) model.cut_at_spaces_ = false;
  }
  // Short ones first: they can be parts of longer ones.
  const auto text = [&pieces](int32_t id) -> std::string_view {
    return pieces.pieces[static_cast<size_t>(id)].text;
  };
  std::ranges::stable_sort(unused, {}, [&text](int32_t id) { return text(id).size(); });
  for (const int32_t id : unused) model.AddUnused(id, text(id));
  return model;
}

BpeModel::Initial BpeModel::InitialOf(std::string_view symbol) const {
  if (const auto id = vocabulary_.Find(symbol)) return {Initial::kIds, {*id}};
  Initial fallback{Initial::kFallback, {}};
  if (!byte_fallback_) return {Initial::kUnknown, {}};
  for (const char c : symbol) fallback.ids.push_back(fallback_[static_cast<uint8_t>(c)]);
  if (std::ranges::count(fallback.ids, -1) == 0) return fallback;
  return {Initial::kUnknown, {}};
}

// Of the character (byte, if byte-level) at `at`, with what its place in the word puts around it.
BpeModel::Initial BpeModel::InitialAt(std::string_view word, size_t at, size_t length) const {
  if (continuing_prefix_.empty() && end_suffix_.empty()) {
    return byte_level_ ? byte_initial_[static_cast<uint8_t>(word[at])] : InitialOf(word.substr(at, length));
  }
  std::string symbol = at > 0 ? continuing_prefix_ : std::string();
  symbol.append(byte_level_ ? ByteToAlphabet(static_cast<uint8_t>(word[at])) : word.substr(at, length));
  if (at + length == word.size()) symbol.append(end_suffix_);
  return InitialOf(symbol);
}

void BpeModel::FillSymbols(std::string_view word, std::vector<int32_t>* symbols) const {
  symbols->clear();
  // A pending unknown is written before the next known character; bytes that stand for a character
  // overtake it, as in the reference.
  bool pending = false;
  const bool plain = continuing_prefix_.empty() && end_suffix_.empty();
  for (size_t at = 0, length = 1; at < word.size(); at += length) {
    if (!byte_level_) length = Utf8Length(word[at]);
    if (plain && !pending) {
      size_t same = 0;
      const int32_t known = byte_level_ ? byte_symbols_[static_cast<uint8_t>(word[at])]
                                        : characters_[Utf8Decode(word.data() + at, &same)];
      if (known >= 0) {
        symbols->push_back(known);
        continue;
      }
    }
    const Initial initial = InitialAt(word, at, length);
    if (initial.kind == Initial::kUnknown) {
      if (unk_ < 0) continue;
      if (pending && !fuse_unk_) symbols->push_back(unk_);
      pending = true;
      continue;
    }
    if (pending && initial.kind == Initial::kIds) {
      symbols->push_back(unk_);
      pending = false;
    }
    symbols->insert(symbols->end(), initial.ids.begin(), initial.ids.end());
  }
  if (pending) symbols->push_back(unk_);
}

// The symbol itself must be known, so that a pending unknown is written before it in both cases.
bool BpeModel::CanCutAtSpaces() const {
  const bool affixes = !continuing_prefix_.empty() || !end_suffix_.empty();
  if (byte_level_ || ignore_merges_ || affixes || !vocabulary_.Find(kSpaceSymbol)) return false;
  for (int32_t id = 0; id < vocabulary_.size(); ++id) {
    const auto token = vocabulary_.Token(id);
    if (token && ReachesOverSpaces(*token)) return false;
  }
  return true;
}

void BpeModel::EncodeWord(std::string_view word, WordModel::Scratch* scratch,
                          std::vector<int32_t>* ids) const {
  auto* own = static_cast<Scratch*>(scratch);
  if (user_defined_.empty()) {
    EncodeText(word, own, ids);
    return;
  }
  for (const auto& [text, id] : user_defined_.Split(word, true)) {
    if (id >= 0) {
      ids->push_back(id);
    } else {
      EncodeText(text, own, ids);
    }
  }
}

void BpeModel::EncodeText(std::string_view text, Scratch* scratch, std::vector<int32_t>* ids) const {
  if (!cut_at_spaces_) {
    Encode(text, scratch, ids);
    return;
  }
  for (size_t at = 0; at < text.size();) {
    const size_t end = NextSpaceRun(text, at);
    Encode(text.substr(at, end - at), scratch, ids);
    at = end;
  }
}

void BpeModel::Encode(std::string_view word, Scratch* scratch, std::vector<int32_t>* ids) const {
  if (word.size() > Scratch::kKeyBytes) {
    EncodeUncached(word, scratch, ids);
    return;
  }
  const auto key = PackWord(word);
  const size_t home = HashWord(key, word.size()) & (scratch->slots_.size() - 1);
  for (const size_t at : {home, home ^ 1}) {
    const Scratch::Slot& slot = scratch->slots_[at];
    if (slot.length == word.size() && slot.key == key) {
      ids->insert(ids->end(), slot.ids.begin(), slot.ids.begin() + slot.num_ids);
      return;
    }
  }
  const size_t before = ids->size();
  EncodeUncached(word, scratch, ids);
  const size_t count = ids->size() - before;
  if (count > Scratch::kMaxIds) return;
  // The older word of the two slots goes.
  Scratch::Slot& slot = scratch->slots_[home];
  if (slot.length > 0) scratch->slots_[home ^ 1] = slot;
  slot.key = key;
  slot.length = static_cast<uint8_t>(word.size());
  slot.num_ids = static_cast<uint8_t>(count);
  std::copy_n(ids->begin() + static_cast<std::ptrdiff_t>(before), count, slot.ids.begin());
}

void BpeModel::EncodeUncached(std::string_view word, Scratch* scratch, std::vector<int32_t>* ids) const {
  if (ignore_merges_) {
    std::string token;
    if (byte_level_) {
      for (const char c : word) token.append(ByteToAlphabet(static_cast<uint8_t>(c)));
    }
    if (const auto id = vocabulary_.Find(byte_level_ ? std::string_view(token) : word)) {
      ids->push_back(*id);
      return;
    }
  }
  FillSymbols(word, &scratch->symbols_);
  if (scratch->symbols_.size() <= kShortWord) {
    MergeShort(scratch);
  } else {
    MergeLong(scratch);
  }
  if (from_pieces_) {
    AppendWritten(scratch->symbols_, ids);
  } else {
    ids->insert(ids->end(), scratch->symbols_.begin(), scratch->symbols_.end());
  }
}

// Adjacent unknowns of a SentencePiece model are one.
void BpeModel::AppendWritten(std::span<const int32_t> symbols, std::vector<int32_t>* ids) const {
  const size_t start = ids->size();
  const auto append = [&](int32_t id) {
    if (id != unk_ || ids->size() == start || ids->back() != unk_) ids->push_back(id);
  };
  for (const int32_t symbol : symbols) {
    const auto written = written_.empty() ? written_.end() : written_.find(symbol);
    if (written == written_.end()) {
      append(symbol);
    } else {
      std::ranges::for_each(written->second, append);
    }
  }
}

void BpeModel::MergeShort(Scratch* scratch) const {
  std::vector<int32_t>& symbols = scratch->symbols_;
  std::vector<uint32_t>& ranks = scratch->ranks_;  // ranks[i]: of symbols i and i + 1
  if (symbols.size() < 2) return;
  ranks.resize(symbols.size() - 1);
  for (size_t i = 0; i < ranks.size(); ++i) ranks[i] = merges_.Rank(symbols[i], symbols[i + 1]);
  while (!ranks.empty()) {
    const auto lowest = std::ranges::min_element(ranks);
    if (*lowest == MergeTable::kNone) return;
    const size_t at = static_cast<size_t>(lowest - ranks.begin());
    symbols[at] = merges_.Joined(symbols[at], symbols[at + 1]);
    symbols.erase(symbols.begin() + static_cast<std::ptrdiff_t>(at) + 1);
    ranks.erase(lowest);
    if (at < ranks.size()) ranks[at] = merges_.Rank(symbols[at], symbols[at + 1]);
    if (at > 0) ranks[at - 1] = merges_.Rank(symbols[at - 1], symbols[at]);
  }
}

void BpeModel::MergeLong(Scratch* scratch) const {
  std::vector<Scratch::Symbol>& list = scratch->list_;
  std::vector<uint64_t>& heap = scratch->heap_;  // rank << 32 | index of the left symbol
  list.clear();
  heap.clear();
  const auto n = static_cast<int32_t>(scratch->symbols_.size());
  for (int32_t i = 0; i < n; ++i) list.push_back({scratch->symbols_[i], i - 1, i + 1 < n ? i + 1 : -1});
  const auto entry = [&](int32_t left) -> uint64_t {
    const uint32_t rank = merges_.Rank(list[left].id, list[list[left].next].id);
    return rank == MergeTable::kNone ? UINT64_MAX : uint64_t{rank} << 32 | static_cast<uint32_t>(left);
  };
  const auto push = [&](int32_t left) {
    if (left < 0 || list[left].next < 0) return;
    if (const uint64_t e = entry(left); e != UINT64_MAX) {
      heap.push_back(e);
      std::ranges::push_heap(heap, std::greater<>());
    }
  };
  for (int32_t i = 0; i + 1 < n; ++i) {
    if (const uint64_t e = entry(i); e != UINT64_MAX) heap.push_back(e);
  }
  std::ranges::make_heap(heap, std::greater<>());
  while (!heap.empty()) {
    std::ranges::pop_heap(heap, std::greater<>());
    const uint64_t top = heap.back();
    heap.pop_back();
    const auto left = static_cast<int32_t>(top & 0xFFFFFFFFu);
    // Entries of pairs that have changed since are stale.
    if (list[left].id < 0 || list[left].next < 0 || entry(left) != top) continue;
    const int32_t right = list[left].next;
    list[left].id = merges_.Joined(list[left].id, list[right].id);
    list[left].next = list[right].next;
    list[right].id = -1;
    if (list[left].next >= 0) list[list[left].next].previous = left;
    push(left);
    push(list[left].previous);
  }
  scratch->symbols_.clear();
  for (int32_t i = 0; i >= 0; i = list[i].next) scratch->symbols_.push_back(list[i].id);
}

}  // namespace planish

// Byte pair encoding of words: the "model" of type BPE in tokenizer.json, and SentencePiece models of that
// kind.
//
// A word starts as one symbol per character; the adjacent pair of lowest rank, leftmost among
// equals, is joined until no listed pair is left. Short words scan for the minimum; long ones keep
// a heap, so that n symbols cost O(n log n). Results of short words are cached.
//
// SentencePiece has no list of merges: any two neighbors join whose text is a piece, that of the highest
// score first. Every way to cut a piece in two symbols is a merge then, ranked by the piece's score. A symbol
// may also be a character that is no piece itself; such characters have numbers from the size of the
// vocabulary on.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "base/result.h"
#include "formats/sentencepiece.h"
#include "formats/tokenizer_added.h"
#include "formats/tokenizer_model.h"

namespace planish {

// Rank and result of joining two symbols: open addressing by both.
class MergeTable {
 public:
  static constexpr uint32_t kNone = UINT32_MAX;
  void Reserve(size_t merges);
  // Of equal ranks, the leftmost pair of a word comes first. A pair given twice keeps its later rank, as in
  // the reference.
  void Add(int32_t left, int32_t right, int32_t joined, uint32_t rank);
  // kNone when the pair is not joined.
  uint32_t Rank(int32_t left, int32_t right) const { return At(left, right).rank; }
  // Of a pair that has a rank.
  int32_t Joined(int32_t left, int32_t right) const { return At(left, right).joined; }

 private:
  struct Slot {
    uint64_t key;
    uint32_t rank;
    int32_t joined;
  };
  static_assert(sizeof(Slot) == 16, "four slots a cache line");
  static constexpr uint64_t kFree = UINT64_MAX;
  static uint64_t Key(int32_t left, int32_t right) {
    return uint64_t{static_cast<uint32_t>(left)} << 32 | static_cast<uint32_t>(right);
  }
  static size_t Hash(uint64_t key) {
    key *= 0x9E3779B97F4A7C15u;
    return key ^ key >> 29;
  }
  // The pair's slot or a free one.
  const Slot& At(int32_t left, int32_t right) const {
    const uint64_t key = Key(left, right);
    size_t slot = Hash(key) & mask_;
    while (slots_[slot].key != key && slots_[slot].key != kFree) slot = (slot + 1) & mask_;
    return slots_[slot];
  }
  std::vector<Slot> slots_ = std::vector<Slot>(1, Slot{kFree, kNone, -1});
  size_t mask_ = 0;
};

class BpeModel : public WordModel {
 public:
  // Working memory of one thread at a time, with the word cache in it.
  class Scratch : public WordModel::Scratch {
   public:
    explicit Scratch(const BpeModel& model);

   private:
    friend class BpeModel;
    static constexpr size_t kKeyBytes = 24, kMaxIds = 9;
    struct alignas(64) Slot {
      std::array<uint64_t, 3> key;
      std::array<int32_t, kMaxIds> ids;
      uint8_t length;  // of the key; 0: free
      uint8_t num_ids;
    };
    struct Symbol {
      int32_t id, previous, next;  // previous and next: indices, -1 at the ends; id -1: joined away
    };
    static_assert(sizeof(Slot) == 64, "one cache line a word");
    std::vector<Slot> slots_;  // a power of two
    std::vector<int32_t> symbols_;
    std::vector<uint32_t> ranks_;
    std::vector<Symbol> list_;
    std::vector<uint64_t> heap_;
  };

  // `json` is the "model" object; with `byte_level`, words are the bytes that the alphabet's
  // characters stand for. Errors name the field.
  static Result<BpeModel> Parse(const Json& json, bool byte_level);
  // The model must have passed its Check. Errors: strings that two pieces share.
  static Result<BpeModel> FromPieces(const SentencePieceModel& pieces);

  // Appends the ids of one word (not empty, valid UTF-8 unless byte-level).
  void Encode(std::string_view word, Scratch* scratch, std::vector<int32_t>* ids) const;

  std::unique_ptr<WordModel::Scratch> MakeScratch() const override {
    return std::make_unique<Scratch>(*this);
  }
  // User-defined pieces are cut out first. A long word is cut before each U+2581 that begins a run of them,
  // if no token reaches over such a place: merging in parts then gives the same ids, and the parts are short
  // and cached.
  void EncodeWord(std::string_view word, WordModel::Scratch* scratch,
                  std::vector<int32_t>* ids) const override;
  const Vocabulary& vocabulary() const override { return vocabulary_; }

 private:
  // What one character becomes before merging.
  struct Initial {
    enum Kind { kIds, kUnknown, kFallback } kind = kUnknown;
    std::vector<int32_t> ids;
  };
  // Symbols by character: pages of 256 code points.
  class CharacterTable {
   public:
    void Set(uint32_t character, int32_t symbol);
    // -1: none.
    int32_t operator[](uint32_t character) const { return pages_[index_[character >> 8]][character & 255]; }

   private:
    static constexpr size_t kPages = 0x1100;
    using Page = std::array<int32_t, 256>;
    std::vector<uint16_t> index_ = std::vector<uint16_t>(kPages);  // 0: the empty page
    std::vector<Page> pages_ = std::vector<Page>(1, EmptyPage());
    static Page EmptyPage() {
      Page page;
      page.fill(-1);
      return page;
    }
  };
  Status ParseOptions(const Json& json);
  Status ParseMerges(const Json& json);
  Status ResolveSpecials(const Json& json);
  Status AddPieces(const SentencePieceModel& pieces);
  void AddPieceMerges(const SentencePieceModel& pieces);
  int32_t PieceSymbol(const SentencePieceModel& pieces, std::string_view text);
  void AddUnused(int32_t id, std::string_view piece);
  void FillTables();
  Initial InitialOf(std::string_view symbol) const;
  Initial InitialAt(std::string_view word, size_t at, size_t length) const;
  void FillSymbols(std::string_view word, std::vector<int32_t>* symbols) const;
  bool CanCutAtSpaces() const;
  void EncodeText(std::string_view text, Scratch* scratch, std::vector<int32_t>* ids) const;
  void EncodeUncached(std::string_view word, Scratch* scratch, std::vector<int32_t>* ids) const;
  void MergeShort(Scratch* scratch) const;
  void MergeLong(Scratch* scratch) const;
  void AppendWritten(std::span<const int32_t> symbols, std::vector<int32_t>* ids) const;

  Vocabulary vocabulary_;
  bool byte_level_ = false, ignore_merges_ = false, byte_fallback_ = false, fuse_unk_ = false;
  std::string continuing_prefix_, end_suffix_;  // around the first symbols of a word's characters
  int32_t unk_ = -1;                            // -1: none, unknown characters vanish
  std::array<int32_t, 256> fallback_{};         // id of <0xNN>, -1: absent
  std::array<int32_t, 256> byte_symbols_{};     // byte-level: id of a byte's character, -1: see byte_initial_
  std::vector<Initial> byte_initial_;           // byte-level: [256]
  CharacterTable characters_;                   // otherwise
  MergeTable merges_;
  size_t cache_slots_ = 256;
  bool cut_at_spaces_ = false;
  // Of SentencePiece models:
  bool from_pieces_ = false;
  AddedTokenMatcher user_defined_;
  std::map<int32_t, std::vector<int32_t>> written_;  // symbols that are written as other ids
};

}  // namespace planish

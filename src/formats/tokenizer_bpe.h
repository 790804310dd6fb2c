// Byte pair encoding of words: the "model" of type BPE in tokenizer.json.
//
// A word starts as one symbol per character; the adjacent pair of lowest rank, leftmost among
// equals, is joined until no listed pair is left. Short words scan for the minimum; long ones keep
// a heap, so that n symbols cost O(n log n). Results of short words are cached.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "base/result.h"
#include "formats/tokenizer_model.h"

namespace planish {

// Rank and result of joining two tokens: open addressing by both ids.
class MergeTable {
 public:
  static constexpr uint32_t kNone = UINT32_MAX;
  void Reserve(size_t merges);
  // A pair given twice keeps its later rank, as in the reference.
  void Add(int32_t left, int32_t right, int32_t joined);
  // kNone when the pair is not joined.
  uint32_t Rank(int32_t left, int32_t right) const {
    const uint64_t key = Key(left, right);
    for (size_t slot = Hash(key) & mask_;; slot = (slot + 1) & mask_) {
      if (slots_[slot].key == key) return slots_[slot].rank;
      if (slots_[slot].key == kFree) return kNone;
    }
  }
  int32_t Joined(uint32_t rank) const { return joined_[rank]; }

 private:
  struct Slot {
    uint64_t key;
    uint32_t rank;
  };
  static constexpr uint64_t kFree = UINT64_MAX;
  static uint64_t Key(int32_t left, int32_t right) {
    return uint64_t{static_cast<uint32_t>(left)} << 32 | static_cast<uint32_t>(right);
  }
  static size_t Hash(uint64_t key) {
    key *= 0x9E3779B97F4A7C15u;
    return key ^ key >> 29;
  }
  std::vector<Slot> slots_ = std::vector<Slot>(1, Slot{kFree, 0});
  size_t mask_ = 0;
  std::vector<int32_t> joined_;  // by rank
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

  // Appends the ids of one word (not empty, valid UTF-8 unless byte-level).
  void Encode(std::string_view word, Scratch* scratch, std::vector<int32_t>* ids) const;

  std::unique_ptr<WordModel::Scratch> MakeScratch() const override {
    return std::make_unique<Scratch>(*this);
  }
  // A long word is cut before each U+2581 that begins a run of them, if no token reaches over such a
  // place: merging in parts then gives the same ids, and the parts are short and cached.
  void EncodeWord(std::string_view word, WordModel::Scratch* scratch,
                  std::vector<int32_t>* ids) const override;
  const Vocabulary& vocabulary() const override { return vocabulary_; }

 private:
  // What one character becomes before merging.
  struct Initial {
    enum Kind { kIds, kUnknown, kFallback } kind = kUnknown;
    std::vector<int32_t> ids;
  };
  Status ParseOptions(const Json& json);
  Status ParseMerges(const Json& json);
  Status ResolveSpecials(const Json& json);
  Initial InitialOf(std::string_view character) const;
  void FillSymbols(std::string_view word, std::vector<int32_t>* symbols) const;
  bool CanCutAtSpaces() const;
  void EncodeUncached(std::string_view word, Scratch* scratch, std::vector<int32_t>* ids) const;
  void MergeShort(Scratch* scratch) const;
  void MergeLong(Scratch* scratch) const;

  Vocabulary vocabulary_;
  bool byte_level_ = false, ignore_merges_ = false, byte_fallback_ = false, fuse_unk_ = false;
  int32_t unk_ = -1;                         // -1: none, unknown characters vanish
  std::array<int32_t, 256> fallback_{};      // id of <0xNN>, -1: absent
  std::array<int32_t, 256> byte_symbols_{};  // byte-level: id of a byte's character, -1: see initial_
  std::vector<Initial> byte_initial_;        // byte-level: [256]
  MergeTable merges_;
  size_t cache_slots_ = 256;
  bool cut_at_spaces_ = false;
};

}  // namespace planish

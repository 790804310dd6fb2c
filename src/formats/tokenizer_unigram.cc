#include "formats/tokenizer_unigram.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <string>

#include "formats/tokenizer_unicode.h"

namespace planish {
namespace {

// How much worse than the worst piece an unknown character is, as in SentencePiece.
constexpr double kUnknownPenalty = 10.0;

// Where the sum starts anew, as all ways have it in common: floats beyond are too coarse for the scores of
// pieces.
constexpr double kMaxSum = 65536;

}  // namespace

Result<UnigramModel> UnigramModel::Parse(const Json& json) {
  UnigramModel model;
  const auto it = json.find("vocab");
  if (it == json.end() || !it->is_array()) return InputError("vocab: expected a list of [piece, score]");
  if (static_cast<int64_t>(it->size()) > kMaxTokenId) {
    return InputError(fmt::format("vocab: {} pieces; at most {} are accepted", it->size(), kMaxTokenId));
  }
  double lowest = std::numeric_limits<double>::infinity();
  for (size_t i = 0; i < it->size(); ++i) {
    const Json& pair = (*it)[i];
    if (!pair.is_array() || pair.size() != 2 || !pair[0].is_string() || !pair[1].is_number()) {
      return InputError(
          fmt::format("vocab[{}]: expected [piece, score], found {}", i, DumpJson(pair).substr(0, 60)));
    }
    const auto score = pair[1].get<double>();
    if (!std::isfinite(score)) return InputError(fmt::format("vocab[{}]: score is not finite", i));
    const Status status =
        model.vocabulary_.Add(pair[0].get_ref<const std::string&>(), static_cast<int32_t>(i));
    if (!status.ok()) return status.error().At(fmt::format("vocab[{}]", i));
    model.scores_.push_back(score);
    lowest = std::min(lowest, score);
  }
  model.unknown_score_ = lowest - kUnknownPenalty;
  PLANISH_TRY(const int64_t unk, JsonInt(json, "unk_id"));
  if (unk < 0 || unk >= model.vocabulary_.size()) {
    return InputError(fmt::format("unk_id {} is not in the vocabulary of {}", unk, model.vocabulary_.size()));
  }
  model.unk_ = static_cast<int32_t>(unk);
  PLANISH_TRY(model.byte_fallback_, JsonBool(json, "byte_fallback", false));
  model.FillFallback();
  model.BuildTrie(std::vector<bool>(model.scores_.size(), true));
  return model;
}

Result<UnigramModel> UnigramModel::FromPieces(const SentencePieceModel& pieces) {
  UnigramModel model;
  model.from_pieces_ = true;
  model.byte_fallback_ = pieces.byte_fallback;
  model.unk_ = pieces.unk;
  // Of the normal pieces; the highest is never below the smallest positive float, as in SentencePiece.
  float lowest = std::numeric_limits<float>::max(), highest = std::numeric_limits<float>::min();
  for (const Piece& piece : pieces.pieces) {
    if (piece.type != PieceType::kNormal) continue;
    lowest = std::min(lowest, piece.score);
    highest = std::max(highest, piece.score);
  }
  std::vector<bool> matched;
  for (const Piece& piece : pieces.pieces) {
    const auto id = static_cast<int32_t>(model.scores_.size());
    PLANISH_RETURN_IF_ERROR(model.vocabulary_.Add(piece.text, id));
    const bool user_defined = piece.type == PieceType::kUserDefined;
    // Better than any other pieces for the same text.
    const double bonus = double{static_cast<float>(piece.text.size()) * highest} - 0.1;
    model.scores_.push_back(user_defined ? bonus : double{piece.score});
    matched.push_back(user_defined || piece.type == PieceType::kNormal);
  }
  model.unknown_score_ = double{lowest - static_cast<float>(kUnknownPenalty)};
  model.FillFallback();
  model.BuildTrie(matched);
  return model;
}

void UnigramModel::FillFallback() {
  for (int b = 0; b < 256; ++b) {
    fallback_[b] = vocabulary_.Find(fmt::format("<0x{:02X}>", b)).value_or(-1);
  }
}

void UnigramModel::BuildTrie(const std::vector<bool>& matched) {
  // Built as nodes with ordered children, then laid out with each node's children side by side.
  struct Building {
    int32_t id = -1;
    std::map<uint8_t, uint32_t> children;
  };
  std::vector<Building> building(1);
  for (int32_t id = 0; id < vocabulary_.size(); ++id) {
    const auto piece = vocabulary_.Token(id);
    if (!piece || piece->empty() || !matched[static_cast<size_t>(id)]) continue;
    uint32_t node = 0;
    for (const char c : *piece) {
      const auto byte = static_cast<uint8_t>(c);
      const auto [at, fresh] =
          building[node].children.try_emplace(byte, static_cast<uint32_t>(building.size()));
      node = at->second;
      if (fresh) building.emplace_back();
    }
    building[node].id = id;
  }
  nodes_.reserve(building.size());
  for (const Building& from : building) {
    nodes_.push_back(
        {from.id, static_cast<uint32_t>(children_.size()), static_cast<uint32_t>(from.children.size())});
    for (const auto& [byte, child] : from.children) children_.push_back({byte, child});
  }
  for (const auto& [byte, child] : building[0].children) roots_[byte] = child;
}

int64_t UnigramModel::Step(uint32_t node, uint8_t byte) const {
  const Node& from = nodes_[node];
  const Child* first = children_.data() + from.first;
  const Child* last = first + from.count;
  const Child* at = std::lower_bound(first, last, byte, [](const Child& c, uint8_t b) { return c.byte < b; });
  return at != last && at->byte == byte ? int64_t{at->node} : -1;
}

std::unique_ptr<WordModel::Scratch> UnigramModel::MakeScratch() const {
  return std::make_unique<UnigramScratch>();
}

void UnigramModel::AppendUnknown(std::string_view text, std::vector<int32_t>* ids) const {
  const bool bytes = byte_fallback_ && std::ranges::none_of(text, [&](char c) {
                       return fallback_[static_cast<uint8_t>(c)] < 0;
                     });
  if (!bytes) {
    // The same string may be a piece; only then it was not reached as one (a fused run).
    ids->push_back(from_pieces_ ? unk_ : vocabulary_.Find(text).value_or(unk_));
    return;
  }
  for (const char c : text) ids->push_back(fallback_[static_cast<uint8_t>(c)]);
}

void UnigramModel::Offer(double score, size_t start, int32_t id, Best* best) const {
  if (from_pieces_) score = double{static_cast<float>(score)};
  if (best->start >= 0 && score <= best->score) return;
  *best = {score, static_cast<int32_t>(start), id};
}

// Offers all pieces that begin at `start`; (*best)[i] is of boundary base + i. Returns the furthest end.
size_t UnigramModel::OfferPieces(std::string_view word, size_t base, size_t start,
                                 std::vector<Best>* best) const {
  const double here = (*best)[start - base].score;
  const size_t length = Utf8Length(word[start]);
  size_t reach = start + length;
  if (best->size() <= reach - base) best->resize(reach - base + 1);
  bool single = false;
  int64_t node = roots_[static_cast<uint8_t>(word[start])];
  if (node == 0) node = -1;
  for (size_t end = start + 1; node >= 0; ++end) {
    const int32_t id = nodes_[static_cast<size_t>(node)].id;
    if (id >= 0) {
      if (best->size() <= end - base) best->resize(end - base + 1);
      Offer(scores_[static_cast<size_t>(id)] + here, start - base, id, &(*best)[end - base]);
      reach = std::max(reach, end);
      single |= end - start == length;
    }
    if (end == word.size()) break;
    node = Step(static_cast<uint32_t>(node), static_cast<uint8_t>(word[end]));
  }
  if (!single) {
    Offer(unknown_score_ + here, start - base, unk_, &(*best)[start + length - base]);
  }
  return reach;
}

// The pieces of the best way to the end of `text`. Adjacent unknown characters are one unknown.
void UnigramModel::AppendPath(std::string_view text, UnigramScratch* work, std::vector<int32_t>* ids) const {
  std::vector<Best>& path = work->path;
  path.clear();
  for (size_t end = text.size(); end > 0; end = static_cast<size_t>(path.back().start)) {
    path.push_back(work->best[end]);
  }
  for (size_t i = path.size(); i > 0; --i) {
    const Best& piece = path[i - 1];
    if (piece.id != unk_) {
      ids->push_back(piece.id);
      continue;
    }
    while (i > 1 && path[i - 2].id == unk_) --i;
    const size_t end = i > 1 ? static_cast<size_t>(path[i - 2].start) : text.size();
    AppendUnknown(text.substr(static_cast<size_t>(piece.start), end - static_cast<size_t>(piece.start)), ids);
  }
}

void UnigramModel::EncodeWord(std::string_view word, WordModel::Scratch* scratch,
                              std::vector<int32_t>* ids) const {
  auto* work = static_cast<UnigramScratch*>(scratch);
  std::vector<Best>& best = work->best;
  best.assign(1, Best{});
  size_t base = 0, reach = 0;
  for (size_t start = 0; start < word.size(); start += Utf8Length(word[start])) {
    // An unknown may go on behind the boundary.
    if (start == reach && start > base && best[start - base].id != unk_) {
      AppendPath(word.substr(base, start - base), work, ids);
      const double sum = best[start - base].score;
      best.assign(1, Best{from_pieces_ && std::abs(sum) > kMaxSum ? 0 : sum});
      base = start;
    }
    reach = std::max(reach, OfferPieces(word, base, start, &best));
  }
  AppendPath(word.substr(base), work, ids);
}

}  // namespace planish

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
  for (int b = 0; b < 256; ++b) {
    model.fallback_[b] = model.vocabulary_.Find(fmt::format("<0x{:02X}>", b)).value_or(-1);
  }
  model.BuildTrie();
  return model;
}

void UnigramModel::BuildTrie() {
  // Built as nodes with ordered children, then laid out with each node's children side by side.
  struct Building {
    int32_t id = -1;
    std::map<uint8_t, uint32_t> children;
  };
  std::vector<Building> building(1);
  for (int32_t id = 0; id < vocabulary_.size(); ++id) {
    const auto piece = vocabulary_.Token(id);
    if (!piece || piece->empty()) continue;
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
    ids->push_back(vocabulary_.Find(text).value_or(unk_));
    return;
  }
  for (const char c : text) ids->push_back(fallback_[static_cast<uint8_t>(c)]);
}

void UnigramModel::EncodeWord(std::string_view word, WordModel::Scratch* scratch,
                              std::vector<int32_t>* ids) const {
  auto& work = *static_cast<UnigramScratch*>(scratch);
  std::vector<Best>& best = work.best;
  best.assign(word.size() + 1, Best{0, -1, 0});
  const auto offer = [&best](size_t end, double score, size_t start, int32_t id) {
    if (best[end].start < 0 || score > best[end].score) best[end] = {score, static_cast<int32_t>(start), id};
  };
  for (size_t start = 0; start < word.size();) {
    const double here = best[start].score;
    const size_t length = Utf8Length(word[start]);
    bool single = false;
    int64_t node = roots_[static_cast<uint8_t>(word[start])];
    if (node == 0) node = -1;
    for (size_t end = start + 1; node >= 0; ++end) {
      const int32_t id = nodes_[static_cast<size_t>(node)].id;
      if (id >= 0) {
        offer(end, scores_[static_cast<size_t>(id)] + here, start, id);
        single |= end - start == length;
      }
      if (end == word.size()) break;
      node = Step(static_cast<uint32_t>(node), static_cast<uint8_t>(word[end]));
    }
    if (!single) offer(start + length, unknown_score_ + here, start, unk_);
    start += length;
  }
  work.path.clear();
  for (size_t end = word.size(); end > 0; end = static_cast<size_t>(best[end].start)) {
    work.path.push_back({0, best[end].start, best[end].id});
  }
  // Adjacent unknown characters are one unknown.
  for (size_t i = work.path.size(); i > 0; --i) {
    const Best& piece = work.path[i - 1];
    if (piece.id != unk_) {
      ids->push_back(piece.id);
      continue;
    }
    while (i > 1 && work.path[i - 2].id == unk_) --i;
    const size_t end = i > 1 ? static_cast<size_t>(work.path[i - 2].start) : word.size();
    AppendUnknown(word.substr(static_cast<size_t>(piece.start), end - static_cast<size_t>(piece.start)), ids);
  }
}

}  // namespace planish

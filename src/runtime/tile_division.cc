#include "runtime/tile_division.h"

#include <algorithm>

namespace planish {
namespace {

// Of a run of the tail: a few microseconds.
constexpr int64_t kTailBytes = 32 << 10;

}  // namespace

TileDivision Divide(const std::vector<const PackedLinear*>& linears, int members, double tail_share) {
  int64_t total = 0;
  for (const PackedLinear* linear : linears) {
    total += linear == nullptr ? 0 : linear->tiles() * linear->layout().tile_bytes;
  }
  const auto fixed =
      std::max<int64_t>(1, total - static_cast<int64_t>(tail_share * static_cast<double>(total)));
  // The member in whose part a byte falls; `members` in the tail.
  const auto owner = [&](int64_t byte) {
    return static_cast<int>(std::min<int64_t>(members, byte * members / fixed));
  };
  TileDivision division;
  division.own.resize(static_cast<size_t>(members));
  int64_t done = 0;
  for (size_t k = 0; k < linears.size(); ++k) {
    if (linears[k] == nullptr) continue;
    const int64_t tiles = linears[k]->tiles(), bytes = linears[k]->layout().tile_bytes;
    for (int64_t tile = 0; tile < tiles;) {
      const int member = owner(done + tile * bytes + bytes / 2);  // of the tile's middle
      int64_t end = tile + 1;
      const bool in_tail = member == members;
      while (end < tiles && owner(done + end * bytes + bytes / 2) == member &&
             !(in_tail && (end - tile) * bytes >= kTailBytes)) {
        ++end;
      }
      auto& shares = in_tail ? division.tail : division.own[static_cast<size_t>(member)];
      shares.push_back({static_cast<int>(k), tile, end});
      tile = end;
    }
    done += tiles * bytes;
  }
  return division;
}

}  // namespace planish

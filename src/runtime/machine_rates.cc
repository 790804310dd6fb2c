#include "runtime/machine_rates.h"

#include <algorithm>
#include <chrono>
#include <cstring>

#include "tensor/buffer.h"

namespace planish {
namespace {

double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Reads 64 bytes at a time from each of `streams` equal parts; the sum keeps the loads alive.
uint64_t ReadStreams(const std::byte* data, int64_t bytes, int streams) {
  const int64_t part = bytes / streams / 64 * 64;
  uint64_t sums[8] = {};
  for (int64_t at = 0; at < part; at += 64) {
    for (int s = 0; s < streams; ++s) {
      uint64_t words[8];
      std::memcpy(words, data + s * part + at, sizeof(words));
      for (int i = 0; i < 8; ++i) sums[i] ^= words[i];
    }
  }
  uint64_t sum = 0;
  for (const uint64_t s : sums) sum ^= s;
  return sum;
}

}  // namespace

double MeasureReadBandwidth(Team& team, int64_t bytes, int turns) {
  Buffer buffer(static_cast<size_t>(bytes));
  const auto part_of = [&](int member) {
    const auto [begin, end] = Team::PartOf(bytes / 64, member, team.size());
    return std::span<std::byte>(buffer.data() + begin * 64, static_cast<size_t>((end - begin) * 64));
  };
  team.Run([&](int member) { std::memset(part_of(member).data(), member + 1, part_of(member).size()); });
  double best = 0;
  std::atomic<uint64_t> sink{0};
  for (int turn = 0; turn < turns; ++turn) {
    for (const int streams : {1, 8}) {
      const double start = Now();
      team.Run([&](int member) {
        const auto part = part_of(member);
        sink += ReadStreams(part.data(), static_cast<int64_t>(part.size()), streams);
      });
      best = std::max(best, static_cast<double>(bytes) / (Now() - start));
    }
  }
  return best;
}

}  // namespace planish

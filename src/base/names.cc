#include "base/names.h"

#include <algorithm>
#include <numeric>
#include <utility>

namespace planish {
namespace {

// Names longer than this are not compared: a hint is not worth quadratic time on hostile input.
constexpr size_t kLongestCompared = 512;

}  // namespace

int64_t EditDistance(std::string_view a, std::string_view b) {
  if (a.size() < b.size()) std::swap(a, b);
  std::vector<int64_t> row(b.size() + 1);  // distances of a's prefix to every prefix of b
  std::iota(row.begin(), row.end(), int64_t{0});
  for (size_t i = 0; i < a.size(); ++i) {
    int64_t diagonal = row[0];
    row[0] = static_cast<int64_t>(i) + 1;
    for (size_t j = 0; j < b.size(); ++j) {
      const int64_t substituted = diagonal + (a[i] == b[j] ? 0 : 1);
      diagonal = row[j + 1];
      row[j + 1] = std::min({substituted, row[j] + 1, diagonal + 1});
    }
  }
  return row.back();
}

std::vector<std::string> NearestNames(std::string_view name, const std::vector<std::string>& candidates,
                                      int max_count) {
  if (name.size() > kLongestCompared) return {};
  const auto limit = static_cast<int64_t>(std::max<size_t>(2, name.size() / 3));
  std::vector<std::pair<int64_t, const std::string*>> near;
  for (const std::string& candidate : candidates) {
    const auto difference = static_cast<int64_t>(candidate.size()) - static_cast<int64_t>(name.size());
    if (std::abs(difference) > limit) continue;  // a lower bound of the distance
    const int64_t distance = EditDistance(name, candidate);
    if (distance <= limit) near.emplace_back(distance, &candidate);
  }
  std::stable_sort(near.begin(), near.end(), [](const auto& x, const auto& y) { return x.first < y.first; });
  std::vector<std::string> result;
  for (const auto& [distance, candidate] : near) {
    if (static_cast<int>(result.size()) >= max_count) break;
    result.push_back(*candidate);
  }
  return result;
}

std::string DidYouMean(std::string_view name, const std::vector<std::string>& candidates, int max_count) {
  const std::vector<std::string> names = NearestNames(name, candidates, max_count);
  if (names.empty()) return "";
  std::string text = "did you mean ";
  for (size_t i = 0; i < names.size(); ++i) {
    if (i > 0) text += i + 1 == names.size() ? " or " : ", ";
    text += "'" + names[i] + "'";
  }
  return text + "?";
}

std::string Abbreviate(std::string_view text, size_t max_bytes) {
  if (text.size() <= max_bytes) return std::string(text);
  size_t end = max_bytes;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xc0) == 0x80) --end;
  return std::string(text.substr(0, end)) + "...";
}

}  // namespace planish

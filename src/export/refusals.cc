#include "export/refusals.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <map>
#include <optional>
#include <set>

namespace planish {
namespace {

using Parts = std::vector<std::string>;

Parts SplitAtDots(const std::string& name) {
  Parts parts;
  for (size_t at = 0; at <= name.size();) {
    const size_t dot = std::min(name.find('.', at), name.size());
    parts.push_back(name.substr(at, dot - at));
    at = dot + 1;
  }
  return parts;
}

std::optional<int64_t> NumberOf(const std::string& part) {
  int64_t number = 0;
  const char* end = part.data() + part.size();
  const auto [stop, error] = std::from_chars(part.data(), end, number);
  if (error != std::errc() || stop != end || number < 0 || std::to_string(number) != part) return {};
  return number;
}

// {1, 2, 3, 7} -> "{1-3,7}", {5} -> "5".
std::string RangesText(const std::set<int64_t>& numbers) {
  std::string text;
  for (auto it = numbers.begin(); it != numbers.end();) {
    const int64_t first = *it;
    int64_t last = first;
    while (++it != numbers.end() && *it == last + 1) last = *it;
    if (!text.empty()) text += ',';
    text += std::to_string(first);
    if (last > first) text.append("-").append(std::to_string(last));
  }
  if (numbers.size() > 1) text.insert(0, 1, '{').append("}");
  return text;
}

// Joins names of as many parts that differ in the part at `place` alone.
void JoinAt(size_t place, std::vector<Parts>& names) {
  std::map<Parts, std::pair<size_t, std::set<int64_t>>> joined;  // where it stands, and its numbers
  std::vector<Parts> kept;
  for (Parts& parts : names) {
    const auto number = place < parts.size() ? NumberOf(parts[place]) : std::nullopt;
    if (number) {
      Parts key = parts;
      key[place].clear();
      const auto [it, first] = joined.try_emplace(std::move(key), kept.size(), std::set<int64_t>());
      it->second.second.insert(*number);
      if (!first) continue;
    }
    kept.push_back(std::move(parts));
  }
  for (const auto& [key, value] : joined) kept[value.first][place] = RangesText(value.second);
  names = std::move(kept);
}

Refusal OfPath() {
  return {"a low-rank path beside the matrix",
          "--drop paths leaves it out, --merge adds it to the matrix before that is rounded (most of its "
          "repair is lost), --adapter DIR writes it as an adapter beside the output, --to lora writes the "
          "adapters alone"};
}

Refusal OfOutliers() {
  return {"outliers beside the matrix",
          "--merge adds them to the matrix before that is rounded, --to hf-bf16 holds decoded weights"};
}

}  // namespace

std::vector<std::string> GroupNumbered(const std::vector<std::string>& names) {
  std::vector<Parts> split;
  size_t longest = 0;
  for (const std::string& name : names) {
    split.push_back(SplitAtDots(name));
    longest = std::max(longest, split.back().size());
  }
  for (size_t place = longest; place > 0; --place) JoinAt(place - 1, split);
  std::vector<std::string> grouped;
  for (const Parts& parts : split) {
    std::string name;
    for (const std::string& part : parts) name.append(part).append(".");
    name.pop_back();
    grouped.push_back(std::move(name));
  }
  return grouped;
}

void Refusals::Add(const Refusal& refusal, const std::string& layer) {
  const auto known =
      std::ranges::find_if(groups_, [&](const Group& g) { return g.refusal.reason == refusal.reason; });
  if (known == groups_.end()) {
    groups_.push_back({refusal, {layer}});
  } else {
    known->layers.push_back(layer);
  }
}

Status Refusals::ToStatus(const std::string& format) const {
  if (groups_.empty()) return {};
  std::string text = fmt::format("{} cannot hold this model:", format);
  for (const Group& group : groups_) {
    const size_t count = group.layers.size();
    text += fmt::format("\n  {} ({} layer{}: {})", group.refusal.reason, count, count == 1 ? "" : "s",
                        fmt::join(GroupNumbered(group.layers), ", "));
    if (!group.refusal.fix.empty()) text += "; " + group.refusal.fix;
  }
  return Error{Code::kRefused, std::move(text)};
}

std::string ModuleName(const std::string& weight) {
  constexpr std::string_view kSuffix = ".weight";
  return weight.ends_with(kSuffix) ? weight.substr(0, weight.size() - kSuffix.size()) : weight;
}

bool IsPath(const Matrix& matrix) { return std::holds_alternative<ProductPart>(matrix.body); }

bool HasPath(const Linear& linear) {
  const auto* sum = std::get_if<SumPart>(&linear.w.body);
  return sum != nullptr && std::any_of(sum->terms.begin() + 1, sum->terms.end(), IsPath);
}

const Matrix* OneMatrix(const Linear& linear, Paths paths, Refusals& refusals) {
  const auto* sum = std::get_if<SumPart>(&linear.w.body);
  if (paths == Paths::kMerge) return &linear.w;
  const bool sparse = std::holds_alternative<Sparse>(linear.w.body);
  const bool has_path = HasPath(linear);
  const bool has_other =
      sparse || (sum != nullptr && !std::all_of(sum->terms.begin() + 1, sum->terms.end(), IsPath));
  const std::string module = ModuleName(linear.name);
  if (has_path && paths == Paths::kRefuse) refusals.Add(OfPath(), module);
  if (has_other) refusals.Add(OfOutliers(), module);
  if (has_other || (has_path && paths == Paths::kRefuse)) return nullptr;
  return has_path ? &sum->terms.front() : &linear.w;
}

void RefuseOwnBias(const LinearSlot& slot, const Linear& linear, Refusals& refusals) {
  if (!slot.bias.empty() || !linear.own_bias) return;
  refusals.Add({"a bias that compression made and its loaders do not know", "compress without --bias-tuning"},
               ModuleName(linear.name));
}

}  // namespace planish

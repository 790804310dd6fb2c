// The table of families in GGUF files, put together from their own files in model/arch/, and what all rows
// share: which one describes a program or a file, the names of tensors both ways, the orders of rows.
#include <fmt/format.h>

#include <algorithm>

#include "base/names.h"
#include "model/family.h"
#include "model/gguf_family.h"

namespace planish {
namespace {

using Rows = GgufFamily::Rows;

// ---- names both ways

constexpr std::string_view kPrefix = "blk.";

// Matches `text` to a pattern with at most one star, which takes digits; the number, -1 without one.
std::optional<int64_t> MatchNumber(std::string_view text, std::string_view pattern) {
  if (text == pattern) return -1;
  const size_t star = pattern.find('*');
  if (star == std::string_view::npos) return std::nullopt;
  const std::string_view before = pattern.substr(0, star), after = pattern.substr(star + 1);
  if (text.size() <= before.size() + after.size() || !text.starts_with(before) || !text.ends_with(after)) {
    return std::nullopt;
  }
  const std::string_view digits = text.substr(before.size(), text.size() - before.size() - after.size());
  if (digits.size() > 5 || digits.find_first_not_of("0123456789") != std::string_view::npos)
    return std::nullopt;
  return std::stoll(std::string(digits));
}

// "N.rest" -> its two halves, if N is a number of at most 4 digits.
bool SplitLayer(std::string_view text, std::string& number, std::string& rest) {
  const size_t dot = text.find('.');
  if (dot == std::string_view::npos || dot == 0 || dot > 4) return false;
  number = text.substr(0, dot);
  rest = text.substr(dot + 1);
  return number.find_first_not_of("0123456789") == std::string::npos;
}

bool SplitSuffix(const std::string& name, std::string& stem, std::string& suffix) {
  const size_t dot = name.rfind('.');
  if (dot == std::string::npos) return false;
  stem = name.substr(0, dot);
  suffix = name.substr(dot);
  return suffix == ".weight" || suffix == ".bias";
}

std::optional<GgufPlace> PlaceOf(const GgufFamily& family, const std::string& name) {
  std::string stem, suffix, number, rest;
  const std::string_view prefix = family.layer_prefix;
  if (name.starts_with(prefix) && SplitLayer(std::string_view(name).substr(prefix.size()), number, rest)) {
    for (const GgufName& n : family.whole) {
      if (rest == n.hf) return GgufPlace{"blk." + number + "." + n.gguf, -1};
    }
  }
  if (!SplitSuffix(name, stem, suffix)) return std::nullopt;
  if (stem.starts_with(prefix) && SplitLayer(std::string_view(stem).substr(prefix.size()), number, rest)) {
    for (const GgufName& n : family.layer) {
      const auto expert = MatchNumber(rest, n.hf);
      if (expert) return GgufPlace{"blk." + number + "." + n.gguf + suffix, *expert};
    }
    return std::nullopt;
  }
  for (const GgufName& n : family.top) {
    if (stem == n.hf) return GgufPlace{n.gguf + suffix, -1};
  }
  return std::nullopt;
}

// Whether the row's tensor is there, and layers that slide where its key is their window.
bool Fits(const GgufFamily& row, const Program& program) {
  const bool has_tensor =
      row.tensor == nullptr || std::ranges::any_of(program.vectors, [&](const VectorSlot& slot) {
        const auto place = GgufPlaceOf(row, program, slot.name);
        return place && place->name == row.tensor;
      });
  if (!has_tensor) return false;
  if (row.key == nullptr || !std::string_view(row.key).ends_with("window")) return true;
  for (const Block& block : program.blocks) {
    for (const Op& op : block.ops) {
      const auto* attention = std::get_if<AttentionOp>(&op.body);
      if (attention != nullptr && attention->shape.window > 0) return true;
    }
  }
  return false;
}

}  // namespace

std::span<const GgufFamily* const> AllGgufFamilies() {
  static const std::vector<const GgufFamily*> rows = [] {
    std::vector<const GgufFamily*> all;
    for (const Family* family : AllFamilies()) {
      for (const GgufFamily& row : family->gguf) all.push_back(&row);
    }
    std::ranges::sort(all, [](const GgufFamily* a, const GgufFamily* b) {
      const int order = std::string_view(a->arch).compare(b->arch);
      return order != 0 ? order < 0 : a->rank > b->rank;
    });
    return all;
  }();
  return rows;
}

const GgufFamily* GgufFamilyOf(const Program& program) {
  const Family* family = FindFamily(program.family);
  if (family == nullptr) return nullptr;
  for (const GgufFamily& row : family->gguf) {
    if (Fits(row, program)) return &row;
  }
  return nullptr;
}

Result<const GgufFamily*> GgufFamilyOf(const GgufFile& file) {
  PLANISH_TRY(const std::string arch, file.String("general.architecture"));
  std::vector<std::string> known;
  for (const GgufFamily* row : AllGgufFamilies()) {
    if (known.empty() || known.back() != row->arch) known.emplace_back(row->arch);
    if (arch != row->arch) continue;
    if (row->tensor != nullptr && file.Find(row->tensor) == nullptr) continue;
    if (row->key != nullptr) {
      PLANISH_TRY(const int64_t value, file.Int(arch + "." + row->key, 0));
      if (value <= 0) continue;
    }
    return row;
  }
  return InputError(
      fmt::format("general.architecture '{}': expected one of {}", Abbreviate(arch), fmt::join(known, ", ")));
}

Error CannotHold(const GgufFamily& family, const std::string& what) {
  return {Code::kRefused, fmt::format("GGUF's architecture '{}' cannot hold {}", family.arch, what)};
}

std::optional<GgufPlace> GgufPlaceOf(const GgufFamily& family, const Program& program,
                                     const std::string& name) {
  if (auto place = PlaceOf(family, name)) return place;
  for (const auto& [prefix, other] : program.prefixes) {
    if (!name.starts_with(other)) continue;
    if (auto place = PlaceOf(family, prefix + name.substr(other.size()))) return place;
  }
  return std::nullopt;
}

std::optional<std::string> HfNameOf(const GgufFamily& family, const std::string& name) {
  std::string stem, suffix, number, rest;
  if (name.starts_with(kPrefix) && SplitLayer(std::string_view(name).substr(kPrefix.size()), number, rest)) {
    for (const GgufName& n : family.whole) {
      if (rest == n.gguf) return family.layer_prefix + number + "." + n.hf;
    }
  }
  if (!SplitSuffix(name, stem, suffix)) return std::nullopt;
  if (stem.starts_with(kPrefix) && SplitLayer(std::string_view(stem).substr(kPrefix.size()), number, rest)) {
    for (const GgufName& n : family.layer) {
      if (rest == n.gguf) return family.layer_prefix + number + "." + n.hf + suffix;
    }
    return std::nullopt;
  }
  for (const GgufName& n : family.top) {
    if (stem == n.gguf) return n.hf + suffix;
  }
  return std::nullopt;
}

int64_t GgufRowOrder::Source(int64_t row, int64_t rows) const {
  if (kind == Rows::kPairs) {
    const int64_t width = rows / heads, in_head = row % width;
    return row - in_head + in_head % 2 * (width / 2) + in_head / 2;
  }
  if (kind == Rows::kGroups) {
    const int64_t width = rows / (heads + 2 * kv_heads), per = heads / kv_heads;
    const int64_t head = row / width, in_head = row % width;
    if (head < heads) return (head / per * (per + 2) + head % per) * width + in_head;
    const int64_t other = head - heads;  // k of all groups, then v
    return (other % kv_heads * (per + 2) + per + other / kv_heads) * width + in_head;
  }
  return row;
}

bool GgufRowOrder::Fits(int64_t rows) const {
  if (kind == Rows::kPairs) return heads > 0 && rows % (2 * heads) == 0;
  if (kind == Rows::kGroups) {
    return kv_heads > 0 && heads % kv_heads == 0 && rows % (heads + 2 * kv_heads) == 0;
  }
  return true;
}

GgufRowOrder RowOrderOf(const GgufFamily& family, const std::string& gguf_name, int64_t heads,
                        int64_t kv_heads) {
  const auto is = [&](const char* part) { return gguf_name.find(part) != std::string::npos; };
  if (family.rows == Rows::kPairs && is(".attn_q.")) return {Rows::kPairs, heads, kv_heads};
  if (family.rows == Rows::kPairs && is(".attn_k.")) return {Rows::kPairs, kv_heads, kv_heads};
  if (family.rows == Rows::kGroups && is(".attn_qkv.")) return {Rows::kGroups, heads, kv_heads};
  return {};
}

GgufName::Form FormOf(const GgufFamily& family, const std::string& gguf_name) {
  std::string stem, suffix, number, rest;
  if (!gguf_name.starts_with(kPrefix) ||
      !SplitLayer(std::string_view(gguf_name).substr(kPrefix.size()), number, rest)) {
    return GgufName::Form::kPlain;
  }
  for (const GgufName& n : family.whole) {
    if (rest == n.gguf) return n.form;
  }
  if (!SplitSuffix(rest, stem, suffix) || suffix != ".weight") return GgufName::Form::kPlain;
  for (const GgufName& n : family.layer) {
    if (stem == n.gguf) return n.form;
  }
  return GgufName::Form::kPlain;
}

bool StoresPlus(const GgufFamily& family, const std::string& gguf_name) {
  return family.norm_plus != 0 && gguf_name.ends_with("_norm.weight");
}

}  // namespace planish

#include "model/unread_tensors.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/names.h"

namespace planish {
namespace {

// Tables of the rotation, which older libraries stored, and grids for keys and values in a cache.
constexpr std::string_view kBuffers[] = {"*rotary_emb.inv_freq", "*.k_scale", "*.v_scale", "*.k_zero_point",
                                         "*.v_zero_point"};

bool FitsWhole(std::string_view text, std::string_view pattern) {
  const size_t star = pattern.find('*');
  if (star == std::string_view::npos) return text == pattern;
  if (!text.starts_with(pattern.substr(0, star))) return false;
  pattern.remove_prefix(star + 1);
  for (text.remove_prefix(star);; text.remove_prefix(1)) {
    if (FitsWhole(text, pattern)) return true;
    if (text.empty()) return false;
  }
}

// The name as the program would spell it, and as it is.
bool FitsSpelled(const Program& program, const std::string& name, std::string_view pattern) {
  if (FitsTensorPattern(name, pattern)) return true;
  return std::ranges::any_of(program.prefixes, [&](const auto& prefix) {
    return name.starts_with(prefix.second) &&
           FitsTensorPattern(prefix.first + name.substr(prefix.second.size()), pattern);
  });
}

// Some programs that quantize give every linear a bias, be it of zeros.
bool IsZeroBias(const TensorInfo& info, const Checkpoint& checkpoint) {
  if (!info.name.ends_with(".bias") || info.shape.size() != 1) return false;
  const auto view = checkpoint.Get(info.name);
  return view.ok() && std::ranges::all_of(view->bytes(), [](std::byte b) { return b == std::byte{0}; });
}

}  // namespace

bool FitsTensorPattern(std::string_view name, std::string_view pattern) {
  for (size_t end = name.size();; end = name.rfind('.', end - 1)) {
    if (end == std::string_view::npos) return false;
    if (FitsWhole(name.substr(0, end), pattern)) return true;
    if (end == 0) return false;
  }
}

Checkpoint WithoutTensors(const Checkpoint& checkpoint, const std::vector<std::string>& patterns) {
  std::vector<Checkpoint::Loose> kept;
  for (const TensorInfo* info : checkpoint.tensors()) {
    const auto fits = [&](const std::string& pattern) { return FitsTensorPattern(info->name, pattern); };
    const auto view = checkpoint.Get(info->name);  // every listed tensor can be read
    if (view.ok() && std::ranges::none_of(patterns, fits)) kept.push_back({*info, view->bytes()});
  }
  return Checkpoint::OfTensors(checkpoint.folder(), std::move(kept), checkpoint.owner(),
                               checkpoint.file_bytes());
}

Status CheckTensorsRead(const Program& program, const std::set<std::string>& read,
                        const Checkpoint& checkpoint) {
  constexpr size_t kShown = 3;
  std::vector<std::string> shown;
  size_t count = 0;
  for (const TensorInfo* info : checkpoint.tensors()) {
    const auto fits = [&](std::string_view pattern) { return FitsSpelled(program, info->name, pattern); };
    const std::string stem = info->name.substr(0, info->name.rfind('.') + 1);
    if (read.contains(info->name) || (!stem.empty() && read.contains(stem)) ||
        std::ranges::any_of(kBuffers, fits) || std::ranges::any_of(program.beside, fits) ||
        IsZeroBias(*info, checkpoint)) {
      continue;
    }
    if (++count <= kShown) shown.push_back(Abbreviate(info->name, 80));
  }
  if (count == 0) return {};
  return InputError(fmt::format(
      "{} '{}'{}: not read, as the {} model of the config has no such parts (is the config of another "
      "model?); "
      "where they change nothing of what the model computes, --ignore-tensors NAME,... reads the checkpoint "
      "without (the beginning of a name is enough, and a star stands for any text)",
      count == 1 ? "tensor" : "tensors", fmt::join(shown, "', '"),
      count > kShown ? fmt::format(" and {} more", count - kShown) : "", program.family));
}

}  // namespace planish

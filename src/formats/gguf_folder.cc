#include "formats/gguf_folder.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <vector>

#include "base/file.h"
#include "formats/gguf.h"
#include "formats/gguf_tokenizer.h"

namespace planish {
namespace {

bool HasFile(const std::string& folder, const char* name) { return FileExists(JoinPath(folder, name)); }

bool HasTokenizerFiles(const std::string& folder) {
  return HasFile(folder, "tokenizer.json") || HasFile(folder, "tokenizer.model") ||
         (HasFile(folder, "vocab.json") && HasFile(folder, "merges.txt"));
}

// "name-00002-of-00003.gguf": a part, but not the first.
bool IsLaterPart(const std::string& name) {
  constexpr std::string_view kEnd = "-00001-of-00001.gguf";
  if (name.size() < kEnd.size()) return false;
  const std::string end = name.substr(name.size() - kEnd.size());
  return end.substr(6, 4) == "-of-" && end.substr(0, 6) != "-00001";
}

}  // namespace

Result<std::string> GgufOfFolder(const std::string& folder) {
  if (HasFile(folder, "model.safetensors") || HasFile(folder, "model.safetensors.index.json"))
    return std::string();
  std::vector<std::string> names;
  std::error_code error;
  for (auto it = std::filesystem::directory_iterator(folder, error);
       !error && it != std::filesystem::directory_iterator(); it.increment(error)) {
    const std::string name = it->path().filename().string();
    if (name.ends_with(".gguf") && !IsLaterPart(name)) names.push_back(name);
  }
  if (names.size() > 1) {
    std::ranges::sort(names);
    return InputError(fmt::format("{}: several GGUF files ({}); name the one that is meant", folder,
                                  fmt::join(names, ", ")));
  }
  return names.empty() ? std::string() : JoinPath(folder, names.front());
}

Result<std::string> GgufWithTokenizer(const std::string& path) {
  if (FileExists(path)) return path;
  if (HasTokenizerFiles(path)) return std::string();
  return GgufOfFolder(path);
}

Result<bool> HasTokenizer(const std::string& path) {
  PLANISH_TRY(const std::string gguf_path, GgufWithTokenizer(path));
  if (gguf_path.empty()) return HasTokenizerFiles(path);
  PLANISH_TRY(const auto gguf, GgufFile::Open(gguf_path));
  auto model = gguf->String("tokenizer.ggml.model", kGgufNoTokenizer);
  if (!model.ok()) return model.error().At(gguf_path);
  return *model != kGgufNoTokenizer || gguf->Has("tokenizer.huggingface.json");
}

}  // namespace planish

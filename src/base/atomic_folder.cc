#include "base/atomic_folder.h"

#include <fmt/format.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <utility>

#include "base/check.h"
#include "base/file.h"

namespace planish {

Result<AtomicFolder> AtomicFolder::Create(const std::string& given) {
  std::string path = given;
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  PLANISH_TRY(path, FollowLinks(path));
  std::error_code error;
  if (FileExists(path) || (DirectoryExists(path) && !std::filesystem::is_empty(path, error))) {
    return InputError(fmt::format("{}: already exists; choose another output or remove it", path));
  }
  const std::string temporary = path + ".unfinished";
  PLANISH_RETURN_IF_ERROR(RemoveTree(temporary));
  PLANISH_RETURN_IF_ERROR(MakeDirectories(temporary));
  return AtomicFolder(path, temporary);
}

AtomicFolder::AtomicFolder(AtomicFolder&& other) noexcept
    : path_(std::move(other.path_)), temporary_(std::exchange(other.temporary_, "")) {}

AtomicFolder::~AtomicFolder() {
  std::error_code ignored;
  if (!temporary_.empty()) std::filesystem::remove_all(temporary_, ignored);
}

Status AtomicFolder::Commit() {
  PLANISH_CHECK(!temporary_.empty()) << path_;
  PLANISH_RETURN_IF_ERROR(SyncDirectory(temporary_));
  if (rename(temporary_.c_str(), path_.c_str()) != 0) {
    return FailureError(fmt::format("{}: cannot finish writing: {}", path_, std::strerror(errno)));
  }
  temporary_.clear();
  const std::string parent = std::filesystem::path(path_).parent_path().string();
  return SyncDirectory(parent.empty() ? "." : parent);
}

}  // namespace planish

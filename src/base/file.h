// Files: read-only maps, atomic outputs, whole-file reads. No function leaves a partly written file
// under its final name: data goes to a temporary name, is synced, then renamed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "base/result.h"

namespace planish {

// A file mapped read-only, or a blob registered below. Shared by views into it.
class MappedFile {
 public:
  static Result<std::shared_ptr<const MappedFile>> Open(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const std::byte> bytes() const { return bytes_; }
  const std::string& path() const { return path_; }
  // Tells the kernel that these bytes are not needed soon, so that they stop counting as resident.
  void Release(std::span<const std::byte> part) const;

 private:
  MappedFile() = default;
  std::string path_;
  std::span<const std::byte> bytes_;
  bool mapped_ = false;
};

// Data linked into the program, opened by every function here under "embedded:NAME".
// Register before any thread starts.
void RegisterEmbedded(const std::string& name, std::span<const std::byte> bytes);

bool FileExists(const std::string& path);
bool DirectoryExists(const std::string& path);
// Where a file of this name would be written: the path itself, or what the symbolic link there leads to,
// existing or not. Error: a chain of links without an end.
Result<std::string> FollowLinks(const std::string& path);
// Folder and name joined; works for "embedded:" names too.
std::string JoinPath(const std::string& folder, const std::string& name);

// The whole file as text; larger than `limit` bytes is an error.
Result<std::string> ReadTextFile(const std::string& path, int64_t limit_bytes = int64_t{1} << 30);

// Writes `path` whole or not at all.
Status WriteFileAtomically(const std::string& path, std::string_view content);

// A file that appears under its name only at Commit(). Append from one thread. Destroyed without
// Commit, it leaves nothing. A symbolic link of that name stays; the file appears where it leads to.
class AtomicFile {
 public:
  static Result<AtomicFile> Create(const std::string& given);
  AtomicFile(AtomicFile&& other) noexcept;
  AtomicFile& operator=(AtomicFile&&) = delete;
  ~AtomicFile();
  Status Append(std::span<const std::byte> data);
  Status Append(std::string_view text) { return Append(std::as_bytes(std::span(text))); }
  int64_t size() const { return size_; }
  const std::string& path() const { return path_; }
  // Syncs and closes without renaming, so that files that appear together wait without being open. Nothing
  // may be appended afterwards.
  Status Close();
  Status Commit();

 private:
  Error Unfinished();  // by errno; nothing is left
  AtomicFile(std::string path, std::string temporary, int fd)
      : path_(std::move(path)), temporary_(std::move(temporary)), fd_(fd) {}
  std::string path_, temporary_;    // temporary_ is empty once there is nothing to rename or remove
  int fd_ = -1;                     // -1: closed
  int64_t size_ = 0, started_ = 0;  // bytes of which the disk was told
};

// Creates the folder and its parents.
Status MakeDirectories(const std::string& path);
// fsync of a folder, so that renames in it survive a power cut.
Status SyncDirectory(const std::string& path);
// Removes a tree; a missing one is fine.
Status RemoveTree(const std::string& path);

}  // namespace planish

// An output that is a folder: it appears under its name whole or not at all.
#pragma once

#include <string>

#include "base/result.h"

namespace planish {

// A folder that appears under its name at Commit(), whole. Files are made in path(), each of them synced by
// whoever writes it. Destroyed without Commit, it leaves nothing.
class AtomicFolder {
 public:
  // Error: `path` exists and is no empty folder.
  static Result<AtomicFolder> Create(const std::string& path);
  AtomicFolder(AtomicFolder&& other) noexcept;
  AtomicFolder& operator=(AtomicFolder&&) = delete;
  ~AtomicFolder();
  const std::string& path() const { return temporary_; }
  Status Commit();

 private:
  AtomicFolder(std::string path, std::string temporary)
      : path_(std::move(path)), temporary_(std::move(temporary)) {}
  std::string path_, temporary_;  // empty once committed or moved from
};

}  // namespace planish

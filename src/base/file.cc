#include "base/file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <map>

#include "base/check.h"

namespace planish {
namespace {

constexpr std::string_view kEmbeddedPrefix = "embedded:";
constexpr int64_t kWriteOut = 8 << 20;  // bytes of a file that the disk is asked to write at a time

std::map<std::string, std::span<const std::byte>, std::less<>>& Embedded() {
  static std::map<std::string, std::span<const std::byte>, std::less<>> blobs;
  return blobs;
}

std::string Reason() { return std::strerror(errno); }

// A path that cannot be read is the user's to mend (2); a device that fails is not (1).
Error OpenError(const std::string& path) {
  const bool input = errno == ENOENT || errno == ENOTDIR || errno == EACCES || errno == EISDIR;
  return {input ? Code::kInput : Code::kFailure, fmt::format("{}: cannot open: {}", path, Reason())};
}

std::string Parent(const std::string& path) {
  const auto parent = std::filesystem::path(path).parent_path().string();
  return parent.empty() ? "." : parent;
}

}  // namespace

void RegisterEmbedded(const std::string& name, std::span<const std::byte> bytes) { Embedded()[name] = bytes; }

Result<std::shared_ptr<const MappedFile>> MappedFile::Open(const std::string& path) {
  auto file = std::shared_ptr<MappedFile>(new MappedFile);
  file->path_ = path;
  if (path.starts_with(kEmbeddedPrefix)) {
    const auto it = Embedded().find(std::string_view(path).substr(kEmbeddedPrefix.size()));
    if (it == Embedded().end()) return InputError(fmt::format("{}: no such embedded file", path));
    file->bytes_ = it->second;
    return std::shared_ptr<const MappedFile>(std::move(file));
  }
  // O_NONBLOCK: a pipe is refused below instead of waiting here for its writer.
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return OpenError(path);
  struct stat info {};
  if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
    close(fd);
    return InputError(fmt::format("{}: not a regular file", path));
  }
  if (info.st_size > 0) {
    const auto size = static_cast<size_t>(info.st_size);
    void* data = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (data == MAP_FAILED) {
      const Error error = FailureError(fmt::format("{}: cannot map {} bytes: {}", path, size, Reason()));
      close(fd);
      return error;
    }
    file->bytes_ = {static_cast<const std::byte*>(data), size};
    file->mapped_ = true;
  }
  close(fd);
  return std::shared_ptr<const MappedFile>(std::move(file));
}

MappedFile::~MappedFile() {
  if (mapped_) munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

void MappedFile::Release(std::span<const std::byte> part) const {
  if (!mapped_ || part.empty()) return;
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(part.data()) + page - 1) / page * page;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(part.data()) + part.size()) / page * page;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
}

bool FileExists(const std::string& path) {
  if (path.starts_with(kEmbeddedPrefix)) {
    return Embedded().contains(std::string_view(path).substr(kEmbeddedPrefix.size()));
  }
  std::error_code ignored;
  return std::filesystem::is_regular_file(path, ignored);
}

bool DirectoryExists(const std::string& path) {
  if (path.starts_with(kEmbeddedPrefix)) {
    const std::string prefix = path.substr(kEmbeddedPrefix.size()) + "/";
    const auto it = Embedded().lower_bound(prefix);
    return it != Embedded().end() && it->first.starts_with(prefix);
  }
  std::error_code ignored;
  return std::filesystem::is_directory(path, ignored);
}

Result<std::string> FollowLinks(const std::string& path) {
  constexpr int kMaxLinks = 40;  // as Linux
  std::filesystem::path at = path;
  std::error_code error;
  for (int i = 0; std::filesystem::is_symlink(at, error); ++i) {
    const auto target = std::filesystem::read_symlink(at, error);
    if (error || i == kMaxLinks) {
      return InputError(fmt::format("{}: a symbolic link that leads nowhere; choose another output", path));
    }
    at = target.is_absolute() ? target : at.parent_path() / target;
  }
  return at.string();
}

std::string JoinPath(const std::string& folder, const std::string& name) {
  return folder.empty() || folder.back() == '/' ? folder + name : folder + "/" + name;
}

Result<std::string> ReadTextFile(const std::string& path, int64_t limit_bytes) {
  PLANISH_TRY(auto file, MappedFile::Open(path));
  if (static_cast<int64_t>(file->bytes().size()) > limit_bytes) {
    return InputError(
        fmt::format("{}: {} bytes, at most {} expected here", path, file->bytes().size(), limit_bytes));
  }
  return std::string(reinterpret_cast<const char*>(file->bytes().data()), file->bytes().size());
}

Result<AtomicFile> AtomicFile::Create(const std::string& given) {
  PLANISH_TRY(const std::string path, FollowLinks(given));
  // The finished file takes the place of whatever has its name: not of a device, a pipe or a folder.
  std::error_code ignored;
  const auto status = std::filesystem::status(path, ignored);
  if (std::filesystem::exists(status) && !std::filesystem::is_regular_file(status)) {
    return InputError(fmt::format("{}: exists and is no ordinary file; choose another output", path));
  }
  std::string temporary = path + ".tmp";
  const int fd = open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd < 0) {
    const bool input =
        errno == ENOENT || errno == ENOTDIR || errno == EACCES || errno == EROFS || errno == EISDIR;
    return Error{input ? Code::kInput : Code::kFailure, fmt::format("{}: cannot create: {}", path, Reason())};
  }
  return AtomicFile(path, std::move(temporary), fd);
}

AtomicFile::AtomicFile(AtomicFile&& other) noexcept
    : path_(std::move(other.path_)),
      temporary_(std::move(other.temporary_)),
      fd_(other.fd_),
      size_(other.size_),
      started_(other.started_) {
  other.fd_ = -1;
  other.temporary_.clear();
}

AtomicFile::~AtomicFile() {
  if (fd_ >= 0) close(fd_);
  if (!temporary_.empty()) unlink(temporary_.c_str());
}

Error AtomicFile::Unfinished() {
  const Error error = FailureError(fmt::format("{}: cannot finish writing: {}", path_, Reason()));
  unlink(temporary_.c_str());
  temporary_.clear();
  return error;
}

Status AtomicFile::Append(std::span<const std::byte> data) {
  PLANISH_CHECK(fd_ >= 0) << path_;
  while (!data.empty()) {
    const ssize_t n = write(fd_, data.data(), data.size());
    if (n < 0) {
      if (errno == EINTR) continue;
      return FailureError(fmt::format("{}: cannot write after {} bytes: {}", path_, size_, Reason()));
    }
    data = data.subspan(static_cast<size_t>(n));
    size_ += n;
  }
  // The disk begins now, not at the end. Best effort: Commit() is what makes sure.
  if (size_ - started_ >= kWriteOut) {
    sync_file_range(fd_, started_, size_ - started_, SYNC_FILE_RANGE_WRITE);
    started_ = size_;
  }
  return {};
}

Status AtomicFile::Close() {
  PLANISH_CHECK(fd_ >= 0) << path_;
  const bool synced = fsync(fd_) == 0;
  const int sync_error = errno;
  const bool closed = close(fd_) == 0;
  fd_ = -1;
  if (synced && closed) return {};
  if (!synced) errno = sync_error;
  return Unfinished();
}

Status AtomicFile::Commit() {
  PLANISH_CHECK(!temporary_.empty()) << path_;
  if (fd_ >= 0) PLANISH_RETURN_IF_ERROR(Close());
  if (rename(temporary_.c_str(), path_.c_str()) != 0) return Unfinished();
  temporary_.clear();
  return SyncDirectory(Parent(path_));
}

Status WriteFileAtomically(const std::string& path, std::string_view content) {
  PLANISH_TRY(auto file, AtomicFile::Create(path));
  PLANISH_RETURN_IF_ERROR(file.Append(content));
  return file.Commit();
}

Status MakeDirectories(const std::string& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (error) return InputError(fmt::format("{}: cannot create folder: {}", path, error.message()));
  return {};
}

Status SyncDirectory(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return OpenError(path);
  const bool ok = fsync(fd) == 0 || errno == EINVAL;  // some file systems cannot sync folders
  close(fd);
  if (!ok) return FailureError(fmt::format("{}: cannot sync folder: {}", path, Reason()));
  return {};
}

Status RemoveTree(const std::string& path) {
  std::error_code error;
  std::filesystem::remove_all(path, error);
  if (error) return FailureError(fmt::format("{}: cannot remove: {}", path, error.message()));
  return {};
}

}  // namespace planish

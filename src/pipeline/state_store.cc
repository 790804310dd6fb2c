#include "pipeline/state_store.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/check.h"
#include "base/file.h"

namespace planish {
namespace {

Error SpillError(const std::string& path, const char* what) {
  return FailureError(
      fmt::format("{}: cannot {} the spill file of the hidden states: {} (free disk space, or raise "
                  "--state-memory)",
                  path, what, std::strerror(errno)));
}

int64_t TotalValues(const auto& values) {
  int64_t n = 0;
  for (const auto& v : values) n += v.rows * v.cols;
  return n;
}

}  // namespace

StateStore::StateStore(StateType type, int64_t entries, int64_t slot_bytes, int64_t memory_limit_bytes,
                       std::string spill_path)
    : type_(type),
      slot_bytes_(slot_bytes),
      limit_(memory_limit_bytes),
      spill_path_(std::move(spill_path)),
      entries_(static_cast<size_t>(entries)) {}

StateStore::~StateStore() {
  if (spill_ >= 0) close(spill_);
}

Status StateStore::OpenSpill() {
  if (spill_ >= 0) return {};
  spill_ = open(spill_path_.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (spill_ < 0) return SpillError(spill_path_, "create");
  unlink(spill_path_.c_str());
  return {};
}

Status StateStore::Store(int64_t index, Buffer data, int64_t bytes) {
  PLANISH_CHECK(bytes <= slot_bytes_) << bytes;
  Entry& entry = entries_[static_cast<size_t>(index)];
  if (!entry.spilled) in_memory_ -= entry.bytes;
  entry.memory = {};
  entry.bytes = bytes;
  entry.spilled = in_memory_ + bytes > limit_;
  if (!entry.spilled) {
    in_memory_ += bytes;
    entry.memory = std::move(data);
    return {};
  }
  PLANISH_RETURN_IF_ERROR(OpenSpill());
  for (int64_t done = 0; done < bytes;) {
    const ssize_t n =
        pwrite(spill_, data.data() + done, static_cast<size_t>(bytes - done), index * slot_bytes_ + done);
    if (n < 0 && errno != EINTR) return SpillError(spill_path_, "write");
    if (n > 0) done += n;
  }
  return {};
}

Status StateStore::ReadEntry(int64_t index, std::span<std::byte> out) const {
  const Entry& entry = entries_[static_cast<size_t>(index)];
  PLANISH_CHECK(static_cast<int64_t>(out.size()) == entry.bytes) << out.size() << " " << entry.bytes;
  if (!entry.spilled) {
    std::memcpy(out.data(), entry.memory.data(), out.size());
    return {};
  }
  for (int64_t done = 0; done < entry.bytes;) {
    const ssize_t n =
        pread(spill_, out.data() + done, static_cast<size_t>(entry.bytes - done), index * slot_bytes_ + done);
    if (n == 0 || (n < 0 && errno != EINTR)) return SpillError(spill_path_, "read");
    if (n > 0) done += n;
  }
  return {};
}

Status StateStore::Put(int64_t entry, const std::vector<MatView<const float>>& values) {
  const int64_t bytes = TotalValues(values) * BytesPerValue(type_);
  Buffer data(static_cast<size_t>(bytes));
  std::byte* to = data.data();
  for (const auto& v : values) {
    for (int64_t i = 0; i < v.rows; ++i) {
      if (type_ == StateType::kF32) {
        std::memcpy(to, v.row(i), static_cast<size_t>(v.cols) * 4);
      } else {
        auto* half = reinterpret_cast<BF16*>(to);
        for (int64_t j = 0; j < v.cols; ++j) half[j] = ToBF16(v(i, j));
      }
      to += v.cols * BytesPerValue(type_);
    }
  }
  return Store(entry, std::move(data), bytes);
}

Status StateStore::Get(int64_t entry, const std::vector<MatView<float>>& values) const {
  Buffer data(static_cast<size_t>(TotalValues(values) * BytesPerValue(type_)));
  PLANISH_RETURN_IF_ERROR(ReadEntry(entry, data.bytes()));
  const std::byte* from = data.data();
  for (const auto& v : values) {
    for (int64_t i = 0; i < v.rows; ++i) {
      if (type_ == StateType::kF32) {
        std::memcpy(v.row(i), from, static_cast<size_t>(v.cols) * 4);
      } else {
        const auto* half = reinterpret_cast<const BF16*>(from);
        for (int64_t j = 0; j < v.cols; ++j) v(i, j) = ToFloat(half[j]);
      }
      from += v.cols * BytesPerValue(type_);
    }
  }
  return {};
}

Status StateStore::Save(const std::string& path) const {
  PLANISH_TRY(auto file, AtomicFile::Create(path));
  for (size_t i = 0; i < entries_.size(); ++i) {
    Buffer data(static_cast<size_t>(entries_[i].bytes));
    PLANISH_RETURN_IF_ERROR(ReadEntry(static_cast<int64_t>(i), data.bytes()));
    PLANISH_RETURN_IF_ERROR(file.Append(std::as_const(data).bytes()));
  }
  return file.Commit();
}

Status StateStore::Load(const std::string& path, const std::vector<int64_t>& entry_bytes) {
  PLANISH_CHECK(entry_bytes.size() == entries_.size());
  PLANISH_TRY(const auto file, MappedFile::Open(path));
  int64_t expected = 0;
  for (int64_t bytes : entry_bytes) expected += bytes;
  if (static_cast<int64_t>(file->bytes().size()) != expected) {
    return InputError(fmt::format("{}: {} bytes, expected {}; remove the folder and start again", path,
                                  file->bytes().size(), expected));
  }
  size_t offset = 0;
  for (size_t i = 0; i < entry_bytes.size(); ++i) {
    const auto part = file->bytes().subspan(offset, static_cast<size_t>(entry_bytes[i]));
    Buffer data(part.size());
    std::memcpy(data.data(), part.data(), part.size());
    PLANISH_RETURN_IF_ERROR(Store(static_cast<int64_t>(i), std::move(data), entry_bytes[i]));
    file->Release(part);
    offset += part.size();
  }
  return {};
}

}  // namespace planish

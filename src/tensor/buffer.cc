#include "tensor/buffer.h"

#include <sys/mman.h>

#include <cstdlib>

namespace planish {
namespace {

constexpr size_t kLine = 64;
// From here on memory is mapped, not taken from the heap: it goes back to the system when freed, where
// malloc would keep and fragment it, and peak memory stays what preflight said.
constexpr size_t kMapFrom = size_t{1} << 20;
constexpr size_t kHugePage = size_t{2} << 20;

size_t RoundUp(size_t size, size_t unit) { return (size + unit - 1) / unit * unit; }

// Aligned to a huge page, so that the kernel can back the array with them.
std::byte* MapAligned(size_t size) {
  const size_t total = size + kHugePage;
  void* raw = mmap(nullptr, total, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (raw == MAP_FAILED) throw std::bad_alloc();
  const auto begin = reinterpret_cast<uintptr_t>(raw);
  const uintptr_t aligned = RoundUp(begin, kHugePage);
  if (aligned > begin) munmap(raw, aligned - begin);
  if (aligned + size < begin + total) {
    munmap(reinterpret_cast<void*>(aligned + size), begin + total - aligned - size);
  }
  auto* data = reinterpret_cast<std::byte*>(aligned);
  // Only whole huge pages: a partly used one would count in full.
  if (size >= 2 * kHugePage) madvise(data, size / kHugePage * kHugePage, MADV_HUGEPAGE);
  return data;
}

}  // namespace

void internal::FreeBytes::operator()(std::byte* data) const {
  if (mapped_bytes > 0) {
    munmap(data, mapped_bytes);
  } else {
    std::free(data);
  }
}

Buffer::Buffer(size_t size_bytes) : size_(size_bytes) {
  if (size_bytes == 0) return;
  if (size_bytes > SIZE_MAX - 2 * kHugePage) throw std::bad_alloc();
  if (size_bytes >= kMapFrom) {
    const size_t mapped = RoundUp(size_bytes, 4096);
    data_ = decltype(data_)(MapAligned(mapped), internal::FreeBytes{mapped});
    return;
  }
  auto* data = static_cast<std::byte*>(std::aligned_alloc(kLine, RoundUp(size_bytes, kLine)));
  if (data == nullptr) throw std::bad_alloc();
  data_ = decltype(data_)(data, internal::FreeBytes{});
}

}  // namespace planish

#include "tensor/buffer.h"

#include <sys/mman.h>

namespace planish {

Buffer::Buffer(size_t size_bytes) : size_(size_bytes) {
  if (size_bytes == 0) return;
  const bool huge = size_bytes >= (size_t{4} << 20);
  const size_t alignment = huge ? size_t{2} << 20 : 64;
  if (size_bytes > SIZE_MAX - alignment) throw std::bad_alloc();
  const size_t rounded = (size_bytes + 63) / 64 * 64;
  auto* data = static_cast<std::byte*>(std::aligned_alloc(alignment, (rounded + alignment - 1) / alignment * alignment));
  if (data == nullptr) throw std::bad_alloc();
  if (huge) madvise(data, rounded, MADV_HUGEPAGE);
  data_.reset(data);
}

}  // namespace planish

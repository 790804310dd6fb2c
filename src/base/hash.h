// SHA-256 (FIPS 180-4): fingerprints of recipes, models and data. Only a name for content here,
// nothing is kept secret by it; scalar code, a few hundred MB/s.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace planish {

class Sha256 {
 public:
  Sha256();
  // The hash is of all bytes so far, however they were cut into calls.
  void Update(std::span<const std::byte> bytes);
  void Update(std::string_view text) { Update(std::as_bytes(std::span(text.data(), text.size()))); }
  // 64 lower-case hexadecimal digits. More bytes may follow; the next Hex covers them too.
  std::string Hex() const;

 private:
  static constexpr size_t kBlock = 64;
  void AddBlock(const std::byte* block);

  std::array<uint32_t, 8> state_;
  std::array<std::byte, kBlock> pending_;  // the first size_ % kBlock bytes wait for a full block
  uint64_t size_ = 0;                      // bytes so far
};

}  // namespace planish

#include "base/hash.h"

#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

namespace planish {
namespace {

std::string HexOf(std::string_view text) {
  Sha256 hash;
  hash.Update(text);
  return hash.Hex();
}

// Bytes without a period of a block or a word.
std::string Bytes(size_t count) {
  std::string bytes(count, '\0');
  for (size_t i = 0; i < count; ++i) bytes[i] = static_cast<char>((7 * i + 3) & 255);
  return bytes;
}

// Examples of FIPS 180.
TEST(Sha256, StandardExamples) {
  EXPECT_EQ(HexOf(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(HexOf("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(HexOf("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"),
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  EXPECT_EQ(HexOf(std::string(1000000, 'a')),
            "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

// Lengths at which the padding changes from one block to two; digests from Python's hashlib.
TEST(Sha256, LengthsAroundBlocks) {
  const std::vector<std::pair<size_t, std::string>> cases = {
      {55, "e7313d333c272e639f790978283f9eb392e843d0f29b7016828bb1daa4aac70b"},
      {56, "4324d65f3c103567f5589c710bc08f8523f929a9272e3af36fc968e52abc6c27"},
      {63, "81c80242132f230c3bd41b3e63bbcff16107339549214a99614ff26664625055"},
      {64, "39e3d7b6b5d075d37d053ad89b24b41bef4f3c29760c84447cab3f3be1882241"},
      {65, "aacca6ff74fdbb296d165a45cecfa04e5127bc008770fbbdd48006f2d2fae95e"},
      {119, "9ce7368e4daf32341631b492e80359dc9f594b48453cd0dd5bf0b19279cc177e"},
      {120, "7836b787757e95e58b3ca5aec90b1b004e8deba1e50e9675af9cabf1a13a04b5"},
      {1000, "1e9bc38cbf860b9ec31918b065f9b52476c549a782e0e7990bed8ce3868d2371"}};
  for (const auto& [size, digest] : cases) EXPECT_EQ(HexOf(Bytes(size)), digest) << size;
}

TEST(Sha256, AnyCutsGiveTheSameHash) {
  const std::string bytes = Bytes(1000);
  for (size_t step : {1, 3, 63, 64, 65, 200}) {
    Sha256 hash;
    for (size_t at = 0; at < bytes.size(); at += step) {
      hash.Update(std::string_view(bytes).substr(at, step));
      hash.Update("");
    }
    EXPECT_EQ(hash.Hex(), HexOf(bytes)) << step;
  }
}

TEST(Sha256, GoesOnAfterHex) {
  Sha256 hash;
  hash.Update("a");
  EXPECT_EQ(hash.Hex(), HexOf("a"));
  hash.Update("bc");
  EXPECT_EQ(hash.Hex(), HexOf("abc"));
}

}  // namespace
}  // namespace planish

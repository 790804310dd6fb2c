#include "formats/text.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "base/file.h"

namespace planish {
namespace {

using ::testing::HasSubstr;

std::string Encode(uint32_t c) {
  const auto byte = [](uint32_t b) { return static_cast<char>(b); };
  if (c < 0x80) return {byte(c)};
  if (c < 0x800) return {byte(0xc0 | c >> 6), byte(0x80 | (c & 63))};
  if (c < 0x10000) return {byte(0xe0 | c >> 12), byte(0x80 | (c >> 6 & 63)), byte(0x80 | (c & 63))};
  return {byte(0xf0 | c >> 18), byte(0x80 | (c >> 12 & 63)), byte(0x80 | (c >> 6 & 63)),
          byte(0x80 | (c & 63))};
}

TEST(Utf8Test, ExactlyTheScalarValuesAreValid) {
  for (uint32_t c = 0; c < 0x200000; ++c) {
    const bool scalar = c <= 0x10ffff && !(c >= 0xd800 && c <= 0xdfff);
    ASSERT_EQ(ValidateUtf8(Encode(c)).ok(), scalar) << c;
  }
}

TEST(Utf8Test, OverlongFormsAndFragmentsAreNot) {
  for (const char* bad : {"\x80", "\xbf", "\xc0\x80", "\xc1\xbf", "\xe0\x80\x80", "\xe0\x9f\xbf",
                          "\xf0\x80\x80\x80", "\xf0\x8f\xbf\xbf", "\xf5\x80\x80\x80", "\xfe", "\xff", "\xc3",
                          "\xe2\x82", "\xf0\x9f\x98", "\xc3(", "\xe2(\xac", "\xe2\x82(", "\xf0\x9f\x98("}) {
    EXPECT_FALSE(ValidateUtf8(bad).ok()) << testing::PrintToString(bad);
  }
}

TEST(Utf8Test, OffsetOfTheFirstBadByteWhereverItStands) {
  const std::string text =
      "plain ASCII and \xc3\xa9 and \xe2\x82\xac and \xf0\x9f\x98\x80, some more ASCII text";
  ASSERT_TRUE(ValidateUtf8(text).ok());
  ASSERT_TRUE(ValidateUtf8("").ok());
  for (size_t i = 0; i < text.size(); ++i) {
    if ((static_cast<unsigned char>(text[i]) & 0xc0) == 0x80) continue;  // inside a character
    const std::string bad = fmt::format("{}\xff{}", text.substr(0, i), text.substr(i));
    EXPECT_THAT(ValidateUtf8(bad).error().message,
                ::testing::EndsWith(fmt::format("bad byte 0xff at offset {}", i)));
  }
}

TEST(Utf8Test, LoadTextNamesTheFile) {
  std::string path = ::testing::TempDir() + "planish_text_XXXXXX";
  const int fd = mkstemp(path.data());
  ASSERT_GE(fd, 0);
  close(fd);
  ASSERT_TRUE(WriteFileAtomically(path, "gr\xc3\xbc\xc3\x9f\r\n").ok());
  EXPECT_EQ(*LoadText(path), "gr\xc3\xbc\xc3\x9f\r\n");
  ASSERT_TRUE(WriteFileAtomically(path, "gr\xfc\xdf").ok());  // Latin-1
  const auto bad = LoadText(path);
  ASSERT_FALSE(bad.ok());
  EXPECT_THAT(bad.error().message, HasSubstr(path + ": not UTF-8: bad byte 0xfc at offset 2"));
  EXPECT_EQ(bad.error().code, Code::kInput);
  ASSERT_TRUE(RemoveTree(path).ok());
  EXPECT_FALSE(LoadText(path).ok());
}

}  // namespace
}  // namespace planish

#include "export/target.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace planish {
namespace {

using testing::HasSubstr;

TEST(ConvertTargetTest, NamesAndTypes) {
  ConvertOptions options;
  const auto gguf = ParseConvertTarget("gguf:Q4_K", options);
  ASSERT_TRUE(gguf.ok()) << gguf.error().message;
  EXPECT_STREQ((*gguf)->name, "gguf");
  EXPECT_EQ(options.type, "q4_k");
  for (const char* text : {"", "gguf", "gguf:", "gguf:q9", "nothing", "gguf:q8_0:x"}) {
    const auto wrong = ParseConvertTarget(text, options);
    ASSERT_FALSE(wrong.ok()) << text;
    EXPECT_THAT(wrong.error().message, HasSubstr("--to: expected one of gguf:TYPE (TYPE: q8_0, f32"));
  }
}

TEST(ConvertTargetTest, EveryTypeOfEveryTargetParses) {
  for (const ConvertTarget& target : AllConvertTargets()) {
    if (target.types == nullptr) continue;
    for (const std::string& type : target.types()) {
      ConvertOptions options;
      EXPECT_TRUE(ParseConvertTarget(target.name + (":" + type), options).ok()) << target.name << type;
      EXPECT_EQ(options.type, type);
    }
  }
}

}  // namespace
}  // namespace planish

#include "export/target.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "export/refusals.h"

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

TEST(Refusals, NamesThatDifferInANumberAreOne) {
  using Names = std::vector<std::string>;
  EXPECT_EQ(GroupNumbered({"layers.0.up", "layers.1.up", "layers.0.down", "layers.3.up", "head"}),
            (Names{"layers.{0-1,3}.up", "layers.0.down", "head"}));
  EXPECT_EQ(GroupNumbered({"l.0.e.0.up", "l.0.e.1.up", "l.1.e.0.up", "l.1.e.1.up"}),
            (Names{"l.{0-1}.e.{0-1}.up"}));
  // Only what is there: the second layer lacks an expert.
  EXPECT_EQ(GroupNumbered({"l.0.e.0.up", "l.0.e.1.up", "l.1.e.0.up"}),
            (Names{"l.0.e.{0-1}.up", "l.1.e.0.up"}));
  EXPECT_EQ(GroupNumbered({"a.01", "a.1", "a.-1", "a.99999999999999999999"}),
            (Names{"a.01", "a.1", "a.-1", "a.99999999999999999999"}));
  EXPECT_EQ(GroupNumbered({}), Names{});
}

}  // namespace
}  // namespace planish

#include "methods/options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>

namespace planish {
namespace {

using ::testing::HasSubstr;
using Values = std::map<std::string, OptionValue>;

SolveStage Stage() {
  SolveStage stage;
  stage.name = "sample";
  stage.options = {{"bits", int64_t{4}, 2, 8, {}, ""},
                   {"damping", 0.01, 0, 1, {}, ""},
                   {"symmetric", false, 0, 0, {}, ""},
                   {"order", std::string("natural"), 0, 0, {"natural", "activation"}, ""},
                   {"note", std::string(), 0, 0, {}, ""}};
  return stage;
}

TEST(Options, Defaults) {
  const auto options = ResolveOptions(Stage(), {});
  ASSERT_TRUE(options.ok()) << options.error().message;
  EXPECT_EQ(options->values().size(), 5u);
  EXPECT_EQ(options->Int("bits"), 4);
  EXPECT_EQ(options->Number("damping"), 0.01);
  EXPECT_FALSE(options->Bool("symmetric"));
  EXPECT_EQ(options->Text("order"), "natural");
  EXPECT_EQ(options->Text("note"), "");
}

TEST(Options, GivenValuesAndIntegersAsNumbers) {
  const auto options = ResolveOptions(Stage(), {{"bits", int64_t{8}},
                                                {"damping", int64_t{1}},
                                                {"symmetric", true},
                                                {"order", std::string("activation")},
                                                {"note", std::string("any")}});
  ASSERT_TRUE(options.ok()) << options.error().message;
  EXPECT_EQ(options->Int("bits"), 8);
  EXPECT_EQ(options->Number("damping"), 1.0);
  EXPECT_TRUE(options->Bool("symmetric"));
  EXPECT_EQ(options->Text("order"), "activation");
  EXPECT_EQ(options->Text("note"), "any");
}

TEST(Options, NegativeZeroIsZero) {
  const auto options = ResolveOptions(Stage(), {{"damping", -0.0}});
  ASSERT_TRUE(options.ok());
  EXPECT_FALSE(std::signbit(options->Number("damping")));
}

TEST(Options, Mistakes) {
  struct Case {
    Values given;
    const char* message;
  };
  const std::vector<Case> cases = {
      {{{"bit", int64_t{4}}}, "method 'sample' has no option 'bit'; did you mean 'bits'?"},
      {{{"zzzzzzzz", true}},
       "method 'sample' has no option 'zzzzzzzz'; known: 'bits', 'damping', 'symmetric', 'order' and 'note'"},
      {{{"bits", int64_t{9}}}, "option 'bits': found 9, expected an integer from 2 to 8"},
      {{{"bits", int64_t{1}}}, "option 'bits': found 1, expected an integer from 2 to 8"},
      {{{"bits", 4.0}}, "option 'bits': found 4.0, expected an integer from 2 to 8"},
      {{{"bits", std::string("4")}}, "option 'bits': found \"4\", expected an integer from 2 to 8"},
      {{{"damping", 1.5}}, "option 'damping': found 1.5, expected a number from 0 to 1"},
      {{{"damping", int64_t{-1}}}, "option 'damping': found -1, expected a number from 0 to 1"},
      {{{"damping", std::nan("")}}, "option 'damping': found nan"},
      {{{"damping", std::numeric_limits<double>::infinity()}}, "option 'damping': found inf"},
      {{{"damping", true}}, "option 'damping': found true, expected a number"},
      {{{"symmetric", int64_t{1}}}, "option 'symmetric': found 1, expected true or false"},
      {{{"order", std::string("naturel")}},
       "option 'order': found \"naturel\", expected one of 'natural' and 'activation'; did you mean "
       "'natural'?"},
      {{{"order", true}}, "option 'order': found true, expected one of"},
      {{{"note", int64_t{1}}}, "option 'note': found 1, expected a string"},
  };
  for (const Case& c : cases) {
    const auto options = ResolveOptions(Stage(), c.given);
    ASSERT_FALSE(options.ok()) << c.message;
    EXPECT_EQ(options.error().code, Code::kInput);
    EXPECT_THAT(options.error().message, HasSubstr(c.message));
  }
}

TEST(Options, TextOfValues) {
  EXPECT_EQ(OptionText(true), "true");
  EXPECT_EQ(OptionText(std::numeric_limits<int64_t>::min()), "-9223372036854775808");
  EXPECT_EQ(OptionText(1.0), "1.0");
  EXPECT_EQ(OptionText(0.1), "0.1");
  EXPECT_EQ(OptionText(1e-7), "1e-07");
  EXPECT_EQ(OptionText(1e300), "1e+300");
  EXPECT_EQ(OptionText(std::string("a\"b\\c\n\x7f\xc3\xa9")), "\"a\\\"b\\\\c\\u000A\\u007F\xc3\xa9\"");
}

TEST(OptionsDeathTest, MistakesOfMethodsAbort) {
  SolveStage stage = Stage();
  stage.options[0].fallback = int64_t{9};
  EXPECT_DEATH((void)ResolveOptions(stage, {}), "default of method 'sample': option 'bits': found 9");
  stage.options[0] = stage.options[1];
  EXPECT_DEATH((void)ResolveOptions(stage, {}), "has two options 'damping'");
  EXPECT_DEATH((void)Options().Int("bits"), "no option 'bits'");
}

}  // namespace
}  // namespace planish

#include "pipeline/recipe.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "pipeline/recipe_test_stages.h"

namespace planish {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;
using Paths = std::vector<std::string>;

Result<Recipe> Parse(const std::string& text) { return ParseRecipe(text, "r.toml", RecipeTestStages()); }

Recipe MustParse(const std::string& text) {
  auto recipe = Parse(text);
  EXPECT_TRUE(recipe.ok()) << recipe.error().message;
  return recipe.ok() ? *recipe : Recipe{};
}

LayerPlan MustPlan(const Recipe& recipe, const std::string& tensor) {
  auto plan = PlanFor(recipe, tensor);
  EXPECT_TRUE(plan.ok()) << plan.error().message;
  return plan.ok() ? *plan : LayerPlan{};
}

const std::string kGptq = "[[stage]]\nmethod = \"gptq\"\n";

TEST(Recipe, Defaults) {
  const Recipe recipe = MustParse(kGptq);
  EXPECT_EQ(recipe.mode, Recipe::Mode::kSequential);
  EXPECT_EQ(recipe.states, Recipe::States::kBf16);
  EXPECT_EQ(recipe.head_bits, 0);
  EXPECT_EQ(recipe.head_group, 128);
  EXPECT_EQ(recipe.calibration.text, Paths{});
  EXPECT_EQ(recipe.calibration.windows, 128);
  EXPECT_EQ(recipe.calibration.context, 1024);
  EXPECT_EQ(recipe.calibration.seed, 0u);
  EXPECT_TRUE(recipe.rules.empty());
  ASSERT_EQ(recipe.stages.size(), 1u);
  EXPECT_EQ(recipe.stages[0].stage, RecipeTestStages()[0]);
  EXPECT_EQ(recipe.stages[0].options.values().size(), 5u);
  EXPECT_EQ(recipe.stages[0].options.Int("bits"), 4);
  EXPECT_EQ(recipe.stages[0].options.Number("damping"), 0.01);
}

const char kEverything[] = R"(mode = "independent"
states = "fp32"
head_bits = 8
head_group = 0
calibration = {text = "x.txt", windows = 2, context = 64, seed = 9223372036854775807}
[[stage]]
method = "gptq"
symmetric = true
damping = 1
[[stage]]
method = "bias"
note = "a \"b\" \\ \n"
[[rule]]
skip = false
match = "*.up_proj.*"
method = "nearest"
search = false
bits = 16
[[rule]]
match = "lm_head.weight"
skip = true
)";

TEST(Recipe, Everything) {
  const Recipe recipe = MustParse(kEverything);
  EXPECT_EQ(recipe.mode, Recipe::Mode::kIndependent);
  EXPECT_EQ(recipe.states, Recipe::States::kFp32);
  EXPECT_EQ(recipe.head_bits, 8);
  EXPECT_EQ(recipe.head_group, 0);
  EXPECT_EQ(recipe.calibration.text, Paths{"x.txt"});
  EXPECT_EQ(recipe.calibration.windows, 2);
  EXPECT_EQ(recipe.calibration.context, 64);
  EXPECT_EQ(recipe.calibration.seed, 9223372036854775807u);
  ASSERT_EQ(recipe.stages.size(), 2u);
  EXPECT_EQ(recipe.stages[0].options.Number("damping"), 1.0);  // an integer was given
  EXPECT_EQ(recipe.stages[1].options.Text("note"), "a \"b\" \\ \n");
  ASSERT_EQ(recipe.rules.size(), 2u);
  EXPECT_EQ(recipe.rules[0].match, "*.up_proj.*");
  EXPECT_EQ(recipe.rules[0].skip, false);
  EXPECT_EQ(recipe.rules[0].method, RecipeTestStages()[1]);
  EXPECT_EQ(recipe.rules[0].options.size(), 2u);
  EXPECT_EQ(recipe.rules[1].skip, true);
}

// Written by hand. A change of these bytes makes every stored result look out of date.
TEST(Recipe, CanonicalText) {
  const std::string with_paths = R"(mode = "independent"
states = "fp32"
head_bits = 8
head_group = 0

[calibration]
text = ["x.txt"]
windows = 2
context = 64
seed = 9223372036854775807

[[stage]]
method = "gptq"
bits = 4
damping = 1.0
group = 128
order = "natural"
symmetric = true

[[stage]]
method = "bias"
note = "a \"b\" \\ \u000A"
scale = 1.5

[[rule]]
match = "*.up_proj.*"
skip = false
method = "nearest"
bits = 16
search = false

[[rule]]
match = "lm_head.weight"
skip = true
)";
  const Recipe recipe = MustParse(kEverything);
  EXPECT_EQ(RecipeText(recipe), with_paths);
  EXPECT_EQ(RecipeText(MustParse(with_paths)), with_paths);
  std::string without = with_paths;
  without.erase(without.find("text = "), std::string("text = [\"x.txt\"]\n").size());
  EXPECT_EQ(RecipeText(recipe, TextPaths::kLeaveOut), without);
  EXPECT_EQ(RecipeText(MustParse(without)), without);
}

TEST(Recipe, NumbersKeepTheirBitsThroughText) {
  for (const char* number : {"0.1", "1e-7", "0.30000000000000004", "3", "9.999999999999998", "-0.0"}) {
    const Recipe recipe = MustParse(kGptq + "damping = " + number + "\n");
    const Recipe again = MustParse(RecipeText(recipe));
    EXPECT_EQ(again.stages[0].options.values(), recipe.stages[0].options.values()) << number;
    EXPECT_EQ(recipe.stages[0].options.Number("damping"), std::stod(number));
  }
}

TEST(Recipe, ManyPathsAndEmptyLists) {
  EXPECT_EQ(MustParse("[calibration]\ntext = [\"a\", 'b\\c']\n" + kGptq).calibration.text,
            (Paths{"a", "b\\c"}));
  const Recipe recipe = MustParse("[calibration]\ntext = [\"a\", 'b\\c']\n" + kGptq);
  EXPECT_THAT(RecipeText(recipe), HasSubstr("text = [\"a\", \"b\\\\c\"]\n"));
  EXPECT_EQ(MustParse("rule = []\ncalibration.text = []\n" + kGptq).rules.size(), 0u);
}

TEST(RecipeRules, LaterOnesWin) {
  const Recipe recipe = MustParse(kGptq + R"([[stage]]
method = "low_rank"
[[rule]]
match = "*.mlp.*"
bits = 3
rank = 8
[[rule]]
match = "*.down_proj.*"
bits = 5
)");
  const LayerPlan up = MustPlan(recipe, "l.0.mlp.up_proj.weight");
  ASSERT_EQ(up.stages.size(), 2u);
  EXPECT_EQ(up.stages[0].second.Int("bits"), 3);
  EXPECT_EQ(up.stages[1].second.Int("rank"), 8);
  const LayerPlan down = MustPlan(recipe, "l.0.mlp.down_proj.weight");
  EXPECT_EQ(down.stages[0].second.Int("bits"), 5);
  EXPECT_EQ(down.stages[0].second.Int("group"), 128);
  EXPECT_EQ(down.stages[1].second.Int("rank"), 8);  // of the earlier rule
  const LayerPlan q = MustPlan(recipe, "l.0.attn.q_proj.weight");
  EXPECT_EQ(q.stages[0].second.values(), recipe.stages[0].options.values());
  EXPECT_EQ(q.stages[1].second.Int("rank"), 16);
}

TEST(RecipeRules, SkipAndItsUndoing) {
  const Recipe recipe = MustParse(kGptq + R"([[rule]]
match = "*.attn.*"
skip = true
[[rule]]
match = "*.k_proj"
skip = false
bits = 8
)");
  EXPECT_TRUE(MustPlan(recipe, "l.attn.q_proj").skip);
  EXPECT_TRUE(MustPlan(recipe, "l.attn.q_proj").stages.empty());
  const LayerPlan k = MustPlan(recipe, "l.attn.k_proj");
  EXPECT_FALSE(k.skip);
  ASSERT_EQ(k.stages.size(), 1u);
  EXPECT_EQ(k.stages[0].second.Int("bits"), 8);
}

TEST(RecipeRules, AMethodKeepsWhatItAccepts) {
  const Recipe recipe = MustParse(kGptq + R"(bits = 5
order = "activation"
[[stage]]
method = "low_rank"
rank = 4
[[rule]]
match = "a*"
method = "nearest"
search = false
[[rule]]
match = "ab*"
method = "gptq"
damping = 1
)");
  const LayerPlan a = MustPlan(recipe, "a");
  ASSERT_EQ(a.stages.size(), 2u);
  EXPECT_EQ(a.stages[0].first->name, "nearest");
  EXPECT_EQ(a.stages[0].second.Int("bits"), 5);
  EXPECT_EQ(a.stages[0].second.Int("group"), 128);      // the recipe's, not the new method's default
  EXPECT_EQ(a.stages[0].second.Text("order"), "rows");  // "activation" is not valid there
  EXPECT_FALSE(a.stages[0].second.Bool("search"));
  EXPECT_EQ(a.stages[0].second.values().size(), 4u);
  EXPECT_EQ(a.stages[1].first->name, "low_rank");
  EXPECT_EQ(a.stages[1].second.Int("rank"), 4);
  const LayerPlan ab = MustPlan(recipe, "ab");
  EXPECT_EQ(ab.stages[0].first->name, "gptq");
  EXPECT_EQ(ab.stages[0].second.Text("order"), "activation");
  EXPECT_EQ(ab.stages[0].second.Number("damping"), 1.0);
  EXPECT_EQ(ab.stages[1].second.Number("damping"), 1.0);  // every stage that has the option
}

// 16 bits suit "nearest", which the first rule asks for, but not "gptq", to which the second returns.
TEST(RecipeRules, ContradictionsOfRulesAreErrorsOfThePlan) {
  const Recipe recipe = MustParse(kGptq + R"([[rule]]
match = "a*"
method = "nearest"
bits = 16
[[rule]]
match = "ab*"
method = "gptq"
)");
  EXPECT_EQ(MustPlan(recipe, "a").stages[0].second.Int("bits"), 16);
  const auto plan = PlanFor(recipe, "abc");
  ASSERT_FALSE(plan.ok());
  EXPECT_EQ(plan.error().message,
            "tensor 'abc': method 'gptq' by other rules: rule 1 (match = \"a*\"): option 'bits': found 16, "
            "expected "
            "an integer from 2 to 8");
}

// An option that only another rule's method has may be stated by rules without a method.
TEST(RecipeRules, OptionsOfOtherRulesMethods) {
  const Recipe recipe = MustParse(kGptq + R"([[rule]]
match = "*b"
search = false
[[rule]]
match = "a*"
method = "nearest"
)");
  EXPECT_FALSE(MustPlan(recipe, "ab").stages[0].second.Bool("search"));
  EXPECT_TRUE(MustPlan(recipe, "a").stages[0].second.Bool("search"));
  EXPECT_EQ(MustPlan(recipe, "b").stages[0].first->name, "gptq");
}

TEST(RecipeRules, IntegersForStagesOfBothTypes) {
  const std::string stages = kGptq + "[[stage]]\nmethod = \"low_rank\"\n[[stage]]\nmethod = \"bias\"\n";
  const Recipe recipe = MustParse(stages + "[[rule]]\nmatch = \"*\"\nscale = 3\n");
  EXPECT_EQ(MustPlan(recipe, "x").stages[1].second.Int("scale"), 3);
  EXPECT_EQ(MustPlan(recipe, "x").stages[2].second.Number("scale"), 3.0);
  EXPECT_EQ(RecipeText(MustParse(RecipeText(recipe))), RecipeText(recipe));
}

TEST(Recipe, Mistakes) {
  struct Case {
    std::string text;
    std::string start;  // with the place
    std::string also;
  };
  const std::string rule = kGptq + "[[rule]]\nmatch = \"*\"\n";  // four lines
  const std::vector<Case> cases = {
      {"", "r.toml:1:1: found no stage, expected at least one table [[stage]]", ""},
      {"a = = 1", "r.toml:1:5: not valid TOML: ", ""},
      {"a = \"\xff\"", "r.toml:1:5: not valid TOML: ", ""},
      {kGptq + "bits = 3\nbits = 4\n", "r.toml:4:", "not valid TOML: "},
      {"mod = \"sequential\"\n" + kGptq, "r.toml:1:1: a recipe has no option \"mod\"; did you mean 'mode'?",
       ""},
      {"stages = 1\n", "r.toml:1:1: a recipe has no option \"stages\"; did you mean", "'stage'"},
      {"mode = \"paralel\"\n" + kGptq, "r.toml:1:8: option 'mode': found \"paralel\", expected one of",
       "'sequential' and 'independent'"},
      {"mode = 3\n" + kGptq, "r.toml:1:8: option 'mode': found 3, expected one of", ""},
      {"states = \"fp16\"\n" + kGptq, "r.toml:1:10: option 'states': found \"fp16\"", "'bf16' and 'fp32'"},
      {"head_bits = 1\n" + kGptq,
       "r.toml:1:13: option 'head_bits': found 1, expected 0 (as they are) or 2 to 8", ""},
      {"head_bits = 9\n" + kGptq, "r.toml:1:13: option 'head_bits': found 9, expected an integer from 0 to 8",
       ""},
      {"head_group = -1\n" + kGptq, "r.toml:1:14: option 'head_group': found -1", ""},
      {"head_bits = 4.0\n" + kGptq, "r.toml:1:13: option 'head_bits': found 4.0, expected an integer", ""},
      {"head_bits = [4]\n" + kGptq, "r.toml:1:1: option 'head_bits': found a list, expected an integer", ""},
      {"head_bits = 1979-05-27\n" + kGptq, "r.toml:1:1: option 'head_bits': found a date or time", ""},
      {"calibration = 3\n" + kGptq, "r.toml:1:15: 'calibration': found 3, expected one table [calibration]",
       ""},
      {"[calibration]\nwindow = 3\n" + kGptq,
       "r.toml:2:1: [calibration] has no option \"window\"; did you mean", "'windows'"},
      {"[calibration]\nwindows = 0\n" + kGptq, "r.toml:2:11: option 'windows': found 0", "from 1 to 1048576"},
      {"[calibration]\ncontext = 1\n" + kGptq, "r.toml:2:11: option 'context': found 1", "from 2 to"},
      {"[calibration]\nseed = -1\n" + kGptq, "r.toml:2:8: option 'seed': found -1",
       "from 0 to 9223372036854775807"},
      {"[calibration]\ntext = 3\n" + kGptq,
       "r.toml:2:8: option 'text': found 3, expected a path or a list of paths", ""},
      {"[calibration]\ntext = [\"a\", \"\"]\n" + kGptq, "r.toml:2:14: option 'text': found \"\"", ""},
      {"[stage]\nmethod = \"gptq\"\n", "r.toml:1:1: 'stage': found a table, expected tables [[stage]]", ""},
      {"stage = [1]\n", "r.toml:1:10: 'stage': found 1, expected a table [[stage]]", ""},
      {"stage = []\n", "r.toml:1:1: found no stage", ""},
      {"[[stage]]\nbits = 3\n", "r.toml:1:1: 'method' is missing, expected the name of a method", ""},
      {"[[stage]]\nmethod = true\n", "r.toml:2:10: 'method': found true, expected the name of a method", ""},
      {"[[stage]]\nmethod = \"gtpq\"\n", "r.toml:2:10: there is no method \"gtpq\"; did you mean 'gptq'?",
       ""},
      {"[[stage]]\nmethod = \"qqqqqqqqq\"\n",
       "r.toml:2:10: there is no method \"qqqqqqqqq\"; known: ", "'gptq', 'nearest', 'low_rank' and 'bias'"},
      {"[[stage]]\nmethod = \"low_rank\"\n", "r.toml:2:10: method 'low_rank' does not round",
       "in the first stage"},
      {kGptq + "bit = 3\n", "r.toml:3:1: method 'gptq' has no option \"bit\"; did you mean 'bits'?", ""},
      {kGptq + "bits = 1\n", "r.toml:3:8: option 'bits': found 1, expected an integer from 2 to 8", ""},
      {kGptq + "damping = nan\n", "r.toml:3:11: option 'damping': found nan, expected a number from 0 to 10",
       ""},
      {kGptq + "order = \"active\"\n", "r.toml:3:9: option 'order': found \"active\"",
       "'natural' and 'activation'"},
      {kGptq + "bits.x = 1\n", "r.toml:3:1: option 'bits': found a table", ""},
      {"rule = 1\n" + kGptq, "r.toml:1:8: 'rule': found 1, expected tables [[rule]]", ""},
      {kGptq + "[[rule]]\nbits = 3\n", "r.toml:3:1: 'match' is missing, expected a pattern", ""},
      {kGptq + "[[rule]]\nmatch = \"\"\nbits = 3\n", "r.toml:4:9: 'match': found \"\", expected a pattern",
       ""},
      {rule, "r.toml:3:1: the rule changes nothing", ""},
      {rule + "skip = 1\n", "r.toml:5:8: 'skip': found 1, expected true or false", ""},
      {rule + "skip = true\nbits = 3\n", "r.toml:5:8: skip = true leaves nothing", ""},
      {rule + "skip = true\nmethod = \"nearest\"\n", "r.toml:5:8: skip = true leaves nothing", ""},
      {rule + "method = \"neares\"\n", "r.toml:5:10: there is no method \"neares\"; did you mean 'nearest'?",
       ""},
      {rule + "method = \"bias\"\n", "r.toml:5:10: method 'bias' does not round",
       "replaces the rounding stage only"},
      {rule + "bit = 3\n", "r.toml:5:1: no stage in this recipe has an option \"bit\"; did you mean 'bits'?",
       ""},
      {rule + "rank = 3\n", "r.toml:5:1: no stage in this recipe has an option \"rank\"", ""},
      {rule + "bits = 9\n",
       "r.toml:5:8: option 'bits': found 9, expected an integer from 2 to 8 by method 'gptq'", ""},
      {rule + "method = \"nearest\"\ndamping = 1\n",
       "r.toml:6:1: no stage with method 'nearest' has an option \"damping\"; known: ", "'search'"},
      {std::string(1 << 20, '\n') + kGptq, "r.toml:1:1: found 1048602 bytes, a recipe has at most 1048576",
       ""},
  };
  for (const Case& c : cases) {
    const auto recipe = Parse(c.text);
    ASSERT_FALSE(recipe.ok()) << c.start;
    EXPECT_EQ(recipe.error().code, Code::kInput);
    EXPECT_THAT(recipe.error().message, StartsWith(c.start));
    EXPECT_THAT(recipe.error().message, HasSubstr(c.also));
  }
}

std::string Repeated(const std::string& text, int count) {
  std::string all;
  for (int i = 0; i < count; ++i) all += text;
  return all;
}

TEST(Recipe, StageBiasIsTheLast) {
  const std::string stages = "[[stage]]\nmethod = \"gptq\"\n[[stage]]\nmethod = \"bias\"\n";
  EXPECT_TRUE(ParseRecipe(stages, "r.toml", AllStages()).ok());
  const auto recipe = ParseRecipe(stages + "[[stage]]\nmethod = \"eora\"\n", "r.toml", AllStages());
  ASSERT_FALSE(recipe.ok());
  EXPECT_THAT(recipe.error().message,
              testing::HasSubstr("r.toml:6:10: method 'eora' after 'bias', expected 'bias' last"));
}

TEST(Recipe, Counts) {
  EXPECT_EQ(MustParse(Repeated(kGptq, 64)).stages.size(), 64u);
  const auto stages = Parse(Repeated(kGptq, 65));
  ASSERT_FALSE(stages.ok());
  EXPECT_EQ(stages.error().message, "r.toml:129:1: found 65 tables [[stage]], at most 64 are read");
  const std::string rule = "[[rule]]\nmatch = \"a\"\nbits = 3\n";
  EXPECT_EQ(MustParse(kGptq + Repeated(rule, 4096)).rules.size(), 4096u);
  const auto rules = Parse(kGptq + Repeated(rule, 4097));
  ASSERT_FALSE(rules.ok());
  EXPECT_THAT(rules.error().message, HasSubstr("found 4097 tables [[rule]], at most 4096 are read"));
}

TEST(Recipe, Nesting) {
  const std::string x16 = Repeated(".x", 16), x17 = Repeated(".x", 17);
  // Deep enough to overflow the stack without the guard.
  for (const std::string& deep : {"a" + Repeated(".a", 500000) + " = 1", "[a" + Repeated(".a", 500000) + "]",
                                  "a = " + Repeated("[", 500000), "a = " + Repeated("{a=", 300000)}) {
    const auto recipe = Parse(deep);
    ASSERT_FALSE(recipe.ok());
    EXPECT_THAT(recipe.error().message, StartsWith("r.toml:1:"));
    EXPECT_THAT(recipe.error().message, HasSubstr("nested deeper than 16 levels"));
  }
  const auto second = Parse("# " + x17 + "\na" + x17 + " = 1\n");
  ASSERT_FALSE(second.ok());
  EXPECT_EQ(second.error().message, "r.toml:2:34: nested deeper than 16 levels");
  // Dots and brackets in strings and comments are text; what stands behind them counts again.
  for (const std::string& text :
       {"'" + x17 + "'", "\"" + x17 + "\\\"" + x17 + "\"", "\"\"\"" + x17 + "\n\"\"" + x17 + "\"\"\"\"\"",
        "'''" + x17 + "''\n" + x17 + "'''", std::string("\"") + Repeated("[", 20) + "\""}) {
    const std::string start = kGptq + "[[stage]]\nmethod = \"bias\"\nnote = " + text;
    EXPECT_TRUE(Parse(start + " # " + x17).ok()) << text;
    const auto behind = Parse(start + "\na" + x17 + " = 1");
    ASSERT_FALSE(behind.ok());
    EXPECT_THAT(behind.error().message, HasSubstr("nested deeper")) << text;
  }
  const auto shallow = Parse("a" + x16 + " = 1\n");
  ASSERT_FALSE(shallow.ok());
  EXPECT_THAT(shallow.error().message, HasSubstr("has no option \"a\""));
}

// toml++ as it comes takes characters from U+00A1 to U+0499 to where it says it never gets.
TEST(Recipe, OtherThanAscii) {
  const std::string note = kGptq + "[[stage]]\nmethod = \"bias\"\n# \xc3\xa9\nnote = ";
  for (const char* text : {"'\xc3\xa9'", "\"\xc3\xa9\"", "'''\xc3\xa9'''", "\"\"\"\xc3\xa9\"\"\"",
                           "\"\"\"\\\n  \\u00e9\"\"\"", "\"\"\"\\\n \xc3\xa9\"\"\""}) {
    const Recipe recipe = MustParse(note + text);
    ASSERT_EQ(recipe.stages.size(), 2u) << text;
    EXPECT_EQ(recipe.stages[1].options.Text("note"), "\xc3\xa9") << text;
    EXPECT_THAT(RecipeText(recipe), HasSubstr("note = \"\xc3\xa9\"\n"));
  }
  EXPECT_EQ(MustParse("\xef\xbb\xbf" + kGptq).stages.size(), 1u);  // a byte order mark
  for (const char* text : {"\xcf\xa0", "1\xc3\xa9", "'a' \xc3\xa9", "\"\"\"\\\xc3\xa9\"\"\""}) {
    const auto recipe = Parse(note + text);
    ASSERT_FALSE(recipe.ok()) << text;
    EXPECT_THAT(recipe.error().message, StartsWith("r.toml:6:")) << text;
    EXPECT_THAT(recipe.error().message, HasSubstr("not valid TOML: ")) << text;
  }
}

}  // namespace
}  // namespace planish

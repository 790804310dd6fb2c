#include "base/names.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace planish {
namespace {

TEST(Names, EditDistanceOfKnownPairs) {
  EXPECT_EQ(EditDistance("", ""), 0);
  EXPECT_EQ(EditDistance("abc", ""), 3);
  EXPECT_EQ(EditDistance("", "abc"), 3);
  EXPECT_EQ(EditDistance("kitten", "sitting"), 3);
  EXPECT_EQ(EditDistance("sitting", "kitten"), 3);
  EXPECT_EQ(EditDistance("saturday", "sunday"), 3);
  EXPECT_EQ(EditDistance("flaw", "lawn"), 2);
  EXPECT_EQ(EditDistance("ab", "ba"), 2);  // a transposition is two edits
}

// The definition, exponential in time.
int64_t SlowDistance(std::string_view a, std::string_view b) {
  if (a.empty() || b.empty()) return static_cast<int64_t>(a.size() + b.size());
  const int64_t substituted = SlowDistance(a.substr(1), b.substr(1)) + (a[0] == b[0] ? 0 : 1);
  return std::min({substituted, SlowDistance(a.substr(1), b) + 1, SlowDistance(a, b.substr(1)) + 1});
}

TEST(Names, EditDistanceEqualsItsDefinition) {
  std::vector<std::string> words = {""};
  for (size_t i = 0; words.size() < 40; ++i) {
    words.push_back(words[i] + "a");
    words.push_back(words[i] + "b");
  }
  for (const auto& a : words) {
    for (const auto& b : words) EXPECT_EQ(EditDistance(a, b), SlowDistance(a, b)) << a << " " << b;
  }
}

TEST(Names, NearestComesFirstAndFarOnesAreLeftOut) {
  const std::vector<std::string> names = {"v_proj.weight", "q_proj.bias", "q_proj.weight",
                                          "embed_tokens.weight"};
  EXPECT_EQ(NearestNames("q_proj.weigth", names),
            (std::vector<std::string>{"q_proj.weight", "v_proj.weight"}));
  EXPECT_EQ(NearestNames("q_proj.weigth", names, 1), std::vector<std::string>{"q_proj.weight"});
  EXPECT_TRUE(NearestNames("lm_head", names).empty());
  EXPECT_TRUE(NearestNames(std::string(10'000, 'x'), {std::string(10'000, 'x')}).empty());
  // Equal distances keep the order of the candidates.
  EXPECT_EQ(NearestNames("abd", {"abz", "aby", "abx"}, 2), (std::vector<std::string>{"abz", "aby"}));
}

TEST(Names, HintReadsAsASentence) {
  EXPECT_EQ(DidYouMean("abd", {"xyzxyz"}), "");
  EXPECT_EQ(DidYouMean("abd", {"abc"}), "did you mean 'abc'?");
  EXPECT_EQ(DidYouMean("abd", {"abc", "abe"}), "did you mean 'abc' or 'abe'?");
  EXPECT_EQ(DidYouMean("abd", {"abc", "abe", "abf", "abg"}), "did you mean 'abc', 'abe' or 'abf'?");
}

TEST(Names, AbbreviateCutsBetweenCharacters) {
  EXPECT_EQ(Abbreviate("abc", 3), "abc");
  EXPECT_EQ(Abbreviate("abcd", 3), "abc...");
  EXPECT_EQ(Abbreviate("a\xc3\xa9z", 2), "a...");  // e acute is two bytes
  EXPECT_EQ(Abbreviate("a\xc3\xa9z", 3), "a\xc3\xa9...");
  EXPECT_EQ(Abbreviate("\x80\x80\x80", 2), "...");
}

}  // namespace
}  // namespace planish

#include "base/glob.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace planish {
namespace {

TEST(Glob, ByHand) {
  struct Case {
    const char* pattern;
    const char* text;
    bool matches;
  };
  const std::vector<Case> cases = {
      {"", "", true},
      {"", "a", false},
      {"a", "", false},
      {"*", "", true},
      {"**", "model.layers.0", true},
      {"?", "", false},
      {"?", "a", true},
      {"?", "ab", false},
      {"*.down_proj.weight", "model.layers.11.mlp.down_proj.weight", true},
      {"*.down_proj.weight", "model.layers.11.mlp.down_proj.bias", false},
      {"model.layers.?.*", "model.layers.7.mlp.up_proj.weight", true},
      {"model.layers.?.*", "model.layers.17.mlp.up_proj.weight", false},
      {"*q_proj*", "a.q_proj.weight", true},
      {"a*b*c", "aXbYbZc", true},
      {"a*b*c", "aXbYbZ", false},
      {"*ab", "aab", true},  // the star has to be taken back
      {"*ab?", "abab", false},
      {"*aab*", "aaaab", true},
      {"[a]", "a", false},  // no classes
      {"[a]", "[a]", true},
      {"A", "a", false},
  };
  for (const Case& c : cases)
    EXPECT_EQ(GlobMatch(c.pattern, c.text), c.matches) << c.pattern << " " << c.text;
}

// The definition, by recursion over both.
bool Slow(std::string_view pattern, std::string_view text) {
  if (pattern.empty()) return text.empty();
  if (pattern[0] == '*') {
    return Slow(pattern.substr(1), text) || (!text.empty() && Slow(pattern, text.substr(1)));
  }
  return !text.empty() && (pattern[0] == '?' || pattern[0] == text[0]) &&
         Slow(pattern.substr(1), text.substr(1));
}

// All words of up to `length` letters of the alphabet.
std::vector<std::string> Words(const std::string& alphabet, size_t length) {
  std::vector<std::string> words = {""};
  for (size_t first = 0, n = 0; n < length; ++n) {
    const size_t last = words.size();
    for (; first < last; ++first) {
      for (char letter : alphabet) words.push_back(words[first] + letter);
    }
  }
  return words;
}

TEST(Glob, AgreesWithTheDefinitionOnAllShortWords) {
  for (const std::string& pattern : Words("ab?*", 5)) {
    for (const std::string& text : Words("ab", 5)) {
      ASSERT_EQ(GlobMatch(pattern, text), Slow(pattern, text)) << pattern << " " << text;
    }
  }
}

// Would not end in a lifetime if every star were tried in every place.
TEST(Glob, NoBlowUp) {
  std::string pattern;
  for (int i = 0; i < 200; ++i) pattern += "*a";
  pattern += "b";
  EXPECT_FALSE(GlobMatch(pattern, std::string(5000, 'a')));
  EXPECT_TRUE(GlobMatch(pattern, std::string(5000, 'a') + "b"));
}

}  // namespace
}  // namespace planish

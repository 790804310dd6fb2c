// Added tokens: strings that are found in the text before it is cut into words.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "base/result.h"
#include "formats/tokenizer_vocabulary.h"

namespace planish {

struct AddedToken {
  int32_t id = 0;
  std::string content;
  bool single_word = false, lstrip = false, rstrip = false, normalized = true, special = false;
};

// The "added_tokens" list. A token's id must be its id in the model's vocabulary, if it is there,
// and may not be another token's; tokens that the model lacks go into *extra.
Result<std::vector<AddedToken>> ParseAddedTokens(const Json& json, const Vocabulary& model,
                                                 Vocabulary* extra);

// Finds added tokens in a text: leftmost first, longest among those that start there.
class AddedTokenMatcher {
 public:
  struct Piece {
    std::string_view text;
    int32_t id;  // -1: text between the tokens
  };

  // `pattern` is what the token looks like in the text: its content, normalized for the class that
  // is matched so. An empty one never matches.
  void Add(const AddedToken& token, std::string pattern);
  bool empty() const { return patterns_.empty(); }
  // Bytes of the longest token at `at` < text.size(); 0: none starts there.
  size_t MatchLength(std::string_view text, size_t at) const {
    const int32_t found = starts_[static_cast<uint8_t>(text[at])] ? Longest(text, at) : -1;
    return found < 0 ? 0 : patterns_[static_cast<size_t>(found)].text.size();
  }
  // Cuts `text` (valid UTF-8) into tokens and the text between them, in order. Special tokens stay
  // text unless `recognize_special`. lstrip and rstrip tokens swallow white space around them.
  std::vector<Piece> Split(std::string_view text, bool recognize_special) const;

 private:
  struct Pattern {
    AddedToken token;
    std::string text;
  };
  struct Node {
    int32_t first_child = -1, sibling = -1;
    int32_t pattern = -1;
    char byte = 0;
  };
  int32_t Child(int32_t node, char byte) const;
  // The longest pattern at `at`, -1 for none.
  int32_t Longest(std::string_view text, size_t at) const;

  std::vector<Pattern> patterns_;
  std::vector<Node> nodes_;
  bool starts_[256] = {};    // bytes that a pattern can start with
  int32_t roots_[256] = {};  // node of a pattern's first byte
};

}  // namespace planish

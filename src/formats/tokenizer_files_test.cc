// Tokenizers in several files: what is wrong in one of them is named by that file.
#include "formats/tokenizer_files.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "base/file.h"
#include "formats/tokenizer.h"

namespace planish {
namespace {

using testing::HasSubstr;

class TokenizerFilesTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ =
        (std::filesystem::temp_directory_path() / ("planish-tokenizer-files-" + std::to_string(getpid())))
            .string();
    ASSERT_TRUE(MakeDirectories(folder_).ok());
  }
  void TearDown() override { EXPECT_TRUE(RemoveTree(folder_).ok()); }
  void Write(const std::string& name, const std::string& text) {
    ASSERT_TRUE(WriteFileAtomically(JoinPath(folder_, name), text).ok());
  }
  std::string Outcome() {
    const auto tokenizer = Tokenizer::Load(folder_);
    return tokenizer.ok() ? "loaded" : tokenizer.error().message;
  }
  std::string folder_;
};

// vocab.json and merges.txt, as GPT-2 has them.
TEST_F(TokenizerFilesTest, MalformedVocabAndMerges) {
  const char* vocab = R"({"a": 0, "b": 1, "ab": 2, "<|endoftext|>": 3})";
  const char* merges = "#version: 0.2\r\na b\r\n";
  Write("vocab.json", vocab);
  Write("merges.txt", merges);
  const auto tokenizer = Tokenizer::Load(folder_);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.error().message;
  EXPECT_EQ(*(*tokenizer)->Encode("abb<|endoftext|>"), (std::vector<int32_t>{2, 1, 3}));
  const struct {
    const char* vocab;
    const char* merges;
    const char* message;
  } cases[] = {
      {"", merges, "no tokenizer: expected tokenizer.json, tokenizer.model, or vocab.json with merges.txt"},
      {vocab, "", "no tokenizer: expected"},
      {"{", merges, "vocab.json: not valid JSON"},
      {"[]", merges, "vocab.json: expected an object"},
      {R"({"a": "0"})", merges, "model: vocab['a']: id \"0\" is not an integer"},
      {R"({"a": -1})", merges, "model: vocab['a']: id -1 is not an integer in [0, 4194304)"},
      {R"({"a": 18446744073709551615})", merges, "vocab['a']: id 18446744073709551615 is not"},
      {R"({"a": 0, "b": 0})", merges, "id 0 belongs to two tokens"},
      {vocab, "a c\n", "merges[0]: 'a' + 'c' needs token"},
      {vocab, "ab\n", "merges[0]: expected \"left right\""},
      {R"({"a": 0, "b": 1, "ab": 2, "<|endoftext|>": 4194304})", merges,
       "'<|endoftext|>']: id 4194304 is not"},
  };
  for (const auto& c : cases) {
    Write("vocab.json", c.vocab);
    Write("merges.txt", c.merges);
    EXPECT_THAT(Outcome(), HasSubstr(c.message)) << c.vocab << c.merges;
    EXPECT_THAT(Outcome(), testing::StartsWith(folder_));
  }
}

// What stands beside a tokenizer.model.
TEST_F(TokenizerFilesTest, MalformedFilesBesideAModel) {
  SentencePieceModel model{.kind = SentencePieceModel::Kind::kBpe,
                           .pieces = {{"<unk>", 0, PieceType::kUnknown}, {"a", -1}, {"b", -2}}};
  Write("tokenizer.model", model.Write());
  EXPECT_EQ(Outcome(), "loaded");
  const struct {
    const char* name;
    const char* text;
    const char* message;
  } cases[] = {
      {"tokenizer_config.json", "{", "tokenizer_config.json: not valid JSON"},
      {"tokenizer_config.json", "[1]", "tokenizer_config.json: expected an object"},
      {"tokenizer_config.json", R"({"tokenizer_class": 5})",
       "tokenizer_config.json: field 'tokenizer_class'"},
      {"tokenizer_config.json", R"({"add_bos_token": "yes"})",
       "field 'add_bos_token': expected true or false"},
      {"tokenizer_config.json", R"({"added_tokens_decoder": []})",
       "tokenizer_config.json: added_tokens_decoder: expected an object"},
      {"tokenizer_config.json", R"({"added_tokens_decoder": {"x": {}}})",
       "added_tokens_decoder['x']: expected an id and an object"},
      {"tokenizer_config.json", R"({"added_tokens_decoder": {"99999999999999999999": {}}})",
       "added_tokens_decoder['99999999999999999999']: expected an id"},
      {"tokenizer_config.json", R"({"added_tokens_decoder": {"3": "c"}})",
       "added_tokens_decoder['3']: expected an id and an object"},
      {"tokenizer_config.json", R"({"added_tokens_decoder": {"3": {}}})", "field 'content' is missing"},
      {"tokenizer_config.json", R"({"added_tokens_decoder": {"999999999": {"content": "c"}}})",
       "id 999999999 is not"},
      {"added_tokens.json", "nul", "added_tokens.json: not valid JSON"},
      {"added_tokens.json", "3", "added_tokens.json: expected an object"},
      {"added_tokens.json", R"({"c": "3"})", "added_tokens.json: 'c': expected an id, found \"3\""},
      {"added_tokens.json", R"({"c": -1})", "id -1 is not"},
      {"added_tokens.json", R"({"c": 18446744073709551615})", "is not"},
      {"added_tokens.json", R"({"c": 1})", "'c' has id 1, which is 'a' in the model's"},
      {"tokenizer.model", "x", "(truncated?)"},
  };
  for (const auto& c : cases) {
    for (const char* other : {"tokenizer_config.json", "added_tokens.json"}) Write(other, "{}");
    Write(c.name, c.text);
    EXPECT_THAT(Outcome(), HasSubstr(c.message)) << c.text;
    EXPECT_THAT(Outcome(), testing::StartsWith(folder_));
  }
}

constexpr const char* kJson = R"({
  "added_tokens": [{"id": 3, "content": "<s>", "special": true}],
  "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "use_regex": false},
  "decoder": {"type": "ByteLevel"},
  "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]}})";
constexpr const char* kUnigramJson = R"({
  "added_tokens": [], "pre_tokenizer": null, "decoder": null,
  "model": {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0], ["a", -1], ["b", -1]]}})";

// transformers: PreTrainedTokenizerFast adds what tokenizer.json does not list, here with ids beyond its own,
// and a token of the vocabulary that from then on is found before words are cut.
TEST_F(TokenizerFilesTest, TokensOfTheConfigJoinThoseOfTheJson) {
  const auto encode = [&](const std::string& text) {
    const auto tokenizer = Tokenizer::Load(folder_);
    EXPECT_TRUE(tokenizer.ok()) << tokenizer.error().message;
    return tokenizer.ok() ? *(*tokenizer)->Encode(text) : std::vector<int32_t>();
  };
  Write("tokenizer.json", kJson);
  Write("tokenizer_config.json", R"({"added_tokens_decoder": {"3": {"content": "<s>", "special": true}}})");
  EXPECT_EQ(encode("<s>abab"), (std::vector<int32_t>{3, 2, 2}));
  Write("tokenizer_config.json", R"({"added_tokens_decoder": {
      "3": {"content": "<s>", "special": true}, "1": {"content": "b"}, "4": {"content": "<think>"},
      "10": {"content": "<pad>", "special": true}}})");
  EXPECT_EQ(encode("<s>aab<think>a<pad>"), (std::vector<int32_t>{3, 0, 0, 1, 4, 0, 10}));
  const auto tokenizer = Tokenizer::Load(folder_);
  EXPECT_EQ((*tokenizer)->vocab_size(), 11);
  EXPECT_TRUE((*tokenizer)->IsSpecial(10));
  EXPECT_FALSE((*tokenizer)->IsSpecial(4));
  EXPECT_EQ((*tokenizer)->Decode(std::vector<int32_t>{4, 0}), "<think>a");
  Write("tokenizer.json", kUnigramJson);
  Write("tokenizer_config.json",
        R"({"added_tokens_decoder": {"2": {"content": "b"}, "3": {"content": "c"}}})");
  EXPECT_EQ(encode("abc"), (std::vector<int32_t>{1, 2, 3}));
}

TEST_F(TokenizerFilesTest, ConfigsThatContradictTheJson) {
  const struct {
    const char* json;
    const char* config;
    const char* message;
  } cases[] = {
      {kJson, "{", "tokenizer_config.json: not valid JSON"},
      {kJson, R"({"added_tokens_decoder": []})", "added_tokens_decoder: expected an object"},
      {kJson, R"({"added_tokens_decoder": {"x": {}}})", "['x']: expected an id and an object"},
      {kJson, R"({"added_tokens_decoder": {"4": {}}})", "['4']: field 'content' is missing"},
      {kJson, R"({"added_tokens_decoder": {"4": {"content": 4}}})",
       "added_tokens_decoder['4']: field 'content'"},
      {kJson, R"({"added_tokens_decoder": {"4": {"content": "c", "special": 1}}})", "field 'special'"},
      {kJson, R"({"added_tokens_decoder": {"4194304": {"content": "c"}}})",
       "added_tokens_decoder['4194304']: id 4194304 is not an integer in [0, 4194304)"},
      {kJson, R"({"added_tokens_decoder": {"3": {"content": "<t>"}}})",
       "added_tokens_decoder['3']: found '<t>', but tokenizer.json has '<s>' for this id"},
      {kJson, R"({"added_tokens_decoder": {"4": {"content": "<s>"}}})",
       "added_tokens_decoder['4']: found '<s>', but tokenizer.json has id 3 for it"},
      {kJson, R"({"added_tokens_decoder": {"2": {"content": "<t>"}}})",
       "added_tokens_decoder['2']: found '<t>', but tokenizer.json has 'ab' for this id"},
      {kJson, R"({"added_tokens_decoder": {"5": {"content": "ab"}}})",
       "added_tokens_decoder['5']: found 'ab', but tokenizer.json has id 2 for it"},
      {kJson, R"({"added_tokens_decoder": {"5": {"content": "c"}, "6": {"content": "c"}}})", "'c'"},
      {kUnigramJson, R"({"added_tokens_decoder": {"1": {"content": "c"}}})",
       "added_tokens_decoder['1']: found 'c', but tokenizer.json has 'a' for this id"},
      {R"({"added_tokens": 5, "model": {"type": "BPE", "vocab": {}, "merges": []}})",
       R"({"added_tokens_decoder": {"1": {"content": "c"}}})", "added_tokens: expected a list"},
      {"[]", R"({"added_tokens_decoder": {"1": {"content": "c"}}})", "expected a JSON object"},
  };
  for (const auto& c : cases) {
    Write("tokenizer.json", c.json);
    Write("tokenizer_config.json", c.config);
    EXPECT_THAT(Outcome(), HasSubstr(c.message)) << c.config;
    EXPECT_THAT(Outcome(), testing::StartsWith(folder_));
  }
}

}  // namespace
}  // namespace planish

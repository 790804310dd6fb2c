// Tokenizers as wholes: goldens, added tokens, decoding in pieces, files that are wrong. Their steps one by
// one are in tokenizer_steps_test.cc.
#include "formats/tokenizer.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>
#include <thread>

#include "base/file.h"
#include "base/json.h"
#include "formats/tokenizer_test_util.h"

namespace planish {
namespace {

using namespace tokenizer_test;  // NOLINT: the helpers of this folder's tests
using testing::HasSubstr;

TEST(Tokenizer, GoldensOfTheModels) {
  for (const char* model : {"demo", "ref", "mistral", "qwen2", "qwen3", "gpt2", "opt", "gemma3", "moe"}) {
    const TokenizerPtr tokenizer = LoadOrFail(kModels + model);
    ASSERT_TRUE(tokenizer);
    EXPECT_EQ(tokenizer->vocab_size(), 8192);
    const Json golden = ReadJson(kModels + model + "/golden.json");
    ASSERT_GE(golden["tokenization"].size(), 10u);
    for (const Json& item : golden["tokenization"]) {
      const auto text = item["text"].get<std::string>();
      const Ids ids = EncodeOrFail(*tokenizer, text);
      EXPECT_EQ(ids, item["ids"].get<Ids>()) << model << ": " << text;
      EXPECT_EQ(tokenizer->Decode(ids), item["decoded"].get<std::string>());
      EXPECT_EQ(Stream(*tokenizer, ids), item["decoded"].get<std::string>());
    }
  }
}

TEST(Tokenizer, GoldensOfTheTinyTokenizers) {
  for (const char* name :
       {"bytelevel_gpt2", "bytelevel_llama3", "bytelevel_digits", "bytelevel_deepseek", "bytelevel_qwen2",
        "bpe_llama2", "bpe_gemma", "bpe_metaspace", "unigram", "wordpiece"}) {
    const std::string folder = kModels + "tiny/tokenizers/" + name;
    const TokenizerPtr tokenizer = LoadOrFail(folder);
    ASSERT_TRUE(tokenizer);
    const Json golden = ReadJson(folder + "/golden.json");
    EXPECT_EQ(tokenizer->vocab_size(), golden["vocab_size"].get<int64_t>());
    ASSERT_EQ(golden["cases"].size(), 25u);
    for (const Json& item : golden["cases"]) {
      const auto text = item["text"].get<std::string>();
      const Ids ids = EncodeOrFail(*tokenizer, text, true), plain = EncodeOrFail(*tokenizer, text);
      EXPECT_EQ(ids, item["ids"].get<Ids>()) << name << ": " << text;
      EXPECT_EQ(plain, item["ids_plain"].get<Ids>()) << name << ": " << text;
      EXPECT_EQ(tokenizer->Decode(ids), item["decoded"].get<std::string>());
      EXPECT_EQ(tokenizer->Decode(plain), item["decoded_plain"].get<std::string>());
      EXPECT_EQ(tokenizer->Decode(ids, true), item["decoded_skip"].get<std::string>());
      for (size_t i = 0; i < ids.size(); ++i) {
        // A token that swallows white space is listed with it.
        const auto token = item["tokens"][i].get<std::string>();
        if (tokenizer->TokenId(token) != ids[i]) {
          EXPECT_EQ(tokenizer->TokenId("<pad>"), ids[i]) << name << ": " << token;
        }
      }
    }
    ASSERT_GE(golden["decode"].size(), 1u);
    for (const Json& item : golden["decode"]) {
      const Ids ids = item["ids"].get<Ids>();
      EXPECT_EQ(tokenizer->Decode(ids), item["decoded"].get<std::string>());
      // A stream cannot take back characters of fallback bytes when a later byte breaks their run.
      const auto decoded = item["decoded"].get<std::string>();
      if (std::string_view(name).starts_with("bytelevel") || decoded.find("\xEF\xBF\xBD") == decoded.npos) {
        EXPECT_EQ(Stream(*tokenizer, ids), decoded);
      }
    }
  }
}

TEST(Tokenizer, WikiText) {
  const TokenizerPtr tokenizer = LoadOrFail(kModels + "demo");
  ASSERT_TRUE(tokenizer);
  const auto text = ReadTextFile(std::string(PLANISH_SHARED_DIR) + "/data/text/wikitext2-raw-test.txt");
  ASSERT_TRUE(text.ok());
  const Json expected = ReadJson(kModels + "eval-golden.json")["text"];
  const Ids ids = EncodeOrFail(*tokenizer, *text);
  ASSERT_EQ(ids.size(), expected["tokens_total"].get<size_t>());
  EXPECT_EQ(std::accumulate(ids.begin(), ids.end(), int64_t{0}), expected["ids_sum"].get<int64_t>());
  EXPECT_EQ(Ids(ids.begin(), ids.begin() + 16), expected["first_ids"].get<Ids>());
  EXPECT_EQ(Ids(ids.end() - 16, ids.end()), expected["last_ids"].get<Ids>());
  EXPECT_TRUE(tokenizer->Decode(ids) == *text);
}

TEST(Tokenizer, ConcurrentUse) {
  const TokenizerPtr tokenizer = LoadOrFail(kModels + "demo");
  ASSERT_TRUE(tokenizer);
  std::vector<Ids> alone, results(8);
  for (uint64_t i = 0; i < results.size(); ++i) {
    alone.push_back(EncodeOrFail(*tokenizer, RandomText(i % 2, 20000)));
  }
  std::vector<std::thread> threads;
  for (uint64_t i = 0; i < results.size(); ++i) {
    threads.emplace_back([&, i] { results[i] = EncodeOrFail(*tokenizer, RandomText(i % 2, 20000)); });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(results, alone);
}

TEST(TokenizerAdded, FlagsAndOrder) {
  Json file = SmallFile();
  file["added_tokens"] = {AddedTokenJson("<a>", 300),  AddedTokenJson("<a>b", 301),
                          AddedTokenJson("word", 302), AddedTokenJson("<l>", 303),
                          AddedTokenJson("<r>", 304),  AddedTokenJson("plain", 305)};
  file["added_tokens"][2]["single_word"] = true;
  file["added_tokens"][3]["lstrip"] = true;
  file["added_tokens"][4]["rstrip"] = true;
  file["added_tokens"][5]["special"] = false;
  const TokenizerPtr tokenizer = ParseOrFail(file);
  ASSERT_TRUE(tokenizer);
  EXPECT_EQ(tokenizer->vocab_size(), 306);
  EXPECT_EQ(EncodeOrFail(*tokenizer, "x<a>bc<a>"), Ids({'x', 301, 'c', 300}));
  EXPECT_EQ(EncodeOrFail(*tokenizer, "word-a word"), Ids({302, '-', 'a', ' ', 302}));
  EXPECT_EQ(EncodeOrFail(*tokenizer, "words"), Ids({'w', 'o', 'r', 'd', 's'}));
  EXPECT_EQ(EncodeOrFail(*tokenizer, "\xC3\xA9word"), Ids({0xC3, 0xA9, 'w', 'o', 'r', 'd'}));
  EXPECT_EQ(EncodeOrFail(*tokenizer, "x \xE2\x80\x83<l> y"), Ids({'x', 303, ' ', 'y'}));
  EXPECT_EQ(EncodeOrFail(*tokenizer, "x <r> \n <l>y"), Ids({'x', ' ', 304, 303, 'y'}));
  EXPECT_EQ(EncodeOrFail(*tokenizer, "<a>plain", false, false), Ids({'<', 'a', '>', 305}));
  EXPECT_TRUE(tokenizer->IsSpecial(300));
  EXPECT_FALSE(tokenizer->IsSpecial(305));
  EXPECT_FALSE(tokenizer->IsSpecial(-1));
  EXPECT_FALSE(tokenizer->IsSpecial(1000000));
  EXPECT_EQ(tokenizer->Decode(Ids{300, 'x', 305}, true), "xplain");
  EXPECT_EQ(tokenizer->Decode(Ids{-1, 270, 306, INT32_MAX, 'x', INT32_MIN}), "x");
  EXPECT_EQ(tokenizer->TokenBytes(999), "");
}

// A word that looks like an added token is text: only the model's own vocabulary counts there.
TEST(TokenizerAdded, NotReachedThroughTheModel) {
  Json file = SmallFile();
  file["model"]["ignore_merges"] = true;
  file["added_tokens"] = {AddedTokenJson("ab", 300)};
  const TokenizerPtr tokenizer = ParseOrFail(file);
  ASSERT_TRUE(tokenizer);
  EXPECT_EQ(EncodeOrFail(*tokenizer, "ab"), Ids{300});
  EXPECT_EQ(EncodeOrFail(*tokenizer, "ab", false, false), Ids({'a', 'b'}));
}

TEST(Tokenizer, RoundTrips) {
  for (const char* folder : {"demo", "tiny/tokenizers/bytelevel_gpt2", "tiny/tokenizers/bytelevel_llama3",
                             "tiny/tokenizers/bytelevel_digits", "tiny/tokenizers/bytelevel_deepseek"}) {
    const TokenizerPtr tokenizer = LoadOrFail(kModels + folder);
    ASSERT_TRUE(tokenizer);
    std::vector<std::string> texts = {
        "",
        " ",
        "\xEF\xBF\xBD",
        std::string("\0a\0", 3),
        "<|endoftext|>",
        "\xF0\x9F\x91\xA8\xE2\x80\x8D\xF0\x9F\x91\xA9\xE2\x80\x8D\xF0\x9F\x91\xA7"};
    for (uint64_t seed = 100; seed < 130; ++seed) texts.push_back(RandomText(seed, 300));
    for (const std::string& text : texts) {
      for (const bool recognize : {true, false}) {
        const Ids ids = EncodeOrFail(*tokenizer, text, false, recognize);
        EXPECT_EQ(tokenizer->Decode(ids), text);
        EXPECT_EQ(Stream(*tokenizer, ids), text);
      }
    }
  }
}

TEST(Tokenizer, TextThatIsNotUtf8) {
  const TokenizerPtr tokenizer = ParseOrFail(SmallFile());
  ASSERT_TRUE(tokenizer);
  const auto ids = tokenizer->Encode("0123456789\xFF");
  ASSERT_FALSE(ids.ok());
  EXPECT_EQ(ids.error().code, Code::kInput);
  EXPECT_EQ(ids.error().message, "the text is not UTF-8: byte 0xFF at offset 10");
}

TEST(StreamDecoder, HoldsIncompleteCharacters) {
  const TokenizerPtr tokenizer = ParseOrFail(SmallFile());
  ASSERT_TRUE(tokenizer);
  StreamDecoder stream(*tokenizer);
  EXPECT_EQ(stream.Push(0xF0), "");
  EXPECT_EQ(stream.Push(0x9F), "");
  EXPECT_EQ(stream.Push(0x98), "");
  EXPECT_EQ(stream.Push(5000), "");
  EXPECT_EQ(stream.Push(0x80), "\xF0\x9F\x98\x80");
  EXPECT_EQ(stream.Push(0xE2), "");
  EXPECT_EQ(stream.Push('x'), "\xEF\xBF\xBDx");
  EXPECT_EQ(stream.Push(0xE2), "");
  EXPECT_EQ(stream.Flush(), "\xEF\xBF\xBD");
  EXPECT_EQ(stream.Flush(), "");
}

TEST(StreamDecoder, SpacesBetweenTokensWithoutDecoder) {
  Json file = SmallFile();
  file["decoder"] = nullptr;
  const TokenizerPtr tokenizer = ParseOrFail(file);
  ASSERT_TRUE(tokenizer);
  EXPECT_EQ(tokenizer->Decode(Ids{'a', 'b', 'c'}), "a b c");
  EXPECT_EQ(Stream(*tokenizer, {'a', 'b', 'c'}), "a b c");
}

TEST(TokenizerMalformed, Messages) {
  struct Case {
    const char* pointer;  // member of the small file to replace
    Json value;
    const char* message;
  };
  const Json regex = Split("Regex", "(", "Isolated");
  const std::vector<Case> cases = {
      {"/model", 5, "test: model: expected an object"},
      {"/model/type", "WordPeace",
       "test: model: type 'WordPeace' is not supported (known: BPE, Unigram, WordPiece, WordLevel)"},
      {"/model/type", 1, "field 'type': expected a string, found 1"},
      {"/model/vocab", Json::array(), "test: model: vocab: expected an object {token: id}"},
      {"/model/merges", nullptr, "test: model: merges: expected a list of pairs"},
      {"/model/merges", Json::array({Json::array({"a", "b"})}),
       "merges[0]: 'a' + 'b' needs token 'ab', which is not in the vocabulary"},
      {"/model/merges", Json::array({Json::array({"a", "bb"})}), "merges[0]: 'a' + 'bb' needs token 'bb'"},
      {"/model/merges", Json::array({Json::array({"a", ""})}), "merges[0]: 'a' + '' needs token ''"},
      {"/model/merges", {"ab"}, "merges[0]: expected \"left right\" or [\"left\", \"right\"], found \"ab\""},
      {"/model/merges", Json::array({Json::array({"a", 1})}), "merges[0]: expected"},
      {"/model/vocab/a", 98, "test: model: vocab: id 98 belongs to two tokens, 'a' and 'b'"},
      {"/model/vocab/a", -1, "test: model: vocab['a']: id -1 is not an integer in [0, 4194304)"},
      {"/model/vocab/a", 4194304, "vocab['a']: id 4194304 is not an integer in [0, 4194304)"},
      {"/model/vocab/a", 18446744073709551615u, "vocab['a']: id 18446744073709551615 is not"},
      {"/model/vocab/a", 1.5, "vocab['a']: id 1.5 is not an integer"},
      {"/model/unk_token", "<unk>", "test: model: unk_token '<unk>' is not in the vocabulary"},
      {"/model/dropout", 0.1, "dropout 0.1 is not supported"},
      {"/model/end_of_word_suffix", std::string(65, '/'), "a prefix or suffix of 65 bytes; at most 64"},
      {"/model/byte_fallback", "yes", "field 'byte_fallback': expected"},
      {"/normalizer", {{"type", "NFX"}}, "test: normalizer: type 'NFX' is not supported"},
      {"/normalizer", 3, "test: normalizer: expected an object"},
      {"/pre_tokenizer", {{"type", "Metascape"}}, "test: pre_tokenizer: type 'Metascape' is not supported"},
      {"/pre_tokenizer", Json::object(), "test: pre_tokenizer: field 'type' is missing"},
      {"/pre_tokenizer", regex,
       "test: pre_tokenizer: Split: regex '(': missing closing parenthesis (at offset 1"},
      {"/pre_tokenizer", Split("Regex", "[a&&b]", "Isolated"), "class intersection '&&' at offset 2"},
      {"/pre_tokenizer", Split("Regex", "a", "Sideways"), "field 'behavior': unknown value 'Sideways'"},
      {"/pre_tokenizer", Split("Glob", "a", "Isolated"), "field 'pattern': unknown kind 'Glob'"},
      {"/pre_tokenizer", Split("String", "", "Isolated"), "field 'pattern': an empty String"},
      {"/pre_tokenizer",
       {{"type", "Sequence"}, {"pretokenizers", {{{"type", "ByteLevel"}}, {{"type", "Metaspace"}}}}},
       "pre_tokenizer: Sequence: pretokenizers[1]: 'Metaspace' behind ByteLevel is not supported"},
      {"/decoder", {{"type", "CRT"}}, "test: decoder: type 'CRT' is not supported"},
      {"/decoder",
       {{"type", "CTC"}, {"pad_token", ""}},
       "CTC: field 'pad_token' or 'word_delimiter_token' is empty"},
      {"/decoder", {{"type", "BPEDecoder"}, {"suffix", ""}}, "BPEDecoder: field 'suffix' is empty"},
      {"/decoder",
       {{"type", "Sequence"}, {"decoders", {{{"type", "CTC"}}, {{"type", "Metaspace"}}}}},
       "decoder: BPEDecoder or CTC together with other steps is not supported"},
      {"/normalizer", {{"type", "Precompiled"}}, "Precompiled: field 'precompiled_charsmap' is missing"},
      {"/normalizer",
       {{"type", "Precompiled"}, {"precompiled_charsmap", "AA*A"}},
       "field 'precompiled_charsmap': not base64 at character 2"},
      {"/normalizer",
       {{"type", "Precompiled"}, {"precompiled_charsmap", "AAA"}},
       "base64 of 3 characters, no multiple of 4"},
      {"/normalizer", {{"type", "Precompiled"}, {"precompiled_charsmap", "AAAA"}}, "charsmap: 3 bytes"},
      {"/post_processor",
       {{"type", "BertPressing"}},
       "test: post_processor: type 'BertPressing' is not supported"},
      {"/post_processor",
       {{"type", "TemplateProcessing"}, {"single", Json::array()}},
       "single holds 0 sequences, expected 1"},
      {"/post_processor",
       {{"type", "TemplateProcessing"},
        {"single", {{{"SpecialToken", {{"id", "<s>"}}}}}},
        {"special_tokens", {{"<s>", {{"ids", {256}}}}}}},
       "single[0]: ids[0]: special token '<s>': id 256 is beyond the vocabulary of 256"},
      {"/added_tokens", 1, "test: added_tokens: expected a list"},
      {"/added_tokens",
       {AddedTokenJson("new", 97)},
       "added_tokens[0]: 'new' has id 97, which is 'a' in the model's"},
      {"/added_tokens", {AddedTokenJson("a", 300)}, "added_tokens[0]: 'a' has id 300, but 97 in the model's"},
      {"/added_tokens",
       {AddedTokenJson("x1", 300), AddedTokenJson("x2", 300)},
       "added_tokens[1]: id 300 belongs to two tokens, 'x1' and 'x2'"},
      {"/added_tokens",
       {AddedTokenJson("x1", 2000000000)},
       "added_tokens[0]: field 'id': id 2000000000 is not"},
      {"/added_tokens", {{{"id", 300}}}, "added_tokens[0]: field 'content' is missing"},
      {"/added_tokens", {AddedTokenJson(std::string(2000, 'x'), 300)}, "content of 2000 bytes; at most 1024"},
  };
  for (const auto& [pointer, value, message] : cases) {
    Json file = SmallFile();
    file[Json::json_pointer(pointer)] = value;
    EXPECT_THAT(ParseError(file), HasSubstr(message)) << pointer;
  }
  EXPECT_EQ(Tokenizer::Parse("[]", "x").error().message, "x: expected a JSON object");
  EXPECT_THAT(Tokenizer::Parse("{", "x").error().message, HasSubstr("x: not valid JSON"));
  EXPECT_EQ(ParseError(Json::object()), "test: model: expected an object");
  EXPECT_FALSE(Tokenizer::Load(kModels + "none").ok());
}

// Patterns built to backtrack end in an error.
TEST(TokenizerMalformed, HostileRegex) {
  Json file = SmallFile();
  file["pre_tokenizer"] = Split("Regex", "(a+)+(b|c)(?<!b|c)", "Isolated");
  const TokenizerPtr tokenizer = ParseOrFail(file);
  ASSERT_TRUE(tokenizer);
  const auto ids = tokenizer->Encode(std::string(60, 'a') + "b");
  ASSERT_FALSE(ids.ok());
  EXPECT_THAT(ids.error().message, HasSubstr("match limit exceeded"));
}

}  // namespace
}  // namespace planish

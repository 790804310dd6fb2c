#include "formats/gguf_tokenizer.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "base/json.h"
#include "formats/gguf_pretokenizers.h"
#include "formats/tokenizer.h"
#include "formats/tokenizer_split.h"
#include "formats/tokenizer_test_util.h"

namespace planish {
namespace {

using testing::HasSubstr;
using Ids = std::vector<int32_t>;

class GgufTokenizerTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::temp_directory_path() / ("planish-gguf-tokenizer-" + std::to_string(getpid()));
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  std::string Path(const std::string& name) const { return (folder_ / name).string(); }

  std::shared_ptr<const GgufFile> Write(const GgufMetadata& metadata, const std::string& name) {
    auto writer = GgufWriter::Create(Path(name), metadata, {});
    EXPECT_TRUE(writer.ok() && writer->Commit().ok());
    auto file = GgufFile::Open(Path(name));
    EXPECT_TRUE(file.ok()) << file.error().message;
    return *file;
  }
  // The tokenizer of a folder as a GGUF file; without the copy of tokenizer.json it has only the keys that
  // every program reads.
  std::string Convert(const std::string& folder, bool copy) {
    const auto files = ReadTokenizerFiles(folder);
    const auto tokenizer = Tokenizer::Load(folder);
    EXPECT_TRUE(files.ok() && tokenizer.ok());
    GgufMetadata metadata, keys;
    const auto notes =
        AddTokenizer(*files, (*tokenizer)->vocab_size() + 3, {.bos = 1, .eos = 2, .pad = 3}, metadata);
    EXPECT_TRUE(notes.ok()) << notes.error().message;
    const auto file = Write(metadata, "with.gguf");
    if (copy) return Path("with.gguf");
    for (const auto& [key, value] : file->metadata()) {
      if (key != "tokenizer.huggingface.json") keys.Copy(key, value);
    }
    Write(keys, "without.gguf");
    return Path("without.gguf");
  }
  std::string LoadError(const GgufMetadata& metadata) {
    Write(metadata, "broken.gguf");
    const auto tokenizer = Tokenizer::Load(Path("broken.gguf"));
    return tokenizer.ok() ? "no error" : tokenizer.error().message;
  }

  std::filesystem::path folder_;
};

void ExpectEqual(const std::string& folder, const std::string& gguf) {
  const auto own = Tokenizer::Load(folder), travelled = Tokenizer::Load(gguf);
  ASSERT_TRUE(own.ok()) << own.error().message;
  ASSERT_TRUE(travelled.ok()) << travelled.error().message;
  for (const Json& item : ReadJson(folder + "/golden.json")["cases"]) {
    const auto text = item["text"].get<std::string>();
    for (const bool recognize : {true, false}) {
      const Ids ids = *(*own)->Encode(text, true, recognize);
      EXPECT_EQ(ids, *(*travelled)->Encode(text, true, recognize)) << folder << ": " << text;
      EXPECT_EQ((*own)->Decode(ids, true), (*travelled)->Decode(ids, true)) << folder;
    }
  }
}

TEST_F(GgufTokenizerTest, RoundTrips) {
  for (const char* name :
       {"bytelevel_gpt2", "bytelevel_llama3", "bytelevel_digits", "bytelevel_deepseek", "bytelevel_qwen2",
        "bpe_llama2", "bpe_gemma", "bpe_metaspace", "unigram", "wordpiece", "sp_bpe", "sp_unigram"}) {
    ExpectEqual(kTokenizers + name, Convert(kTokenizers + name, true));
  }
}

// Without the copy of tokenizer.json, from tokens, merges, scores and types alone.
TEST_F(GgufTokenizerTest, RoundTripsThroughKeysOnly) {
  for (const char* name :
       {"bytelevel_gpt2", "bytelevel_llama3", "bytelevel_digits", "bytelevel_deepseek", "bytelevel_qwen2",
        "bpe_llama2", "bpe_gemma", "bpe_metaspace", "unigram", "wordpiece", "sp_bpe", "sp_unigram"}) {
    ExpectEqual(kTokenizers + name, Convert(kTokenizers + name, false));
  }
}

// Merges that scores give, as files converted from SentencePiece have them: every cut of a token, by score.
TEST_F(GgufTokenizerTest, MergesBecomeScores) {
  const Json complete = {
      {"normalizer", {{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", "\xE2\x96\x81"}}},
      {"decoder", {{"type", "Fuse"}}},
      {"model",
       {{"type", "BPE"},
        {"unk_token", "<unk>"},
        {"fuse_unk", true},
        {"vocab",
         {{"<unk>", 0}, {"a", 1}, {"b", 2}, {"c", 3}, {"bc", 4}, {"ab", 5}, {"abc", 6}, {"\xE2\x96\x81", 7}}},
        {"merges", {"b c", "a b", "ab c", "a bc"}}}}};
  const auto convert = [](const Json& json, GgufMetadata& metadata) {
    const auto notes = AddTokenizer({.json = DumpJson(json)}, 8, {}, metadata);
    EXPECT_TRUE(notes.ok()) << notes.error().message;
    return notes.ok() ? *notes : std::vector<std::string>();
  };
  GgufMetadata metadata, keys;
  EXPECT_TRUE(convert(complete, metadata).empty());
  const auto file = Write(metadata, "scores.gguf");
  EXPECT_EQ(*file->String("tokenizer.ggml.model"), "llama");
  for (const auto& [key, value] : file->metadata()) {
    if (key != "tokenizer.huggingface.json") keys.Copy(key, value);
  }
  Write(keys, "keys.gguf");
  const auto own = Tokenizer::Parse(DumpJson(complete), "own"),
             travelled = Tokenizer::Load(Path("keys.gguf"));
  ASSERT_TRUE(own.ok()) << own.error().message;
  ASSERT_TRUE(travelled.ok()) << travelled.error().message;
  for (const char* text : {"abc", "ab c", "bcabcc", "aab", "xxabx"}) {
    EXPECT_EQ(*(*own)->Encode(text), *(*travelled)->Encode(text)) << text;
  }
  Json partial = complete;
  partial["model"]["merges"].erase(3);
  GgufMetadata other;
  EXPECT_THAT(convert(partial, other),
              testing::ElementsAre(HasSubstr("its merges are not those that scores")));
}

// The names and splits of llama.cpp; every pattern compiles, and words join to the text again.
TEST(GgufPreTokenizers, SplitEverythingAndNothingElse) {
  struct Join : WordSink {
    std::string text;
    void Word(std::string_view word) override { text.append(word); }
  };
  const std::string text =
      "Hello  there's 12345\tDON'T\r\n\n caf\xC3\xA9 \xE6\x97\xA5\xE6\x9C\xAC\xE8\xAA\x9E, ok!  ";
  EXPECT_GE(GgufPreTokenizers().size(), 80u);
  for (const GgufPreTokenizer& entry : GgufPreTokenizers()) {
    const Json json = *ParseJson(DumpJson(PreTokenizerJson(*entry.split)));
    EXPECT_TRUE(SplitsLike(json, *entry.split)) << entry.name;
    const auto chain = PreTokenizerChain::Parse(json);
    ASSERT_TRUE(chain.ok()) << entry.name << ": " << chain.error().message;
    Join sink;
    ASSERT_TRUE(chain->Split(text, &sink).ok()) << entry.name;
    EXPECT_EQ(sink.text, text) << entry.name;
  }
}

TEST(GgufPreTokenizers, Words) {
  struct Collect : WordSink {
    std::vector<std::string> words;
    void Word(std::string_view word) override { words.emplace_back(word); }
  };
  const auto words = [](std::string_view name, std::string_view text) {
    Collect sink;
    for (const GgufPreTokenizer& entry : GgufPreTokenizers()) {
      if (name != entry.name) continue;
      const auto chain = PreTokenizerChain::Parse(*ParseJson(DumpJson(PreTokenizerJson(*entry.split))));
      EXPECT_TRUE(chain.ok() && chain->Split(text, &sink).ok());
    }
    return sink.words;
  };
  using testing::ElementsAre;
  EXPECT_THAT(words("tekken", "HelloWorld 42"), ElementsAre("Hello", "World", " ", "4", "2"));
  EXPECT_THAT(words("gpt-4o", "don't 1234"), ElementsAre("don't", " ", "123", "4"));
  EXPECT_THAT(words("superbpe", "a1234567"), ElementsAre("a", "1", "234", "567"));
  EXPECT_THAT(words("afmoe", "1234567"), ElementsAre("1", "234", "567"));
  EXPECT_THAT(words("falcon", "a+b 12345"), ElementsAre("a", "+", "b", " ", "123", "45"));
  // By the package tokenizers from the same patterns.
  EXPECT_THAT(words("deepseek-llm", "Hello, world  12345 :x\n\n  Gr\u00f6\u00dfe!?  "),
              ElementsAre("Hello", ",", " world", "  ", "12345", " :", "x", "\n", "\n", " ", " Gr",
                          "\u00f6\u00df", "e", "!?", "  "));
  EXPECT_THAT(words("deepseek-llm", "\u4f60\u597d\uff0c\u4e16\u754c2024\u5e74 \u05d0\u05d1"),
              ElementsAre("\u4f60\u597d", "\uff0c", "\u4e16\u754c", "2024", "\u5e74", " \u05d0\u05d1"));
  EXPECT_THAT(words("kimi-k2",
                    "ab\xE6\x97\xA5\xE6\x9C\xAC"
                    "cd"),
              ElementsAre("ab", "\xE6\x97\xA5\xE6\x9C\xAC", "cd"));
}

TEST_F(GgufTokenizerTest, Malformed) {
  const auto with = [](const char* model, auto&& change) {
    GgufMetadata metadata;
    metadata.String("tokenizer.ggml.model", model);
    change(metadata);
    return metadata;
  };
  const std::vector<std::string> tokens = {"<unk>", "a", "b"};
  const std::vector<int32_t> types = {2, 1, 9}, few_types = {2};
  const std::vector<float> scores = {0, -1, -2}, few_scores = {0};
  const std::vector<std::string> twice = {"<unk>", "a", "a"}, pieces = {"x",
                                                                        "\xE2\x96\x81"
                                                                        "a",
                                                                        "\xE2\x96\x81"
                                                                        "a"};
  const std::vector<std::pair<GgufMetadata, const char*>> cases = {
      {with("rwkv", [](GgufMetadata&) {}),
       "tokenizer.ggml.model 'rwkv' cannot be read, only gpt2, llama, t5 and bert"},
      {with("gpt2", [](GgufMetadata& m) { m.String("tokenizer.ggml.pre", "new"); }),
       "tokenizer.ggml.pre 'new' is not known"},
      {with("llama", [](GgufMetadata&) {}), "tokenizer.ggml.tokens"},
      {with("llama", [&](GgufMetadata& m) { m.Strings("tokenizer.ggml.tokens", tokens); }),
       "tokenizer.ggml.scores"},
      {with("llama",
            [&](GgufMetadata& m) {
              m.Strings("tokenizer.ggml.tokens", tokens);
              m.Floats("tokenizer.ggml.scores", few_scores);
            }),
       "tokenizer.ggml.scores: 1 scores for 3 tokens"},
      {with("llama",
            [&](GgufMetadata& m) {
              m.Strings("tokenizer.ggml.tokens", tokens);
              m.Ints("tokenizer.ggml.token_type", few_types);
            }),
       "tokenizer.ggml.token_type: 1 types for 3 tokens"},
      {with("t5",
            [&](GgufMetadata& m) {
              m.Strings("tokenizer.ggml.tokens", tokens);
              m.Ints("tokenizer.ggml.token_type", types);
            }),
       "type 9 of token 2 is not in [0, 6]"},
      {with("llama",
            [&](GgufMetadata& m) {
              m.Strings("tokenizer.ggml.tokens", twice);
              m.Floats("tokenizer.ggml.scores", scores);
            }),
       "token 'a' has two ids, 1 and 2"},
      {with("llama",
            [&](GgufMetadata& m) {
              m.Strings("tokenizer.ggml.tokens", tokens);
              m.Floats("tokenizer.ggml.scores", scores);
              m.Ints("tokenizer.ggml.precompiled_charsmap", few_types);
            }),
       "tokenizer.ggml.precompiled_charsmap: expected an array of bytes"},
      {with("bert", [&](GgufMetadata& m) { m.Strings("tokenizer.ggml.tokens", pieces); }),
       "tokenizer.ggml.tokens: 'a' stands there twice"},
      {with("bert", [&](GgufMetadata& m) { m.Strings("tokenizer.ggml.tokens", tokens); }),
       "tokenizer.ggml.unknown_token_id 100 is not one of 3 tokens"},
  };
  for (const auto& [metadata, message] : cases) EXPECT_THAT(LoadError(metadata), HasSubstr(message));
}

// Beside a copy of tokenizer.json other keys may be unknown, but not contradict it.
TEST_F(GgufTokenizerTest, WhichTokenizerIsRead) {
  const std::string copy = R"({"model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []}})";
  const auto describe = [&](const std::string& json, const char* model, const char* pre,
                            std::vector<std::string> tokens) {
    GgufMetadata metadata;
    if (*model != '\0') metadata.String("tokenizer.ggml.model", model);
    if (*pre != '\0') metadata.String("tokenizer.ggml.pre", pre);
    if (!tokens.empty()) metadata.Strings("tokenizer.ggml.tokens", tokens);
    if (!tokens.empty()) metadata.Strings("tokenizer.ggml.merges", std::vector<std::string>());
    if (!json.empty()) metadata.String("tokenizer.huggingface.json", json);
    const auto text = DescribeGgufTokenizer(*Write(metadata, "d.gguf"));
    return text.ok() ? *text : "error: " + text.error().message;
  };
  const std::vector<std::string> two = {"a", "b"};
  EXPECT_EQ(describe(copy, "gpt2", "gpt-2", two), "tokenizer.huggingface.json (BPE, 2 tokens)");
  EXPECT_EQ(describe(copy, "", "", {}), "tokenizer.huggingface.json (BPE, 2 tokens)");
  EXPECT_EQ(describe(copy, "gpt2", "newest", two),
            "tokenizer.huggingface.json (BPE, 2 tokens); tokenizer.ggml.pre 'newest' is not known here, nor "
            "needed");
  EXPECT_EQ(describe(copy, "rwkv", "", two),
            "tokenizer.huggingface.json (BPE, 2 tokens); tokenizer.ggml.model 'rwkv' is not known here, nor "
            "needed");
  EXPECT_EQ(
      describe(copy, "bert", "", two),
      "error: tokenizer.huggingface.json: a model of type \"BPE\", but tokenizer.ggml.model 'bert' means "
      "WordPiece");
  EXPECT_EQ(describe(copy, "gpt2", "", {"a"}),
            "error: tokenizer.huggingface.json: ids up to 1, but there are 1 tokenizer.ggml.tokens");
  EXPECT_THAT(describe(copy.substr(1), "gpt2", "", two), HasSubstr("error: tokenizer.huggingface.json"));
  EXPECT_THAT(describe("[]", "gpt2", "", two), HasSubstr("error: tokenizer.huggingface.json"));
  EXPECT_EQ(describe("", "gpt2", "gpt-2", two), "gpt2 split as gpt-2, 2 tokens");
  EXPECT_EQ(describe("", "gpt2", "newest", two), "error: tokenizer.ggml.pre 'newest' is not known");
  EXPECT_EQ(describe("", "", "", {}), "none, ids only");
}

TEST(AddTokenizer, Refusals) {
  const auto message = [](const TokenizerFiles& files, int64_t vocab) {
    GgufMetadata metadata;
    const auto notes = AddTokenizer(files, vocab, {}, metadata);
    return notes.ok() ? std::string("no error") : notes.error().message;
  };
  SentencePieceModel model{.pieces = {{"<unk>", 0, PieceType::kUnknown}, {"a", -1}}};
  EXPECT_EQ(message({.model = model.Write()}, 2), "no error");
  EXPECT_EQ(message({.model = model.Write()}, 1), "tokenizer.model: id 1 of 'a': the embedding has 1 rows");
  model.normalization.treat_whitespace_as_suffix = true;
  EXPECT_THAT(message({.model = model.Write()}, 2), HasSubstr("GGUF has no keys for spaces that"));
  EXPECT_THAT(message({.json = "{\"model\": {\"vocab\": {}, \"type\": \"WordLevel\"}}"}, 2),
              HasSubstr("tokenizer.json: expected a model with merges (BPE), Unigram or WordPiece"));
  EXPECT_THAT(message({.json = "{\"model\": {\"vocab\": {}, \"merges\": []}}"}, 2),
              HasSubstr("its normalizer and pre_tokenizer are none that GGUF files have keys for"));
}

}  // namespace
}  // namespace planish

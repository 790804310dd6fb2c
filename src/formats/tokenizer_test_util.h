// What the tests of tokenizers share.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/json.h"
#include "base/random.h"
#include "formats/tokenizer.h"
#include "formats/tokenizer_split.h"
#include "formats/tokenizer_unicode.h"

namespace planish {

// Folders of tokenizers with goldens, by name.
inline const std::string kTokenizers = std::string(PLANISH_SHARED_DIR) + "/models/tiny/tokenizers/";

// A file of JSON; null, and a failure of the test, when there is none.
inline Json ReadJson(const std::string& path) {
  const auto text = ReadTextFile(path);
  EXPECT_TRUE(text.ok()) << text.error().message;
  if (!text.ok()) return {};
  auto json = ParseJson(*text);
  EXPECT_TRUE(json.ok()) << json.error().message;
  return json.ok() ? *json : Json();
}

// The text of ids that arrive one by one; every piece of it must be valid UTF-8.
inline std::string Stream(const Tokenizer& tokenizer, const std::vector<int32_t>& ids) {
  StreamDecoder stream(tokenizer);
  std::string text;
  for (const int32_t id : ids) {
    const std::string part = stream.Push(id);
    EXPECT_FALSE(FindInvalidUtf8(part).has_value());
    text += part;
  }
  return text + stream.Flush();
}

namespace tokenizer_test {

using Ids = std::vector<int32_t>;
using TokenizerPtr = std::shared_ptr<const Tokenizer>;

inline const std::string kModels = std::string(PLANISH_SHARED_DIR) + "/models/";

inline TokenizerPtr LoadOrFail(const std::string& folder) {
  auto tokenizer = Tokenizer::Load(folder);
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.error().message;
  return tokenizer.ok() ? *tokenizer : nullptr;
}

inline Ids EncodeOrFail(const Tokenizer& tokenizer, std::string_view text, bool add_special = false,
                        bool recognize = true) {
  auto ids = tokenizer.Encode(text, add_special, recognize);
  EXPECT_TRUE(ids.ok()) << ids.error().message;
  return ids.ok() ? *ids : Ids();
}

// A tokenizer.json of the 256 byte characters (id = byte), further tokens and merges.
inline Json SmallFile() {
  Json file = {{"normalizer", nullptr}, {"added_tokens", Json::array()}, {"post_processor", nullptr}};
  file["pre_tokenizer"] = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", true}};
  file["decoder"] = {{"type", "ByteLevel"}};
  Json vocab = Json::object();
  for (int b = 0; b < 256; ++b) vocab[std::string(ByteToAlphabet(static_cast<uint8_t>(b)))] = b;
  file["model"] = {{"type", "BPE"}, {"vocab", vocab}, {"merges", Json::array()}};
  return file;
}

inline Json AddedTokenJson(const std::string& content, int id) {
  return {{"id", id},        {"content", content},  {"single_word", false}, {"lstrip", false},
          {"rstrip", false}, {"normalized", false}, {"special", true}};
}

inline TokenizerPtr ParseOrFail(const Json& file) {
  auto tokenizer = Tokenizer::Parse(DumpJson(file), "test");
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.error().message;
  return tokenizer.ok() ? *tokenizer : nullptr;
}

inline std::string ParseError(const Json& file) {
  const auto tokenizer = Tokenizer::Parse(DumpJson(file), "test");
  return tokenizer.ok() ? "" : tokenizer.error().message;
}

// Words of `text` by a "pre_tokenizer" object.
inline std::vector<std::string> Words(const Json& pre_tokenizer, std::string_view text) {
  struct Collect : WordSink {
    std::vector<std::string> words;
    void Word(std::string_view word) override { words.emplace_back(word); }
  } sink;
  const auto chain = PreTokenizerChain::Parse(pre_tokenizer);
  EXPECT_TRUE(chain.ok()) << chain.error().message;
  if (!chain.ok()) return {};
  const Status status = chain->Split(text, &sink);
  EXPECT_TRUE(status.ok()) << status.error().message;
  return sink.words;
}

inline Json Split(const std::string& kind, const std::string& pattern, const std::string& behavior,
                  bool invert = false) {
  return {{"type", "Split"}, {"pattern", {{kind, pattern}}}, {"behavior", behavior}, {"invert", invert}};
}

// `count` random characters: half ASCII with much white space, the rest from all of Unicode.
inline std::string RandomText(uint64_t seed, int count) {
  static constexpr char kFrequent[] = "  \n\r\t''sStTrReEvVmMlLdDaZ09.!\xC5\xBF";
  const Random random(seed);
  std::string text;
  for (int i = 0; i < count; ++i) {
    const uint64_t at = static_cast<uint64_t>(i) * 3;
    uint32_t c = 0;
    switch (random.Below(at, 8)) {
      case 0:
      case 1:
      case 2:
      case 3:
        c = static_cast<uint8_t>(kFrequent[random.Below(at + 1, sizeof(kFrequent) - 3)]);
        break;
      case 4:
        c = static_cast<uint32_t>(random.Below(at + 1, 0x3100));
        break;
      case 5:
        c = static_cast<uint32_t>(random.Below(at + 1, 0x20000));
        break;
      case 6:
        c = random.Below(at + 2, 2) == 0 ? 0x17F : 0x2000 + static_cast<uint32_t>(random.Below(at + 1, 0x70));
        break;
      default:
        c = static_cast<uint32_t>(random.Below(at + 1, 0x110000));
    }
    if (c >= 0xD800 && c < 0xE000) c = 0x180E;  // a space for PCRE2's \s, but no White_Space
    AppendUtf8(c, &text);
  }
  return text;
}

}  // namespace tokenizer_test

}  // namespace planish

// The steps of tokenizers one by one: splitting, scanning, normalizing, merging, regular expressions.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <chrono>

#include "base/json.h"
#include "base/random.h"
#include "formats/tokenizer_bpe.h"
#include "formats/tokenizer_normalize.h"
#include "formats/tokenizer_regex.h"
#include "formats/tokenizer_scan.h"
#include "formats/tokenizer_split.h"
#include "formats/tokenizer_test_util.h"
#include "formats/tokenizer_unicode.h"

namespace planish {
namespace {

using namespace tokenizer_test;  // NOLINT: the helpers of this folder's tests
using testing::ElementsAre;
using testing::HasSubstr;

constexpr char kLlama3Pattern[] =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|"
    "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
constexpr char kQwen2Pattern[] =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|"
    "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

TEST(TokenizerSplit, KnownPatterns) {
  const Json gpt2 = {{"type", "ByteLevel"}, {"add_prefix_space", false}};
  EXPECT_THAT(Words(gpt2, "Hello there       dear"), ElementsAre("Hello", " there", "      ", " dear"));
  EXPECT_THAT(Words(gpt2, "Hello there\nHello"), ElementsAre("Hello", " there", "\n", "Hello"));
  EXPECT_THAT(Words(gpt2, "I'll go"), ElementsAre("I", "'ll", " go"));
  EXPECT_THAT(Words(gpt2, "I'LL  "), ElementsAre("I", "'", "LL", "  "));
  const Json llama3 = Split("Regex", kLlama3Pattern, "Isolated");
  EXPECT_THAT(Words(llama3, "12345"), ElementsAre("123", "45"));
  EXPECT_THAT(Words(llama3, "a\n\n b"), ElementsAre("a", "\n\n", " b"));
  EXPECT_THAT(Words(llama3, "DON'T"), ElementsAre("DON", "'T"));
  EXPECT_THAT(Words(Split("Regex", kQwen2Pattern, "Isolated"), "12345"),
              ElementsAre("1", "2", "3", "4", "5"));
  // The form of converted tiktoken files.
  EXPECT_THAT(Words(Split("Regex", kLlama3Pattern, "Removed", true), "ab 12"), ElementsAre("ab", " ", "12"));
}

TEST(TokenizerSplit, PrefixSpaceOfEveryPiece) {
  const Json chain = {{"type", "Sequence"},
                      {"pretokenizers",
                       {{{"type", "Digits"}, {"individual_digits", false}},
                        {{"type", "ByteLevel"}, {"add_prefix_space", true}, {"use_regex", true}}}}};
  EXPECT_THAT(Words(chain, "a12 b"), ElementsAre(" a", " 12", " b"));
}

TEST(TokenizerSplit, Digits) {
  const auto digits = [](bool individual) {
    return Json{{"type", "Digits"}, {"individual_digits", individual}};
  };
  EXPECT_THAT(Words(digits(true), "ab12\xC2\xBD"), ElementsAre("ab", "1", "2", "\xC2\xBD"));
  EXPECT_THAT(Words(digits(false), "ab12 3"), ElementsAre("ab", "12", " ", "3"));
}

// As Falcon's published tokenizers split, in parts of characters too; expected parts by the package
// tokenizers.
TEST(TokenizerSplit, StepsBehindByteLevel) {
  const Json chain = {{"type", "Sequence"},
                      {"pretokenizers",
                       {{{"type", "Punctuation"}, {"behavior", "Contiguous"}},
                        {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", true}},
                        {{"type", "Digits"}, {"individual_digits", false}},
                        Split("Regex", "[0-9][0-9][0-9]", "Isolated")}}};
  EXPECT_THAT(Words(chain, "Year 12345, 678!"), ElementsAre("Year", " ", "123", "45", ",", " ", "678", "!"));
  EXPECT_THAT(Words(chain, "a...b  1234567"), ElementsAre("a", "...", "b", " ", " ", "123", "456", "7"));
  EXPECT_THAT(Words(chain, " 99 bottles"), ElementsAre(" ", "99", " bottles"));
  // The alphabet has digits of its own: of the bytes B2, BD and B9.
  EXPECT_THAT(Words(chain, "\xC3\xA9\xC2\xB2 \xC2\xBDx12"),
              ElementsAre("\xC3\xA9", "\xC2", "\xB2", " \xC2", "\xBD", "x", "12"));
  EXPECT_THAT(Words(chain,
                    "\xE6\x97\xA5"
                    "2021\xE5\xB9\xB4"),
              ElementsAre("\xE6\x97\xA5", "202", "1", "\xE5", "\xB9", "\xB4"));
}

// Expected parts by the package tokenizers.
TEST(TokenizerSplit, Scripts) {
  const Json scripts = {{"type", "UnicodeScripts"}};
  EXPECT_THAT(Words(scripts, "\u3069\u3053\u3067\u751f\u308c\u3002Yes"),
              ElementsAre("\u3069\u3053\u3067\u751f\u308c", "\u3002", "Yes"));
  EXPECT_THAT(Words(scripts, " Apples are \u308a\u3093\u3054 \u6797\u6a8e"),
              ElementsAre("Apples are ", "\u308a\u3093\u3054 \u6797\u6a8e"));
  EXPECT_THAT(Words(scripts, "\u30a2\u30fc1\u30ab\u30ca"), ElementsAre("\u30a2\u30fc", "1", "\u30ab\u30ca"));
  EXPECT_THAT(Words(scripts, "a\u0301b"), ElementsAre("a", "\u0301", "b"));
  EXPECT_THAT(Words(scripts, "  "), ElementsAre());
  EXPECT_THAT(Words(scripts, "x\U0001FAE0y 1"), ElementsAre("x\U0001FAE0y ", "1"));  // of a later Unicode
  EXPECT_THAT(Words(scripts,
                    "\U0001FAE0"
                    "a"),
              ElementsAre("a"));
  EXPECT_THAT(Words(scripts,
                    "\u0395\u03bb\u03bb\u03b7\u03bd\u03b9\u03ba\u03ac \u0438 "
                    "\u0440\u0443\u0441\u0441\u043a\u0438\u0439"),
              ElementsAre("\u0395\u03bb\u03bb\u03b7\u03bd\u03b9\u03ba\u03ac ",
                          "\u0438 \u0440\u0443\u0441\u0441\u043a\u0438\u0439"));
  EXPECT_THAT(Words(scripts, "\ud55c\uad6d\uc5b4 \ud55c\uad6d ok"),
              ElementsAre("\ud55c\uad6d\uc5b4 \ud55c\uad6d ", "ok"));
}

// Expected parts by the definition of each behavior in the format's documentation.
TEST(TokenizerSplit, Behaviors) {
  for (const auto& [kind, pattern] : {std::pair{"String", "-"}, std::pair{"Regex", "-"}}) {
    const auto words = [k = kind, p = pattern](const char* behavior, bool invert = false) {
      return Words(Split(k, p, behavior, invert), "the-final--countdown");
    };
    EXPECT_THAT(words("Isolated"), ElementsAre("the", "-", "final", "-", "-", "countdown"));
    EXPECT_THAT(words("Removed"), ElementsAre("the", "final", "countdown"));
    EXPECT_THAT(words("MergedWithPrevious"), ElementsAre("the-", "final-", "-", "countdown"));
    EXPECT_THAT(words("MergedWithNext"), ElementsAre("the", "-final", "-", "-countdown"));
    EXPECT_THAT(words("Contiguous"), ElementsAre("the", "-", "final", "--", "countdown"));
    EXPECT_THAT(words("Removed", true), ElementsAre("-", "-", "-"));
    EXPECT_THAT(words("MergedWithPrevious", true), ElementsAre("the", "-final", "-", "-countdown"));
  }
  EXPECT_THAT(Words(Split("Regex", "x*", "Isolated"), "axxb"), ElementsAre("a", "xx", "b"));
  EXPECT_THAT(Words(Split("Regex", "^", "Isolated"), "a\nb\n"), ElementsAre("a\n", "b\n"));
}

TEST(TokenizerScan, EqualsTheRegexOnRandomText) {
  for (const char* pattern : {kGpt2Pattern, kLlama3Pattern, kQwen2Pattern}) {
    const auto scanner = Scanner::ForPattern(pattern);
    auto regex = Regex::Compile(pattern);
    ASSERT_TRUE(scanner.has_value() && regex.ok());
    for (uint64_t seed = 0; seed < 400; ++seed) {
      const std::string text = RandomText(seed, 1 + static_cast<int>(seed) * 2);
      Regex::Matcher matcher(*regex, text);
      size_t at = 0, begin = 0, end = 0;
      while (matcher.Next(&begin, &end)) {
        ASSERT_EQ(begin, at) << "a gap in " << pattern;
        ASSERT_EQ(scanner->Next(text, at), end) << pattern << " on '" << text.substr(at, 40) << "'";
        at = end;
      }
      ASSERT_TRUE(matcher.status().ok()) << matcher.status().error().message;
      ASSERT_EQ(at, text.size());
    }
  }
  EXPECT_FALSE(Scanner::ForPattern("\\p{L}+").has_value());
}

TEST(TokenizerUnicode, ClassesOfEveryCharacter) {
  const CharClassTable& table = CharClassTable::Get();
  const auto letter = Regex::Compile("\\A\\p{L}\\z"), number = Regex::Compile("\\A\\p{N}\\z"),
             space = Regex::Compile("\\A\\s\\z");
  ASSERT_TRUE(letter.ok() && number.ok() && space.ok());
  // Every character of the planes in use here would take seconds; a step of 7 crosses all blocks.
  for (uint32_t c = 0; c < 0x110000; c += c < 0x3000 ? 1 : 7) {
    if (c >= 0xD800 && c < 0xE000) continue;
    std::string text;
    AppendUtf8(c, &text);
    const auto matches = [&](const Regex& regex) {
      size_t begin = 0, end = 0;
      return Regex::Matcher(regex, text).Next(&begin, &end);
    };
    ASSERT_EQ((table[c] & kLetter) != 0, matches(*letter)) << c;
    ASSERT_EQ((table[c] & kNumber) != 0, matches(*number)) << c;
    ASSERT_EQ((table[c] & kSpace) != 0, matches(*space)) << c;
  }
  EXPECT_FALSE(IsWhiteSpace(0x180E));
  EXPECT_EQ(table['_'], kWord | kPunctuation);
  EXPECT_EQ(table[0x301], kWord | kMark | kNonSpacing);
  for (const uint32_t c : {0xFFFFu, 0x50000u, 0xE0FFFu, 0xE1000u, 0x10FFFDu})
    EXPECT_EQ(table[c], kOther) << c;
}

TEST(TokenizerUnicode, InvalidParts) {
  struct Case {
    const char* bytes;
    size_t offset;
    const char* replaced;
  };
  // After table 3-8 of the Unicode standard (maximal subparts).
  for (const auto& [bytes, offset, replaced] :
       {Case{"a\x80", 1, "a\xEF\xBF\xBD"}, Case{"\xC0\xAF", 0, "\xEF\xBF\xBD\xEF\xBF\xBD"},
        Case{"\xE0\x80\xBF", 0, "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD"},
        Case{"\xF0\x9F\x98x", 0, "\xEF\xBF\xBDx"},
        Case{"\xED\xA0\x80", 0, "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD"},
        Case{"12345678\xF4\x90", 8, "12345678\xEF\xBF\xBD\xEF\xBF\xBD"},
        Case{"\xE2\x82", 0, "\xEF\xBF\xBD"}}) {
    EXPECT_EQ(FindInvalidUtf8(bytes), offset);
    std::string out;
    AppendReplacingInvalid(bytes, false, &out);
    EXPECT_EQ(out, replaced);
  }
}

TEST(TokenizerBpe, UnrelatedBecomesOneToken) {
  Json file = SmallFile();
  Json& vocab = file["model"]["vocab"];
  for (const auto& [left, right] : {std::pair{"r", "e"},
                                    {"a", "t"},
                                    {"e", "d"},
                                    {"u", "n"},
                                    {"at", "ed"},
                                    {"re", "l"},
                                    {"rel", "ated"},
                                    {"un", "related"}}) {
    file["model"]["merges"].push_back({left, right});
    vocab[std::string(left) + right] = vocab.size();
  }
  const TokenizerPtr tokenizer = ParseOrFail(file);
  ASSERT_TRUE(tokenizer);
  EXPECT_EQ(EncodeOrFail(*tokenizer, "unrelated"), Ids{263});
  EXPECT_EQ(EncodeOrFail(*tokenizer, "related"), Ids{262});
  EXPECT_EQ(tokenizer->TokenBytes(263), "unrelated");
  // The older form of a merge.
  file["model"]["merges"][0] = "r e";
  EXPECT_EQ(EncodeOrFail(*ParseOrFail(file), "unrelated"), Ids{263});
}

// The definition: join the first pair of lowest rank, over and over.
Ids NaiveMerge(Ids symbols, const std::vector<std::array<int32_t, 3>>& merges) {
  while (true) {
    size_t best = merges.size(), at = 0;
    for (size_t i = 0; i + 1 < symbols.size(); ++i) {
      for (size_t rank = 0; rank < best; ++rank) {
        if (merges[rank][0] == symbols[i] && merges[rank][1] == symbols[i + 1]) best = rank, at = i;
      }
    }
    if (best == merges.size()) return symbols;
    symbols[at] = merges[best][2];
    symbols.erase(symbols.begin() + static_cast<std::ptrdiff_t>(at) + 1);
  }
}

TEST(TokenizerBpe, EqualsTheDefinition) {
  const Random random(7);
  uint64_t draw = 0;
  for (int round = 0; round < 20; ++round) {
    Json file = SmallFile();
    Json& vocab = file["model"]["vocab"];
    std::vector<std::string> tokens = {"a", "b", "c"};
    std::vector<std::array<int32_t, 3>> merges;
    while (tokens.size() < 40) {
      const std::string left = tokens[random.Below(draw++, tokens.size())];
      const std::string right = tokens[random.Below(draw++, tokens.size())];
      if (vocab.contains(left + right) || left.size() + right.size() > 20) continue;
      const auto id = static_cast<int32_t>(vocab.size());
      vocab[left + right] = id;
      file["model"]["merges"].push_back({left, right});
      merges.push_back({vocab[left].get<int32_t>(), vocab[right].get<int32_t>(), id});
      tokens.push_back(left + right);
    }
    const TokenizerPtr tokenizer = ParseOrFail(file);
    ASSERT_TRUE(tokenizer);
    for (const size_t length : {1, 2, 5, 24, 25, 63, 64, 65, 66, 200, 500}) {
      std::string word;
      for (size_t i = 0; i < length; ++i) word.push_back(static_cast<char>('a' + random.Below(draw++, 3)));
      const Ids expected = NaiveMerge(Ids(word.begin(), word.end()), merges);
      EXPECT_EQ(EncodeOrFail(*tokenizer, word), expected) << word;
      EXPECT_EQ(EncodeOrFail(*tokenizer, word), expected) << word << " from the cache";
    }
  }
}

TEST(TokenizerBpe, LongWordsAreNotQuadratic) {
  const TokenizerPtr tokenizer = LoadOrFail(kModels + "demo");
  ASSERT_TRUE(tokenizer);
  std::string word;
  for (int i = 0; word.size() < 1000000; ++i) word += i % 3 == 0 ? "the" : i % 3 == 1 ? "ing" : "a";
  const auto start = std::chrono::steady_clock::now();
  const Ids ids = EncodeOrFail(*tokenizer, word);
  // Some 0.2 s; a quadratic merge takes minutes.
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(30));
  EXPECT_TRUE(tokenizer->Decode(ids) == word);
}

// Decoders whose tokens look at their neighbors, with the expected text by their definition.
TEST(TokenizerDecode, BpeAndCtc) {
  Json file = SmallFile();
  file["pre_tokenizer"] = nullptr;
  file["model"] = {{"type", "BPE"}, {"vocab", {{"a", 0}, {"b</w>", 1}, {"<pad>", 2}, {"|", 3}}}};
  file["model"]["merges"] = Json::array();
  file["decoder"] = {{"type", "BPEDecoder"}, {"suffix", "</w>"}};
  TokenizerPtr tokenizer = ParseOrFail(file);
  EXPECT_EQ(tokenizer->Decode(Ids{0, 1, 0, 1, 1}), "ab ab b");
  EXPECT_EQ(Stream(*tokenizer, {0, 1, 0, 1, 1}), "ab ab b");
  file["decoder"] = {
      {"type", "CTC"}, {"pad_token", "<pad>"}, {"word_delimiter_token", "|"}, {"cleanup", true}};
  tokenizer = ParseOrFail(file);
  EXPECT_EQ(tokenizer->Decode(Ids{0, 0, 2, 0, 3, 3, 0, 2, 2}), "aa a");
  EXPECT_EQ(Stream(*tokenizer, {0, 0, 2, 0, 3, 3, 0, 2, 2}), "aa a");
}

TEST(TokenizerBpe, AffixesOfWords) {
  Json file = SmallFile();
  file["pre_tokenizer"] = {{"type", "WhitespaceSplit"}};
  file["decoder"] = {{"type", "BPEDecoder"}};
  file["model"] = {{"type", "BPE"}, {"end_of_word_suffix", "</w>"}, {"unk_token", "?"}};
  file["model"]["vocab"] = {{"a", 0}, {"b", 1}, {"b</w>", 2}, {"ab</w>", 3}, {"?", 4}};
  file["model"]["merges"] = Json::array({"a b</w>"});
  EXPECT_EQ(EncodeOrFail(*ParseOrFail(file), "ab aba b"), Ids({3, 0, 1, 4, 2}));
  file["model"] = {{"type", "BPE"}, {"continuing_subword_prefix", "##"}, {"unk_token", "?"}};
  file["model"]["vocab"] = {{"a", 0}, {"##b", 1}, {"ab", 2}, {"##bb", 3}, {"?", 4}};
  file["model"]["merges"] = Json::array({"##b ##b", "a ##b"});
  EXPECT_EQ(EncodeOrFail(*ParseOrFail(file), "ab abb ba"), Ids({2, 0, 3, 4, 4}));
}

TEST(TokenizerWordLevel, WholeWords) {
  Json file = SmallFile();
  file["pre_tokenizer"] = {{"type", "WhitespaceSplit"}};
  file["model"] = {{"type", "WordLevel"}, {"vocab", {{"one", 0}, {"two", 1}, {"<unk>", 2}}}};
  EXPECT_EQ(EncodeOrFail(*ParseOrFail(file), "two one onetwo"), Ids({1, 0, 2}));
}

// The alphabet as a normalizer: the model then merges its characters.
TEST(TokenizerNormalize, ByteLevel) {
  Json file = SmallFile();
  const Ids expected = EncodeOrFail(*ParseOrFail(file), "a \xC3\xA9");
  file["pre_tokenizer"] = nullptr;
  file["normalizer"] = {{"type", "ByteLevel"}};
  EXPECT_EQ(EncodeOrFail(*ParseOrFail(file), "a \xC3\xA9"), expected);
}

// Characters outside the vocabulary in a plain (not byte-level) BPE.
TEST(TokenizerBpe, UnknownCharacters) {
  Json file = SmallFile();
  file["pre_tokenizer"] = nullptr;
  file["decoder"] = {{"type", "Fuse"}};
  file["model"] = {{"type", "BPE"}, {"vocab", {{"a", 0}, {"<unk>", 1}, {"<0xC3>", 2}, {"<0xA9>", 3}}}};
  file["model"]["merges"] = Json::array();
  const std::string text = "zza\xC3\xA9";
  EXPECT_EQ(EncodeOrFail(*ParseOrFail(file), text), Ids({0}));
  file["model"]["unk_token"] = "<unk>";
  EXPECT_EQ(EncodeOrFail(*ParseOrFail(file), text), Ids({1, 1, 0, 1}));
  file["model"]["fuse_unk"] = true;
  EXPECT_EQ(EncodeOrFail(*ParseOrFail(file), text), Ids({1, 0, 1}));
  file["model"]["byte_fallback"] = true;
  EXPECT_EQ(EncodeOrFail(*ParseOrFail(file), text), Ids({1, 0, 2, 3}));
  // Bytes overtake an unknown that waits to be fused.
  EXPECT_EQ(EncodeOrFail(*ParseOrFail(file), "z\xC3\xA9z"), Ids({2, 3, 1}));
}

// Expected pieces by hand, with the scores of the format's documentation.
TEST(TokenizerUnigram, BestPathAndFusedUnknown) {
  Json file = {{"normalizer", nullptr}, {"pre_tokenizer", nullptr}, {"decoder", {{"type", "Fuse"}}}};
  file["model"] = {{"type", "Unigram"}, {"unk_id", 0}};
  for (const auto& [piece, score] : {std::pair{"<unk>", 0},
                                     {"a", 0},
                                     {"b", 0},
                                     {"c", 0},
                                     {"d", 0},
                                     {"cd", 1},
                                     {"ab", 2},
                                     {"abc", 5},
                                     {"abcd", 10}}) {
    file["model"]["vocab"].push_back(Json::array({piece, score}));
  }
  EXPECT_EQ(EncodeOrFail(*ParseOrFail(file), "abcdacdxx"), Ids({8, 1, 5, 0}));
  EXPECT_EQ(EncodeOrFail(*ParseOrFail(file), "xaxx"), Ids({0, 1, 0}));
  EXPECT_EQ(EncodeOrFail(*ParseOrFail(file), ""), Ids());
  for (const auto& [pointer, value, message] :
       {std::tuple<const char*, Json, const char*>{"/model/unk_id", 9,
                                                   "unk_id 9 is not in the vocabulary of 9"},
        {"/model/unk_id", nullptr, "test: model: field 'unk_id' is missing"},
        {"/model/vocab/1", "a", "vocab[1]: expected [piece, score], found \"a\""},
        {"/model/vocab/1/0", "b", "vocab[2]: token 'b' has two ids, 1 and 2"},
        {"/model/byte_fallback", 1, "field 'byte_fallback': expected"},
        {"/pre_tokenizer", {{"type", "ByteLevel"}}, "'Unigram' with a ByteLevel pre-tokenizer"}}) {
    Json broken = file;
    broken[Json::json_pointer(pointer)] = value;
    EXPECT_THAT(ParseError(broken), HasSubstr(message)) << pointer;
  }
}

TEST(TokenizerWordPiece, LongestFirst) {
  Json file = {{"normalizer", nullptr}, {"pre_tokenizer", {{"type", "BertPreTokenizer"}}}};
  file["decoder"] = {{"type", "WordPiece"}, {"prefix", "##"}, {"cleanup", true}};
  file["model"] = {{"type", "WordPiece"}, {"max_input_chars_per_word", 8}};
  file["model"]["vocab"] = {{"[UNK]", 0}, {"un", 1}, {"##aff", 2}, {"##able", 3},
                            {"u", 4},     {".", 5},  {"##a", 6}};
  const TokenizerPtr tokenizer = ParseOrFail(file);
  ASSERT_TRUE(tokenizer);
  EXPECT_EQ(EncodeOrFail(*tokenizer, "unaffun un."), Ids({0, 1, 5}));
  EXPECT_EQ(EncodeOrFail(*tokenizer, "unaff ua unaffable"), Ids({1, 2, 4, 6, 0}));
  EXPECT_EQ(tokenizer->Decode(Ids{1, 2, 3, 1, 5}), "unaffable un.");
  EXPECT_EQ(Stream(*tokenizer, {1, 2, 3, 1, 5}), "unaffable un.");
  file["model"]["unk_token"] = "none";
  EXPECT_THAT(ParseError(file), HasSubstr("unk_token 'none' is not in the vocabulary"));
}

TEST(TokenizerSplit, Metaspace) {
  const std::string mark = "\xE2\x96\x81";
  const Json always = {{"type", "Metaspace"}, {"replacement", mark}, {"prepend_scheme", "always"}};
  EXPECT_THAT(Words(always, "Hey   friend!"), ElementsAre(mark + "Hey", mark, mark, mark + "friend!"));
  EXPECT_THAT(Words(always, " a"), ElementsAre(mark + "a"));
  EXPECT_THAT(Words({{"type", "Metaspace"}, {"add_prefix_space", false}}, "a b"),
              ElementsAre("a", mark + "b"));
  EXPECT_THAT(Words({{"type", "Punctuation"}}, "a,b!"), ElementsAre("a", ",", "b", "!"));
  EXPECT_THAT(Words({{"type", "Whitespace"}}, "Hey man!"), ElementsAre("Hey", "man", "!"));
  EXPECT_THAT(Words({{"type", "WhitespaceSplit"}}, "Hey man!\n"), ElementsAre("Hey", "man!"));
}

// Cutting at spaces gives what merging the whole text gives; a token across one forbids it.
TEST(TokenizerBpe, CutsAtSpaces) {
  const std::string mark = "\xE2\x96\x81";
  for (const bool across : {false, true}) {
    Json file = SmallFile();
    file["pre_tokenizer"] = nullptr;
    file["decoder"] = {{"type", "Fuse"}};
    file["model"]["vocab"] = {{mark, 0}, {"a", 1}, {mark + "a", 2}, {mark + mark, 3}};
    file["model"]["merges"] = Json::array({Json::array({mark, "a"}), Json::array({mark, mark})});
    if (across) {
      file["model"]["vocab"]["a" + mark] = 4;
      file["model"]["merges"].insert(file["model"]["merges"].begin(), Json::array({"a", mark}));
    }
    EXPECT_EQ(EncodeOrFail(*ParseOrFail(file), "a" + mark + "a" + mark + mark + mark + "a"),
              across ? Ids({4, 4, 0, 2}) : Ids({1, 2, 3, 2}));
  }
}

TEST(TokenizerNormalize, UnicodeFormsAndMaps) {
  const auto apply = [](const Json& json, const char* text) -> std::string {
    const auto chain = NormalizerChain::Parse(json);
    EXPECT_TRUE(chain.ok()) << chain.error().message;
    const auto result = chain->Apply(text);
    return result.ok() ? *result : result.error().message;
  };
  // U+1E9B U+0323 from UAX 15, a Hangul syllable, the Angstrom sign, a ligature.
  constexpr char kText[] = "\xE1\xBA\x9B\xCC\xA3 \xED\x95\x9C \xE2\x84\xAB \xEF\xAC\x81";
  EXPECT_EQ(apply({{"type", "NFC"}}, kText), "\xE1\xBA\x9B\xCC\xA3 \xED\x95\x9C \xC3\x85 \xEF\xAC\x81");
  EXPECT_EQ(apply({{"type", "NFD"}}, kText),
            "\xC5\xBF\xCC\xA3\xCC\x87 \xE1\x84\x92\xE1\x85\xA1\xE1\x86\xAB A\xCC\x8A \xEF\xAC\x81");
  EXPECT_EQ(apply({{"type", "NFKC"}}, kText), "\xE1\xB9\xA9 \xED\x95\x9C \xC3\x85 fi");
  EXPECT_EQ(apply({{"type", "NFKD"}}, kText),
            "s\xCC\xA3\xCC\x87 \xE1\x84\x92\xE1\x85\xA1\xE1\x86\xAB A\xCC\x8A fi");
  EXPECT_EQ(apply({{"type", "Lowercase"}}, "\xC4\xB0\xC3\x84Z"), "i\xCC\x87\xC3\xA4z");
  EXPECT_EQ(apply({{"type", "StripAccents"}}, "e\xCC\x81"), "e");
  EXPECT_EQ(apply({{"type", "Strip"}}, " \ta b\n"), "a b");
  EXPECT_EQ(apply({{"type", "Nmt"}},
                  "a\x01\xE2\x80\x8B"
                  "b"),
            "a b");
}

TEST(TokenizerNormalize, PrependAndReplace) {
  Json file = SmallFile();
  file["normalizer"] = {{"type", "Sequence"},
                        {"normalizers",
                         {{{"type", "Prepend"}, {"prepend", "_"}},
                          {{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", "_"}},
                          {{"type", "Replace"}, {"pattern", {{"Regex", "z+"}}}, {"content", "-"}}}}};
  file["added_tokens"] = {AddedTokenJson("<a>", 300), AddedTokenJson("b b", 301)};
  file["added_tokens"][1]["normalized"] = true;
  file["pre_tokenizer"]["use_regex"] = false;
  const TokenizerPtr tokenizer = ParseOrFail(file);
  ASSERT_TRUE(tokenizer);
  EXPECT_EQ(EncodeOrFail(*tokenizer, "x zz<a>y"), Ids({'_', 'x', '_', '-', 300, '_', 'y'}));
  // The second class is compared in its normalized form, here "_b_b".
  EXPECT_EQ(EncodeOrFail(*tokenizer, "b bc"), Ids({301, 'c'}));
}

TEST(TokenizerNormalize, ExpansionIsBounded) {
  // One step too far from 1000 bytes, and steps that only together go too far from 1.
  for (const auto& [size, message] : {std::pair{1000, "expands 1000 bytes of text beyond 97536"},
                                      std::pair{30, "expands 1 bytes of text beyond 65568"}}) {
    const std::string content(static_cast<size_t>(size), 'a');
    Json steps = Json::array();
    for (int i = 0; i < 4; ++i) {
      steps.push_back({{"type", "Replace"}, {"pattern", {{"String", "a"}}}, {"content", content}});
    }
    Json file = SmallFile();
    file["normalizer"] = {{"type", "Sequence"}, {"normalizers", steps}};
    const auto ids = ParseOrFail(file)->Encode("a");
    ASSERT_FALSE(ids.ok());
    EXPECT_THAT(ids.error().message, HasSubstr(message));
  }
}

TEST(TokenizerRegex, TranslatedConstructs) {
  const auto first = [](const char* pattern, std::string_view text) -> std::string {
    auto regex = Regex::Compile(pattern);
    if (!regex.ok()) return regex.error().message;
    size_t begin = 0, end = 0;
    Regex::Matcher matcher(*regex, text);
    return matcher.Next(&begin, &end) ? std::string(text.substr(begin, end - begin)) : "none";
  };
  EXPECT_EQ(first("\\s", "\xE1\xA0\x8E"), "none");  // U+180E
  EXPECT_EQ(first("[^\\s]", "\xE2\x80\xA8x"), "x");
  EXPECT_EQ(first("[\\S\\n]+", " a\nb "), "a\nb");
  EXPECT_EQ(first("\\w+", "-e\xCC\x81_1-"), "e\xCC\x81_1");
  EXPECT_EQ(first("\\W", "a\xCC\x81-"), "-");
  EXPECT_EQ(first("\\w\\b.", "-e\xCC\x81-"), "\xCC\x81-");
  EXPECT_EQ(first("\\B.", "ab"), "b");
  EXPECT_EQ(first("\\u0041", "xA"), "A");
  EXPECT_EQ(first("[[:digit:]]+", "a12"), "12");
  // The package's classes are wider than PCRE2's of these names, or narrower.
  EXPECT_EQ(first("[[:punct:]]+", "a\xE2\x86\x92\xE2\x82\xAC!b"), "\xE2\x86\x92\xE2\x82\xAC!");
  EXPECT_EQ(first("[[:word:]]+",
                  "\xC2\xBD"
                  "e\xCC\x81_\xE2\x80\xBF"),
            "e\xCC\x81_\xE2\x80\xBF");
  EXPECT_EQ(first("[[:alnum:]]+",
                  "\xC2\xB2"
                  "a1"),
            "a1");
  EXPECT_EQ(first("[[:upper:]]+", "a\xE2\x85\xA7"), "\xE2\x85\xA7");
  EXPECT_EQ(first("[[:blank:][:cntrl:]]+", "a\xE1\xA0\x8E\t\xC2\xA0"), "\t\xC2\xA0");
  EXPECT_EQ(first("[[:^space:]]+", " \xE1\xA0\x8E"), "\xE1\xA0\x8E");
  EXPECT_THAT(first("[[:graph:]]", "a"), HasSubstr("[:graph:] at offset 1"));
  EXPECT_THAT(first("[[:^punct:]]", "a"), HasSubstr("[:^punct:] at offset 1"));
  EXPECT_THAT(first("[a[b]]", "a"), HasSubstr("a class inside a class"));
  EXPECT_THAT(first("\\h", "a"), HasSubstr("\\h at offset 0"));
  EXPECT_THAT(first("(?m:.)", "a"), HasSubstr("'(?m' at offset 0"));
}

}  // namespace
}  // namespace planish

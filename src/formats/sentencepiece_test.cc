#include "formats/sentencepiece.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "base/file.h"
#include "base/json.h"
#include "formats/protobuf.h"
#include "formats/tokenizer.h"
#include "formats/tokenizer_charsmap.h"
#include "formats/tokenizer_test_util.h"
#include "formats/tokenizer_unicode.h"

namespace planish {
namespace {

using testing::HasSubstr;
using Ids = std::vector<int32_t>;
using TokenizerPtr = std::shared_ptr<const Tokenizer>;

const std::string kSpaceMark = "\xE2\x96\x81";

SentencePieceModel ReadModel(const std::string& path) {
  const auto file = ReadTextFile(path);
  EXPECT_TRUE(file.ok());
  auto model = SentencePieceModel::Parse(*file);
  EXPECT_TRUE(model.ok()) << model.error().message;
  return *std::move(model);
}

TokenizerPtr Make(SentencePieceModel model) {
  const Status status = model.Check();
  EXPECT_TRUE(status.ok()) << status.error().message;
  auto tokenizer = Tokenizer::FromPieces(model, "", "test");
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.error().message;
  return tokenizer.ok() ? *tokenizer : nullptr;
}

// <unk>, then the pieces, by default without any normalization.
SentencePieceModel Small(SentencePieceModel::Kind kind, std::vector<Piece> pieces) {
  SentencePieceModel model;
  model.kind = kind;
  model.pieces = {{"<unk>", 0, PieceType::kUnknown}};
  model.pieces.insert(model.pieces.end(), pieces.begin(), pieces.end());
  model.normalization = {.add_dummy_prefix = false, .remove_extra_whitespaces = false};
  return model;
}

constexpr auto kBpe = SentencePieceModel::Kind::kBpe;
constexpr auto kUnigram = SentencePieceModel::Kind::kUnigram;

TEST(SentencePiece, Goldens) {
  for (const char* name : {"sp_unigram", "sp_bpe"}) {
    const auto tokenizer = Tokenizer::Load(kTokenizers + name);
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.error().message;
    const Json golden = ReadJson(kTokenizers + name + "/golden.json");
    EXPECT_EQ((*tokenizer)->vocab_size(), golden["vocab_size"].get<int64_t>());
    ASSERT_EQ(golden["cases"].size(), 25u);
    for (const Json& item : golden["cases"]) {
      const auto text = item["text"].get<std::string>();
      // SentencePiece itself never takes text for control pieces.
      const auto ids = (*tokenizer)->Encode(text, false, false);
      ASSERT_TRUE(ids.ok()) << ids.error().message;
      EXPECT_EQ(*ids, item["ids"].get<Ids>()) << name << ": " << text;
      EXPECT_EQ((*tokenizer)->Decode(*ids), item["decoded"].get<std::string>()) << name;
      EXPECT_EQ(Stream(**tokenizer, *ids), item["decoded"].get<std::string>()) << name;
    }
  }
}

// Highest score first, the leftmost among equals; expected ids by hand.
TEST(SentencePiece, BpeJoinsByScore) {
  const TokenizerPtr tokenizer =
      Make(Small(kBpe, {{"a", -9}, {"b", -9}, {"c", -9}, {"ab", -2}, {"bc", -1}, {"aa", -3}}));
  ASSERT_TRUE(tokenizer);
  EXPECT_EQ(*tokenizer->Encode("abc"), Ids({1, 5}));
  EXPECT_EQ(*tokenizer->Encode("aaa"), Ids({6, 1}));
  EXPECT_EQ(*tokenizer->Encode("aab"), Ids({1, 4}));
  // Unknown characters are one unknown.
  EXPECT_EQ(*tokenizer->Encode("xya z"), Ids({0, 1, 0}));
}

// "xy" is a piece, its characters are none: they join all the same, and alone are unknown.
TEST(SentencePiece, BpeCharactersThatAreNoPieces) {
  SentencePieceModel model = Small(kBpe, {{"xy", -1}, {"a", -2}});
  EXPECT_EQ(*Make(model)->Encode("xyaxx"), Ids({1, 2, 0}));
  model.byte_fallback = true;
  for (int b = 0; b < 256; ++b) model.pieces.push_back({fmt::format("<0x{:02X}>", b), 0, PieceType::kByte});
  const TokenizerPtr tokenizer = Make(model);
  EXPECT_EQ(*tokenizer->Encode("xyx\xC3\xA9"), Ids({1, 3 + 'x', 3 + 0xC3, 3 + 0xA9}));
  EXPECT_EQ(tokenizer->Decode(Ids{1, 3 + 'x', 3 + 0xC3, 3 + 0xA9}), "xyx\xC3\xA9");
}

// An unused piece is a step towards others, but written as its parts.
TEST(SentencePiece, UnusedPieces) {
  const SentencePieceModel model =
      Small(kBpe, {{"a", -9}, {"b", -9}, {"c", -9}, {"ab", -1, PieceType::kUnused}, {"abc", -2}});
  EXPECT_EQ(*Make(model)->Encode("ab"), Ids({1, 2}));
  EXPECT_EQ(*Make(model)->Encode("abc"), Ids({5}));
  SentencePieceModel unigram = model;
  unigram.kind = kUnigram;
  EXPECT_EQ(*Make(unigram)->Encode("ab"), Ids({1, 2}));
}

TEST(SentencePiece, UserDefinedPiecesComeFirst) {
  for (const auto kind : {kBpe, kUnigram}) {
    const TokenizerPtr tokenizer =
        Make(Small(kind, {{"a", -3}, {"b", -3}, {"ab", -1}, {"bb", 0, PieceType::kUserDefined}}));
    ASSERT_TRUE(tokenizer);
    EXPECT_EQ(*tokenizer->Encode("abba"), Ids({1, 4, 1}));
    EXPECT_EQ(*tokenizer->Encode("ab"), Ids({3}));
  }
}

TEST(SentencePiece, ControlPieces) {
  SentencePieceModel model =
      Small(kBpe, {{"<s>", 0, PieceType::kControl}, {"</s>", 0, PieceType::kControl}, {"a", -1}});
  model.bos = 1;
  model.eos = 2;
  model.add_bos = model.add_eos = true;
  const TokenizerPtr tokenizer = Make(model);
  ASSERT_TRUE(tokenizer);
  EXPECT_EQ(*tokenizer->Encode("a", true), Ids({1, 3, 2}));
  EXPECT_EQ(*tokenizer->Encode("a<s>a"), Ids({3, 1, 3}));
  EXPECT_EQ(*tokenizer->Encode("<s>a", false, false), Ids({0, 3}));
  EXPECT_EQ(tokenizer->Decode(Ids{1, 3, 0, 2}), "a \xE2\x81\x87 ");
  EXPECT_EQ(tokenizer->Decode(Ids{1, 3, 0, 2}, true), "a");
  EXPECT_TRUE(tokenizer->IsSpecial(1) && tokenizer->IsSpecial(0) && !tokenizer->IsSpecial(3));
}

TEST(SentencePiece, Spaces) {
  const auto ids = [](const PieceNormalization& normalization, const char* text) {
    SentencePieceModel model = Small(kBpe, {{kSpaceMark, -2}, {"a", -2}, {"_", -2}, {" ", -2}});
    model.normalization = normalization;
    return *Make(model)->Encode(text);
  };
  EXPECT_EQ(ids({}, "  a  a "), Ids({1, 2, 1, 2}));
  EXPECT_EQ(ids({}, "   "), Ids());
  EXPECT_EQ(ids({.remove_extra_whitespaces = false}, " a"), Ids({1, 1, 2}));
  EXPECT_EQ(ids({.add_dummy_prefix = false}, " a a"), Ids({2, 1, 2}));
  EXPECT_EQ(ids({.treat_whitespace_as_suffix = true}, "a a"), Ids({2, 1, 2, 1}));
  EXPECT_EQ(ids({.escape_whitespaces = false}, "a a"), Ids({4, 2, 4, 2}));
}

TEST(SentencePiece, StreamsBytesAndLeadingSpaces) {
  const auto tokenizer = Tokenizer::Load(kTokenizers + "sp_bpe");
  ASSERT_TRUE(tokenizer.ok());
  const auto byte = [](int b) { return 4 + b; };
  StreamDecoder stream(**tokenizer);
  EXPECT_EQ(stream.Push(*(*tokenizer)->TokenId(kSpaceMark)), "");
  EXPECT_EQ(stream.Push(byte(0xF0)), "");
  EXPECT_EQ(stream.Push(byte(0x9F)), "");
  EXPECT_EQ(stream.Push(byte(0x98)), "");
  EXPECT_EQ(stream.Push(byte(0x80)), "\xF0\x9F\x98\x80");
  EXPECT_EQ(stream.Push(byte(0xE2)), "");
  EXPECT_EQ(stream.Push(byte(0x82)), "");
  EXPECT_EQ(stream.Push(*(*tokenizer)->TokenId(kSpaceMark + "t")), "\xEF\xBF\xBD\xEF\xBF\xBD t");
  EXPECT_EQ(stream.Push(byte(0xC3)), "");
  EXPECT_EQ(stream.Flush(), "\xEF\xBF\xBD");
  // As new again.
  EXPECT_EQ(stream.Push(*(*tokenizer)->TokenId(kSpaceMark + "t")), "t");
}

TEST(SentencePiece, WritesWhatItReads) {
  for (const char* name : {"sp_unigram", "sp_bpe"}) {
    const SentencePieceModel model = ReadModel(kTokenizers + name + "/tokenizer.model");
    EXPECT_EQ(model.bos, 1);
    EXPECT_EQ(model.eos, 2);
    const auto again = SentencePieceModel::Parse(model.Write());
    ASSERT_TRUE(again.ok()) << again.error().message;
    EXPECT_EQ(again->Write(), model.Write());
    EXPECT_EQ(again->bos, model.bos);
    const TokenizerPtr one = Make(model), two = Make(*again);
    for (const Json& item : ReadJson(kTokenizers + name + "/golden.json")["cases"]) {
      const auto text = item["text"].get<std::string>();
      EXPECT_EQ(*one->Encode(text), *two->Encode(text)) << text;
    }
  }
}

// The file is cut everywhere, and every byte of its beginning is changed: an error or another model, no
// crash.
TEST(SentencePiece, BrokenFiles) {
  const SentencePieceModel model = Small(kBpe, {{"a", -1}, {"ab", -2}});
  const std::string file = model.Write();
  ASSERT_TRUE(SentencePieceModel::Parse(file).ok());
  for (size_t i = 0; i < file.size(); ++i) {
    static_cast<void>(SentencePieceModel::Parse(file.substr(0, i)).ok());
    for (const int change : {1, 2, 4, 8, 16, 32, 64, 128}) {
      std::string broken = file;
      broken[i] = static_cast<char>(broken[i] ^ change);
      const auto parsed = SentencePieceModel::Parse(broken);
      if (parsed.ok()) static_cast<void>(Tokenizer::FromPieces(*parsed, "", "broken").ok());
    }
  }
}

TEST(SentencePiece, MalformedFiles) {
  const auto message = [](std::string_view file) {
    const auto model = SentencePieceModel::Parse(file);
    return model.ok() ? std::string("no error") : model.error().message;
  };
  const auto with = [](uint32_t field, const std::string& inner) {
    std::string file = Small(kBpe, {{"a", -1}}).Write();
    ProtoBytes(field, inner, &file);
    return file;
  };
  const auto piece = [](const std::string& text, float score = 0, uint64_t type = 1) {
    std::string inner;
    ProtoBytes(1, text, &inner);
    ProtoFloat(2, score, &inner);
    ProtoInt(3, type, &inner);
    return inner;
  };
  const auto number = [](uint32_t field, uint64_t value) {
    std::string inner;
    ProtoInt(field, value, &inner);
    return inner;
  };
  std::string byte_fallback = with(1, piece("<0x00>", 0, 6));
  ProtoBytes(2, number(35, 1), &byte_fallback);
  std::string denormalizer;
  ProtoBytes(2, "xxxx", &denormalizer);
  std::string text_score;
  ProtoBytes(2, "high", &text_score);
  const std::vector<std::pair<std::string, const char*>> cases = {
      {"", "there are no pieces (not a SentencePiece model?)"},
      {"\n", "the message ends inside the number at byte 1 (truncated?)"},
      {"\n\x05"
       "ab",
       "field 1 at byte 0 has 5 bytes, 2 are left (truncated?)"},
      {"\x0D"
       "ab",
       "the message ends inside the word at byte 1"},
      {"\x0B", "field 1 at byte 0 has wire type 3 (not a protocol buffer?)"},
      {std::string("\0", 1), "field number 0 at byte 0"},
      {"\x08\x01", "field 1 has wire type 0, expected bytes"},
      {"\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x7F", "a number of more than 64 bits at byte 0"},
      {with(1, piece("")), "piece 2 '': the piece is empty"},
      {with(1, piece("\xFF")), "the piece is not UTF-8"},
      {with(1, piece(std::string(513, 'x'))), "a piece of 513 bytes; at most 512 are accepted"},
      {with(1, piece("b", INFINITY)), "piece 2 'b': score inf is not finite"},
      {with(1, piece("b", 0, 7)), "piece 2 'b': type 7 is not in [1, 6]"},
      {with(1, piece("b", 0, 2)), "piece 2 'b': piece 0 is the unknown one already"},
      {with(1, piece("b", 0, 6)), "piece 2 'b': expected <0xNN> for a piece of type byte"},
      {with(1, piece("<0x00>", 0, 6)), "a byte piece, but byte_fallback is off"},
      {byte_fallback, "byte_fallback is on, but there is no piece <0x01>"},
      {with(1, text_score), "piece 2: field 2 has wire type 2, expected a 32-bit word"},
      {with(2, number(3, 3)), "trainer_spec: model_type 3 is not supported, expected 1 (unigram) or 2 (BPE)"},
      {with(2, number(3, uint64_t{1} << 40)), "trainer_spec: field 3: 1099511627776 is no 32-bit number"},
      {with(5, denormalizer), "denormalizer_spec: a character map for decoding is not supported"},
  };
  for (const auto& [file, expected] : cases) EXPECT_THAT(message(file), HasSubstr(expected));
  EXPECT_THAT(Tokenizer::FromPieces(*SentencePieceModel::Parse(with(1, piece("a"))), "", "x").error().message,
              HasSubstr("x: token 'a' has two ids, 1 and 2"));
}

TEST(CharsMap, MalformedMaps) {
  const auto map = [](std::vector<uint32_t> units, std::string_view strings) {
    std::string bytes;
    const auto put = [&bytes](uint32_t value) {
      for (int shift = 0; shift < 32; shift += 8) bytes.push_back(static_cast<char>(value >> shift));
    };
    put(static_cast<uint32_t>(units.size() * 4));
    for (const uint32_t unit : units) put(unit);
    const auto parsed = CharsMap::Parse(bytes.append(strings));
    return parsed.ok() ? std::string("no error") : parsed.error().message;
  };
  using namespace std::string_view_literals;
  EXPECT_THAT(CharsMap::Parse("abc").error().message, HasSubstr("charsmap: 3 bytes, expected at least 4"));
  EXPECT_THAT(map({}, ""), HasSubstr("a trie of 0 bytes"));
  EXPECT_THAT(CharsMap::Parse("\x08\0\0\0abcd"sv).error().message, HasSubstr("a trie of 8 bytes"));
  EXPECT_THAT(CharsMap::Parse("\x03\0\0\0abcd"sv).error().message, HasSubstr("expected a multiple of 4"));
  EXPECT_EQ(map({0}, "a\0"sv), "no error");
  EXPECT_THAT(map({0}, "a"sv), HasSubstr("its last string does not end"));
  EXPECT_THAT(map({0}, "\xFF\0"sv), HasSubstr("not UTF-8 at byte 0"));
  EXPECT_THAT(map({0, 0x80000002}, "a\0"sv),
              HasSubstr("unit 1: string at 2 is outside of the 2 bytes of strings"));
  EXPECT_THAT(map({0, 0x80000001}, "\xC3\xA9\0"sv),
              HasSubstr("unit 1: string at 1 begins inside of a character"));
  // A child far outside of the trie is no child.
  std::string far("\x04\0\0\0\0\xFC\xFF\x7F"sv);
  const auto parsed = CharsMap::Parse(far);
  ASSERT_TRUE(parsed.ok()) << parsed.error().message;
  EXPECT_EQ(parsed->Longest("a").length, 0u);
}

}  // namespace
}  // namespace planish

#include "formats/gguf.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>

namespace planish {
namespace {

using testing::HasSubstr;

template <typename T>
std::string Bytes(T value) {
  return std::string(reinterpret_cast<const char*>(&value), sizeof(T));
}
std::string Str(const std::string& text) { return Bytes(static_cast<uint64_t>(text.size())) + text; }

// The pieces of the format page's smallest file, one of them replaced.
struct Pieces {
  std::string magic = "GGUF", version = Bytes(uint32_t{3}), tensors = Bytes(int64_t{1}),
              keys = Bytes(int64_t{1});
  std::string key = Str("general.architecture"), value = Bytes(int32_t{8}) + Str("llama");
  std::string name = Str("t"), rank = Bytes(uint32_t{1}), dims = Bytes(int64_t{2}), type = Bytes(int32_t{0}),
              offset = Bytes(uint64_t{0});
  std::string data = std::string("\0\0\x80\x3f\0\0\0\x40", 8) + std::string(24, '\0');
  std::string Join() const {
    std::string head = magic + version + tensors + keys + key + value + name + rank + dims + type + offset;
    head.resize((head.size() + 31) / 32 * 32);
    return head + data;
  }
};

Result<std::shared_ptr<const GgufFile>> Parse(const std::string& bytes) {
  return GgufFile::Parse(std::as_bytes(std::span(bytes)), "f.gguf");
}

TEST(Gguf, SmallestFile) {
  const std::string bytes = Pieces().Join();
  ASSERT_EQ(bytes.size(), 160u);
  const auto file = Parse(bytes);
  ASSERT_TRUE(file.ok()) << file.error().message;
  EXPECT_EQ(*(*file)->String("general.architecture"), "llama");
  const GgufTensor* t = (*file)->Find("t");
  ASSERT_NE(t, nullptr);
  float values[2];
  ASSERT_EQ(t->bytes.size(), 8u);
  std::memcpy(values, t->bytes.data(), 8);
  EXPECT_EQ(values[0], 1);
  EXPECT_EQ(values[1], 2);
  EXPECT_EQ((*file)->Find("u"), nullptr);
  EXPECT_THAT((*file)->Int("general.architecture").error().message,
              HasSubstr("type string, expected an integer"));
  EXPECT_THAT((*file)->Int("x").error().message, HasSubstr("key 'x' (integer) is missing"));
}

TEST(Gguf, MalformedFiles) {
  struct Case {
    std::string Pieces::*piece;
    std::string with;
    const char* message;
  };
  const std::string array = Bytes(int32_t{9});
  const Case cases[] = {
      {&Pieces::magic, "GGML", "does not start with 'GGUF'"},
      {&Pieces::version, Bytes(uint32_t{1}), "version 1, this program reads 2 and 3"},
      {&Pieces::version, Bytes(uint32_t{3u << 24}), "big-endian"},
      {&Pieces::tensors, Bytes(int64_t{-1}), "do not fit"},
      {&Pieces::tensors, Bytes(int64_t{1} << 40), "do not fit"},
      {&Pieces::tensors, Bytes(int64_t{2}), "dimensions"},
      {&Pieces::keys, Bytes(int64_t{-5}), "do not fit"},
      {&Pieces::key, Str(""), "its length is 0"},
      {&Pieces::key, Bytes(~uint64_t{0}), "truncated"},
      {&Pieces::value, Bytes(int32_t{13}), "type 13 is not known"},
      {&Pieces::value, Bytes(int32_t{8}) + Bytes(uint64_t{1} << 62), "truncated"},
      {&Pieces::value, array + Bytes(int32_t{9}) + Bytes(uint64_t{0}), "elements of type 9"},
      {&Pieces::value, array + Bytes(int32_t{4}) + Bytes(~uint64_t{0}), "but"},
      {&Pieces::value, array + Bytes(int32_t{8}) + Bytes(uint64_t{3}) + Str("a"), "truncated"},
      {&Pieces::name, Bytes(uint64_t{1} << 33), "truncated"},
      {&Pieces::rank, Bytes(uint32_t{0}), "0 dimensions, expected 1 to 4"},
      {&Pieces::rank, Bytes(uint32_t{5}), "5 dimensions, expected 1 to 4"},
      {&Pieces::dims, Bytes(int64_t{0}), "dimension 0 is 0"},
      {&Pieces::dims, Bytes(int64_t{-2}), "dimension 0 is -2"},
      {&Pieces::dims, Bytes(INT64_MAX), "overflows"},
      {&Pieces::type, Bytes(int32_t{4}), "was removed from the format"},
      {&Pieces::type, Bytes(int32_t{99}), "type 99 is not known"},
      {&Pieces::type, Bytes(int32_t{12}), "no multiple of the 256 of a Q4_K block"},
      {&Pieces::offset, Bytes(uint64_t{32}), "offset 32, expected 0"},
      {&Pieces::offset, Bytes(~uint64_t{0}), "offset"},
      {&Pieces::data, std::string(4, '\0'), "truncated download?"},
  };
  for (const auto& c : cases) {
    Pieces pieces;
    pieces.*c.piece = c.with;
    const std::string bytes = pieces.Join();
    const auto file = Parse(bytes);
    ASSERT_FALSE(file.ok()) << c.message;
    EXPECT_THAT(file.error().message, HasSubstr(c.message));
    EXPECT_THAT(file.error().message, HasSubstr("f.gguf"));
  }
  Pieces twice;
  twice.keys = Bytes(int64_t{2});
  twice.value += twice.key + twice.value;
  EXPECT_THAT(Parse(twice.Join()).error().message, HasSubstr("occurs twice"));
  Pieces alignment;
  alignment.key = Str("general.alignment");
  alignment.value = Bytes(int32_t{4}) + Bytes(uint32_t{0});
  EXPECT_THAT(Parse(alignment.Join()).error().message, HasSubstr("expected a power of two"));
  const std::string whole = Pieces().Join();
  for (size_t size = 0; size < 136; ++size) EXPECT_FALSE(Parse(whole.substr(0, size)).ok()) << size;
}

TEST(Gguf, WriterAndReader) {
  const std::string folder = testing::TempDir() + "gguf_writer";
  std::filesystem::create_directories(folder);
  GgufMetadata metadata;
  metadata.String("general.architecture", "llama");
  metadata.Int("a.count", 7);
  metadata.Float("a.eps", 0.5f);
  metadata.Bool("a.flag", true);
  metadata.Strings("a.names", std::vector<std::string>{"x", "", "yz"});
  metadata.Ints("a.ids", std::vector<int32_t>{1, -2});
  const auto write = [&](const std::string& name, const GgufMetadata& keys, const std::string& tensor) {
    auto writer = GgufWriter::Create(
        name, keys, {{tensor, GgufType::kQ8_0, {32, 3}}, {tensor + "2", GgufType::kF32, {1}}});
    ASSERT_TRUE(writer.ok()) << writer.error().message;
    EXPECT_FALSE(writer->Append(std::vector<std::byte>(103)).ok());
    ASSERT_TRUE(writer->Append(std::vector<std::byte>(34, std::byte{1})).ok());
    ASSERT_TRUE(writer->Append(std::vector<std::byte>(68, std::byte{2})).ok());
    ASSERT_TRUE(writer->Append(std::vector<std::byte>(4, std::byte{3})).ok());
    ASSERT_TRUE(writer->Commit().ok());
  };
  write(folder + "/one.gguf", metadata, "t");
  const auto file = GgufFile::Open(folder + "/one.gguf");
  ASSERT_TRUE(file.ok()) << file.error().message;
  EXPECT_EQ((*file)->file_bytes() % 32, 0);
  EXPECT_EQ(*(*file)->Int("a.count"), 7);
  EXPECT_EQ(*(*file)->Number("a.eps", 0), 0.5);
  EXPECT_TRUE(*(*file)->Bool("a.flag", false));
  EXPECT_EQ(*(*file)->Strings("a.names"), (std::vector<std::string>{"x", "", "yz"}));
  EXPECT_EQ(*(*file)->Numbers("a.ids"), (std::vector<double>{1, -2}));
  EXPECT_EQ((*file)->Find("t")->rows(), 3);
  EXPECT_EQ((*file)->Find("t2")->bytes[0], std::byte{3});

  GgufMetadata split = metadata;
  split.Int("split.count", 2, GgufKind::kU16);
  split.Int("split.tensors.count", 4, GgufKind::kI32);
  write(folder + "/m-00001-of-00002.gguf", split, "a");
  EXPECT_THAT(GgufFile::Open(folder + "/m-00001-of-00002.gguf").error().message,
              HasSubstr("m-00002-of-00002.gguf"));
  write(folder + "/m-00002-of-00002.gguf", GgufMetadata(), "b");
  const auto joined = GgufFile::Open(folder + "/m-00001-of-00002.gguf");
  ASSERT_TRUE(joined.ok()) << joined.error().message;
  EXPECT_EQ((*joined)->tensors().size(), 4u);
  write(folder + "/m-00002-of-00002.gguf", GgufMetadata(), "a");
  EXPECT_THAT(GgufFile::Open(folder + "/m-00001-of-00002.gguf").error().message, HasSubstr("occurs twice"));
  EXPECT_FALSE(GgufWriter::Create(folder + "/x", metadata, {{"t", GgufType::kQ4_K, {32}}}).ok());
}

}  // namespace
}  // namespace planish

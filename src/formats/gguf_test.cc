#include "formats/gguf.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>

#include "formats/gguf_folder.h"
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
      {&Pieces::key, Str(std::string(65536, 'k')), "key 0: its length is 65536, expected 1 to 65535"},
      {&Pieces::value, Bytes(int32_t{13}), "type 13 is not known"},
      {&Pieces::value, Bytes(int32_t{-1}), "type -1 is not known"},
      {&Pieces::value, array + Bytes(int32_t{13}) + Bytes(uint64_t{0}), "elements of type 13"},
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
  alignment.value = Bytes(int32_t{8}) + Str("32");
  EXPECT_THAT(Parse(alignment.Join()).error().message,
              HasSubstr("key 'general.alignment': type string, expected u32"));
  Pieces tensor_twice;
  tensor_twice.tensors = Bytes(int64_t{2});
  tensor_twice.offset +=
      tensor_twice.name + tensor_twice.rank + tensor_twice.dims + tensor_twice.type + Bytes(uint64_t{32});
  tensor_twice.data += std::string(32, '\0');
  EXPECT_THAT(Parse(tensor_twice.Join()).error().message, HasSubstr("tensor 't': occurs twice"));
  const std::string whole = Pieces().Join();
  for (size_t size = 0; size < 136; ++size) EXPECT_FALSE(Parse(whole.substr(0, size)).ok()) << size;
}

// Keys that are there, but of another type than they are asked for.
TEST(Gguf, KeysOfOtherTypes) {
  Pieces pieces;
  pieces.keys = Bytes(int64_t{4});
  pieces.value += Str("number") + Bytes(int32_t{12}) + Bytes(1e300) + Str("large") + Bytes(int32_t{10}) +
                  Bytes(~uint64_t{0}) + Str("list") + Bytes(int32_t{9}) + Bytes(int32_t{8}) +
                  Bytes(uint64_t{1}) + Str("x");
  const std::string bytes = pieces.Join();
  const auto parsed = Parse(bytes);
  ASSERT_TRUE(parsed.ok()) << parsed.error().message;
  const GgufFile& file = **parsed;
  EXPECT_THAT(file.Int("number").error().message, HasSubstr("key 'number': type f64, expected an integer"));
  EXPECT_THAT(file.Int("large").error().message,
              HasSubstr("key 'large': 1.8446744073709552e+19 is out of range"));
  EXPECT_THAT(file.Bool("number", true).error().message, HasSubstr("type f64, expected bool"));
  EXPECT_THAT(file.Number("list", 0).error().message, HasSubstr("type array, expected a number"));
  EXPECT_THAT(file.String("list").error().message, HasSubstr("type array, expected string"));
  EXPECT_THAT(file.Strings("number").error().message, HasSubstr("type f64, expected an array of strings"));
  EXPECT_THAT(file.Numbers("list").error().message, HasSubstr("type array, expected an array of numbers"));
  EXPECT_THAT(file.Numbers("none").error().message, HasSubstr("key 'none' (array of numbers) is missing"));
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
  EXPECT_FALSE(GgufWriter::Create(folder + "/x", metadata, {{"t", GgufType::kQ4_K, {32}}}).ok());
}

class GgufPartsTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::temp_directory_path() / ("planish-gguf-parts-" + std::to_string(getpid()));
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  std::string Path(const std::string& name) const { return (folder_ / name).string(); }
  std::vector<std::string> Names() const {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(folder_)) {
      names.push_back(entry.path().filename().string());
    }
    std::ranges::sort(names);
    return names;
  }
  // A part with one tensor and these keys.
  void WritePart(const std::string& name, const GgufMetadata& keys, const std::string& tensor) {
    auto writer = GgufWriter::Create(Path(name), keys, {{tensor, GgufType::kF32, {1}}});
    ASSERT_TRUE(writer.ok()) << writer.error().message;
    ASSERT_TRUE(writer->Append(std::vector<std::byte>(4)).ok());
    ASSERT_TRUE(writer->Commit().ok());
  }
  std::filesystem::path folder_;
};

GgufMetadata SplitKeys(int64_t number, int64_t count, int64_t tensors) {
  GgufMetadata keys;
  keys.Int("split.no", number, GgufKind::kU16);
  keys.Int("split.count", count, GgufKind::kU16);
  keys.Int("split.tensors.count", tensors, GgufKind::kI32);
  return keys;
}

// Five tensors of 32 padded bytes but for one of 128, at most 64 a part: "a b", "c" alone, "d e".
TEST_F(GgufPartsTest, WrittenAndRead) {
  std::vector<GgufTensorSpec> specs;
  for (const char* name : {"a", "b", "c", "d", "e"}) {
    specs.push_back({name, GgufType::kF32, {*name == 'c' ? 32 : 3}});
  }
  GgufMetadata metadata;
  metadata.String("general.architecture", "llama");
  auto writer = GgufWriter::Create(Path("m.gguf"), metadata, specs, 64);
  ASSERT_TRUE(writer.ok()) << writer.error().message;
  EXPECT_EQ(writer->paths(),
            (std::vector<std::string>{Path("m-00001-of-00003.gguf"), Path("m-00002-of-00003.gguf"),
                                      Path("m-00003-of-00003.gguf")}));
  for (size_t i = 0; i < specs.size(); ++i) {
    const auto size = static_cast<size_t>(4 * specs[i].dims[0]);
    ASSERT_TRUE(writer->Append(std::vector<std::byte>(size, std::byte{static_cast<uint8_t>(i)})).ok());
    for (const auto& name : Names()) EXPECT_THAT(name, testing::EndsWith(".tmp"));
  }
  ASSERT_TRUE(writer->Commit().ok());
  EXPECT_THAT(Names(), testing::ElementsAre("m-00001-of-00003.gguf", "m-00002-of-00003.gguf",
                                            "m-00003-of-00003.gguf"));
  const auto file = GgufFile::Open(Path("m-00001-of-00003.gguf"));
  ASSERT_TRUE(file.ok()) << file.error().message;
  EXPECT_EQ(*(*file)->String("general.architecture"), "llama");
  ASSERT_EQ((*file)->tensors().size(), 5u);
  for (size_t i = 0; i < specs.size(); ++i) {
    const GgufTensor& tensor = (*file)->tensors()[i];
    EXPECT_EQ(tensor.name, specs[i].name);
    ASSERT_EQ(tensor.bytes.size(), static_cast<size_t>(4 * specs[i].dims[0]));
    EXPECT_EQ(tensor.bytes.back(), std::byte{static_cast<uint8_t>(i)});
  }
  EXPECT_EQ((*file)->metadata().at("split.count").kind, GgufKind::kU16);
  EXPECT_EQ((*file)->metadata().at("split.tensors.count").kind, GgufKind::kI32);
  // Later parts have the keys of the split alone.
  const auto bytes = MappedFile::Open(Path("m-00002-of-00003.gguf"));
  const auto second = GgufFile::Parse((*bytes)->bytes(), "second");
  ASSERT_TRUE(second.ok()) << second.error().message;
  EXPECT_EQ((*second)->metadata().size(), 3u);
  EXPECT_EQ(*(*second)->Int("split.no"), 1);
  EXPECT_EQ((*second)->tensors().size(), 1u);
  // Parts are not written over, and what fits is one file.
  EXPECT_THAT(GgufWriter::Create(Path("m.gguf"), metadata, specs, 64).error().message,
              HasSubstr("m-00001-of-00003.gguf: already exists"));
  const auto whole = GgufWriter::Create(Path("m.gguf"), metadata, specs, 256);
  ASSERT_TRUE(whole.ok());
  EXPECT_EQ(whole->paths(), std::vector<std::string>{Path("m.gguf")});
}

TEST_F(GgufPartsTest, ReadFromMemory) {
  WritePart("first", SplitKeys(0, 2, 2), "a");
  WritePart("second", SplitKeys(1, 2, 2), "b");
  const auto first = MappedFile::Open(Path("first")), second = MappedFile::Open(Path("second"));
  const std::span<const std::byte> parts[] = {(*first)->bytes(), (*second)->bytes()};
  const auto file = GgufFile::ParseParts(parts, "m");
  ASSERT_TRUE(file.ok()) << file.error().message;
  EXPECT_EQ((*file)->tensors().size(), 2u);
  EXPECT_THAT(GgufFile::ParseParts(std::span(parts, 1), "m").error().message,
              HasSubstr("m-00001-of-00001.gguf: one of 2 parts: open the first"));
}

TEST_F(GgufPartsTest, TheOneOfAFolder) {
  EXPECT_EQ(*GgufOfFolder(Path("none")), "");
  EXPECT_EQ(*GgufOfFolder(folder_.string()), "");
  for (const char* name : {"m-00001-of-00002.gguf", "m-00002-of-00002.gguf", "config.json"}) {
    WritePart(name, {}, "a");
  }
  EXPECT_EQ(*GgufOfFolder(folder_.string()), Path("m-00001-of-00002.gguf"));
  WritePart("other.gguf", {}, "a");
  EXPECT_THAT(GgufOfFolder(folder_.string()).error().message,
              HasSubstr("several GGUF files (m-00001-of-00002.gguf, other.gguf)"));
}

TEST_F(GgufPartsTest, AnUnfinishedSplitLeavesNothing) {
  {
    auto writer =
        GgufWriter::Create(Path("m.gguf"), {}, {{"a", GgufType::kF32, {8}}, {"b", GgufType::kF32, {8}}}, 32);
    ASSERT_TRUE(writer.ok());
    ASSERT_TRUE(writer->Append(std::vector<std::byte>(32)).ok());
    ASSERT_TRUE(writer->Append(std::vector<std::byte>(16)).ok());
    EXPECT_THAT(writer->Commit().error().message, HasSubstr("tensor 2 of 2 is not complete"));
  }
  EXPECT_TRUE(Names().empty());
  std::vector<GgufTensorSpec> many;
  for (int i = 0; i < 10000; ++i) many.push_back({fmt::format("t{}", i), GgufType::kF32, {8}});
  EXPECT_THAT(GgufWriter::Create(Path("m.gguf"), {}, many, 32).error().message,
              HasSubstr("10000 parts of at most 32 bytes, expected at most 9999"));
}

TEST_F(GgufPartsTest, Malformed) {
  struct Case {
    GgufMetadata first, second;
    const char* tensor;  // of the second
    const char* message;
  };
  GgufMetadata nameless, text, huge;
  nameless.Int("split.count", 2, GgufKind::kU16);
  text.Int("split.no", 0, GgufKind::kU16);
  text.String("split.count", "2");
  huge.Int("split.no", 0);
  huge.Int("split.count", 100000);
  const Case cases[] = {
      {SplitKeys(0, 2, 3), SplitKeys(1, 2, 3), "b", "split.tensors.count is 3, the 2 parts hold 2"},
      {SplitKeys(0, 2, 2), SplitKeys(1, 2, 2), "a", "tensor 'a': occurs twice"},
      {SplitKeys(1, 2, 2), SplitKeys(1, 2, 2), "b", "f-00001-of-00002.gguf: split.no is 1, expected 0"},
      {SplitKeys(0, 2, 2), SplitKeys(0, 2, 2), "b", "f-00002-of-00002.gguf: split.no is 0, expected 1"},
      {SplitKeys(0, 2, 2), SplitKeys(1, 3, 2), "b", "f-00002-of-00002.gguf: split.count is 3, expected 2"},
      {SplitKeys(0, 2, 2), GgufMetadata(), "b", "key 'split.no' is missing, expected 1 in this part"},
      {SplitKeys(0, 3, 3), SplitKeys(1, 3, 3), "b", "open the first, named NAME-00001-of-00003.gguf"},
      {nameless, SplitKeys(1, 2, 2), "b", "key 'split.no' is missing, expected 0 in this part"},
      {text, SplitKeys(1, 2, 2), "b", "key 'split.count': type string, expected an integer"},
      {huge, SplitKeys(1, 2, 2), "b", "one of 100000 parts: open the first"},
  };
  for (const Case& c : cases) {
    WritePart("f-00001-of-00002.gguf", c.first, "a");
    WritePart("f-00002-of-00002.gguf", c.second, c.tensor);
    const auto file = GgufFile::Open(Path("f-00001-of-00002.gguf"));
    ASSERT_FALSE(file.ok()) << c.message;
    EXPECT_THAT(file.error().message, HasSubstr(c.message));
    EXPECT_THAT(file.error().message, HasSubstr("f-0000"));
  }
  EXPECT_THAT(GgufFile::Open(Path("f-00002-of-00002.gguf")).error().message,
              HasSubstr("one of 2 parts: open the first, named NAME-00001-of-00002.gguf"));
  // Each file is named once.
  const std::string twice = GgufFile::Open(Path("f-00002-of-00002.gguf")).error().message;
  EXPECT_EQ(twice.find(".gguf: "), twice.rfind(".gguf: ")) << twice;
  std::filesystem::remove(Path("f-00002-of-00002.gguf"));
  WritePart("f-00001-of-00002.gguf", SplitKeys(0, 2, 2), "a");
  EXPECT_THAT(GgufFile::Open(Path("f-00001-of-00002.gguf")).error().message,
              HasSubstr("f-00002-of-00002.gguf: cannot open"));
}

}  // namespace
}  // namespace planish

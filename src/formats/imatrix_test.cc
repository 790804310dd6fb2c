#include "formats/imatrix.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <functional>

#include "base/file.h"
#include "formats/gguf.h"

namespace planish {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

template <typename T>
std::string BytesOf(T value) {
  return std::string(reinterpret_cast<const char*>(&value), sizeof(T));
}
std::string Str32(const std::string& text) { return BytesOf(static_cast<int32_t>(text.size())) + text; }

Result<Imatrix> ParseBytes(const std::string& bytes) {
  return ParseImatrix(std::as_bytes(std::span(bytes)), "f.imatrix");
}

// The format page's example in the older form.
struct Old {
  std::string entries = BytesOf(1), name = Str32("a.weight"), calls = BytesOf(1), size = BytesOf(2),
              values = BytesOf(5.0f) + BytesOf(2.0f), chunks = BytesOf(1), dataset = Str32("");
  std::string Join() const { return entries + name + calls + size + values + chunks + dataset; }
};

// Tokens (1, 2) and (3, 0).
Imatrix Example() {
  Imatrix example;
  example.datasets = {"text.txt"};
  example.chunk_count = 1;
  example.chunk_size = 2;
  example.entries["a.weight"] = {1, {10, 4}, {2}};
  return example;
}

std::string Written(const Imatrix& imatrix, const std::string& name) {
  const std::string path = testing::TempDir() + "planish_" + name;
  EXPECT_TRUE(WriteImatrix(path, imatrix).ok());
  const auto text = ReadTextFile(path);
  std::filesystem::remove(path);
  return text.ok() ? *text : "";
}

TEST(Imatrix, OlderFormOfTheExample) {
  const auto read = ParseBytes(Old().Join());
  ASSERT_TRUE(read.ok()) << read.error().message;
  EXPECT_EQ(read->chunk_count, 1);
  EXPECT_THAT(*read->Importance("a.weight", 2), ElementsAre(5, 2));
  EXPECT_TRUE(read->Importance("b.weight", 2)->empty());
  EXPECT_THAT(read->Importance("a.weight", 3).error().message,
              HasSubstr("'a.weight': found 2 values for 1 matrices, the weight has 1 of 3 columns"));
  Imatrix example = Example();
  example.datasets.clear();
  EXPECT_EQ(Written(example, "example.dat"), Old().Join());
  // Files that end behind their entries, and calls of 0.
  Old old;
  old.chunks = old.dataset = "";
  EXPECT_TRUE(ParseBytes(old.Join()).ok());
  old.calls = BytesOf(0);
  EXPECT_THAT(*ParseBytes(old.Join())->Importance("a.weight", 2), ElementsAre(5, 2));
  old.calls = BytesOf(4);
  EXPECT_THAT(*ParseBytes(old.Join())->Importance("a.weight", 2), ElementsAre(1.25f, 0.5f));
}

TEST(Imatrix, GgufRoundTripWithExperts) {
  Imatrix imatrix = Example();
  imatrix.entries["blk.0.ffn_up_exps.weight"] = {3, {2, 4, 6, 8, 0, 0}, {2, 4, 0}};
  const std::string bytes = Written(imatrix, "example.gguf");
  const auto read = ParseBytes(bytes);
  ASSERT_TRUE(read.ok()) << read.error().message;
  EXPECT_EQ(read->chunk_count, 1);
  EXPECT_EQ(read->chunk_size, 2);
  EXPECT_THAT(read->datasets, ElementsAre("text.txt"));
  EXPECT_THAT(*read->Importance("a.weight", 2), ElementsAre(5, 2));
  EXPECT_THAT(*read->Importance("blk.0.ffn_up_exps.weight", 2, 3, 1), ElementsAre(1.5f, 2));
  EXPECT_THAT(*read->Importance("blk.0.ffn_up_exps.weight", 2, 3, 2), ElementsAre(1, 1));
  const auto file = GgufFile::Parse(std::as_bytes(std::span(bytes)), "f");
  ASSERT_TRUE(file.ok());
  EXPECT_THAT((*file)->Find("a.weight.in_sum2")->dims, ElementsAre(2, 1));
  EXPECT_THAT((*file)->Find("blk.0.ffn_up_exps.weight.counts")->dims, ElementsAre(1, 3));
  // The older form knows means only: an expert without tokens weighs all columns alike.
  const auto old = ParseBytes(Written(imatrix, "experts.dat"));
  ASSERT_TRUE(old.ok()) << old.error().message;
  EXPECT_THAT(*old->Importance("blk.0.ffn_up_exps.weight", 2, 3, 0), ElementsAre(1, 2));
  EXPECT_THAT(*old->Importance("blk.0.ffn_up_exps.weight", 2, 3, 2), ElementsAre(1, 1));
}

TEST(Imatrix, MalformedOlderFiles) {
  struct Case {
    std::string Old::*piece;
    std::string with;
    const char* message;
  };
  const Case cases[] = {
      {&Old::entries, BytesOf(0), "neither GGUF nor an older importance matrix: 0 entries"},
      {&Old::entries, BytesOf(-1), "-1 entries"},
      {&Old::entries, BytesOf(1 << 30), "1073741824 entries in 40 bytes"},
      {&Old::entries, BytesOf(2), "entry 2 of 2: number of calls: 4 bytes, but 3 are left"},
      {&Old::name, BytesOf(-1), "length -1, expected 0 to 1024"},
      {&Old::name, BytesOf(1 << 20), "length 1048576"},
      {&Old::name, Str32(""), "a weight without a name"},
      {&Old::calls, BytesOf(-3), "-3 calls and 2 values"},
      {&Old::size, BytesOf(0), "1 calls and 0 values, expected at least 0 and 1"},
      {&Old::size, BytesOf(INT32_MAX), "values: 8589934588 bytes, but"},
      {&Old::values, BytesOf(-1.0f) + BytesOf(2.0f), "element 0 is -1"},
      {&Old::values, BytesOf(1.0f) + BytesOf(NAN), "element 1 is nan"},
      {&Old::chunks, BytesOf(-1), "-1 chunks"},
      {&Old::dataset, BytesOf(70000), "length 70000"},
      {&Old::dataset, BytesOf(3), "name of the data set: 3 bytes, but 0 are left"},
      {&Old::dataset, Str32("") + "x", "1 bytes behind the end"},
  };
  for (const Case& c : cases) {
    Old old;
    old.*c.piece = c.with;
    const auto read = ParseBytes(old.Join());
    ASSERT_FALSE(read.ok()) << c.message;
    EXPECT_THAT(read.error().message, HasSubstr(c.message));
    EXPECT_THAT(read.error().message, testing::StartsWith("f.imatrix: "));
  }
  Old twice;
  twice.entries = BytesOf(2);
  twice.values += twice.name + twice.calls + twice.size + twice.values;
  EXPECT_THAT(ParseBytes(twice.Join()).error().message, HasSubstr("'a.weight' occurs twice"));
  EXPECT_THAT(ParseBytes("").error().message, HasSubstr("number of entries"));
}

TEST(Imatrix, MalformedGgufFiles) {
  struct Tensor {
    const char* name;
    GgufType type;
    std::vector<int64_t> dims;
  };
  struct Case {
    const char* type;
    std::vector<Tensor> tensors;
    float value;
    const char* message;
  };
  constexpr GgufType kF32 = GgufType::kF32;
  const Case cases[] = {
      {"model", {{"a.in_sum2", kF32, {2}}}, 1, "general.type 'model': expected imatrix"},
      {"imatrix", {}, 1, "no entries"},
      {"imatrix", {{"a.in_sum2", kF32, {2}}}, 1, "tensor 'a.counts' is missing"},
      {"imatrix", {{"a.counts", kF32, {2}}}, 1, "tensor 'a.in_sum2' is missing"},
      {"imatrix", {{"a.weight", kF32, {2}}}, 1, "expected a name that ends in .in_sum2 or .counts"},
      {"imatrix", {{"a.in_sum2", GgufType::kF16, {2}}, {"a.counts", kF32, {1}}}, 1, "type F16, expected F32"},
      {"imatrix", {{"a.in_sum2", kF32, {3}}, {"a.counts", kF32, {2}}}, 1, "3 sums for 2 counts"},
      {"imatrix", {{"a.in_sum2", kF32, {2}}, {"a.counts", kF32, {2}}}, -1, "element 0 is -1"},
      {"imatrix", {{"a.in_sum2", kF32, {2}}, {"a.counts", kF32, {2}}}, INFINITY, "element 0 is inf"},
  };
  const std::string path = testing::TempDir() + "planish_malformed.gguf";
  for (const Case& c : cases) {
    GgufMetadata metadata;
    metadata.String("general.type", c.type);
    std::vector<GgufTensorSpec> specs;
    for (const auto& t : c.tensors) specs.push_back({t.name, t.type, t.dims});
    auto writer = GgufWriter::Create(path, metadata, specs);
    ASSERT_TRUE(writer.ok()) << writer.error().message;
    for (const auto& t : c.tensors) {
      const std::vector<float> values(static_cast<size_t>(t.dims[0]), c.value);
      ASSERT_TRUE(writer
                      ->Append(std::as_bytes(std::span(values))
                                   .first(static_cast<size_t>(GgufRowBytes(t.type, t.dims[0]))))
                      .ok());
    }
    ASSERT_TRUE(writer->Commit().ok());
    const auto read = OpenImatrix(path);
    ASSERT_FALSE(read.ok()) << c.message;
    EXPECT_THAT(read.error().message, HasSubstr(c.message));
  }
  std::filesystem::remove(path);
}

TEST(Imatrix, MalformedKeys) {
  const std::pair<std::function<void(GgufMetadata&)>, const char*> cases[] = {
      {[](GgufMetadata& m) { m.Int("general.type", 1); }, "key 'general.type': type u32, expected string"},
      {[](GgufMetadata& m) {
         m.String("general.type", "imatrix");
         m.String("imatrix.datasets", "a.txt");
       },
       "key 'imatrix.datasets': type string, expected an array of strings"},
      {[](GgufMetadata& m) {
         m.String("general.type", "imatrix");
         m.Int("imatrix.chunk_count", -1, GgufKind::kI32);
       },
       "-1 chunks of 0 tokens"},
      {[](GgufMetadata& m) {
         m.String("general.type", "imatrix");
         m.Float("imatrix.chunk_size", 512);
       },
       "key 'imatrix.chunk_size': type f32, expected an integer"},
  };
  const std::string path = testing::TempDir() + "planish_malformed_keys.gguf";
  for (const auto& [spoil, message] : cases) {
    GgufMetadata metadata;
    spoil(metadata);
    auto writer = GgufWriter::Create(path, metadata, {});
    ASSERT_TRUE(writer.ok() && writer->Commit().ok());
    const auto read = OpenImatrix(path);
    ASSERT_FALSE(read.ok()) << message;
    EXPECT_THAT(read.error().message, testing::StartsWith(path + ": "));
    EXPECT_THAT(read.error().message, HasSubstr(message));
  }
  std::filesystem::remove(path);
}

}  // namespace
}  // namespace planish

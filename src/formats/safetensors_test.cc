#include "formats/safetensors.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>

namespace planish {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::span<const std::byte> AsBytes(std::string_view text) { return std::as_bytes(std::span(text)); }

std::string Length(uint64_t n) {
  std::string text;
  for (int i = 0; i < 8; ++i) text += static_cast<char>(n >> (8 * i) & 0xff);
  return text;
}

// A file from its header, taken as it is, and its data.
std::string File(const std::string& header, const std::string& data = "") {
  return Length(header.size()) + header + data;
}

std::string Zeros(size_t n) { return std::string(n, '\0'); }

// The test vector of the format's page: one tensor "w" with the values 1 and -2.
const std::string kVector = std::string("\x38\0\0\0\0\0\0\0", 8) +
                            R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}  )" +
                            std::string("\x00\x00\x80\x3f\x00\x00\x00\xc0", 8);

TEST(SafetensorsTest, ReadsTheTestVector) {
  ASSERT_EQ(kVector.size(), 72u);
  const auto file = SafetensorsFile::Parse(AsBytes(kVector), "vector");
  ASSERT_TRUE(file.ok()) << file.error().message;
  ASSERT_EQ((*file)->tensors().size(), 1u);
  const TensorInfo& w = (*file)->tensors()[0];
  EXPECT_EQ(w.name, "w");
  EXPECT_EQ(w.type, DType::kF32);
  EXPECT_THAT(w.shape, ElementsAre(2));
  EXPECT_EQ(w.begin, 64);
  EXPECT_EQ(w.end, 72);
  const TensorView view = (*file)->View(w);
  EXPECT_EQ(LoadElement(view.data, view.type, 0), 1.0f);
  EXPECT_EQ(LoadElement(view.data, view.type, 1), -2.0f);
  EXPECT_EQ((*file)->Find("w"), &w);
  EXPECT_EQ((*file)->Find("v"), nullptr);
  EXPECT_EQ((*file)->Find("x"), nullptr);
  EXPECT_EQ((*file)->data_bytes(), 8);
  EXPECT_TRUE((*file)->metadata().empty());
  EXPECT_EQ((*file)->path(), "vector");
}

TEST(SafetensorsTest, EveryTruncationOfTheTestVectorIsRefused) {
  for (size_t size = 0; size < kVector.size(); ++size) {
    EXPECT_FALSE(SafetensorsFile::Parse(AsBytes(kVector).first(size), "cut").ok()) << size;
  }
}

std::string TensorEntry(const std::string& name, const std::string& shape, const std::string& offsets,
                        std::string_view dtype = "F32") {
  return fmt::format(R"("{}":{{"dtype":"{}","shape":{},"data_offsets":{}}})", name, dtype, shape, offsets);
}

// A file whose header holds these entries, with zeros or `data` behind it.
std::string FileOf(const std::string& entries, const std::string& data) {
  return File(fmt::format("{{{}}}", entries), data);
}

struct BadFile {
  const char* what;
  std::string bytes;
  const char* expected;  // part of the message
};

std::vector<BadFile> BadFraming() {
  const std::string good = R"({"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})";
  return {
      {"empty file", "", "0 bytes, a safetensors file has at least 8"},
      {"seven bytes", Zeros(7), "7 bytes, a safetensors file has at least 8"},
      {"no header", Length(0), "header does not start with '{'"},
      {"N = 2^63", Length(uint64_t{1} << 63) + "{}", "header length 9223372036854775808 is above the limit"},
      {"N = 2^64 - 8: 8 + N wraps to 0", Length(UINT64_MAX - 7) + "{}", "is above the limit"},
      {"N = file length", Length(10) + "{}", "header of 10 bytes does not fit into a file of 10"},
      {"N one too long", Length(3) + "{}", "header of 3 bytes does not fit into a file of 10"},
      {"N above the limit", Length(100'000'001) + "{}", "100000001 is above the limit of 100000000"},
      {"array", File("[]"), "header does not start with '{'"},
      {"leading space", File(" {}"), "header does not start with '{'"},
      {"byte order mark", File("\xef\xbb\xbf{}"), "header does not start with '{'"},
      {"trailing newline", File("{}\n"), "header does not end with '}'"},
      {"trailing zero", File(std::string("{}\0", 3)), "header does not end with '}'"},
      {"zero byte inside", File(std::string("{}\0{}", 5)), "not valid JSON at its byte 2: zero byte"},
      {"text after the object", File("{} {}"), "not valid JSON"},
      {"not closed", File(R"({"__metadata__":{})"), "not valid JSON"},
      {"bad UTF-8", File("{\"\xff\":{}}"), "not valid JSON"},
      {"overlong UTF-8", File("{\"\xc0\xaf\":{}}"), "not valid JSON"},
      {"lone surrogate", File(R"({"\ud800":{}})"), "not valid JSON"},
      {"one extra byte", File(good, "ab"), "1 bytes after the last tensor's data"},
      {"data without tensors", File("{}", "a"), "1 bytes after the last tensor's data"},
      {"data missing", File(good), "data_offsets [0, 1] reach beyond the 0 bytes of data"},
  };
}

std::vector<BadFile> BadMembers() {
  const auto one = [](const std::string& entry) { return FileOf(entry, Zeros(4)); };
  const std::string number = "expected a whole number from 0 to 2^63-1, found ";
  return {
      {"tensor not an object", one(R"("w":3)"), "'w': expected an object, found 3"},
      {"tensor null", one(R"("w":null)"), "'w': expected an object, found null"},
      {"tensor array", one(R"("w":[])"), "'w': expected an object, found an array"},
      {"dtype unknown", one(TensorEntry("w", "[1]", "[0,4]", "F33")), "tensor 'w': unknown dtype 'F33'"},
      {"dtype in lower case", one(TensorEntry("w", "[1]", "[0,4]", "f32")),
       "tensor 'w': unknown dtype 'f32'"},
      {"dtype a number", one(R"("w":{"dtype":32,"shape":[1],"data_offsets":[0,4]})"),
       "tensor 'w': dtype: expected a string, found 32"},
      {"dtype missing", one(R"("w":{"shape":[1],"data_offsets":[0,4]})"), "tensor 'w': dtype is missing"},
      {"shape missing", one(R"("w":{"dtype":"F32","data_offsets":[0,4]})"), "tensor 'w': shape is missing"},
      {"offsets missing", one(R"("w":{"dtype":"F32","shape":[1]})"), "tensor 'w': data_offsets is missing"},
      {"unknown member", one(R"("w":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"x":1})"),
       "tensor 'w': unknown member 'x'"},
      {"member twice", one(R"("w":{"dtype":"F32","shape":[1],"shape":[1],"data_offsets":[0,4]})"),
       "tensor 'w': 'shape' appears twice"},
      {"shape a number", one(TensorEntry("w", "1", "[0,4]")), "shape: expected an array of numbers, found 1"},
      {"shape nested", one(TensorEntry("w", "[[1]]", "[0,4]")), "shape: " /* then the number */},
      {"shape of strings", one(TensorEntry("w", R"(["1"])", "[0,4]")), "found '1'"},
      {"shape negative", one(TensorEntry("w", "[-1]", "[0,4]")), "found -1"},
      {"shape minus zero", one(TensorEntry("w", "[-0]", "[0,4]")),
       "tensor 'w': shape: expected a whole number"},
      {"shape fractional", one(TensorEntry("w", "[1.5]", "[0,4]")), "found 1.5"},
      {"shape whole but a float", one(TensorEntry("w", "[1.0]", "[0,4]")), "found 1.0"},
      {"shape 2^63", one(TensorEntry("w", "[9223372036854775808]", "[0,4]")), "found 9223372036854775808"},
      {"shape 2^64", one(TensorEntry("w", "[18446744073709551616]", "[0,4]")), "found 18446744073709551616"},
      {"shape too large for a double", one(TensorEntry("w", "[1e999]", "[0,4]")), "not valid JSON"},
      {"offset negative", one(TensorEntry("w", "[1]", "[-4,0]")), "data_offsets: expected a whole number"},
      {"offset 2^63", one(TensorEntry("w", "[1]", "[0,9223372036854775808]")), "found 9223372036854775808"},
      {"one offset", one(TensorEntry("w", "[1]", "[4]")), "data_offsets: 1 numbers, expected [begin, end]"},
      {"no offsets", one(TensorEntry("w", "[1]", "[]")), "data_offsets: 0 numbers"},
      {"three offsets", one(TensorEntry("w", "[1]", "[0,4,4]")), "data_offsets: more than two numbers"},
      {"offsets an object", one(TensorEntry("w", "[1]", "{}")), "data_offsets: expected an array of numbers"},
      {"metadata a string", one(R"("__metadata__":"pt")"), "'__metadata__': expected an object"},
      {"metadata null", one(R"("__metadata__":null)"), "'__metadata__': expected an object, found null"},
      {"metadata of numbers", one(R"("__metadata__":{"a":1})"),
       "__metadata__: 'a': expected a string, found 1"},
      {"metadata nested", one(R"("__metadata__":{"a":{}})"), "__metadata__: 'a': expected a string"},
      {"metadata key twice", one(R"("__metadata__":{"a":"1","a":"1"})"), "__metadata__: 'a' appears twice"},
      {"metadata twice", one(R"("__metadata__":{},"__metadata__":{})"), "'__metadata__' appears twice"},
      {"deep nesting", File(fmt::format("{{\"w\":{:[>100000}}}", "")), "expected an object, found an array"},
  };
}

std::vector<BadFile> BadLayouts() {
  const auto two = [](const std::string& a, const std::string& b, size_t data) {
    return FileOf(fmt::format("{},{}", a, b), Zeros(data));
  };
  const auto one = [](const std::string& entry, size_t data) { return FileOf(entry, Zeros(data)); };
  return {
      {"hole between", two(TensorEntry("a", "[1]", "[0,4]"), TensorEntry("b", "[1]", "[8,12]"), 12),
       "tensor 'b': data begins at 8, expected 4: a hole"},
      {"hole at the start", one(TensorEntry("a", "[1]", "[4,8]"), 8),
       "tensor 'a': data begins at 4, expected 0"},
      {"overlap", two(TensorEntry("a", "[2]", "[0,8]"), TensorEntry("b", "[1]", "[4,8]"), 8),
       "tensor 'b': data begins at 4, expected 8: it overlaps"},
      {"same place", two(TensorEntry("a", "[1]", "[0,4]"), TensorEntry("b", "[1]", "[0,4]"), 4),
       "it overlaps"},
      {"empty tensor inside another",
       two(TensorEntry("a", "[2]", "[0,8]"), TensorEntry("b", "[0]", "[4,4]"), 8),
       "tensor 'b': data begins at 4, expected 8"},
      {"product overflows", one(TensorEntry("w", "[8589934592,8589934592]", "[0,8]"), 8),
       "tensor 'w': shape [8589934592, 8589934592] of F32 overflows"},
      {"bits overflow", one(TensorEntry("w", "[9223372036854775807]", "[0,8]"), 8), "overflows"},
      {"product overflows before a zero", one(TensorEntry("w", "[8589934592,8589934592,0]", "[0,0]"), 0),
       "overflows"},
      {"end before begin", one(TensorEntry("w", "[2]", "[8,0]"), 8), "data_offsets [8, 0]: end before begin"},
      {"end past the file", one(TensorEntry("w", "[2]", "[0,8]"), 4), "reach beyond the 4 bytes of data"},
      {"end far past the file", one(TensorEntry("w", "[0]", "[9223372036854775807,9223372036854775807]"), 4),
       "reach beyond"},
      {"size too small", one(TensorEntry("w", "[2]", "[0,4]"), 4),
       "tensor 'w': shape [2] of F32 needs 8 bytes, data_offsets give 4"},
      {"size too large", one(TensorEntry("w", "[]", "[0,8]"), 8),
       "shape [] of F32 needs 4 bytes, data_offsets give 8"},
      {"half a byte", one(TensorEntry("w", "[3]", "[0,2]", "F4"), 2),
       "shape [3] of F4 is 12 bits, not whole bytes"},
      {"six bits", one(TensorEntry("w", "[1]", "[0,1]", "F6_E2M3"), 1), "is 6 bits, not whole bytes"},
      {"name twice", two(TensorEntry("a", "[1]", "[0,4]"), TensorEntry("a", "[1]", "[4,8]"), 8),
       "tensor 'a' appears twice"},
      {"name twice, empty", two(TensorEntry("a", "[0]", "[0,0]"), TensorEntry("a", "[0]", "[0,0]"), 0),
       "tensor 'a' appears twice"},
      {"name twice, escaped",
       two(TensorEntry("a", "[1]", "[0,4]"), TensorEntry("\\u0061", "[1]", "[4,8]"), 8),
       "tensor 'a' appears twice"},
  };
}

class BadFileTest : public ::testing::TestWithParam<BadFile> {};

TEST_P(BadFileTest, IsRefusedWithItsReason) {
  const BadFile& bad = GetParam();
  const auto file = SafetensorsFile::Parse(AsBytes(bad.bytes), "bad.safetensors");
  ASSERT_FALSE(file.ok()) << bad.what;
  EXPECT_EQ(file.error().code, Code::kInput);
  EXPECT_THAT(file.error().message, HasSubstr(bad.expected)) << bad.what;
  EXPECT_THAT(file.error().message, ::testing::StartsWith("bad.safetensors: "));
}

void PrintTo(const BadFile& bad, std::ostream* out) { *out << bad.what; }
INSTANTIATE_TEST_SUITE_P(Framing, BadFileTest, ::testing::ValuesIn(BadFraming()));
INSTANTIATE_TEST_SUITE_P(Members, BadFileTest, ::testing::ValuesIn(BadMembers()));
INSTANTIATE_TEST_SUITE_P(Layouts, BadFileTest, ::testing::ValuesIn(BadLayouts()));

TEST(SafetensorsTest, MessagesStayShortWhateverTheHeader) {
  const std::string name(1'000'000, 'n');
  std::string shape = "[1";
  for (int i = 0; i < 100'000; ++i) shape += ",1";
  const std::string bytes = FileOf(TensorEntry(name, shape + "]", "[0,8]"), Zeros(8));
  const auto file = SafetensorsFile::Parse(AsBytes(bytes), "long");
  ASSERT_FALSE(file.ok());
  EXPECT_LT(file.error().message.size(), 400u);
  EXPECT_THAT(file.error().message, HasSubstr("... 100001 dimensions"));
}

TEST(SafetensorsTest, LegalOddities) {
  const std::string bytes =
      FileOf(fmt::format(R"({},"__metadata__":{{"format":"pt","":"x"}},{},{},{})",
                         TensorEntry("late", "[1]", "[4,5]", "U8"), TensorEntry("scalar", "[]", "[0,4]"),
                         TensorEntry("none", "[3,0,2]", "[4,4]"), TensorEntry("", "[2]", "[5,6]", "F4")),
             "abcdef");
  const auto file = SafetensorsFile::Parse(AsBytes(bytes), "odd");
  ASSERT_TRUE(file.ok()) << file.error().message;
  std::vector<std::string> names;
  for (const TensorInfo& t : (*file)->tensors()) names.push_back(t.name);
  EXPECT_THAT(names, ElementsAre("scalar", "none", "late", ""));
  EXPECT_EQ((*file)->metadata().at("format"), "pt");
  EXPECT_EQ((*file)->metadata().at(""), "x");
  EXPECT_EQ((*file)->View(*(*file)->Find("scalar")).NumElements(), 1);
  EXPECT_TRUE((*file)->View(*(*file)->Find("none")).bytes().empty());
  EXPECT_EQ(static_cast<char>((*file)->View(*(*file)->Find("late")).data[0]), 'e');
  EXPECT_EQ((*file)->View(*(*file)->Find("")).bytes().size(), 1u);
  EXPECT_EQ((*file)->data_bytes(), 6);
}

TEST(SafetensorsTest, DataMayStartAtAnyAddress) {
  for (int spaces = 0; spaces < 8; ++spaces) {
    const float values[] = {0.25f, -3.0f};
    const std::string header = fmt::format("{{{}}}{:{}}", TensorEntry("w", "[2]", "[0,8]"), "", spaces);
    const std::string bytes =
        File(header, std::string(reinterpret_cast<const char*>(values), sizeof(values)));
    const auto file = SafetensorsFile::Parse(AsBytes(bytes), "unaligned");
    ASSERT_TRUE(file.ok());
    const TensorView w = (*file)->View((*file)->tensors()[0]);
    EXPECT_EQ(LoadElement(w.data, w.type, 0), 0.25f);
    EXPECT_EQ(LoadElement(w.data, w.type, 1), -3.0f);
  }
}

TEST(SafetensorsTest, EveryDTypeIsReadWithItsSize) {
  for (int i = 0; i < kNumDTypes; ++i) {
    const auto type = static_cast<DType>(i);
    const size_t bytes = static_cast<size_t>(DTypeBits(type));  // eight elements
    const std::string text =
        FileOf(TensorEntry("w", "[2,4]", fmt::format("[0,{}]", bytes), DTypeName(type)), Zeros(bytes));
    const auto file = SafetensorsFile::Parse(AsBytes(text), "dtype");
    ASSERT_TRUE(file.ok()) << file.error().message;
    EXPECT_EQ((*file)->tensors()[0].type, type);
  }
}

TEST(SafetensorsTest, LongestHeaderOfSpacesIsLegalAndOneMoreIsNot) {
  // Mapped memory that is only read twice: the parser must not see, let alone copy, the padding.
  std::string bytes = Length(kMaxSafetensorsHeaderBytes) + "{}";
  bytes.resize(8 + kMaxSafetensorsHeaderBytes + 1, ' ');
  const auto longest = SafetensorsFile::Parse(AsBytes(bytes).first(bytes.size() - 1), "spaces");
  ASSERT_TRUE(longest.ok()) << longest.error().message;
  EXPECT_TRUE((*longest)->tensors().empty());
  bytes.replace(0, 8, Length(kMaxSafetensorsHeaderBytes + 1));
  EXPECT_FALSE(SafetensorsFile::Parse(AsBytes(bytes), "spaces").ok());
}

// --- Writing --------------------------------------------------------------------------------------

class SafetensorsWriterTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = ::testing::TempDir() + "planish_safetensors_XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
    path_ = JoinPath(folder_, "model.safetensors");
  }
  void TearDown() override { EXPECT_TRUE(RemoveTree(folder_).ok()); }
  bool FolderIsEmpty() const { return std::filesystem::is_empty(folder_); }
  std::string folder_, path_;
};

// Made with safetensors 0.8.0 for Python: save({...}, metadata={"format": "pt"}).
TEST_F(SafetensorsWriterTest, BytesAreThoseOfTheReferenceLibrary) {
  const std::string quoted = "q\"\xc3\xa9\n";
  auto writer = SafetensorsWriter::Create(path_, {{"b", DType::kF32, {2, 2}},
                                                  {"a", DType::kI32, {2}},
                                                  {"h", DType::kF16, {1}},
                                                  {"z", DType::kU8, {1}},
                                                  {"c", DType::kI64, {1}},
                                                  {"empty", DType::kF32, {0, 4}},
                                                  {"s", DType::kF32, {}},
                                                  {quoted, DType::kBool, {2}}});
  ASSERT_TRUE(writer.ok()) << writer.error().message;
  std::vector<std::string> order;
  for (const TensorSpec& spec : writer->order()) order.push_back(spec.name);
  EXPECT_THAT(order, ElementsAre("c", "b", "empty", "s", "a", "h", "z", quoted));
  const std::string data(
      "\xfd\xff\xff\xff\xff\xff\xff\xff\x00\x00\x80\x3f\x00\x00\x00\x40\x00\x00\x40\x40\x00\x00\x80\x40\x00"
      "\x00\x00\x40"
      "\x05\x00\x00\x00\xff\xff\xff\xff\x00\x3e\x07\x01\x00",
      41);
  const auto put = [&](const std::string& name, size_t begin, size_t end) {
    const Status status = writer->Append(name, AsBytes(data).subspan(begin, end - begin));
    EXPECT_TRUE(status.ok()) << status.error().message;
  };
  put("c", 0, 8);
  put("b", 8, 11);  // in parts; the empty tensor is left out
  put("b", 11, 24);
  put("s", 24, 28);
  put("a", 28, 36);
  put("h", 36, 38);
  put("z", 38, 39);
  put(quoted, 39, 41);
  EXPECT_FALSE(FileExists(path_));
  ASSERT_TRUE(writer->Commit().ok());
  const std::string header =
      R"({"__metadata__":{"format":"pt"},"c":{"dtype":"I64","shape":[1],"data_offsets":[0,8]},)"
      R"("b":{"dtype":"F32","shape":[2,2],"data_offsets":[8,24]},"empty":{"dtype":"F32","shape":[0,4],)"
      R"("data_offsets":[24,24]},"s":{"dtype":"F32","shape":[],"data_offsets":[24,28]},"a":{"dtype":"I32",)"
      R"("shape":[2],"data_offsets":[28,36]},"h":{"dtype":"F16","shape":[1],"data_offsets":[36,38]},)"
      R"("z":{"dtype":"U8","shape":[1],"data_offsets":[38,39]},"q\")"
      "\xc3\xa9"
      R"(\n":{"dtype":"BOOL","shape":[2],"data_offsets":[39,41]}}      )";
  ASSERT_EQ(header.size(), 488u);
  EXPECT_EQ(*ReadTextFile(path_), File(header, data));
}

TEST_F(SafetensorsWriterTest, WhatIsWrittenReadsBack) {
  std::vector<TensorSpec> specs;
  for (int i = 0; i < kNumDTypes; ++i) {
    const auto type = static_cast<DType>(i);
    specs.push_back({"one/" + std::string(DTypeName(type)), type, {4, i + 1}});
    specs.push_back({"two/" + std::string(DTypeName(type)), type, {8, 0}});
  }
  auto writer = SafetensorsWriter::Create(path_, specs, {{"method", "none"}, {"format", "other"}});
  ASSERT_TRUE(writer.ok()) << writer.error().message;
  const auto data_of = [](const TensorSpec& spec) {
    std::string data(static_cast<size_t>(*TensorByteSize(spec.type, spec.shape)), '\0');
    for (size_t i = 0; i < data.size(); ++i) data[i] = static_cast<char>(i * 31 + spec.name.size());
    return data;
  };
  for (const TensorSpec& spec : writer->order())
    ASSERT_TRUE(writer->Append(spec.name, AsBytes(data_of(spec))).ok());
  ASSERT_TRUE(writer->Commit().ok());

  const auto file = SafetensorsFile::Open(path_);
  ASSERT_TRUE(file.ok()) << file.error().message;
  EXPECT_EQ((*file)->tensors().size(), specs.size());
  EXPECT_EQ((*file)->metadata(), (std::map<std::string, std::string>{{"format", "pt"}, {"method", "none"}}));
  for (const TensorSpec& spec : specs) {
    const TensorInfo* info = (*file)->Find(spec.name);
    ASSERT_NE(info, nullptr) << spec.name;
    EXPECT_EQ(info->type, spec.type);
    EXPECT_EQ(info->shape, spec.shape);
    const int64_t element_bytes = std::max(1, DTypeBits(spec.type) / 8);
    EXPECT_EQ(info->begin % element_bytes, 0) << spec.name;  // naturally aligned
    const auto bytes = (*file)->View(*info).bytes();
    EXPECT_EQ(std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size()), data_of(spec));
  }
}

TEST_F(SafetensorsWriterTest, NoTensorsMakeALegalFile) {
  auto writer = SafetensorsWriter::Create(path_, {});
  ASSERT_TRUE(writer.ok());
  ASSERT_TRUE(writer->Commit().ok());
  EXPECT_EQ(*ReadTextFile(path_), File(R"({"__metadata__":{"format":"pt"}})"));
  EXPECT_TRUE(SafetensorsFile::Open(path_).ok());
}

TEST_F(SafetensorsWriterTest, DataOutOfOrderOrOfTheWrongSizeIsAnError) {
  const auto create = [&] {
    return std::move(SafetensorsWriter::Create(path_, {{"a", DType::kU8, {2}}, {"b", DType::kU8, {2}}}))
        .value();
  };
  {
    auto writer = create();
    EXPECT_THAT(writer.Append("b", AsBytes("xx")).error().message,
                HasSubstr("'b' out of order, expected 2 more bytes of 'a'"));
  }
  {
    auto writer = create();
    EXPECT_THAT(writer.Append("a", AsBytes("xxx")).error().message,
                HasSubstr("tensor 'a': 3 bytes after 0 of 2"));
  }
  {
    auto writer = create();
    ASSERT_TRUE(writer.Append("a", AsBytes("x")).ok());
    EXPECT_THAT(writer.Append("c", AsBytes("x")).error().message, HasSubstr("expected 1 more bytes of 'a'"));
  }
  {
    auto writer = create();
    ASSERT_TRUE(writer.Append("a", AsBytes("xx")).ok());
    ASSERT_TRUE(writer.Append("b", AsBytes("x")).ok());
    EXPECT_THAT(writer.Commit().error().message, HasSubstr("tensor 'b': 1 of 2 bytes were written"));
  }
  {
    auto writer = create();
    ASSERT_TRUE(writer.Append("a", AsBytes("xx")).ok());
    ASSERT_TRUE(writer.Append("b", AsBytes("xx")).ok());
    EXPECT_THAT(writer.Append("a", AsBytes("x")).error().message, HasSubstr("expected no more data"));
  }
  EXPECT_TRUE(FolderIsEmpty());
}

TEST_F(SafetensorsWriterTest, BadDeclarationsAreRefusedAndLeaveNothing) {
  const int64_t big = int64_t{1} << 33;
  const struct {
    std::vector<TensorSpec> specs;
    const char* expected;
  } cases[] = {
      {{{"a", DType::kU8, {1}}, {"a", DType::kF32, {1}}}, "tensor 'a' is declared twice"},
      {{{"__metadata__", DType::kU8, {1}}}, "reserved"},
      {{{"\xff", DType::kU8, {1}}}, "not UTF-8"},
      {{{"a", DType::kU8, {-1}}}, "negative dimension"},
      {{{"a", DType::kU8, {big, big}}}, "overflows"},
      {{{"a", DType::kF4, {3}}}, "not whole bytes"},
      {{{"a", DType::kU8, {INT64_MAX / 8}},
        {"b", DType::kU8, {INT64_MAX / 8}},
        {"c", DType::kU8, {INT64_MAX / 8}},
        {"d", DType::kU8, {INT64_MAX / 8}},
        {"e", DType::kU8, {INT64_MAX / 8}},
        {"f", DType::kU8, {INT64_MAX / 8}},
        {"g", DType::kU8, {INT64_MAX / 8}},
        {"h", DType::kU8, {INT64_MAX / 8}},
        {"i", DType::kU8, {INT64_MAX / 8}}},
       "together overflow"},
      {{{std::string(100'000'000, 'n'), DType::kU8, {1}}}, "the format's limit is 100000000"},
  };
  for (const auto& c : cases) {
    const auto writer = SafetensorsWriter::Create(path_, c.specs);
    ASSERT_FALSE(writer.ok()) << c.expected;
    EXPECT_THAT(writer.error().message, HasSubstr(c.expected));
    EXPECT_TRUE(FolderIsEmpty());
  }
  EXPECT_FALSE(SafetensorsWriter::Create(JoinPath(folder_, "no/such/x.safetensors"), {}).ok());
}

}  // namespace
}  // namespace planish

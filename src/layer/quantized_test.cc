// Readers of checkpoints that other programs quantized: the test vectors of their formats, worked by hand,
// and files that are wrong in one way each.
#include "layer/quantized.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>

#include "layer/artifact.h"
#include "layer/quantized_parts.h"

namespace planish {
namespace {

using testing::ElementsAre;
using testing::ElementsAreArray;
using testing::HasSubstr;

// Tensors in memory under the names of a file.
class Files {
 public:
  template <typename T>
  void Add(const std::string& name, DType type, std::vector<int64_t> shape, const std::vector<T>& values) {
    std::string& bytes = (*data_)[name];
    bytes.assign(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
    shapes_[name] = {type, std::move(shape)};
  }
  void Halves(const std::string& name, std::vector<int64_t> shape, const std::vector<float>& values) {
    std::vector<uint16_t> halves;
    for (float f : values) halves.push_back(ToF16(f).bits);
    Add(name, DType::kF16, std::move(shape), halves);
  }
  void Floats(const std::string& name, std::vector<int64_t> shape, const std::vector<float>& values) {
    Add(name, DType::kF32, std::move(shape), values);
  }
  void Remove(const std::string& name) { shapes_.erase(name); }
  Checkpoint Open() const {
    std::vector<Checkpoint::Loose> loose;
    for (const auto& [name, info] : shapes_) {
      loose.push_back({{name, info.first, info.second}, std::as_bytes(std::span(data_->at(name)))});
    }
    return Checkpoint::OfTensors("memory", std::move(loose), data_, 0);
  }

 private:
  std::shared_ptr<std::map<std::string, std::string>> data_ =
      std::make_shared<std::map<std::string, std::string>>();
  std::map<std::string, std::pair<DType, std::vector<int64_t>>> shapes_;
};

struct Read {
  std::string error;
  Matrix matrix;
  std::vector<float> values;
  std::vector<std::string> notes;
};

Read ReadFrom(const Json& config, const Files& files, int64_t rows, int64_t cols) {
  Read result;
  auto reader = OpenQuantized(config, files.Open());
  if (!reader.ok()) {
    result.error = reader.error().message;
    return result;
  }
  if (!(*reader)->Holds("m.weight")) {
    result.error = "not held";
    return result;
  }
  auto matrix = (*reader)->Read("m.weight", rows, cols);
  if (!matrix.ok()) {
    result.error = matrix.error().message;
    return result;
  }
  result.matrix = *matrix;
  const Mat<float> values = Reconstruct(*matrix);
  result.values.assign(values.data(), values.data() + rows * cols);
  result.notes = (*reader)->Notes();
  return result;
}

Json Gptq(int bits, int group, const char* format = "gptq_v2") {
  return {{"quant_method", "gptq"}, {"bits", bits}, {"group_size", group}, {"checkpoint_format", format}};
}

// ---- GPTQ ----

// 8 inputs, 8 outputs, q[i, o] = (i + o) mod 16, scale 1, zero 0.
Files GptqFour() {
  Files files;
  std::vector<uint32_t> words;
  for (uint32_t o = 0; o < 8; ++o) {
    uint32_t word = 0;
    for (uint32_t i = 0; i < 8; ++i) word |= ((i + o) % 16) << (4 * i);
    words.push_back(word);
  }
  EXPECT_EQ(words[0], 0x76543210u);  // the vectors of the format's page
  EXPECT_EQ(words[1], 0x87654321u);
  EXPECT_EQ(words[2], 0x98765432u);
  files.Add("m.qweight", DType::kI32, {1, 8}, words);
  files.Add("m.qzeros", DType::kI32, {1, 1}, std::vector<uint32_t>{0});
  files.Halves("m.scales", {1, 8}, std::vector<float>(8, 1.0f));
  return files;
}

TEST(GptqTest, FourBits) {
  const Read read = ReadFrom(Gptq(4, -1), GptqFour(), 8, 8);
  ASSERT_EQ(read.error, "");
  for (int o = 0; o < 8; ++o) {
    for (int i = 0; i < 8; ++i) EXPECT_EQ(read.values[static_cast<size_t>(o * 8 + i)], (i + o) % 16);
  }
  EXPECT_TRUE(std::holds_alternative<Coded>(read.matrix.body));
  EXPECT_THAT(read.notes, testing::IsEmpty());
}

TEST(GptqTest, ThreeBits) {
  Files files;
  std::vector<uint32_t> words;  // [3, 32]: every column holds 0 1 2 ... 7 0 1 ...
  for (const uint32_t word : {0x88FAC688u, 0xC688FAC6u, 0xFAC688FAu}) words.insert(words.end(), 32, word);
  files.Add("m.qweight", DType::kI32, {3, 32}, words);
  // v1, symmetric: fields are 3.
  files.Add("m.qzeros", DType::kI32, {1, 3}, std::vector<uint32_t>{0xDB6DB6DBu, 0xB6DB6DB6u, 0x6DB6DB6Du});
  files.Halves("m.scales", {1, 32}, std::vector<float>(32, 0.25f));
  const Read read = ReadFrom(Gptq(3, 32, "gptq"), files, 32, 32);
  ASSERT_EQ(read.error, "");
  for (int k = 0; k < 32 * 32; ++k) {
    EXPECT_EQ(read.values[static_cast<size_t>(k)], 0.25f * static_cast<float>(k % 8 - 4));
  }
  EXPECT_TRUE(std::get<Coded>(read.matrix.body).grid.symmetric);
}

// The same bytes are another model when v1 and v2 are mixed up.
TEST(GptqTest, ZerosOfBothVersions) {
  Files files = GptqFour();
  files.Add("m.qzeros", DType::kI32, {1, 1}, std::vector<uint32_t>{0x77777777u});
  files.Halves("m.scales", {1, 8}, std::vector<float>(8, 0.5f));
  const Read v1 = ReadFrom(Gptq(4, -1, "gptq"), files, 8, 8);
  EXPECT_EQ(v1.values[3], -2.5f);  // code 3
  EXPECT_EQ(ReadFrom(Gptq(4, -1, "gptq_v2"), files, 8, 8).values[3], -2.0f);
  Json absent = Gptq(4, -1);
  absent.erase("checkpoint_format");
  EXPECT_EQ(ReadFrom(absent, files, 8, 8).values[3], -2.5f);
}

TEST(GptqTest, AFieldOfAllOnesInVersion1) {
  Files files = GptqFour();
  files.Add("m.qzeros", DType::kI32, {1, 1}, std::vector<uint32_t>{0x7777777Fu});
  const Read read = ReadFrom(Gptq(4, -1, "gptq"), files, 8, 8);
  EXPECT_EQ(read.values[3], 3 - 16);
  EXPECT_EQ(read.values[8 + 3], 4 - 8);
  ASSERT_EQ(read.notes.size(), 2u);
  EXPECT_THAT(read.notes[0], HasSubstr("a stored 15 is read as 16"));
  EXPECT_THAT(read.notes[1], HasSubstr("1 matrix is held as decoded values"));
}

TEST(GptqTest, GroupsInAnOrderOfTheirOwn) {
  Files files = GptqFour();
  files.Add("m.qzeros", DType::kI32, {2, 1}, std::vector<uint32_t>{0, 0});
  std::vector<float> scales(8, 1.0f);
  scales.insert(scales.end(), 8, 0.5f);
  files.Halves("m.scales", {2, 8}, scales);
  files.Add("m.g_idx", DType::kI32, {8}, std::vector<int32_t>{1, 0, 0, 1, 0, 1, 1, 0});
  const Read read = ReadFrom(Gptq(4, 4), files, 8, 8);
  ASSERT_EQ(read.error, "");
  EXPECT_THAT(std::vector<float>(read.values.begin(), read.values.begin() + 8),
              ElementsAre(0, 1, 2, 1.5f, 4, 2.5f, 3, 7));
  EXPECT_THAT(read.notes, testing::IsEmpty());
  const auto& codes = std::get<Coded>(read.matrix.body);
  EXPECT_EQ(codes.group_of.bytes.size(), 32u);
  EXPECT_EQ(Describe(read.matrix), "int4 g4 act-order");
  // The same from any column on, by another piece of code.
  Mat<float> part(2, 3);
  ReadRows(read.matrix, 1, 2, 4, 3, part.data(), 3);
  EXPECT_THAT(std::vector<float>(part.data(), part.data() + 6), ElementsAre(5, 3, 3.5f, 6, 3.5f, 4));
  // More groups than a group_size gives are held as their values.
  Files many = files;
  many.Add("m.qzeros", DType::kI32, {3, 1}, std::vector<uint32_t>{0, 0, 0});
  scales.insert(scales.end(), 8, 2.0f);
  many.Halves("m.scales", {3, 8}, scales);
  many.Add("m.g_idx", DType::kI32, {8}, std::vector<int32_t>{1, 0, 0, 1, 0, 2, 1, 0});
  const Read odd = ReadFrom(Gptq(4, 4), many, 8, 8);
  EXPECT_EQ(odd.values[5], 10);
  EXPECT_THAT(odd.notes, ElementsAre(HasSubstr("groups that no group_size gives")));
  // Groups in order, stated by the index or not, are the codes themselves.
  files.Add("m.g_idx", DType::kI32, {8}, std::vector<int32_t>{0, 0, 0, 0, 1, 1, 1, 1});
  const Read ordered = ReadFrom(Gptq(4, 4), files, 8, 8);
  EXPECT_TRUE(std::holds_alternative<Coded>(ordered.matrix.body));
  files.Remove("m.g_idx");
  EXPECT_EQ(ReadFrom(Gptq(4, 4), files, 8, 8).values, ordered.values);
}

TEST(GptqTest, WidthsOfSingleModules) {
  Json config = Gptq(2, -1);
  EXPECT_THAT(ReadFrom(config, GptqFour(), 8, 8).error, HasSubstr("b = 2 from the config, found I32 [1, 8]"));
  config["dynamic"] = {{"-:.*lm_head.*", Json::object()}, {"+:.*m$", {{"bits", 4}}}};
  EXPECT_EQ(ReadFrom(config, GptqFour(), 8, 8).error, "");
}

TEST(GptqTest, Malformed) {
  struct Case {
    std::function<void(Json&, Files&)> change;
    const char* message;
  };
  const Case cases[] = {
      {[](Json& c, Files&) { c["bits"] = 5; }, "bits: expected 2, 3, 4 or 8, found 5"},
      {[](Json& c, Files&) { c.erase("bits"); }, "'bits'"},
      {[](Json& c, Files&) { c["group_size"] = 0; }, "group_size: expected -1 or a positive size, found 0"},
      {[](Json& c, Files&) { c["checkpoint_format"] = "marlin"; }, "checkpoint_format 'marlin'"},
      {[](Json& c, Files&) { c["pack_dtype"] = "int64"; }, "pack_dtype 'int64': expected int32"},
      {[](Json& c, Files&) { c["dynamic"] = Json::array(); }, "dynamic: expected an object"},
      {[](Json& c, Files&) {
         c["dynamic"] = {{"x", {{"bits", 9}}}};
       },
       "dynamic 'x': bits: expected 2, 3"},
      {[](Json& c, Files&) { c["group_size"] = 4; }, "no group_size of the config (4) gives"},
      {[](Json&, Files& f) { f.Remove("m.scales"); }, "no tensor 'm.scales'"},
      {[](Json&, Files& f) { f.Remove("m.qzeros"); }, "no tensor 'm.qzeros'"},
      {[](Json&, Files& f) { f.Halves("m.scales", {8}, std::vector<float>(8, 1.0f)); },
       "expected [groups, 8], found [8]"},
      {[](Json&, Files& f) {
         f.Halves("m.scales", {1, 8}, std::vector<float>(8, NAN));
       },
       "element 0 is nan"},
      {[](Json&, Files& f) {
         f.Add("m.scales", DType::kI32, {1, 8}, std::vector<int32_t>(8));
       },
       "expected F16 or BF16 or F32 [1, 8], found I32 [1, 8]"},
      {[](Json&, Files& f) {
         f.Add("m.qzeros", DType::kI32, {2, 1}, std::vector<int32_t>(2));
       },
       "expected I32 [1, 1], found I32 [2, 1]"},
      {[](Json&, Files& f) {
         f.Add("m.g_idx", DType::kI32, {8}, std::vector<int32_t>{0, 0, 0, 1, 0, 0, 0, 0});
       },
       "element 3: expected a group below 1, found 1"},
      {[](Json&, Files& f) { f.Add("m.g_idx", DType::kI32, {8}, std::vector<int32_t>(8, -1)); },
       "element 0: expected a group below 1, found -1"},
      {[](Json&, Files& f) { f.Add("m.g_idx", DType::kI32, {4}, std::vector<int32_t>(4)); },
       "expected I32 [8], found I32 [4]"},
      {[](Json&, Files& f) {
         f.Add("m.qweight", DType::kI32, {8, 1}, std::vector<int32_t>(8));
       },
       "expected I32 [8 b / 32, 8] with b = 4"},
  };
  for (const Case& c : cases) {
    Json config = Gptq(4, -1);
    Files files = GptqFour();
    c.change(config, files);
    EXPECT_THAT(ReadFrom(config, files, 8, 8).error, HasSubstr(c.message));
  }
}

// ---- AWQ ----

Json Awq(int group) {
  return {{"quant_method", "awq"}, {"bits", 4}, {"group_size", group}, {"version", "gemm"}};
}

Files AwqFile() {
  Files files;
  files.Add("m.qweight", DType::kI32, {2, 1}, std::vector<uint32_t>{0x75316420u, 0});  // row 0: q[o] = o
  files.Add("m.qzeros", DType::kI32, {1, 1}, std::vector<uint32_t>{0x75316420u});
  files.Halves("m.scales", {1, 8}, {1, 2, 4, 8, 16, 32, 64, 128});
  return files;
}

TEST(AwqTest, OrderInsideAWord) {
  Files files = AwqFile();
  const Read read = ReadFrom(Awq(2), files, 8, 2);
  ASSERT_EQ(read.error, "");
  for (int o = 0; o < 8; ++o) {
    EXPECT_EQ(read.values[static_cast<size_t>(2 * o)], 0);  // code o less zero o
    EXPECT_EQ(read.values[static_cast<size_t>(2 * o + 1)], -o * std::ldexp(1.0f, o));
  }
  files.Add("m.qzeros", DType::kI32, {1, 1}, std::vector<uint32_t>{0x88888888u});
  EXPECT_TRUE(std::get<Coded>(ReadFrom(Awq(2), files, 8, 2).matrix.body).grid.symmetric);
}

TEST(AwqTest, Malformed) {
  struct Case {
    std::function<void(Json&, Files&)> change;
    const char* message;
  };
  const Case cases[] = {
      {[](Json& c, Files&) { c["bits"] = 3; }, "bits: expected 4, found 3"},
      {[](Json& c, Files&) { c["version"] = "gemv"; }, "version 'gemv': expected gemm"},
      {[](Json& c, Files&) { c["checkpoint_format"] = "marlin"; },
       "checkpoint_format 'marlin': expected gemm"},
      {[](Json& c, Files&) { c["group_size"] = -2; }, "group_size: expected -1 or a positive size"},
      {[](Json& c, Files&) { c["group_size"] = 4; }, "2 inputs are no multiple of group_size 4"},
      {[](Json&, Files& f) {
         f.Add("m.qweight", DType::kI32, {1, 2}, std::vector<int32_t>(2));
       },
       "expected I32 [2, 1], found I32 [1, 2]"},
      {[](Json&, Files& f) { f.Remove("m.qzeros"); }, "no tensor 'm.qzeros'"},
      {[](Json&, Files& f) {
         f.Halves("m.scales", {1, 4}, {1, 1, 1, 1});
       },
       "expected F16 or BF16 or F32 [1, 8]"},
  };
  for (const Case& c : cases) {
    Json config = Awq(2);
    Files files = AwqFile();
    c.change(config, files);
    EXPECT_THAT(ReadFrom(config, files, 8, 2).error, HasSubstr(c.message));
  }
}

// ---- compressed-tensors ----

Json Args(int bits, const char* type, const char* strategy, Json more = Json::object()) {
  Json args = {{"num_bits", bits}, {"type", type}, {"strategy", strategy}, {"symmetric", true}};
  args.update(more);
  return args;
}
Json Ct(const char* format, const Json& weights) {
  return {{"quant_method", "compressed-tensors"},
          {"format", format},
          {"config_groups", {{"group_0", {{"targets", {"Linear"}}, {"weights", weights}}}}},
          {"ignore", {"lm_head"}}};
}

Files PackedFour() {
  Files files;
  files.Add("m.weight_packed", DType::kI32, {1, 1}, std::vector<uint32_t>{0x4B69F870u});
  files.Halves("m.weight_scale", {1, 2}, {1, 0.5f});
  files.Add("m.weight_shape", DType::kI64, {2}, std::vector<int64_t>{1, 8});
  return files;
}
const Json kFour = Args(4, "int", "group", {{"group_size", 4}});

TEST(CompressedTensorsTest, PackedFourBits) {
  const Read read = ReadFrom(Ct("pack-quantized", kFour), PackedFour(), 1, 8);
  ASSERT_EQ(read.error, "");
  EXPECT_THAT(read.values, ElementsAre(-8, -1, 0, 7, 0.5f, -1, 1.5f, -2));
}

TEST(CompressedTensorsTest, ThreeBitsOfBothLayouts) {
  Files dense;
  dense.Add("m.weight_packed", DType::kI32, {1, 2}, std::vector<uint32_t>{0x88FAC688u, 0});
  dense.Halves("m.weight_scale", {1, 1}, {1});
  EXPECT_THAT(ReadFrom(Ct("pack-quantized", Args(3, "int", "channel")), dense, 1, 11).values,
              ElementsAre(-4, -3, -2, -1, 0, 1, 2, 3, -4, -3, -2));
  // With 31 values, three words are dense and four hold whole codes.
  Files files;
  std::vector<uint32_t> words(4);
  for (uint32_t j = 0; j < 31; ++j) words[j / 10] |= (j % 8) << (j % 10 * 3);
  EXPECT_EQ(words[0], 0x08FAC688u);
  files.Add("m.weight_packed", DType::kI32, {1, 4}, words);
  files.Halves("m.weight_scale", {1, 1}, {1});
  const Read read = ReadFrom(Ct("pack-quantized", Args(3, "int", "channel")), files, 1, 31);
  ASSERT_EQ(read.error, "");
  for (int j = 0; j < 31; ++j) EXPECT_EQ(read.values[static_cast<size_t>(j)], j % 8 - 4);
}

TEST(CompressedTensorsTest, ZerosArePackedDownTheColumns) {
  Files files;
  // Nine rows of eight values, all codes 8 (0), zeros of row i: i - 4 in group 0, 3 - i in group 1.
  files.Add("m.weight_packed", DType::kI32, {9, 1}, std::vector<uint32_t>(9, 0x88888888u));
  files.Halves("m.weight_scale", {9, 2}, std::vector<float>(18, 1));
  std::vector<uint32_t> zeros(4);
  for (int i = 0; i < 9; ++i) {
    zeros[static_cast<size_t>(i / 8 * 2)] |= static_cast<uint32_t>(i - 4 + 8) << (i % 8 * 4);
    zeros[static_cast<size_t>(i / 8 * 2 + 1)] |= static_cast<uint32_t>(3 - i + 8) << (i % 8 * 4);
  }
  files.Add("m.weight_zero_point", DType::kI32, {2, 2}, zeros);
  const Json args = Args(4, "int", "group", {{"group_size", 4}, {"symmetric", false}});
  const Read read = ReadFrom(Ct("pack-quantized", args), files, 9, 8);
  ASSERT_EQ(read.error, "");
  for (int i = 0; i < 9; ++i) {
    EXPECT_EQ(read.values[static_cast<size_t>(8 * i)], 4 - i);
    EXPECT_EQ(read.values[static_cast<size_t>(8 * i + 7)], i - 3);
  }
}

TEST(CompressedTensorsTest, IndexOfGroups) {
  Files files = PackedFour();
  files.Add("m.weight_g_idx", DType::kI32, {8}, std::vector<int32_t>{1, 0, 1, 0, 1, 0, 1, 0});
  Read read = ReadFrom(Ct("pack-quantized", kFour), files, 1, 8);
  EXPECT_THAT(read.values, ElementsAre(-4, -1, 0, 7, 0.5f, -2, 1.5f, -4));
  EXPECT_TRUE(std::get<Coded>(read.matrix.body).Scattered());
  files.Add("m.weight_g_idx", DType::kI32, {8}, std::vector<int32_t>(8, -1));  // never set
  read = ReadFrom(Ct("pack-quantized", kFour), files, 1, 8);
  EXPECT_THAT(read.values, ElementsAre(-8, -1, 0, 7, 0.5f, -1, 1.5f, -2));
}

TEST(CompressedTensorsTest, PlainIntegers) {
  Files files;
  files.Add("m.weight", DType::kI8, {2, 3}, std::vector<int8_t>{-128, 0, 127, 1, -1, 5});
  files.Halves("m.weight_scale", {2, 1}, {0.5f, 2});
  Json config = Ct("int-quantized", Args(8, "int", "channel"));
  config["config_groups"]["group_0"]["input_activations"] = Args(8, "int", "token", {{"dynamic", true}});
  const Read read = ReadFrom(config, files, 2, 3);
  EXPECT_THAT(read.values, ElementsAre(-64, 0, 63.5f, 2, -2, 10));
  EXPECT_THAT(read.notes, ElementsAre(HasSubstr("inputs are made for int8 token dynamic")));
  // One fp32 scale that is no fp16 number, and a zero point.
  files.Floats("m.weight_scale", {1}, {0.1f});
  files.Add("m.weight_zero_point", DType::kI8, {1}, std::vector<int8_t>{0});
  const Read one =
      ReadFrom(Ct("int-quantized", Args(8, "int", "tensor", {{"symmetric", false}})), files, 2, 3);
  EXPECT_THAT(one.values, ElementsAre(-128 * 0.1f, 0, 127 * 0.1f, 0.1f, -0.1f, 5 * 0.1f));
  EXPECT_TRUE(std::holds_alternative<Coded>(one.matrix.body));
  // Such scales a row have no place in the codes here.
  files.Floats("m.weight_scale", {2, 1}, {0.1f, 0.2f});
  const Read rows = ReadFrom(Ct("int-quantized", Args(8, "int", "channel")), files, 2, 3);
  EXPECT_THAT(rows.values, ElementsAre(-128 * 0.1f, 0, 127 * 0.1f, 0.2f, -0.2f, 5 * 0.2f));
  EXPECT_THAT(rows.notes, ElementsAre(HasSubstr("decoded")));
}

TEST(CompressedTensorsTest, Float8) {
  Files files;
  // 0x38 is 1, 0x7E 448, 0x01 2^-9, 0xC0 -2, 0x80 -0.
  files.Add("m.weight", DType::kF8E4M3, {2, 3}, std::vector<uint8_t>{0x38, 0x7E, 0x01, 0xC0, 0x80, 0xFE});
  files.Floats("m.weight_scale", {1}, {0.3f});
  const std::vector<float> values = {1, 448, 0x1p-9f, -2, 0, -448};
  std::vector<float> expected;
  for (float v : values) expected.push_back(v * 0.3f);
  const Read read = ReadFrom(Ct("float-quantized", Args(8, "float", "tensor")), files, 2, 3);
  EXPECT_THAT(read.values, ElementsAreArray(expected));
  EXPECT_TRUE(std::holds_alternative<Coded>(read.matrix.body));
  // Blocks of 1 x 2: the last column is a block of its own.
  files.Halves("m.weight_scale", {2, 2}, {1, 2, 4, 8});
  const Json block = Args(8, "float", "block", {{"block_structure", {1, 2}}});
  EXPECT_THAT(ReadFrom(Ct("float-quantized", block), files, 2, 3).values,
              ElementsAre(1, 448, 0x1p-8f, -8, 0, -448 * 8));
}

TEST(CompressedTensorsTest, NvFloat4) {
  Files files;
  files.Add("m.weight_packed", DType::kU8, {1, 8},
            std::vector<uint8_t>{0x10, 0xB2, 0xD4, 0x76, 0x0F, 0, 0, 0});
  files.Add("m.weight_scale", DType::kF8E4M3, {1, 1}, std::vector<uint8_t>{0x7E});
  files.Floats("m.weight_global_scale", {1}, {448});
  const Json config = Ct("nvfp4-pack-quantized", Args(4, "float", "tensor_group", {{"group_size", 16}}));
  EXPECT_THAT(ReadFrom(config, files, 1, 16).values,
              ElementsAre(0, 0.5f, 1, -1.5f, 2, -3, 4, 6, -6, 0, 0, 0, 0, 0, 0, 0));
  // The scale is divided, in fp32, before it multiplies: 448 / 3000 * 6.
  files.Floats("m.weight_global_scale", {1}, {3000});
  const float scale = 448.0f / 3000.0f;
  const Read divided = ReadFrom(config, files, 1, 16);
  EXPECT_EQ(divided.values[7], 6 * scale);
  // An artifact keeps it that way.
  std::vector<PartTensor> parts;
  const OrderedJson description = DescribeParts(divided.matrix, "m", parts);
  std::vector<Checkpoint::Loose> loose;
  for (const PartTensor& part : parts) loose.push_back({{part.name, part.type, part.shape}, part.bytes});
  const auto again = ReadParts(Json::parse(description.dump()), "m", 1, 16,
                               Checkpoint::OfTensors("artifact", std::move(loose), nullptr, 0));
  ASSERT_TRUE(again.ok()) << again.error().message;
  EXPECT_EQ(Reconstruct(*again)(0, 7), 6 * scale);
  files.Add("m.weight_scale", DType::kF8E4M3, {1, 1}, std::vector<uint8_t>{0x7F});
  EXPECT_THAT(ReadFrom(config, files, 1, 16).error, HasSubstr("element 0 is NaN or negative"));
  files.Add("m.weight_scale", DType::kF8E4M3, {1, 1}, std::vector<uint8_t>{0x7E});
  files.Floats("m.weight_global_scale", {1}, {0});
  EXPECT_THAT(ReadFrom(config, files, 1, 16).error, HasSubstr("expected a positive number, found 0"));
}

TEST(CompressedTensorsTest, MxFloats) {
  Files files;
  std::vector<uint8_t> nibbles(16, 0);
  nibbles[0] = 0xF7;  // 6, -6
  files.Add("m.weight_packed", DType::kU8, {1, 16}, nibbles);
  files.Add("m.weight_scale", DType::kU8, {1, 1}, std::vector<uint8_t>{125});
  const Json four = Ct("mxfp4-pack-quantized", Args(4, "float", "group", {{"group_size", 32}}));
  Read read = ReadFrom(four, files, 1, 32);
  ASSERT_EQ(read.error, "");
  EXPECT_EQ(read.values[0], 1.5f);
  EXPECT_EQ(read.values[1], -1.5f);
  files.Add("m.weight_scale", DType::kU8, {1, 1}, std::vector<uint8_t>{255});
  EXPECT_THAT(ReadFrom(four, files, 1, 32).error, HasSubstr("element 0 is NaN"));
  Files eight;
  std::vector<uint8_t> bytes(32, 0);
  bytes[31] = 0x7E;
  eight.Add("m.weight", DType::kF8E4M3, {1, 32}, bytes);
  eight.Add("m.weight_scale", DType::kU8, {1, 1}, std::vector<uint8_t>{127});
  read = ReadFrom(Ct("mxfp8-quantized", Args(8, "float", "group", {{"group_size", 32}})), eight, 1, 32);
  EXPECT_EQ(read.values[31], 448);
}

TEST(CompressedTensorsTest, SparseBitmask) {
  Files files;
  files.Add("m.shape", DType::kI64, {2}, std::vector<int64_t>{1, 9});
  files.Halves("m.compressed", {3}, {5, 7, 1});
  files.Add("m.bitmask", DType::kU8, {1, 2}, std::vector<uint8_t>{0x0A, 0x01});
  const Json config = {{"quant_method", "compressed-tensors"},
                       {"sparsity_config", {{"format", "sparse-bitmask"}}}};
  EXPECT_THAT(ReadFrom(config, files, 1, 9).values, ElementsAre(0, 5, 0, 7, 0, 0, 0, 0, 1));
  files.Add("m.bitmask", DType::kU8, {1, 2}, std::vector<uint8_t>{0x0A, 0x02});
  EXPECT_THAT(ReadFrom(config, files, 1, 9).error, HasSubstr("1 places beyond column 9"));
  files.Add("m.bitmask", DType::kU8, {1, 2}, std::vector<uint8_t>{0x0A, 0});
  EXPECT_THAT(ReadFrom(config, files, 1, 9).error, HasSubstr("3 elements for 2 places"));
}

TEST(CompressedTensorsTest, NamesWinOverPatternsOverClasses) {
  Json config = Ct("pack-quantized", Args(8, "int", "channel"));
  EXPECT_THAT(ReadFrom(config, PackedFour(), 1, 8).error,
              HasSubstr("m.weight_scale': expected F16 or BF16 or F32 [1, 1]"));
  config["config_groups"]["group_1"] = {{"targets", {"re:.*m$"}}, {"weights", kFour}};
  EXPECT_EQ(ReadFrom(config, PackedFour(), 1, 8).error, "");
  config["config_groups"]["group_2"] = {{"targets", {"m"}}, {"weights", Args(8, "int", "channel")}};
  EXPECT_THAT(ReadFrom(config, PackedFour(), 1, 8).error,
              HasSubstr("m.weight_scale': expected F16 or BF16 or F32 [1, 1]"));
  config["config_groups"].erase("group_2");
  config["ignore"] = {"re:m"};
  EXPECT_THAT(ReadFrom(config, PackedFour(), 1, 8).error, HasSubstr("no config group says how"));
  // A preset: the group's name stands for its arguments.
  config = Ct("pack-quantized", kFour);
  config["config_groups"] = {{"W4A16", {"Linear"}}};
  Files files = PackedFour();
  files.Halves("m.weight_scale", {1, 1}, {2});
  EXPECT_EQ(ReadFrom(config, files, 1, 8).values[0], -16);
}

TEST(CompressedTensorsTest, Malformed) {
  struct Case {
    std::function<void(Json&, Files&)> change;
    const char* message;
  };
  const auto weights = [](Json& c) -> Json& { return c["config_groups"]["group_0"]["weights"]; };
  const Case cases[] = {
      {[](Json& c, Files&) { c["format"] = "marlin-24"; }, "format 'marlin-24': expected one of"},
      {[](Json& c, Files&) { c["config_groups"] = 3; }, "config_groups: expected an object"},
      {[](Json& c, Files&) { c["config_groups"]["W9A9"] = {"Linear"}; }, "'W9A9': no preset has this name"},
      {[](Json& c, Files&) { c["ignore"] = {1}; }, "ignore: expected names, found 1"},
      {[&](Json& c, Files&) { weights(c)["num_bits"] = 99; },
       "weights: num_bits: expected 1 to 16, found 99"},
      {[&](Json& c, Files&) { weights(c)["type"] = "complex"; }, "type 'complex': expected int or float"},
      {[&](Json& c, Files&) { weights(c)["strategy"] = "row"; }, "strategy 'row': expected one of tensor"},
      {[&](Json& c, Files&) { weights(c)["strategy"] = "block"; }, "block_structure: expected two"},
      {[&](Json& c, Files&) { weights(c)["group_size"] = -5; }, "group_size: expected -1 or a positive size"},
      {[&](Json& c, Files&) { weights(c)["group_size"] = 0; }, "group_size: expected a positive size"},
      {[&](Json& c, Files&) { weights(c)["strategy"] = "token"; }, "a weight cannot be int4 token"},
      {[&](Json& c, Files&) { weights(c)["type"] = "float"; }, "does not go with its weight_packed of I32"},
      {[&](Json& c, Files&) { weights(c)["symmetric"] = false; }, "no tensor 'm.weight_zero_point'"},
      {[](Json& c, Files&) {
         c["transform_config"]["config_groups"]["R1"]["apply"] = {{{"location", "input"}}};
       },
       "transform_config: 'R1' acts at run time (location 'input')"},
      {[](Json& c, Files&) {
         c["kv_cache_scheme"] = {{"num_bits", "x"}};
       },
       "kv_cache_scheme: field 'num_bits'"},
      {[](Json& c, Files&) { c["config_groups"]["group_0"]["targets"] = {"re:("}; }, "target 're:('"},
      {[](Json&, Files& f) { f.Remove("m.weight_scale"); }, "no tensor 'm.weight_scale'"},
      {[](Json&, Files& f) {
         f.Halves("m.weight_scale", {1, 2}, {1, INFINITY});
       },
       "element 1 is inf"},
      {[](Json&, Files& f) {
         f.Halves("m.weight_scale", {2, 1}, {1, 1});
       },
       "expected F16 or BF16 or F32 [1, 2]"},
      {[](Json&, Files& f) {
         f.Add("m.weight_shape", DType::kI64, {2}, std::vector<int64_t>{8, 1});
       },
       "expected [1, 8] from the config, found [8, 1]"},
      {[](Json&, Files& f) {
         f.Add("m.weight_packed", DType::kI32, {1, 2}, std::vector<int32_t>(2));
       },
       "expected I32 [1, 1], found I32 [1, 2]"},
      {[](Json&, Files& f) { f.Add("m.weight_g_idx", DType::kI32, {8}, std::vector<int32_t>(8, 2)); },
       "element 0: expected a group below 2, found 2"},
      {[](Json&, Files& f) {
         f.Add("m.weight_g_idx", DType::kI32, {8}, std::vector<int32_t>{-1, 0, 0, 0, 1, 1, 1, 1});
       },
       "element 0: expected a group below 2, found -1"},
      {[](Json&, Files& f) { f.Add("m.meta", DType::kI16, {1}, std::vector<int16_t>(1)); }, "marlin-24"},
  };
  for (const Case& c : cases) {
    Json config = Ct("pack-quantized", kFour);
    Files files = PackedFour();
    c.change(config, files);
    EXPECT_THAT(ReadFrom(config, files, 1, 8).error, HasSubstr(c.message));
  }
}

// A format of the whole file that is not known, whatever its groups say.
TEST(CompressedTensorsTest, UnknownFormats) {
  Json config = Ct("some-new-format", kFour);
  config["config_groups"]["group_0"]["format"] = "pack-quantized";
  EXPECT_THAT(ReadFrom(config, PackedFour(), 1, 8).error,
              HasSubstr("format 'some-new-format': expected one of"));
  config.erase("config_groups");
  EXPECT_THAT(ReadFrom(config, PackedFour(), 1, 8).error,
              HasSubstr("format 'some-new-format': expected one of"));
}

TEST(CompressedTensorsTest, WhatIsNotAppliedIsSaid) {
  Json config = Ct("pack-quantized", kFour);
  config["kv_cache_scheme"] = Args(8, "float", "tensor");
  EXPECT_THAT(ReadFrom(config, PackedFour(), 1, 8).notes,
              ElementsAre(HasSubstr("kv_cache_scheme (float8 tensor)")));
}

TEST(QuantizedTest, OtherMethods) {
  EXPECT_THAT(OpenQuantized({{"quant_method", "bitsandbytes"}}, Files().Open()).error().message,
              HasSubstr("expected gptq, awq or compressed-tensors"));
}

}  // namespace
}  // namespace planish

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
#include "layer/quantized_settings.h"

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

Read ReadFrom(const Json& config, const Files& files, int64_t rows, int64_t cols,
              const std::vector<std::string>& order = {}) {
  Read result;
  auto reader = OpenQuantized(config, files.Open(), order);
  if (!reader.ok()) {
    result.error = reader.error().message;
    return result;
  }
  if (!(*reader)->Holds("m.weight")) {
    const Status plain = (*reader)->CheckPlain("m.weight");
    result.error = plain.ok() ? "plain" : plain.error().message;
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

// 8 inputs in groups of 4, the second of scale 0.5.
Files GptqGroups() {
  Files files = GptqFour();
  files.Add("m.qzeros", DType::kI32, {2, 1}, std::vector<uint32_t>{0, 0});
  std::vector<float> scales(8, 1.0f);
  scales.insert(scales.end(), 8, 0.5f);
  files.Halves("m.scales", {2, 8}, scales);
  return files;
}

// Patterns match from the front of a module's path, and the first that does holds.
TEST(GptqTest, SettingsOfSingleModules) {
  const auto read = [](const Json& dynamic, const std::vector<std::string>& order = {}) {
    Json config = Gptq(8, -1);
    config["sym"] = true;
    config["dynamic"] = dynamic;
    return ReadFrom(config, GptqGroups(), 8, 8, order);
  };
  const Json mine = {{"bits", 4}, {"group_size", 4}, {"sym", false}, {"desc_act", false}, {"mse", 2.4}};
  for (const char* key : {"m", "+:m", ".*", "+:^m$", "^m$", "[lm]", "+:(?:x|m)"}) {
    const Read matched = read({{key, mine}});
    ASSERT_EQ(matched.error, "") << key;
    EXPECT_EQ(matched.values[3], 3) << key;
    EXPECT_EQ(matched.values[5], 2.5f) << key;
  }
  for (const char* key : {"x", "+:.+m", "^n$", "+:n|x", "-:x", "-:^m\\.x$"}) {
    EXPECT_THAT(read({{key, mine}}).error, HasSubstr("with b = 8 from the config")) << key;
  }
  const char* const kPlain = "tensor 'm.qweight': dynamic '-:.*' says that 'm' is not quantized, expected a";
  const Json both = {{"+:m", mine}, {"-:.*", Json::object()}};
  EXPECT_EQ(read(both, {"+:m", "-:.*"}).error, "");
  EXPECT_THAT(read(both, {"-:.*", "+:m"}).error, HasSubstr(kPlain));
  const Json name = {{"+:^m$", mine}, {"-:.*", Json::object()}};  // a pattern of one name is found by it
  EXPECT_EQ(read(name, {"+:^m$", "-:.*"}).error, "");
  EXPECT_THAT(read(name, {"-:.*", "+:^m$"}).error, HasSubstr(kPlain));
  Json other = mine;
  other["group_size"] = 8;
  EXPECT_THAT(read({{"m", other}}).error, HasSubstr("2 groups of 8 inputs, but group_size 8"));
  other = mine;
  other["sym"] = true;
  EXPECT_THAT(read({{"m", other}}).error, HasSubstr("zero point 0 of output 0, group 0, but sym is true"));
  other = mine;
  other["desc_act"] = true;
  EXPECT_THAT(read({{"m", other}}).error, HasSubstr("no tensor 'm.g_idx': desc_act is true"));
  // A module that is left out is read as it is.
  Json config = Gptq(4, 4);
  config["dynamic"] = {{"-:m", Json::object()}};
  Files plain;
  plain.Halves("m.weight", {8, 8}, std::vector<float>(64, 1));
  EXPECT_EQ(ReadFrom(config, plain, 8, 8).error, "plain");
}

TEST(GptqTest, SymmetricZerosTellTheVersionsApart) {
  Files files = GptqFour();
  files.Add("m.qzeros", DType::kI32, {1, 1}, std::vector<uint32_t>{0x77777777u});
  Json config = Gptq(4, -1, "gptq");
  config["sym"] = true;
  EXPECT_EQ(ReadFrom(config, files, 8, 8).error, "");
  config["checkpoint_format"] = "gptq_v2";
  EXPECT_THAT(
      ReadFrom(config, files, 8, 8).error,
      HasSubstr("tensor 'm.qzeros': zero point 7 of output 0, group 0, but sym is true, for which 8 is "
                "expected (checkpoint_format gptq would give that)"));
  files.Add("m.qzeros", DType::kI32, {1, 1}, std::vector<uint32_t>{0x88888888u});
  EXPECT_EQ(ReadFrom(config, files, 8, 8).error, "");
  config["checkpoint_format"] = "gptq";
  EXPECT_THAT(ReadFrom(config, files, 8, 8).error, HasSubstr("(checkpoint_format gptq_v2 would give that)"));
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
      {[](Json& c, Files&) {
         c["dynamic"] = {1, 2};
       },
       "dynamic: expected an object"},
      {[](Json& c, Files&) {
         c["dynamic"] = {{"m", 3}};
       },
       "dynamic 'm': expected an object of settings, found 3"},
      {[](Json& c, Files&) {
         c["dynamic"] = {{"+:m(", Json::object()}};
       },
       "dynamic '+:m(': "},
      {[](Json& c, Files&) {
         c["dynamic"] = {{"-:m(", Json::object()}};
       },
       "dynamic '-:m(': "},
      {[](Json& c, Files&) {
         c["dynamic"] = {{"m", {{"bitz", 4}}}};
       },
       "dynamic 'm': 'bitz' of single modules is not known, expected bits, group_size, sym, desc_act"},
      {[](Json& c, Files&) {
         c["dynamic"] = {{"m", {{"group_size", "64"}}}};
       },
       "dynamic 'm': field 'group_size': expected an integer"},
      {[](Json& c, Files&) {
         c["dynamic"] = {{"-:m", Json::object()}};
       },
       "tensor 'm.qweight': dynamic '-:m' says that 'm' is not quantized, expected a plain 'm.weight'"},
      {[](Json& c, Files&) { c["modules_to_not_convert"] = {"m"}; },
       "modules_to_not_convert 'm' says that 'm' is not quantized"},
      {[](Json& c, Files&) { c["sym"] = "yes"; }, "field 'sym': expected true or false, found \"yes\""},
      {[](Json& c, Files&) { c["desc_act"] = 1; }, "field 'desc_act': expected true or false, found 1"},
      {[](Json& c, Files&) { c["sym"] = true; }, "zero point 0 of output 0, group 0, but sym is true"},
      {[](Json& c, Files&) { c["sym"] = c["zero_point"] = true; }, "sym and zero_point are both true"},
      {[](Json& c, Files&) { c["wbits"] = 3; }, "bits is 4 and wbits is 3, expected one value"},
      {[](Json& c, Files&) { c["q_group_size"] = 64; }, "group_size is -1 and q_group_size is 64"},
      {[](Json& c, Files&) { c["format"] = "gptq"; },
       "checkpoint_format is \"gptq_v2\" and format is \"gptq\""},
      {[](Json& c, Files&) { c["rotation"] = "hadamard"; }, "rotation \"hadamard\": inputs would have to be"},
      {[](Json& c, Files&) {
         c["adapter"] = {{"name", "lora"}};
       },
       "adapter {\"name\":\"lora\"}: low-rank paths"},
      {[](Json& c, Files&) { c["is_marlin_format"] = true; }, "is_marlin_format true: codes repacked"},
      {[](Json& c, Files& f) {
         f = GptqGroups();
         c["group_size"] = 5;
         c["desc_act"] = true;
       },
       "no tensor 'm.g_idx': desc_act is true"},
      {[](Json& c, Files& f) {
         f = GptqGroups();
         c["group_size"] = 3;
       },
       "2 groups of 8 inputs, but group_size 3 of the config gives 3"},
      {[](Json&, Files& f) { f = GptqGroups(); },
       "2 groups of 8 inputs, but group_size -1 of the config gives 1"},
      {[](Json& c, Files& f) {
         f = GptqGroups();
         c["group_size"] = 8;
         f.Add("m.g_idx", DType::kI32, {8}, std::vector<int32_t>{1, 0, 0, 1, 0, 1, 1, 0});
       },
       "2 groups of 8 inputs, but group_size 8 of the config gives 1"},
      {[](Json& c, Files& f) {
         f = GptqGroups();
         c["group_size"] = 4;
         c["desc_act"] = false;
         f.Add("m.g_idx", DType::kI32, {8}, std::vector<int32_t>{0, 0, 0, 0, 0, 1, 1, 1});
       },
       "tensor 'm.g_idx': element 4 is group 0, but desc_act is false and group_size 4 gives group 1"},
      {[](Json&, Files& f) {
         f.Halves("m.weight", {8, 8}, std::vector<float>(64, 1));
       },
       "tensor 'm.weight' stands beside 'm.qweight', and would change or replace its values; expected of "
       "that "
       "weight only qweight, qzeros, scales, g_idx"},
      {[](Json&, Files& f) { f.Halves("m.weight_scale", {1}, {1}); },
       "tensor 'm.weight_scale' stands beside"},
      {[](Json&, Files& f) {
         f.Halves("m.weight", {8, 8}, std::vector<float>(64, 1));
         f.Remove("m.qweight");
       },
       "tensor 'm.qzeros' stands beside 'm.weight'"},
      {[](Json& c, Files&) {
         c["dynamic"] = {{"x", {{"bits", 9}}}};
       },
       "dynamic 'x': bits: expected 2, 3"},
      {[](Json& c, Files&) { c["group_size"] = 4; },
       "1 groups of 8 inputs, but group_size 4 of the config gives 2"},
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
  // Without zero points, stated as 8 or not at all.
  Json config = Awq(2);
  config["zero_point"] = false;
  const Read stated = ReadFrom(config, files, 8, 2);
  EXPECT_EQ(stated.values[2], (1 - 8) * 2);  // output 1
  files.Remove("m.qzeros");
  EXPECT_EQ(ReadFrom(config, files, 8, 2).values, stated.values);
}

// By whole components of the path: "gate" leaves out "mlp.gate" and not "mlp.gate_proj".
TEST(AwqTest, ModulesThatAreNotConverted) {
  Json config = Awq(2);
  for (const char* name : {"lm_head", "gate", "m_proj", ""}) {
    config["modules_to_not_convert"] = {name};
    EXPECT_EQ(ReadFrom(config, AwqFile(), 8, 2).error, "") << name;
  }
  config["modules_to_not_convert"] = {"lm_head", "m"};
  EXPECT_THAT(ReadFrom(config, AwqFile(), 8, 2).error,
              HasSubstr("tensor 'm.qweight': modules_to_not_convert 'm' says that 'm' is not quantized"));
  Files plain;  // dense with or without its name in the list: routers of some families are not listed
  plain.Halves("m.weight", {8, 2}, std::vector<float>(16, 1));
  EXPECT_EQ(ReadFrom(config, plain, 8, 2).error, "plain");
  EXPECT_EQ(ReadFrom(Awq(2), plain, 8, 2).error, "plain");
  config["modules_to_not_convert"] = {"a.gate"};
  const auto settings = quantized::QuantizeSettings::Parse(config, {4}, {});
  ASSERT_TRUE(settings.ok());
  for (const char* module : {"a.gate", "x.a.gate", "x.a.gate.w"}) {
    EXPECT_THAT(settings->Of(module)->plain_reason, HasSubstr("a.gate")) << module;
  }
  for (const char* module : {"a.gate_proj", "xa.gate", "a", "gate"}) {
    EXPECT_EQ(settings->Of(module)->plain_reason, "") << module;
  }
}

// A head that is not quantized by the config's word.
TEST(GptqTest, Heads) {
  Json config = Gptq(4, -1);
  for (const Json& head : {Json(false), Json(true), Json()}) {
    config["lm_head"] = head;
    const auto settings = quantized::QuantizeSettings::Parse(config, {4}, {});
    ASSERT_TRUE(settings.ok());
    EXPECT_EQ(settings->Of("lm_head")->plain_reason, head == Json(false) ? "lm_head false" : "");
    EXPECT_EQ(settings->Of("model.layers.0.up")->plain_reason, "");
  }
  config["lm_head"] = false;
  config["dynamic"] = {{"lm_head", {{"bits", 4}}}};
  EXPECT_EQ(quantized::QuantizeSettings::Parse(config, {4}, {})->Of("lm_head")->plain_reason, "");
}

TEST(QuantizedTest, SettingsInTwoPlaces) {
  const Json gptq = {{"quant_method", "gptq"}, {"bits", 4}, {"group_size", 128}, {"sym", true}};
  struct Case {
    Json other;
    const char* message;
  };
  const Case cases[] = {
      {{{"bits", 4}, {"group_size", 128}, {"sym", true}, {"damp_percent", 0.1}}, ""},
      {{{"w_bit", 4}, {"q_group_size", 128}, {"checkpoint_format", "gptq"}}, ""},
      {{{"bits", 3}}, "bits is 4, and x.json says bits 3: expected one value"},
      {{{"wbits", 3}}, "bits is 4, and x.json says wbits 3"},
      {{{"group_size", 64}}, "group_size is 128, and x.json says group_size 64"},
      {{{"sym", false}}, "sym is true, and x.json says sym false"},
      {{{"quant_method", "awq"}}, "quant_method is \"gptq\", and x.json says quant_method \"awq\""},
      {{{"checkpoint_format", "gptq_v2"}}, "and x.json says checkpoint_format \"gptq_v2\""},
  };
  for (const Case& c : cases) {
    const Status same = CheckSameSettings(gptq, c.other, "x.json");
    EXPECT_EQ(same.ok(), *c.message == '\0') << c.other;
    EXPECT_THAT(same.ok() ? "" : same.error().message, HasSubstr(c.message));
  }
  EXPECT_TRUE(
      CheckSameSettings({{"quant_method", "awq"}, {"version", "gemm"}}, {{"version", "GEMM"}}, "x").ok());
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
      {[](Json& c, Files&) { c["zero_point"] = false; },
       "tensor 'm.qzeros': zero point 0 of output 0, group 0, but zero_point is false, for which 8 is "
       "expected"},
      {[](Json& c, Files&) { c["zero_point"] = 1; }, "field 'zero_point': expected true or false, found 1"},
      {[](Json& c, Files& f) {
         c["zero_point"] = true;
         f.Remove("m.qzeros");
       },
       "no tensor 'm.qzeros': expected, as zero_point is true"},
      {[](Json& c, Files&) { c["modules_to_not_convert"] = "m"; },
       "modules_to_not_convert: expected a list of names, found \"m\""},
      {[](Json& c, Files&) { c["modules_to_not_convert"] = {1}; },
       "modules_to_not_convert: expected names, found 1"},
      {[](Json& c, Files&) { c["w_bit"] = 8; }, "bits is 4 and w_bit is 8"},
      {[](Json& c, Files&) {
         c["dynamic"] = {{"-:m", Json::object()}};
       },
       "dynamic '-:m' says that 'm' is not"},
      {[](Json&, Files& f) {
         f.Halves("m.weight", {8, 2}, std::vector<float>(16, 1));
       },
       "tensor 'm.weight' stands beside 'm.qweight'"},
      {[](Json&, Files& f) { f.Add("m.g_idx", DType::kI32, {2}, std::vector<int32_t>(2)); },
       "tensor 'm.g_idx' stands beside 'm.qweight'"},
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
  for (const Json& order : {Json("dynamic"), Json("DYNAMIC"), Json(true)}) {
    const Json args = Args(4, "int", "group", {{"group_size", 4}, {"actorder", order}});
    EXPECT_THAT(ReadFrom(Ct("pack-quantized", args), files, 1, 8).values,
                ElementsAre(-4, -1, 0, 7, 0.5f, -2, 1.5f, -4));
  }
  const Json ordered = Args(4, "int", "group", {{"group_size", 4}, {"actorder", "group"}});
  Read read = ReadFrom(Ct("pack-quantized", ordered), files, 1, 8);
  EXPECT_THAT(read.values, ElementsAre(-4, -1, 0, 7, 0.5f, -2, 1.5f, -4));
  EXPECT_TRUE(std::get<Coded>(read.matrix.body).Scattered());
  files.Add("m.weight_g_idx", DType::kI32, {8}, std::vector<int32_t>(8, -1));  // never set
  read = ReadFrom(Ct("pack-quantized", kFour), files, 1, 8);
  EXPECT_THAT(read.values, ElementsAre(-8, -1, 0, 7, 0.5f, -1, 1.5f, -2));
  // An order of the rounding alone has groups of neighbors.
  for (const Json& order : {Json("weight"), Json("static"), Json(false), Json()}) {
    const Json args = Args(4, "int", "group", {{"group_size", 4}, {"actorder", order}});
    EXPECT_EQ(ReadFrom(Ct("pack-quantized", args), PackedFour(), 1, 8).values, read.values);
  }
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
  config["config_groups"]["group_0"]["output_activations"] = Args(8, "int", "tensor");
  EXPECT_THAT(ReadFrom(config, files, 2, 3).notes,
              ElementsAre(testing::_, HasSubstr("outputs are made for int8 tensor")));
  // One fp32 scale that is no fp16 number, and a zero point.
  files.Floats("m.weight_scale", {1}, {0.1f});
  files.Add("m.weight_zero_point", DType::kI8, {1}, std::vector<int8_t>{0});
  const Read one =
      ReadFrom(Ct("int-quantized", Args(8, "int", "tensor", {{"symmetric", false}})), files, 2, 3);
  EXPECT_THAT(one.values, ElementsAre(-128 * 0.1f, 0, 127 * 0.1f, 0.1f, -0.1f, 5 * 0.1f));
  EXPECT_TRUE(std::holds_alternative<Coded>(one.matrix.body));
  // Such scales a row have no place in the codes here.
  files.Floats("m.weight_scale", {2, 1}, {0.1f, 0.2f});
  files.Remove("m.weight_zero_point");
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
      {[&](Json& c, Files&) {
         weights(c)["strategy"] = "block";
         weights(c).erase("group_size");
       },
       "block_structure: expected two"},
      {[&](Json& c, Files&) { weights(c)["strategy"] = "channel"; }, "group_size 4 with strategy channel"},
      {[&](Json& c, Files&) {
         weights(c)["block_structure"] = {1, 4};
       },
       "block_structure with strategy group"},
      {[&](Json& c, Files&) { weights(c)["dynamic"] = true; }, "weights: dynamic: expected false"},
      {[&](Json& c, Files&) { weights(c)["actorder"] = "random"; },
       "actorder 'random': expected group, weight, dynamic, static or null"},
      {[&](Json& c, Files&) { weights(c)["actorder"] = 2; }, "actorder '2': expected group"},
      {[&](Json& c, Files&) {
         weights(c)["strategy"] = "channel";
         weights(c).erase("group_size");
         weights(c)["actorder"] = "group";
       },
       "actorder group with strategy channel"},
      {[&](Json& c, Files&) { weights(c)["actorder"] = "group"; },
       "no tensor 'm.weight_g_idx': actorder is group"},
      {[](Json&, Files& f) {
         f.Add("m.weight_g_idx", DType::kI32, {8}, std::vector<int32_t>{1, 0, 1, 0, 1, 0, 1, 0});
       },
       "tensor 'm.weight_g_idx': element 0 is group 1, but actorder is not group, and group_size 4 gives "
       "group 0"},
      {[](Json& c, Files&) { c["format"] = "int-quantized"; },
       "'m': the format is 'int-quantized', but its tensors (weight_packed of I32) are pack-quantized"},
      {[](Json& c, Files&) { c["format"] = "dense"; }, "the format is 'dense', but its tensors"},
      {[](Json& c, Files&) { c["config_groups"]["group_0"]["format"] = "nvfp4-pack-quantized"; },
       "the format of config group 'group_0' is 'nvfp4-pack-quantized', but its tensors"},
      {[](Json& c, Files&) {
         c["format"] = "mixed-precision";
         c["config_groups"]["group_0"]["format"] = "float-quantized";
       },
       "the format of config group 'group_0' is 'float-quantized', but its tensors"},
      {[](Json& c, Files&) { c["quantization_status"] = "calibration"; },
       "quantization_status 'calibration': expected compressed or frozen"},
      {[](Json& c, Files&) { c["quantization_status"] = "decompressed"; },
       "quantization_status 'decompressed': expected compressed or frozen"},
      {[](Json& c, Files&) { c["sparsity_config"]["format"] = "sparse-bitmask"; },
       "'m': sparsity_config says 'sparse-bitmask', but its tensors are not sparse"},
      {[](Json& c, Files&) { c["sparsity_config"]["format"] = "runs"; },
       "sparsity_config: format 'runs': expected dense, sparse-bitmask or sparse-24-bitmask"},
      {[](Json& c, Files&) { c["sparsity_config"] = 3; }, "sparsity_config: expected an object"},
      {[](Json& c, Files&) { c["transform_config"] = 3; }, "transform_config: expected an object"},
      {[](Json& c, Files&) { c["transform_config"]["config_groups"]["R1"] = 3; },
       "transform_config: 'R1': expected an object with a list 'apply'"},
      {[&](Json& c, Files&) {
         c["config_groups"]["group_1"] = c["config_groups"]["group_0"];
         c["config_groups"]["group_1"]["weights"]["group_size"] = 8;
       },
       "'m': the config groups 'group_0' and 'group_1' match it as well as each other and differ"},
      {[](Json&, Files& f) {
         f.Halves("m.weight", {1, 8}, std::vector<float>(8, 1));
       },
       "tensor 'm.weight' stands beside 'm.weight_packed', and would change or replace its values"},
      {[](Json&, Files& f) { f.Floats("m.weight_global_scale", {1}, {2}); },
       "tensor 'm.weight_global_scale' stands beside 'm.weight_packed'"},
      {[](Json&, Files& f) {
         f.Add("m.weight_zero_point", DType::kI32, {1, 2}, std::vector<uint32_t>{8, 7});
       },
       "tensor 'm.weight_zero_point': element 1 is -1, but symmetric is true for int4 group 4, for which 0 "
       "is"},
      {[](Json&, Files& f) {
         f.Halves("m.weight", {1, 8}, std::vector<float>(8, 1));
         f.Remove("m.weight_packed");
       },
       "tensor 'm.weight_scale' stands beside 'm.weight'"},
      {[](Json& c, Files& f) {
         f = Files();
         f.Halves("m.weight", {1, 8}, std::vector<float>(8, 1));
         c["config_groups"]["group_0"]["targets"] = {"m"};
       },
       "tensor 'm.weight': F16 and not quantized, but config group 'group_0' says that it is int4 group 4"},
      {[](Json&, Files& f) {
         f.Halves("m.compressed", {1}, {5});
         f.Add("m.bitmask", DType::kU8, {1, 1}, std::vector<uint8_t>{1});
       },
       "tensor 'm.bitmask': expected none, as sparsity_config states no sparse format"},
      {[&](Json& c, Files&) { weights(c)["group_size"] = -5; }, "group_size: expected -1 or a positive size"},
      {[&](Json& c, Files&) { weights(c)["group_size"] = 0; }, "group_size: expected a positive size"},
      {[&](Json& c, Files&) {
         weights(c)["strategy"] = "token";
         weights(c).erase("group_size");
       },
       "a weight cannot be int4 token"},
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

// What says the same twice, or nothing, is no contradiction.
TEST(CompressedTensorsTest, StatesThatAgree) {
  const std::vector<float> values = ReadFrom(Ct("pack-quantized", kFour), PackedFour(), 1, 8).values;
  ASSERT_EQ(values.size(), 8u);
  Json config = Ct("mixed-precision", kFour);
  config["config_groups"]["group_0"]["format"] = "pack-quantized";
  config["quantization_status"] = "frozen";
  config["sparsity_config"] = {{"format", "dense"}};
  config["transform_config"] = Json::object();
  config["config_groups"]["group_1"] = config["config_groups"]["group_0"];
  Files files = PackedFour();
  files.Add("m.weight_zero_point", DType::kI32, {1, 2}, std::vector<uint32_t>{8, 8});
  files.Add("m.weight_g_idx", DType::kI32, {8}, std::vector<int32_t>{0, 0, 0, 0, 1, 1, 1, 1});
  EXPECT_EQ(ReadFrom(config, files, 1, 8).values, values);
  config.erase("format");
  config["quantization_status"] = nullptr;
  config["sparsity_config"] = Json::object();
  EXPECT_EQ(ReadFrom(config, files, 1, 8).values, values);
  // A class or pattern has members that are not quantized, and a module may be ignored by name.
  Files plain;
  plain.Halves("m.weight", {1, 8}, std::vector<float>(8, 1));
  EXPECT_EQ(ReadFrom(config, plain, 1, 8).error, "plain");
  config["config_groups"]["group_0"]["targets"] = {"re:.*"};
  EXPECT_EQ(ReadFrom(config, plain, 1, 8).error, "plain");
  config["config_groups"]["group_0"]["targets"] = config["config_groups"]["group_1"]["targets"] = {"m"};
  config["ignore"] = {"re:m"};
  EXPECT_EQ(ReadFrom(config, plain, 1, 8).error, "plain");
}

TEST(CompressedTensorsTest, FormatsOfFloats) {
  Files files;
  files.Add("m.weight", DType::kF8E4M3, {1, 2}, std::vector<uint8_t>{0x38, 0x7E});
  files.Floats("m.weight_scale", {1}, {1});
  const Json args = Args(8, "float", "tensor");
  EXPECT_EQ(ReadFrom(Ct("naive-quantized", args), files, 1, 2).error, "");
  files.Floats("m.weight_zero_point", {1}, {0});  // in old files
  EXPECT_EQ(ReadFrom(Ct("float-quantized", args), files, 1, 2).error, "");
  files.Floats("m.weight_zero_point", {1}, {1});
  EXPECT_THAT(ReadFrom(Ct("float-quantized", args), files, 1, 2).error,
              HasSubstr("tensor 'm.weight_zero_point': expected zeros only"));
  files.Remove("m.weight_zero_point");
  EXPECT_THAT(ReadFrom(Ct("int-quantized", args), files, 1, 2).error,
              HasSubstr("(weight of F8_E4M3) are naive-quantized or float-quantized"));
  files.Add("m.weight_g_idx", DType::kI32, {2}, std::vector<int32_t>{0, 0});
  EXPECT_THAT(ReadFrom(Ct("float-quantized", args), files, 1, 2).error,
              HasSubstr("tensor 'm.weight_g_idx' stands beside 'm.weight'"));
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

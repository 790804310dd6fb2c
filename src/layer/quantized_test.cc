// Readers of checkpoints that other programs quantized: the test vectors of their formats, worked by hand,
// and files that are wrong in one way each.
#include "layer/quantized.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "layer/quantized_settings.h"
#include "layer/quantized_test_util.h"

namespace planish {
namespace {

using test::Files;
using test::Read;
using test::ReadFrom;
using testing::ElementsAre;
using testing::HasSubstr;

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
  EXPECT_EQ(read({{"-:x", false}, {"m", mine}}, {"-:x", "m"}).error, "");
  Json other = mine;
  other["pack_dtype"] = "int32";
  other["v2"] = true;  // an older name of gptaq
  EXPECT_EQ(read({{"m", other}}).error, "");
  other["pack_dtype"] = "int16";
  EXPECT_THAT(read({{"m", other}}).error, HasSubstr("'pack_dtype' \"int16\" of single modules is not known"));
  other = mine;
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
       "dynamic 'm': 'bitz' 4 of single modules is not known, expected bits, group_size, sym, desc_act"},
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
  Json config = Awq(2);
  config["zero_point"] = config["sym"] = true;  // as GPTQModel writes them
  EXPECT_EQ(ReadFrom(config, AwqFile(), 8, 2).values, read.values);
  config.erase("sym");
  // Without zero points, stated as 8 or not at all.
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
  // Lists that are empty say nothing.
  const Json listed = {{"modules_to_not_convert", {"gate"}}};
  EXPECT_TRUE(CheckSameSettings(listed, {{"modules_to_not_convert", Json::array()}}, "x").ok());
  EXPECT_FALSE(CheckSameSettings(listed, {{"modules_to_not_convert", {"up"}}}, "x").ok());
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
      {[](Json& c, Files&) {
         c.erase("zero_point");
         c["sym"] = true;
       },
       "but sym is true, for which 8 is expected; --ignore-config-fields quantization_config.sym reads"},
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

TEST(QuantizedTest, OtherMethods) {
  EXPECT_THAT(OpenQuantized({{"quant_method", "bitsandbytes"}}, Files().Open()).error().message,
              HasSubstr("expected gptq, awq or compressed-tensors"));
}

}  // namespace
}  // namespace planish

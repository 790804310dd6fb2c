// Readers of compressed-tensors: the test vectors of the format, worked by hand, and files that are wrong in
// one way each.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "layer/artifact.h"
#include "layer/quantized_test_util.h"

namespace planish {
namespace {

using test::Files;
using test::Read;
using test::ReadFrom;
using testing::ElementsAre;
using testing::ElementsAreArray;
using testing::HasSubstr;

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
  // Older files hold them as bytes.
  std::vector<int8_t> bytes(18);
  for (int i = 0; i < 9; ++i) {
    bytes[static_cast<size_t>(2 * i)] = static_cast<int8_t>(i - 4);
    bytes[static_cast<size_t>(2 * i + 1)] = static_cast<int8_t>(3 - i);
  }
  files.Add("m.weight_zero_point", DType::kI8, {9, 2}, bytes);
  EXPECT_EQ(ReadFrom(Ct("pack-quantized", args), files, 9, 8).values, read.values);
  bytes[3] = 8;
  files.Add("m.weight_zero_point", DType::kI8, {9, 2}, bytes);
  EXPECT_THAT(ReadFrom(Ct("pack-quantized", args), files, 9, 8).error,
              HasSubstr("tensor 'm.weight_zero_point': element 3 is 8, outside of 4 bits"));
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
  EXPECT_THAT(
      ReadFrom(config, PackedFour(), 1, 8).error,
      HasSubstr("'ignore' of the config matches it, expected a plain weight; --ignore-config-fields"));
  config["ignore"] = Json::array();
  for (auto& group : config["config_groups"]) group["targets"] = {"n"};
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
      {[&](Json& c, Files&) { weights(c)["symmetric"] = false; },
       "no tensor 'm.weight_zero_point': expected, as symmetric is false for int4 group 4"},
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

}  // namespace
}  // namespace planish

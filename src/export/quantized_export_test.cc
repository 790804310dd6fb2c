// Models to GPTQ, AWQ and compressed-tensors and back: values must be the same bits; what does not fit is
// refused by name.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>

#include "export/quantized_plan.h"
#include "export/refusals.h"
#include "export/target.h"
#include "grids/grids_test_util.h"
#include "model/model_test_util.h"

namespace planish {
namespace {

using test::TemporaryFolder;
using test::TestContext;
using test::TinyModel;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

class QuantizedExportTest : public testing::Test {
 protected:
  // Llama with two layers: hidden 64, intermediate 96, k and v of 32.
  Model Plain(const Json& changes = Json::object()) {
    TinyModel tiny;
    tiny.config.update({{"hidden_size", 64}, {"intermediate_size", 96}, {"head_dim", 16}});
    tiny.config.update(changes);
    tiny.MakeTensors();
    const std::string folder = Path("plain");
    std::filesystem::create_directories(folder);
    tiny.Write(folder);
    EXPECT_TRUE(WriteFileAtomically(JoinPath(folder, "tokenizer.json"), "{}").ok());
    return Load(folder);
  }
  // The same with the layers' linears on a grid.
  Model OnGrid(GridSpec grid, const Json& changes = Json::object()) { return OnGrid(grid, Plain(changes)); }
  Model OnGrid(GridSpec grid, Model model) {
    for (size_t i = 0; i < model.linears.size(); ++i) {
      if (!model.program.linears[i].in_layer) continue;
      Matrix& w = model.linears[i].w;
      const Mat<float> values = Reconstruct(w);
      GridMatrix m = FitGrid(run_.context, values, {}, grid, ClipSearch::kMinMax);
      EncodeAll(run_.context, values, m);
      w = PackCodes(m);
    }
    return model;
  }
  Model Load(const std::string& path) {
    auto model = LoadModel(path);
    EXPECT_TRUE(model.ok()) << (model.ok() ? "" : model.error().message);
    return model.ok() ? std::move(model).value() : Model();
  }
  Result<Converted> Convert(const Model& model, const std::string& to, Paths paths = Paths::kRefuse,
                            int64_t shard_bytes = 0) {
    return Convert(model, to, {.paths = paths, .shard_bytes = shard_bytes});
  }
  Result<Converted> Convert(const Model& model, const std::string& to, ConvertOptions options) {
    PLANISH_TRY(const ConvertTarget* target, ParseConvertTarget(to, options));
    std::filesystem::remove_all(Path("out"));
    return target->write(run_.context, model, options, Path("out"));
  }
  std::string Refusal(const Model& model, const std::string& to) {
    const auto converted = Convert(model, to);
    EXPECT_FALSE(std::filesystem::exists(Path("out")) && !converted.ok());
    return converted.ok() ? "(written)" : converted.error().message;
  }
  // Converts, loads, and compares every matrix and vector bit for bit.
  void ExpectCarried(const Model& model, const std::string& to, const ConvertOptions& options = {}) {
    const auto converted = Convert(model, to, options);
    ASSERT_TRUE(converted.ok()) << to << ": " << converted.error().message;
    const Model back = Load(Path("out"));
    ASSERT_EQ(back.linears.size(), model.linears.size());
    for (size_t i = 0; i < model.linears.size(); ++i) {
      const Mat<float> a = Reconstruct(model.linears[i].w), b = Reconstruct(back.linears[i].w);
      const auto size = static_cast<size_t>(a.rows() * a.cols());
      EXPECT_TRUE(std::equal(a.data(), a.data() + size, b.data())) << to << ": " << model.linears[i].name;
      EXPECT_EQ(Describe(back.linears[i].w), Describe(model.linears[i].w)) << to;
    }
    EXPECT_EQ(back.vectors, model.vectors);
    EXPECT_TRUE(std::filesystem::exists(Path("out/tokenizer.json")));
  }
  // The same in every format, and the logits of what comes back.
  void ExpectSameLogits(const Model& model) {
    const std::vector<int32_t> ids = {1, 17, 200, 3, 42, 7, 99, 250};
    const Mat<float> before = test::OnePass(run_.context, model, ids);
    for (const char* to : {"compressed-tensors", "gptq", "awq"}) {
      ExpectCarried(model, to);
      const Mat<float> after = test::OnePass(run_.context, Load(Path("out")), ids);
      EXPECT_TRUE(std::equal(before.data(), before.data() + before.rows() * before.cols(), after.data()))
          << to;
    }
  }
  Linear& Find(Model& model, const std::string& module) {
    const auto linear =
        std::ranges::find_if(model.linears, [&](const Linear& l) { return l.name == module + ".weight"; });
    EXPECT_NE(linear, model.linears.end()) << module;
    return *linear;
  }
  // The linear's values on a grid, whatever it was; of NVFP4 `largest` makes the unit.
  void PutOnGrid(Linear& linear, const GridSpec& grid, float factor = 1, float largest = 0) {
    Mat<float> values = Reconstruct(linear.w);
    for (int64_t k = 0; k < values.rows() * values.cols(); ++k) values.data()[k] *= factor;
    GridMatrix m = FitGrid(run_.context, values, {}, grid, ClipSearch::kMinMax, largest);
    EncodeAll(run_.context, values, m);
    linear.w = PackCodes(m);
  }
  Json Config() { return test::ReadJson(Path("out/config.json"))["quantization_config"]; }
  std::string Path(const std::string& name) const { return folder_.path() + "/" + name; }

  TestContext run_;
  TemporaryFolder folder_;
};

GridSpec Integers(int bits, int64_t group, bool symmetric) {
  return {.bits = bits, .group = group, .symmetric = symmetric};
}
GridSpec Named(const char* name, int64_t group = -1) {
  GridSpec grid = FindGrid(name).value();
  if (group >= 0) grid.group = group;
  return grid;
}

TEST_F(QuantizedExportTest, IntegersAreCarriedOver) {
  for (const bool symmetric : {true, false}) {
    for (const int bits : {2, 3, 4, 8}) {
      for (const int64_t group : {32, 0}) {
        const Model model = OnGrid(Integers(bits, group, symmetric));
        ExpectCarried(model, "gptq");
        ExpectCarried(model, "compressed-tensors");
      }
    }
    ExpectCarried(OnGrid(Integers(4, 32, symmetric)), "gptq-v1");
    ExpectCarried(OnGrid(Integers(4, 32, symmetric)), "awq");
    ExpectCarried(OnGrid(Integers(5, 32, symmetric)), "compressed-tensors");
    ExpectCarried(OnGrid(Integers(4, 64, symmetric)), "compressed-tensors");  // a short last group of 96
  }
  ExpectCarried(OnGrid(Integers(8, 0, true)), "compressed-tensors:w8a8");
}

// Groups of 128, which divide all inputs: every format decodes to the same fp32 numbers.
TEST_F(QuantizedExportTest, GroupsOf128) {
  const Json wide = {{"hidden_size", 256}, {"intermediate_size", 384}, {"head_dim", 64}};
  for (const bool symmetric : {false, true}) {
    const Model model = OnGrid(Integers(4, 128, symmetric), wide);
    for (const char* to : {"gptq", "awq", "compressed-tensors"}) ExpectCarried(model, to);
    EXPECT_EQ(Config()["config_groups"]["group_0"]["weights"]["group_size"], 128);
  }
}

// A linear too large to be rounded at once: panels of rows and of columns hold the codes of the whole, and
// neither they nor the scales are more than was asked for, rounded up to groups.
TEST_F(QuantizedExportTest, PanelsOfCodesAreThoseOfTheWhole) {
  const Mat<float> values = RandomWeights(48, 200, 3);
  const Matrix dense = DenseMatrix(values, DType::kF32);
  for (const GridSpec& grid : {Integers(4, 32, false), Integers(3, 0, true), Integers(8, 0, true),
                               Integers(4, 24, false), Named("nvfp4"), Named("mxfp4")}) {
    const CodedLinear linear{
        .id = 0, .module = "m", .matrix = &dense, .grid = grid, .rounded = true, .unit = 100};
    CodeSource at_once(run_.context), panels(run_.context, 64);
    const CodeRange all{0, 48, 0, 200};
    const auto whole = at_once.Get(linear, all);
    ASSERT_TRUE(whole.ok()) << whole.error().message;
    ASSERT_EQ(whole->matrix->rows, 48);
    const Mat<float> expected = Reconstruct(*whole->matrix);
    for (const CodeRange& range :
         {CodeRange{16, 16, 0, 200}, CodeRange{0, 48, 32, 8}, CodeRange{0, 48, 160, 40}, all}) {
      const auto panel = panels.Get(linear, range);
      ASSERT_TRUE(panel.ok()) << panel.error().message;
      const Matrix& m = *panel->matrix;
      ASSERT_TRUE((CodeRange{panel->row, m.rows, panel->col, m.cols}).Covers(range));
      EXPECT_EQ(m.rows, range.rows);
      EXPECT_LE(m.cols, (range.cols + 95) / 96 * 96 + 96);
      const Mat<float> part = Reconstruct(m);
      for (int64_t i = 0; i < m.rows; ++i) {
        const float* from = expected.row(panel->row + i) + panel->col;
        EXPECT_TRUE(std::equal(part.row(i), part.row(i) + m.cols, from)) << GridText(grid) << " row " << i;
      }
    }
    const auto scales = panels.Scales(linear), kept = at_once.Scales(linear);
    ASSERT_TRUE(scales.ok() && kept.ok());
    EXPECT_TRUE((*scales)->codes.bytes.empty() && (*kept)->codes.bytes.empty());
    EXPECT_TRUE(std::ranges::equal((*scales)->scales.bytes, (*kept)->scales.bytes)) << GridText(grid);
    EXPECT_TRUE(std::ranges::equal((*scales)->zeros.bytes, (*kept)->zeros.bytes)) << GridText(grid);
    EXPECT_FALSE((*kept)->scales.bytes.empty());
  }
}

// A trained model: codes and logits are the same bits.
TEST_F(QuantizedExportTest, RoundTripsOfTheDemo) {
  const Model model = OnGrid(Integers(4, 64, false), Load(PLANISH_SOURCE_DIR "/models/demo"));
  ExpectSameLogits(model);
}

TEST_F(QuantizedExportTest, SlowRoundTripsOfRef) {
  const std::string path = PLANISH_SHARED_DIR "/models/ref";
  if (!std::filesystem::exists(path)) GTEST_SKIP() << "no shared models here";
  const Model model = OnGrid(Integers(4, 128, false), Load(path));
  ExpectSameLogits(model);
}

TEST_F(QuantizedExportTest, FloatsAreCarriedOver) {
  ExpectCarried(OnGrid(Named("e4m3", 0)), "compressed-tensors");
  ExpectCarried(OnGrid(Named("e4m3", 0)), "compressed-tensors:fp8_dynamic");
  ExpectCarried(OnGrid(Named("mxfp4")), "compressed-tensors");
  ExpectCarried(OnGrid(Named("mxfp8")), "compressed-tensors");
}

// What compressed-tensors stores for NVFP4 comes back as itself.
TEST_F(QuantizedExportTest, NvFloat4) {
  ASSERT_TRUE(Convert(Plain(), "compressed-tensors:nvfp4a16").ok());
  std::filesystem::rename(Path("out"), Path("first"));
  const Model first = Load(Path("first"));
  EXPECT_TRUE(std::holds_alternative<Coded>(first.linears[1].w.body));
  ExpectCarried(first, "compressed-tensors");
  // The layers that a server joins have one global scale.
  const auto global = [&](const char* name) {
    return LoadElement(
        first.checkpoint.Get(std::string("model.layers.0.") + name + ".weight_global_scale")->data,
        DType::kF32, 0);
  };
  EXPECT_EQ(global("self_attn.q_proj"), global("self_attn.v_proj"));
  EXPECT_EQ(global("mlp.gate_proj"), global("mlp.up_proj"));
  EXPECT_NE(global("mlp.gate_proj"), global("mlp.down_proj"));
}

// NVFP4 as `planish compress` makes it, units powers of two: the same values by the library's order of
// operations, scale / global first, and by that of kernels, which multiply by 1 / global at the end.
TEST_F(QuantizedExportTest, NvFloat4OfOurs) {
  const Model model = OnGrid(Named("nvfp4"));
  ExpectCarried(model, "compressed-tensors");
  ExpectCarried(model, "compressed-tensors:nvfp4a16");
  EXPECT_EQ(Config()["format"], "nvfp4-pack-quantized");
  const Json weights = Config()["config_groups"]["group_0"]["weights"];
  EXPECT_EQ(weights["strategy"], "tensor_group");
  EXPECT_EQ(weights["group_size"], 16);
  EXPECT_EQ(weights["scale_dtype"], "torch.float8_e4m3fn");
  const auto files = Checkpoint::Open(Path("out"));
  ASSERT_TRUE(files.ok());
  constexpr float kLevels[] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
  for (size_t i = 0; i < model.linears.size(); ++i) {
    if (!model.program.linears[i].in_layer) continue;
    const std::string module = ModuleName(model.linears[i].name);
    const auto codes = files->Get(module + ".weight_packed"), scales = files->Get(module + ".weight_scale"),
               global = files->Get(module + ".weight_global_scale");
    ASSERT_TRUE(codes.ok() && scales.ok() && global.ok()) << module;
    EXPECT_EQ(scales->type, DType::kF8E4M3);
    const float divisor = LoadElement(global->data, DType::kF32, 0);
    const Mat<float> values = Reconstruct(model.linears[i].w);
    for (int64_t k = 0; k < values.rows() * values.cols(); ++k) {
      const auto byte = static_cast<int>(codes->data[k / 2]);
      const int code = k % 2 == 0 ? byte & 15 : byte >> 4;
      const float level = code < 8 ? kLevels[code] : -kLevels[code - 8];
      const auto fp8 = static_cast<int>(scales->data[k / 16]);
      const float scale = fp8 < 8 ? std::ldexp(float(fp8), -9) : std::ldexp(float(8 + fp8 % 8), fp8 / 8 - 10);
      ASSERT_EQ(level * (scale / divisor), values.data()[k]) << module << " " << k;
      ASSERT_EQ((level * scale) * (1.0f / divisor), values.data()[k]) << module << " " << k;
    }
  }
}

// Units that are no powers of two, as artifacts of earlier versions have them: carried where a divisor gives
// the same scales, else refused.
TEST_F(QuantizedExportTest, NvFloat4OfOtherUnits) {
  int carried = 0, refused = 0;
  float unit = 0.00029f;
  for (int k = 0; k < 12; ++k) {
    unit = std::nextafter(unit, 1.0f);
    Model model = OnGrid(Named("nvfp4"));
    for (Linear& linear : model.linears) {
      if (auto* coded = std::get_if<Coded>(&linear.w.body)) {
        coded->units = {std::as_bytes(std::span(&unit, 1)), nullptr};
      }
    }
    const std::string message = Refusal(model, "compressed-tensors");
    if (message == "(written)") {
      ++carried;
      ExpectCarried(model, "compressed-tensors");
    } else {
      ++refused;
      EXPECT_THAT(message, AllOf(HasSubstr("none gives the scales that these are multiplied to (14 layers: "),
                                 HasSubstr("`planish compress` again, which multiplies by a power of two, or "
                                           "--to hf-bf16 first")));
    }
  }
  EXPECT_GT(carried, 0);
  EXPECT_GT(refused, 0);
}

// Codes that get a low-rank path merged are rounded again under a global scale of their size, or under that
// of the codes they are joined with.
TEST_F(QuantizedExportTest, NvFloat4WithPaths) {
  Model model = OnGrid(Named("nvfp4"));
  for (const char* module : {"model.layers.0.mlp.up_proj", "model.layers.1.self_attn.o_proj"}) {
    Linear& linear = Find(model, module);
    const int64_t rows = linear.w.rows, cols = linear.w.cols;
    Mat<float> u(rows, 1), v(1, cols);
    u.Fill(0.125f);
    v.Fill(0.125f);
    Matrix path{rows, cols, ProductPart{{DenseMatrix(u, DType::kF16), DenseMatrix(v, DType::kF16)}}};
    linear.w = {rows, cols, SumPart{{linear.w, std::move(path)}}};
  }
  const auto merged = Convert(model, "compressed-tensors", Paths::kMerge);
  ASSERT_TRUE(merged.ok()) << merged.error().message;
  const Model back = Load(Path("out"));
  for (size_t i = 0; i < model.linears.size(); ++i) {
    const Mat<float> a = Reconstruct(model.linears[i].w), b = Reconstruct(back.linears[i].w);
    for (int64_t k = 0; k < a.rows() * a.cols(); ++k) EXPECT_NEAR(a.data()[k], b.data()[k], 0.14);
  }
}

// Servers join q, k, v and gate, up: what they would not load is refused, and written when asked for.
TEST_F(QuantizedExportTest, PartsOfJoinedLayers) {
  const auto expect_refused = [&](const Model& model, const char* to, const char* reason,
                                  const char* layers) {
    EXPECT_THAT(Refusal(model, to),
                AllOf(HasSubstr(reason), HasSubstr(layers), HasSubstr("or --allow mixed-fused")))
        << to;
    ExpectCarried(model, to, {.mixed_fused = true});
    const auto written = Convert(model, to, {.mixed_fused = true});
    ASSERT_TRUE(written.ok());
    const char* note = reason == std::string_view("under one of their global scales, which here differ")
                           ? "vLLM takes one of the global scales for all that it joins"
                           : "vLLM and SGLang will not load it";
    EXPECT_THAT(written->notes, testing::Contains(HasSubstr(note)));
  };
  constexpr const char* kForms = "being of different grids or orders of groups (";
  const std::string q = "model.layers.1.self_attn.q_proj", up = "model.layers.0.mlp.up_proj";
  Model bits = OnGrid(Integers(4, 32, true));
  PutOnGrid(Find(bits, q), Integers(8, 32, true));
  for (const char* to : {"gptq", "gptq-v1", "compressed-tensors"}) {
    expect_refused(bits, to, kForms,
                   "(3 layers: model.layers.1.self_attn.q_proj, model.layers.1.self_attn.k_proj, "
                   "model.layers.1.self_attn.v_proj)");
  }
  Model plain = OnGrid(Integers(4, 32, true));
  const Model values = Plain();
  Find(plain, up).w = values.linears[static_cast<size_t>(&Find(plain, up) - plain.linears.data())].w;
  for (const char* to : {"gptq", "awq", "compressed-tensors"}) {
    expect_refused(plain, to, kForms, "(2 layers: model.layers.0.mlp.gate_proj, model.layers.0.mlp.up_proj)");
  }
  // GPTQ and AWQ store zeros always, compressed-tensors where a scheme has them.
  Model zeros = OnGrid(Integers(4, 32, true));
  PutOnGrid(Find(zeros, q), Integers(4, 32, false));
  for (const char* to : {"gptq", "awq"}) ASSERT_TRUE(Convert(zeros, to).ok()) << Refusal(zeros, to);
  expect_refused(zeros, "compressed-tensors", kForms, "(3 layers: ");
  // One global scale for all parts of NVFP4.
  Model units = OnGrid(Named("nvfp4"));
  PutOnGrid(Find(units, q), Named("nvfp4"), 0.125f);
  expect_refused(units, "compressed-tensors", "under one of their global scales, which here differ",
                 "(3 layers: model.layers.1.self_attn.q_proj, model.layers.1.self_attn.k_proj");
  Model shared = OnGrid(Named("nvfp4"));
  PutOnGrid(Find(shared, q), Named("nvfp4"), 0.125f, 0.8f);
  for (const char* other : {"k_proj", "v_proj"}) {
    PutOnGrid(Find(shared, std::string("model.layers.1.self_attn.") + other), Named("nvfp4"), 1, 0.8f);
  }
  ExpectCarried(shared, "compressed-tensors");
  // Parts alike that differ from other layers: vLLM finds their entry by the joined name.
  Model alike = OnGrid(Integers(4, 32, true));
  for (const char* module : {"model.layers.0.mlp.gate_proj", "model.layers.0.mlp.up_proj"}) {
    PutOnGrid(Find(alike, module), Integers(8, 32, true));
  }
  ExpectCarried(alike, "gptq");
  EXPECT_EQ(Config()["dynamic"].size(), 3u);
  EXPECT_EQ(Config()["dynamic"]["+:^model\\.layers\\.0\\.mlp\\.gate_up_proj$"],
            Json({{"bits", 8}, {"group_size", 32}}));
  EXPECT_EQ(JoinedName("a.block_sparse_moe.experts.3.w3"), "a.block_sparse_moe.experts.3.w13");
  EXPECT_EQ(JoinedName("a.q_a_proj"), JoinedName("a.kv_a_proj_with_mqa"));
  EXPECT_EQ(JoinedName("a.mlp.down_proj"), "");
  // The experts of a layer are under one scheme.
  Model moe = OnGrid(Integers(4, 32, true), Load(PLANISH_SHARED_DIR "/models/tiny/mixtral"));
  ASSERT_TRUE(Convert(moe, "gptq").ok()) << Refusal(moe, "gptq");
  PutOnGrid(Find(moe, "model.layers.0.block_sparse_moe.experts.1.w2"), Integers(8, 32, true));
  EXPECT_THAT(
      Refusal(moe, "compressed-tensors"),
      AllOf(HasSubstr(kForms), HasSubstr("(12 layers: model.layers.0.block_sparse_moe.experts.{0-3}.w1")));
}

TEST_F(QuantizedExportTest, PlainModelsAreRounded) {
  const Model plain = Plain();
  // Weights lie in [-0.8, 0.8]: a step of int4 is 0.107, and the search for the scale may clip a step more
  // than the half that rounding costs; the widest step of E2M1 is 2/6 of the range.
  const std::pair<const char*, double> cases[] = {{"gptq", 0.16},
                                                  {"gptq-v1", 0.16},
                                                  {"awq", 0.16},
                                                  {"compressed-tensors", 0.16},
                                                  {"compressed-tensors:w4a16_asym", 0.16},
                                                  {"compressed-tensors:w8a16", 0.005},
                                                  {"compressed-tensors:w8a8", 0.005},
                                                  {"compressed-tensors:fp8_dynamic", 0.03},
                                                  {"compressed-tensors:nvfp4a16", 0.14},
                                                  {"compressed-tensors:mxfp4a16", 0.18}};
  for (const auto& [to, limit] : cases) {
    const auto converted = Convert(plain, to);
    ASSERT_TRUE(converted.ok()) << to << ": " << converted.error().message;
    EXPECT_THAT(converted->notes, testing::Contains(HasSubstr("rounded to the nearest"))) << to;
    const Model back = Load(Path("out"));
    double worst = 0;
    for (size_t i = 0; i < plain.linears.size(); ++i) {
      const Mat<float> a = Reconstruct(plain.linears[i].w), b = Reconstruct(back.linears[i].w);
      for (int64_t k = 0; k < a.rows() * a.cols(); ++k) {
        worst = std::max(worst, std::fabs(double{a.data()[k]} - b.data()[k]));
      }
    }
    EXPECT_LT(worst, limit) << to;
    EXPECT_GT(worst, 0) << to;
  }
}

TEST_F(QuantizedExportTest, ConfigsAsServersReadThem) {
  const Model model = OnGrid(Integers(4, 32, true));
  ASSERT_TRUE(Convert(model, "gptq-v1").ok());
  Json config = Config();
  EXPECT_EQ(config, test::ReadJson(Path("out/quantize_config.json")));
  EXPECT_EQ(config["quant_method"], "gptq");
  EXPECT_EQ(config["bits"], 4);
  EXPECT_EQ(config["group_size"], 32);
  EXPECT_EQ(config["sym"], true);
  EXPECT_EQ(config["desc_act"], false);
  EXPECT_EQ(config["checkpoint_format"], "gptq");
  ASSERT_TRUE(Convert(model, "awq").ok());
  config = Config();
  EXPECT_EQ(config["version"], "gemm");
  EXPECT_EQ(config["zero_point"], false);
  EXPECT_EQ(config["modules_to_not_convert"], Json({"lm_head"}));
  ASSERT_TRUE(Convert(model, "compressed-tensors").ok());
  config = Config();
  EXPECT_EQ(config["format"], "pack-quantized");
  EXPECT_EQ(config["ignore"], Json({"lm_head"}));
  const Json group = config["config_groups"]["group_0"];
  EXPECT_EQ(group["targets"], Json({"Linear"}));
  EXPECT_EQ(group["weights"]["num_bits"], 4);
  EXPECT_EQ(group["weights"]["strategy"], "group");
  EXPECT_EQ(group["weights"]["group_size"], 32);
  EXPECT_TRUE(group["input_activations"].is_null());
  ASSERT_TRUE(Convert(OnGrid(Integers(8, 0, true)), "compressed-tensors:w8a8").ok());
  EXPECT_EQ(Config()["format"], "int-quantized");
  EXPECT_EQ(Config()["config_groups"]["group_0"]["input_activations"]["dynamic"], true);
}

// Of the patterns of `dynamic` the first in the file holds; tensors and both files of settings must agree.
TEST_F(QuantizedExportTest, SettingsThatContradict) {
  ASSERT_TRUE(Convert(OnGrid(Integers(4, 32, true)), "gptq").ok());
  const std::string path = Path("out/config.json");
  const auto text = ReadTextFile(path);
  ASSERT_TRUE(text.ok());
  const auto error = [&](const std::string& dynamic, int bits = 4, const char* beside = "") {
    auto config = OrderedJson::parse(*text);
    OrderedJson& q = config["quantization_config"];
    q["dynamic"] = OrderedJson::parse(dynamic);
    q["bits"] = bits;
    std::filesystem::remove(Path("out/quantize_config.json"));
    if (*beside != '\0') {
      EXPECT_TRUE(WriteFileAtomically(Path("out/quantize_config.json"), beside).ok());
    }
    EXPECT_TRUE(WriteFileAtomically(path, DumpJson(config)).ok());
    const auto model = LoadModel(Path("out"));
    return model.ok() ? std::string() : model.error().message;
  };
  EXPECT_EQ(error("{}"), "");
  EXPECT_THAT(error("{}", 8), HasSubstr("with b = 8 from the config"));
  EXPECT_EQ(error(R"({"-:.*embed": {}, ".*layers": {"bits": 4}, "+:.*": {"bits": 8}})", 8), "");
  EXPECT_THAT(error(R"({"+:.*": {"bits": 8}, ".*layers": {"bits": 4}})", 8), HasSubstr("with b = 8"));
  EXPECT_EQ(error(R"({".*proj": {"bits": 4}, "-:.*mlp": {}})"), "");
  EXPECT_THAT(error(R"({"-:.*mlp": {}, ".*proj": {"bits": 4}})"),
              AllOf(HasSubstr("mlp.gate_proj.qweight': dynamic '-:.*mlp' says that"),
                    HasSubstr("--ignore-config-fields quantization_config.dynamic reads")));
  EXPECT_EQ(error("{}", 4, R"({"bits": 4, "group_size": 32, "sym": true})"), "");
  EXPECT_THAT(error("{}", 4, R"({"bits": 4, "group_size": 64})"),
              HasSubstr("config.json: quantization_config: group_size is 32, and quantize_config.json says "
                        "group_size 64: expected one value"));
}

TEST_F(QuantizedExportTest, MixedCodes) {
  Model model = OnGrid(Integers(4, 32, true));
  const Model eight = OnGrid(Integers(8, 32, true));
  size_t changed = 0;
  for (size_t i = 0; i < model.linears.size(); ++i) {
    if (!model.linears[i].name.ends_with("down_proj.weight")) continue;
    model.linears[i].w = eight.linears[i].w;
    ++changed;
  }
  ASSERT_EQ(changed, 2u);
  ExpectCarried(model, "gptq");
  EXPECT_EQ(Config()["dynamic"].size(), 2u);
  EXPECT_EQ(Config()["dynamic"]["+:^model\\.layers\\.1\\.mlp\\.down_proj$"]["bits"], 8);
  ExpectCarried(model, "compressed-tensors");
  EXPECT_EQ(Config()["config_groups"].size(), 2u);
  EXPECT_THAT(Refusal(model, "awq"), AllOf(HasSubstr("no grid of 4-bit integers"),
                                           HasSubstr("2 layers: model.layers.{0-1}.mlp.down_proj")));
  // A matrix that was left out of the compression stays plain.
  const Model plain = Plain();
  for (size_t i = 0; i < model.linears.size(); ++i) {
    if (model.linears[i].name.ends_with("layers.0.mlp.down_proj.weight"))
      model.linears[i].w = plain.linears[i].w;
  }
  ExpectCarried(model, "compressed-tensors");
  EXPECT_THAT(Config()["ignore"].dump(), HasSubstr("model.layers.0.mlp.down_proj"));
}

TEST_F(QuantizedExportTest, WhatDoesNotFitIsRefused) {
  EXPECT_THAT(Refusal(OnGrid(Named("nf4", 32)), "gptq"),
              AllOf(HasSubstr("GPTQ cannot hold this model:\n  nf4 g32 is no grid"), HasSubstr("14 layers")));
  EXPECT_THAT(Refusal(OnGrid(Named("nf4", 32)), "compressed-tensors"),
              HasSubstr("nf4 g32 is none of its grids"));
  GridSpec steps = Integers(4, 32, true);
  steps.scale = ScaleKind::kSteps;
  EXPECT_THAT(Refusal(OnGrid(steps), "gptq"), HasSubstr("int4 g32 sym s8 is no grid"));
  EXPECT_THAT(Refusal(OnGrid(Integers(5, 32, true)), "gptq"), HasSubstr("int5 g32 sym"));
  // Only formats that hold the codes are named.
  for (const char* to : {"gptq", "awq"}) {
    for (const GridSpec& grid : {Named("nf4", 32), steps}) {
      EXPECT_THAT(Refusal(OnGrid(grid), to),
                  AllOf(HasSubstr("; --to hf-bf16 holds decoded weights"), Not(HasSubstr("--to gptq")),
                        Not(HasSubstr("compressed-tensors"))));
    }
    EXPECT_THAT(Refusal(OnGrid(Named("mxfp4")), to), HasSubstr("; --to compressed-tensors holds it, "));
  }
  EXPECT_THAT(Refusal(OnGrid(Integers(3, 32, true)), "awq"),
              HasSubstr("; --to gptq or compressed-tensors holds it, "));
  EXPECT_THAT(Refusal(OnGrid(Integers(5, 32, true)), "gptq"),
              HasSubstr("; --to compressed-tensors holds it"));
  Model rows = OnGrid(Integers(4, 32, true));
  PutOnGrid(Find(rows, "model.layers.0.mlp.down_proj"), Integers(4, 0, true));
  EXPECT_THAT(Refusal(rows, "awq"), HasSubstr("whole rows beside groups of 32, and it has one size for all"));
  EXPECT_THAT(Refusal(OnGrid(Integers(4, 64, true)), "awq"),
              HasSubstr("96 inputs are no multiple of the group"));
  EXPECT_THAT(Refusal(OnGrid(Integers(4, 32, true)), "compressed-tensors:w8a16"),
              HasSubstr("its codes are int4 g32 sym, not int8 g32 sym"));
  // Positive weights have a zero point of 0.
  Model model = OnGrid(Integers(4, 32, false));
  for (size_t i = 0; i < model.linears.size(); ++i) {
    if (!model.linears[i].name.ends_with("layers.1.self_attn.k_proj.weight")) continue;
    Mat<float> values(32, 64);
    for (int64_t k = 0; k < 32 * 64; ++k) values.data()[k] = static_cast<float>(k % 7);
    GridMatrix m = FitGrid(run_.context, values, {}, Integers(4, 32, false), ClipSearch::kMinMax);
    EncodeAll(run_.context, values, m);
    model.linears[i].w = PackCodes(m);
  }
  EXPECT_THAT(Refusal(model, "gptq-v1"),
              AllOf(HasSubstr("no zero point of 0 (1 layer: model.layers.1.self_attn.k_proj); "
                              "--to gptq (version 2) has")));
  ExpectCarried(model, "gptq");
}

TEST_F(QuantizedExportTest, LowRankPaths) {
  Model model = OnGrid(Integers(4, 32, true));
  const Model before = OnGrid(Integers(4, 32, true));
  Linear* linear = nullptr;
  for (auto& l : model.linears) {
    if (l.name.ends_with("layers.0.mlp.up_proj.weight")) linear = &l;
  }
  ASSERT_NE(linear, nullptr);
  Mat<float> u(96, 2), v(2, 64);
  u.Fill(0.5f);
  v.Fill(0.5f);
  SumPart sum;
  sum.terms = {linear->w,
               Matrix{96, 64, ProductPart{{DenseMatrix(u, DType::kF16), DenseMatrix(v, DType::kF16)}}}};
  linear->w = {96, 64, std::move(sum)};
  EXPECT_THAT(Refusal(model, "gptq"),
              AllOf(HasSubstr("--drop paths"), HasSubstr("model.layers.0.mlp.up_proj")));
  ASSERT_TRUE(Convert(model, "gptq", Paths::kDrop).ok());
  const Model dropped = Load(Path("out"));
  const auto merged = Convert(model, "gptq", Paths::kMerge);
  ASSERT_TRUE(merged.ok()) << merged.error().message;
  EXPECT_THAT(merged->notes, testing::Contains(HasSubstr("1 layers are rounded")));
  const Model together = Load(Path("out"));
  for (size_t i = 0; i < model.linears.size(); ++i) {
    const Mat<float> a = Reconstruct(before.linears[i].w), d = Reconstruct(dropped.linears[i].w),
                     m = Reconstruct(together.linears[i].w);
    const auto size = static_cast<size_t>(a.rows() * a.cols());
    EXPECT_TRUE(std::equal(a.data(), a.data() + size, d.data()));
    if (model.linears[i].name != linear->name) continue;
    for (int64_t k = 0; k < a.rows() * a.cols(); ++k) EXPECT_NEAR(m.data()[k], a.data()[k] + 0.5f, 0.15f);
  }
}

// A model that another program quantized is compressed no further than it says: converting it again and
// loading it gives the same values, in another format.
TEST_F(QuantizedExportTest, FoldersOfDecodedWeights) {
  for (const char* from : {"gptq", "gptq-v1", "awq", "compressed-tensors", "compressed-tensors:w8a8",
                           "compressed-tensors:fp8_dynamic", "compressed-tensors:nvfp4a16"}) {
    ASSERT_TRUE(Convert(Plain(), from).ok()) << from;
    std::filesystem::remove_all(Path("codes"));
    std::filesystem::rename(Path("out"), Path("codes"));
    const Model codes = Load(Path("codes"));
    const auto converted = Convert(codes, "hf-f32");
    ASSERT_TRUE(converted.ok()) << from << ": " << converted.error().message;
    const Model decoded = Load(Path("out"));
    EXPECT_FALSE(decoded.config.contains("quantization_config")) << from;
    EXPECT_EQ(decoded.checkpoint.tensors().size(), Load(Path("plain")).checkpoint.tensors().size()) << from;
    for (size_t i = 0; i < codes.linears.size(); ++i) {
      const Mat<float> a = Reconstruct(codes.linears[i].w), b = Reconstruct(decoded.linears[i].w);
      EXPECT_TRUE(std::equal(a.data(), a.data() + a.rows() * a.cols(), b.data())) << from << " " << i;
    }
  }
}

TEST_F(QuantizedExportTest, FromFormatToFormat) {
  const Model model = OnGrid(Integers(4, 32, false));
  ASSERT_TRUE(Convert(model, "awq").ok());
  std::filesystem::rename(Path("out"), Path("awq"));
  ExpectCarried(Load(Path("awq")), "gptq");
  ExpectCarried(Load(Path("awq")), "compressed-tensors");
}

// Columns of the groups shuffled, each group as large as before.
std::vector<int32_t> ShuffledGroups(int64_t cols, int64_t group, uint32_t seed) {
  std::vector<int32_t> index;
  for (int64_t j = 0; j < cols; ++j) index.push_back(static_cast<int32_t>(j / group));
  for (size_t j = index.size(); j > 1; --j) {
    seed = seed * 1664525 + 1013904223;
    std::swap(index[j - 1], index[(seed >> 8) % j]);
  }
  return index;
}

// What rounding in the order of activations leaves: every file, read and written again, is the same tensors.
TEST_F(QuantizedExportTest, ActivationOrder) {
  for (const auto& [bits, symmetric] : {std::pair{4, true}, {3, false}, {8, false}}) {
    Model model = OnGrid(Integers(bits, 32, symmetric));
    std::vector<std::vector<int32_t>> indices;
    for (size_t i = 0; i < model.linears.size(); ++i) {
      if (!model.program.linears[i].in_layer) continue;
      Matrix& w = model.linears[i].w;
      indices.push_back(ShuffledGroups(w.cols, 32, static_cast<uint32_t>(w.cols)));
      std::get<Coded>(w.body).group_of = {std::as_bytes(std::span(indices.back())), nullptr};
    }
    ASSERT_EQ(indices.size(), 14u);
    const auto expect_same_tensors = [&](const std::string& a, const std::string& b) {
      const auto x = Checkpoint::Open(Path(a)), y = Checkpoint::Open(Path(b));
      ASSERT_TRUE(x.ok() && y.ok());
      ASSERT_EQ(x->tensors().size(), y->tensors().size());
      for (const TensorInfo* info : x->tensors()) {
        const auto p = x->Get(info->name), q = y->Get(info->name);
        ASSERT_TRUE(p.ok() && q.ok()) << info->name;
        EXPECT_TRUE(p->shape == q->shape && std::ranges::equal(p->bytes(), q->bytes())) << info->name;
      }
      EXPECT_EQ(test::ReadJson(Path(a + "/config.json")), test::ReadJson(Path(b + "/config.json")));
    };
    for (const char* to : {"gptq", "compressed-tensors"}) {
      ExpectCarried(model, to);
      const bool gptq = to == std::string("gptq");
      const Json config = Config();
      if (gptq) {
        EXPECT_EQ(config["desc_act"], true);
      } else {
        EXPECT_EQ(config["config_groups"]["group_0"]["weights"]["actorder"], "group");
      }
      const auto written = Checkpoint::Open(Path("out"));
      ASSERT_TRUE(written.ok());
      const auto view =
          written->Get(std::string("model.layers.0.self_attn.q_proj.") + (gptq ? "g_idx" : "weight_g_idx"));
      ASSERT_TRUE(view.ok()) << view.error().message;
      EXPECT_TRUE(std::ranges::equal(view->bytes(), std::as_bytes(std::span(indices[0]))));
      std::filesystem::remove_all(Path("once"));
      std::filesystem::rename(Path("out"), Path("once"));
      const Model once = Load(Path("once"));
      ExpectCarried(once, to);
      expect_same_tensors("once", "out");
      // And through the other format.
      ExpectCarried(once, gptq ? "compressed-tensors" : "gptq");
      std::filesystem::remove_all(Path("other"));
      std::filesystem::rename(Path("out"), Path("other"));
      ExpectCarried(Load(Path("other")), to);
      expect_same_tensors("once", "out");
    }
    if (bits != 4) continue;
    ExpectCarried(model, "gptq-v1");
    EXPECT_THAT(Refusal(model, "awq"),
                AllOf(HasSubstr("no index (14 layers: "),
                      HasSubstr("; --to gptq or compressed-tensors holds it, --to hf-bf16")));
    // Loaders of compressed-tensors expect groups of one size.
    indices[3][0] = 1 - indices[3][0] % 2;
    EXPECT_THAT(Refusal(model, "compressed-tensors"),
                AllOf(HasSubstr("in place of 32 (1 layer: "), HasSubstr("; --to gptq holds it")));
    ExpectCarried(model, "gptq");
  }
}

TEST_F(QuantizedExportTest, WrittenInShards) {
  const Model model = OnGrid(Integers(4, 32, true));
  for (const char* to : {"gptq", "awq", "compressed-tensors"}) {
    const auto converted = Convert(model, to, Paths::kRefuse, 20000);
    ASSERT_TRUE(converted.ok()) << converted.error().message;
    EXPECT_TRUE(std::filesystem::exists(Path("out/model.safetensors.index.json"))) << to;
    EXPECT_TRUE(std::filesystem::exists(Path("out/model-00001-of-00003.safetensors"))) << to;
    const Model back = Load(Path("out"));
    for (size_t i = 0; i < model.linears.size(); ++i) {
      const Mat<float> a = Reconstruct(model.linears[i].w), b = Reconstruct(back.linears[i].w);
      EXPECT_TRUE(std::equal(a.data(), a.data() + a.rows() * a.cols(), b.data())) << to;
    }
  }
}

TEST_F(QuantizedExportTest, ServersAreToldWhatDivides) {
  const auto converted = Convert(OnGrid(Integers(4, 32, true)), "gptq");
  ASSERT_TRUE(converted.ok());
  // 96 inputs of down_proj are three groups of 32.
  EXPECT_THAT(converted->notes,
              testing::Contains(HasSubstr("that divide it: 1; not 2: model.layers.0.mlp.down_proj "
                                          "is [64, 96] in groups of 32")));
  // Three words hold the codes of 32 outputs, which every layer has.
  const auto three = Convert(OnGrid(Integers(3, 32, true)), "gptq");
  ASSERT_TRUE(three.ok());
  EXPECT_THAT(three->notes, testing::Contains(HasSubstr("that divide it: 1; not 2: ")));
}

}  // namespace
}  // namespace planish

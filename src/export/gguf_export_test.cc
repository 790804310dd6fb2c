#include "export/gguf_export.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "formats/tokenizer.h"
#include "grids/gguf_fit.h"
#include "model/model_test_util.h"

namespace planish {
namespace {

using test::OnePass;
using test::TestContext;
using testing::HasSubstr;

// A folder of its own, gone with the test.
class GgufExportTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::temp_directory_path() / ("planish-gguf-" + std::to_string(getpid()));
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  std::string Path(const std::string& name) const { return (folder_ / name).string(); }
  Model Load(const std::string& path) {
    auto model = LoadModel(path);
    EXPECT_TRUE(model.ok()) << (model.ok() ? "" : model.error().message);
    return std::move(model).value();
  }
  // The model as a GGUF file of the type, read back.
  Model Through(const Model& model, GgufType type, const std::string& name) {
    const auto exported = ExportGguf(context_.context, model, {.type = type}, Path(name));
    EXPECT_TRUE(exported.ok()) << (exported.ok() ? "" : exported.error().message);
    return Load(Path(name));
  }
  double Difference(const Model& a, const Model& b) {
    const std::vector<int32_t> ids = {1, 17, 200, 3, 42, 7, 99, 250, 11, 5};
    const Mat<float> x = OnePass(context_.context, a, ids), y = OnePass(context_.context, b, ids);
    double worst = 0;
    for (int64_t i = 0; i < x.rows() * x.cols(); ++i) {
      worst = std::max(worst, std::fabs(double{x.data()[i]} - y.data()[i]));
    }
    return worst;
  }

  TestContext context_;
  std::filesystem::path folder_;
};

const std::string kDemo = PLANISH_SOURCE_DIR "/models/demo";

TEST_F(GgufExportTest, RoundTripsOfTheDemo) {
  const Model demo = Load(kDemo);
  // The weights are bf16: nothing is lost, logits are the same bits.
  EXPECT_EQ(Difference(demo, Through(demo, GgufType::kBF16, "bf16.gguf")), 0);
  EXPECT_EQ(Difference(demo, Through(demo, GgufType::kF32, "f32.gguf")), 0);
  EXPECT_LT(Difference(demo, Through(demo, GgufType::kF16, "f16.gguf")), 1e-3);
  const double q8 = Difference(demo, Through(demo, GgufType::kQ8_0, "q8.gguf"));
  const double q4 = Difference(demo, Through(demo, GgufType::kQ4_K, "q4.gguf"));
  EXPECT_LT(q8, 0.5);  // of logits up to about 20
  EXPECT_GT(q8, 0);
  EXPECT_LT(q8, q4);
  EXPECT_LT(q4, 5);
}

TEST_F(GgufExportTest, TheTokenizerTravels) {
  const Model demo = Load(kDemo);
  Through(demo, GgufType::kQ8_0, "q8.gguf");
  const auto own = Tokenizer::Load(kDemo), travelled = Tokenizer::Load(Path("q8.gguf"));
  ASSERT_TRUE(own.ok());
  ASSERT_TRUE(travelled.ok()) << travelled.error().message;
  for (const char* text : {"Once upon a time", "  two  spaces\n\nlines", "caf\xc3\xa9 12345"}) {
    EXPECT_EQ(*(*own)->Encode(text, true), *(*travelled)->Encode(text, true)) << text;
  }
}

// Blocks that are already of the type are copied: a second export gives the same model.
TEST_F(GgufExportTest, ASecondExportLosesNothing) {
  const Model demo = Load(kDemo);
  const Model once = Through(demo, GgufType::kQ4_0, "once.gguf");
  EXPECT_EQ(Difference(once, Through(once, GgufType::kQ4_0, "twice.gguf")), 0);
}

TEST_F(GgufExportTest, OtherFamilies) {
  for (const char* name : {"mistral", "qwen2", "qwen3"}) {
    const std::string folder = test::ModelFolder(name);
    if (!std::filesystem::exists(folder)) GTEST_SKIP() << folder << " is not here";
    const Model model = Load(folder);
    EXPECT_EQ(Difference(model, Through(model, GgufType::kBF16, std::string(name) + ".gguf")), 0) << name;
  }
}

TEST_F(GgufExportTest, WhatDoesNotFitIsRefused) {
  const auto message = [&](const Model& model) {
    const auto exported = ExportGguf(context_.context, model, {}, Path("no.gguf"));
    return exported.ok() ? std::string("no error") : exported.error().message;
  };
  Model demo = Load(kDemo);
  // A low-rank path beside a weight.
  Linear& linear = demo.linears[3];
  const int64_t rows = linear.w.rows, cols = linear.w.cols;
  Mat<float> u(rows, 2), v(2, cols);
  u.Fill(0.01f);
  v.Fill(0.01f);
  ProductPart path;
  path.factors = {DenseMatrix(u, DType::kF16), DenseMatrix(v, DType::kF16)};
  SumPart sum;
  sum.terms = {linear.w, Matrix{rows, cols, std::move(path)}};
  linear.w = {rows, cols, std::move(sum)};
  EXPECT_THAT(message(demo), HasSubstr(linear.name));
  EXPECT_FALSE(std::filesystem::exists(Path("no.gguf")));
  const auto merged =
      ExportGguf(context_.context, demo, {.type = GgufType::kF32, .merge = true}, Path("m.gguf"));
  ASSERT_TRUE(merged.ok()) << merged.error().message;
  EXPECT_LT(Difference(demo, Load(Path("m.gguf"))), 1e-3);
  const auto dropped =
      ExportGguf(context_.context, demo, {.type = GgufType::kBF16, .drop_paths = true}, Path("d.gguf"));
  ASSERT_TRUE(dropped.ok()) << dropped.error().message;
  EXPECT_EQ(Difference(Load(kDemo), Load(Path("d.gguf"))), 0);
}

TEST(FitGgufType, FallsBackAsLlamaCpp) {
  EXPECT_EQ(FitGgufType(GgufType::kQ4_K, 512), GgufType::kQ4_K);
  EXPECT_EQ(FitGgufType(GgufType::kQ4_K, 704), GgufType::kQ5_0);
  EXPECT_EQ(FitGgufType(GgufType::kQ2_K, 704), GgufType::kIQ4_NL);
  EXPECT_EQ(FitGgufType(GgufType::kQ3_K, 704), GgufType::kIQ4_NL);
  EXPECT_EQ(FitGgufType(GgufType::kQ5_K, 704), GgufType::kQ5_1);
  EXPECT_EQ(FitGgufType(GgufType::kQ6_K, 704), GgufType::kQ8_0);
  EXPECT_EQ(FitGgufType(GgufType::kQ8_0, 33), GgufType::kF16);
}

}  // namespace
}  // namespace planish

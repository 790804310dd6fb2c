// Whole compressions of the demo model on a small set: the same bytes for any number of threads, after
// an interruption anywhere, and in the strict profile on every kernel set.
#include "pipeline/compress.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <filesystem>

#include "base/file.h"
#include "base/hash.h"
#include "calibrate/token_windows.h"
#include "formats/tokenizer.h"
#include "methods/options.h"
#include "model/model.h"
#include "pipeline/stop_at_test_util.h"

namespace planish {
namespace {

class CompressDemo : public testing::Test {
 protected:
  void SetUp() override {
    const std::string folder = PLANISH_SOURCE_DIR "/models/demo";
    const auto text = ReadTextFile(PLANISH_SOURCE_DIR "/models/text/sample.txt");
    const auto tokenizer = Tokenizer::Load(folder);
    ASSERT_TRUE(text.ok() && tokenizer.ok());
    const auto tokens = (*tokenizer)->Encode(*text);
    ASSERT_TRUE(tokens.ok());
    set_ = CalibrationSet::Make(*ChooseWindows(*tokens, 6, 64, 0));
    set_.windows_per_chunk = 2;  // three chunks, so that order matters
    base_ = testing::TempDir() + "planish_compress_" + std::to_string(getpid());
    std::filesystem::create_directories(base_);
    recipe_.stages.push_back(
        {FindStage("gptq"),
         *ResolveOptions(*FindStage("gptq"),
                         {{"bits", int64_t{3}}, {"group", int64_t{64}}, {"refit", int64_t{1}}})});
    recipe_.stages.push_back({FindStage("eora"), *ResolveOptions(*FindStage("eora"), {{"path_bits", 0.3}})});
  }
  void TearDown() override { std::filesystem::remove_all(base_); }

  std::string Path(const std::string& name) const { return base_ + "/" + name; }

  Result<CompressResult> Run(const std::string& name, int threads, Isa isa, Profile profile, StopAt* progress,
                             int64_t state_memory = 1 << 20) {
    auto model = LoadModel(PLANISH_SOURCE_DIR "/models/demo");
    if (!model.ok()) return model.error();
    ThreadPool pool(threads);
    Context context;
    context.pool = &pool;
    context.isa = isa;
    context.profile = profile;
    if (progress != nullptr) {
      context.progress = progress;
      context.cancel = &progress->cancel;
    }
    return Compress(context, *model, set_, recipe_, {.output = Path(name), .state_memory = state_memory});
  }

  std::string Hash(const std::string& name) const {
    Sha256 hash;
    for (const char* file : {"model.safetensors", "config.json", "planish.json", "tokenizer.json"}) {
      const auto mapped = MappedFile::Open(Path(name) + "/" + file);
      EXPECT_TRUE(mapped.ok()) << mapped.error().message;
      if (mapped.ok()) hash.Update((*mapped)->bytes());
    }
    return hash.Hex();
  }

  std::string base_;
  CalibrationSet set_;
  Recipe recipe_;
};

TEST_F(CompressDemo, SameBytesForAnyThreadsAndMemory) {
  for (int threads : {1, 2, 3, 5}) {
    const std::string name = "t" + std::to_string(threads);
    const auto result = Run(name, threads, BestIsa(), Profile::kFast, nullptr, threads == 2 ? 0 : 1 << 24);
    ASSERT_TRUE(result.ok()) << result.error().message;
    EXPECT_EQ(result->layers.size(), 42u);
    EXPECT_EQ(Hash(name), Hash("t1")) << threads;
    EXPECT_FALSE(DirectoryExists(Path(name) + ".partial"));
  }
}

TEST_F(CompressDemo, SolvedLossesFallAndThePathHelps) {
  const auto result = Run("losses", 2, BestIsa(), Profile::kFast, nullptr);
  ASSERT_TRUE(result.ok()) << result.error().message;
  double nearest = 0, rounded = 0, compensated = 0;
  for (const auto& layer : result->layers) {
    nearest += layer["loss_nearest"].get<double>();
    rounded += layer["steps"][0]["loss"].get<double>();
    compensated += layer["steps"][1]["loss"].get<double>();
    EXPECT_LE(layer["steps"][1]["loss"].get<double>(), layer["steps"][0]["loss"].get<double>() * (1 + 1e-6));
  }
  EXPECT_LT(rounded, 0.8 * nearest);
  EXPECT_LT(compensated, 0.97 * rounded);
  const auto model = LoadModel(Path("losses"));
  ASSERT_TRUE(model.ok()) << model.error().message;
  EXPECT_NEAR(model->LinearBitsPerWeight(), 3 + 19.0 / 64 + 0.3, 0.05);
}

TEST_F(CompressDemo, InterruptedAnywhereItGoesOnToTheSameBytes) {
  StopAt never(-1);
  ASSERT_TRUE(Run("whole", 2, BestIsa(), Profile::kFast, &never).ok());
  for (int stop = 1; stop < never.count(); stop += never.count() / 7) {
    const std::string name = "stop" + std::to_string(stop);
    StopAt at(stop);
    const auto first = Run(name, 2, BestIsa(), Profile::kFast, &at);
    ASSERT_FALSE(first.ok());
    EXPECT_EQ(first.error().code, Code::kInterrupted);
    EXPECT_FALSE(DirectoryExists(Path(name)));
    const auto second = Run(name, 1, BestIsa(), Profile::kFast, nullptr);
    ASSERT_TRUE(second.ok()) << second.error().message;
    EXPECT_EQ(Hash(name), Hash("whole")) << stop;
  }
}

// Outliers, tables and biases are parts like any other: stored with their block, read back as they were, and
// counted.
TEST_F(CompressDemo, OutliersTablesAndBiasesGoOnAndComeBack) {
  recipe_.stages.clear();
  recipe_.stages.push_back(
      {FindStage("gptq"), *ResolveOptions(*FindStage("gptq"), {{"grid", std::string("table3")},
                                                               {"group", int64_t{64}},
                                                               {"sparse", 0.5},
                                                               {"refit", int64_t{1}}})});
  recipe_.stages.push_back({FindStage("bias"), *ResolveOptions(*FindStage("bias"), {})});
  const auto whole = Run("parts", 2, BestIsa(), Profile::kFast, nullptr);
  ASSERT_TRUE(whole.ok()) << whole.error().message;
  StopAt stop(60);
  const auto stopped = Run("parts_again", 1, BestIsa(), Profile::kFast, &stop);
  ASSERT_FALSE(stopped.ok());
  const auto resumed = Run("parts_again", 2, BestIsa(), Profile::kFast, nullptr);
  ASSERT_TRUE(resumed.ok()) << resumed.error().message;
  EXPECT_EQ(Hash("parts"), Hash("parts_again"));
  const auto model = LoadModel(Path("parts"));
  ASSERT_TRUE(model.ok()) << model.error().message;
  int64_t bytes = 0;
  for (const auto& layer : whole->layers) {
    bytes += layer["bytes"].get<int64_t>();
    const auto& steps = layer["steps"];
    // Rounded under the covariance, whose loss the bias then reaches.
    EXPECT_NEAR(steps[1]["loss"].get<double>(), steps[0]["loss"].get<double>(),
                0.02 * steps[0]["loss"].get<double>());
  }
  const double weights = static_cast<double>(model->program.LinearWeights());
  EXPECT_DOUBLE_EQ(model->LinearBitsPerWeight(), 8.0 * static_cast<double>(bytes) / weights);
  for (size_t i = 0; i < model->linears.size(); ++i) {
    if (!model->program.linears[i].in_layer) continue;
    EXPECT_TRUE(model->linears[i].own_bias);
    EXPECT_EQ(Describe(model->linears[i].w).substr(0, 10), "table3 g64");
  }
}

TEST_F(CompressDemo, AnUnfinishedRunWithOtherSettingsIsNotTouched) {
  StopAt at(60);
  ASSERT_FALSE(Run("other", 2, BestIsa(), Profile::kFast, &at).ok());
  recipe_.calibration.seed = 1;
  const auto second = Run("other", 2, BestIsa(), Profile::kFast, nullptr);
  ASSERT_FALSE(second.ok());
  EXPECT_EQ(second.error().code, Code::kInput);
  EXPECT_NE(second.error().message.find("differs in: recipe"), std::string::npos) << second.error().message;
  EXPECT_TRUE(DirectoryExists(Path("other") + ".partial"));
}

TEST_F(CompressDemo, AnExistingOutputIsNotTouched) {
  ASSERT_TRUE(WriteFileAtomically(Path("taken"), "mine").ok());
  const auto result = Run("taken", 2, BestIsa(), Profile::kFast, nullptr);
  ASSERT_FALSE(result.ok());
  EXPECT_NE(result.error().message.find("already exists"), std::string::npos);
  EXPECT_EQ(*ReadTextFile(Path("taken")), "mine");
}

TEST_F(CompressDemo, IndependentModeSkipsAndRules) {
  recipe_.mode = Recipe::Mode::kIndependent;
  recipe_.rules.push_back({.match = "*.v_proj.weight", .skip = true});
  recipe_.rules.push_back({.match = "*.down_proj.weight", .options = {{"bits", int64_t{5}}}});
  recipe_.head_bits = 8;
  const auto result = Run("rules", 2, BestIsa(), Profile::kFast, nullptr);
  ASSERT_TRUE(result.ok()) << result.error().message;
  EXPECT_EQ(result->layers.size(), 42u - 6u + 1u);
  const auto model = LoadModel(Path("rules"));
  ASSERT_TRUE(model.ok()) << model.error().message;
  for (const auto& linear : model->linears) {
    const std::string parts = Describe(linear.w);
    const std::string expected = linear.name.find("v_proj") != std::string::npos      ? "bf16"
                                 : linear.name.find("down_proj") != std::string::npos ? "int5 g64"
                                 : linear.name.find("embed") != std::string::npos     ? "int8 g128"
                                                                                      : "int3 g64";
    EXPECT_TRUE(parts.starts_with(expected)) << linear.name << ": " << parts;
  }
}

// Of the strict result on every machine. A change of it is a change of every strict artifact.
constexpr char kStrictArtifact[] = "3b1a12f19dd676db73955cad05ebe89f3580e189d77f93c5e6023497878c0534";

TEST_F(CompressDemo, StrictGivesTheSameBytesOnEveryKernelSet) {
  set_.windows.resize(2);  // the scalar set is slow
  for (auto& window : set_.windows) window.resize(24);
  set_.windows_per_chunk = 1;
  recipe_.stages[0].options =
      *ResolveOptions(*FindStage("gptq"), {{"bits", int64_t{3}}, {"refit", int64_t{0}}});
  for (int layer = 2; layer < 6; ++layer) {
    recipe_.rules.push_back({.match = "*.layers." + std::to_string(layer) + ".*", .skip = true});
  }
  recipe_.rules.push_back({.match = "*.mlp.*", .skip = true});
  for (Isa isa : {Isa::kAvx512, Isa::kAvx2, Isa::kScalar}) {
    if (!IsaSupported(isa)) {
      std::printf("skipped: %s (this machine has: %s)\n", std::string(IsaName(isa)).c_str(),
                  SupportedIsas().c_str());
      continue;
    }
    const std::string name = "strict_" + std::string(IsaName(isa));
    const auto result = Run(name, 2, isa, Profile::kStrict, nullptr);
    ASSERT_TRUE(result.ok()) << result.error().message;
    EXPECT_EQ(Hash(name), kStrictArtifact) << IsaName(isa);
    std::printf("ran: %s\n", std::string(IsaName(isa)).c_str());
  }
}

}  // namespace
}  // namespace planish

// Compression of one small model of every structural kind: fused and transposed tensors, learned positions,
// experts, state-space layers. And what is special about experts: one pass for all of a layer, statistics of
// rare ones.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>

#include "base/hash.h"
#include "methods/options.h"
#include "model/model_test_util.h"
#include "pipeline/calibrate_model.h"
#include "pipeline/compress.h"
#include "pipeline/stop_at_test_util.h"

namespace planish {
namespace {

using test::MaxAbs;
using test::MaxDifference;
using test::MeanLoss;
using test::ModelFolder;
using test::OnePass;
using test::TemporaryFolder;
using test::TestContext;
using testing::HasSubstr;

CalibrationSet RandomSet(const Model& model, int64_t windows, int64_t length) {
  std::vector<std::vector<int32_t>> ids;
  for (int64_t w = 0; w < windows; ++w) {
    const Random random(5, static_cast<uint64_t>(w));
    auto& window = ids.emplace_back();
    for (int64_t i = 0; i < length; ++i) {
      window.push_back(static_cast<int32_t>(random.Uniform(static_cast<uint64_t>(i)) *
                                            static_cast<double>(model.program.vocab)));
    }
  }
  CalibrationSet set = CalibrationSet::Make(std::move(ids));
  set.windows_per_chunk = 2;
  return set;
}

Recipe EightBits() {
  Recipe recipe;
  recipe.states = Recipe::States::kFp32;
  recipe.stages.push_back({FindStage("gptq"), *ResolveOptions(*FindStage("gptq"), {{"bits", int64_t{8}},
                                                                                   {"group", int64_t{32}},
                                                                                   {"refit", int64_t{0}}})});
  return recipe;
}

std::string Hash(const std::string& folder) {
  Sha256 hash;
  for (const char* file : {"model.safetensors", "config.json", "planish.json"}) {
    const auto mapped = MappedFile::Open(JoinPath(folder, file));
    EXPECT_TRUE(mapped.ok()) << mapped.error().message;
    if (mapped.ok()) hash.Update((*mapped)->bytes());
  }
  return hash.Hex();
}

class EveryKind : public testing::TestWithParam<const char*> {};

TEST_P(EveryKind, CompressesAndLoadsBack) {
  const TestContext run;
  const TemporaryFolder folder;
  const std::string source = ModelFolder(GetParam());
  auto model = LoadModel(source);
  ASSERT_TRUE(model.ok()) << model.error().message;
  const CalibrationSet set = RandomSet(*model, 6, 40);
  const auto ids = RandomSet(*model, 9, 48).windows.back();
  const Mat<float> original = OnePass(run.context, *model, ids);
  const Recipe recipe = EightBits();
  for (const auto mode : {Recipe::Mode::kSequential, Recipe::Mode::kIndependent}) {
    if (mode == Recipe::Mode::kIndependent && !std::string(GetParam()).starts_with("tiny/"))
      continue;  // slow
    SCOPED_TRACE(mode == Recipe::Mode::kSequential ? "sequential" : "independent");
    Recipe own = recipe;
    own.mode = mode;
    auto fresh = LoadModel(source);
    ASSERT_TRUE(fresh.ok());
    const std::string output = folder.path() + (mode == Recipe::Mode::kSequential ? "/s" : "/i");
    const auto result = Compress(run.context, *fresh, set, own, {.output = output});
    ASSERT_TRUE(result.ok()) << result.error().message;
    size_t linears = 0;
    for (const auto& slot : fresh->program.linears) linears += slot.in_layer && !slot.keep ? 1 : 0;
    EXPECT_EQ(result->layers.size(), linears);
    const Mat<float> compressed = OnePass(run.context, *fresh, ids);
    EXPECT_GT(MaxDifference(original, 0, compressed), 0);
    EXPECT_NEAR(MeanLoss(compressed, ids), MeanLoss(original, ids), 0.02 * MeanLoss(original, ids));
    const auto loaded = LoadModel(output);
    ASSERT_TRUE(loaded.ok()) << loaded.error().message;
    EXPECT_EQ(MaxDifference(compressed, 0, OnePass(run.context, *loaded, ids)), 0);
    for (size_t i = 0; i < loaded->linears.size(); ++i) {
      const auto& slot = loaded->program.linears[i];
      EXPECT_EQ(Describe(loaded->linears[i].w).starts_with("int8"), slot.in_layer && !slot.keep)
          << slot.weight;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Kinds, EveryKind,
                         testing::Values("tiny/mixtral", "tiny/deepseek_v2", "tiny/qwen2_moe", "tiny/phi3",
                                         "tiny/falcon", "tiny/cohere", "tiny/mamba2", "moe", "opt", "gpt2"),
                         [](const auto& tested) {
                           std::string name = tested.param;
                           std::ranges::replace(name, '/', '_');
                           return name;
                         });

class Experts : public testing::Test {
 protected:
  Result<CompressResult> Run(const std::string& name, int threads, StopAt* stop,
                             Recipe::Mode mode = Recipe::Mode::kSequential,
                             const StatisticsFile* statistics = nullptr) {
    auto model = LoadModel(ModelFolder(model_));
    if (!model.ok()) return model.error();
    TestContext run(BestIsa(), Profile::kFast, threads);
    if (stop != nullptr) {
      run.context.progress = stop;
      run.context.cancel = &stop->cancel;
    }
    Recipe recipe = EightBits();
    recipe.mode = mode;
    return Compress(
        run.context, *model, RandomSet(*model, 4, length_), recipe,
        {.output = folder_.path() + "/" + name, .state_memory = 1 << 20, .statistics = statistics});
  }
  std::string HashOf(const std::string& name) const { return Hash(folder_.path() + "/" + name); }
  // 20 tokens to 3 of 8 experts: some have fewer than 8, an eighth of the width.
  const char* model_ = "tiny/qwen2_moe";
  int64_t length_ = 5;
  TemporaryFolder folder_;
};

TEST_F(Experts, InterruptedAnywhereTheyGoOnToTheSameBytes) {
  StopAt never(-1);
  ASSERT_TRUE(Run("whole", 2, &never).ok());
  for (int stop = 3; stop < never.count(); stop += never.count() / 9) {
    const std::string name = fmt::format("stop{}", stop);
    StopAt at(stop);
    ASSERT_FALSE(Run(name, 1, &at).ok());
    const auto second = Run(name, 3, nullptr);
    ASSERT_TRUE(second.ok()) << second.error().message;
    EXPECT_EQ(HashOf(name), HashOf("whole")) << stop;
  }
}

// 160 tokens to 2 of 8 experts: some get fewer than 32, an eighth of the width.
TEST_F(Experts, ReportTokensAndFallback) {
  model_ = "moe";
  length_ = 40;
  StopAt notes(-1);
  const auto result = Run("report", 2, &notes);
  ASSERT_TRUE(result.ok()) << result.error().message;
  std::map<std::string, int64_t> tokens;  // by layer
  int rare = 0;
  for (const auto& layer : result->layers) {
    const auto name = layer["name"].get<std::string>();
    EXPECT_EQ(layer.contains("tokens"), name.find(".experts.") != std::string::npos) << name;
    if (!layer.contains("tokens")) continue;
    const auto seen = layer["tokens"].get<int64_t>();
    if (name.ends_with("gate_proj.weight")) tokens[name.substr(0, name.find(".mlp"))] += seen;
    EXPECT_EQ(layer.contains("warnings"), seen < 32) << name << " " << seen;
    if (!layer.contains("warnings")) continue;
    ++rare;
    const std::string warning = layer["warnings"][0].get<std::string>();
    EXPECT_THAT(warning, testing::StartsWith(
                             fmt::format("{} of 160 tokens were routed to this expert, too few", seen)));
    EXPECT_THAT(notes.notes, testing::Contains(HasSubstr(name + ": " + warning)));
  }
  EXPECT_GT(rare, 0);
  EXPECT_EQ(tokens.size(), 4u);
  for (const auto& [layer, count] : tokens) EXPECT_EQ(count, 2 * 160) << layer;
}

TEST_F(Experts, StatisticsOfAFileGiveTheSameBytes) {
  const auto model = LoadModel(ModelFolder(model_));
  ASSERT_TRUE(model.ok());
  const TestContext run;
  const auto set = RandomSet(*model, 4, length_);
  const auto statistics = CalibrateModel(run.context, *model, set, folder_.path() + "/spill", 1 << 20);
  ASSERT_TRUE(statistics.ok()) << statistics.error().message;
  const std::string path = folder_.path() + "/statistics";
  ASSERT_TRUE(SaveStatistics(path, *statistics).ok());
  const auto read = LoadStatistics(path);
  ASSERT_TRUE(read.ok()) << read.error().message;
  ASSERT_TRUE(Run("file", 2, nullptr, Recipe::Mode::kIndependent, &*read).ok());
  ASSERT_TRUE(Run("pass", 2, nullptr, Recipe::Mode::kIndependent).ok());
  EXPECT_EQ(HashOf("file"), HashOf("pass"));
}

// All moments of one block, by site.
std::map<std::string, Moments> BlockMoments(const Model& model, const CalibrationSet& set,
                                            int64_t moment_bytes, bool sequential) {
  const TestContext run;
  const TemporaryFolder folder;
  StateStore store(StateType::kF32, set.chunks(), set.ChunkRows(0) * WidestCut(model.program) * 4, 1 << 20,
                   folder.path() + "/spill");
  BlockDriver driver(model, set, store);
  driver.moment_bytes = moment_bytes;
  EXPECT_TRUE(driver.Embed(run.context).ok());
  std::map<std::string, Moments> moments;
  const auto keep = [&](const Site& site, Moments m) -> Status {
    EXPECT_TRUE(moments.emplace(site.name, std::move(m)).second) << site.name;
    return {};
  };
  const Status done =
      sequential ? driver.Sequential(run.context, 1, keep) : driver.Independent(run.context, 1, keep);
  EXPECT_TRUE(done.ok()) << done.error().message;
  return moments;
}

double Largest(MatView<const float> m) {
  double largest = 0;
  for (int64_t i = 0; i < m.rows * m.cols; ++i) largest = std::max(largest, std::abs(double{m.data[i]}));
  return largest;
}

// Sites in one pass, in a pass each, sequential and independent: the same moments as long as nothing is
// solved.
TEST(ExpertMoments, DoNotDependOnThePasses) {
  const auto model = LoadModel(ModelFolder("tiny/qwen2_moe"));
  ASSERT_TRUE(model.ok());
  for (const int64_t length : {40, 5}) {  // the second: all experts are rare
    const auto set = RandomSet(*model, 5, length);
    const auto expected = BlockMoments(*model, set, 1 << 30, true);
    EXPECT_EQ(expected.size(), 2u + 2 * 8 + 2);  // q k v, o, two an expert, two of the shared one
    for (const auto& [bytes, sequential] :
         {std::pair{int64_t{1}, true}, {int64_t{1} << 30, false}, {1, false}}) {
      const auto moments = BlockMoments(*model, set, bytes, sequential);
      ASSERT_EQ(moments.size(), expected.size());
      for (const auto& [name, m] : moments) {
        const Moments& e = expected.at(name);
        EXPECT_EQ(m.count(), e.count()) << name;
        EXPECT_EQ(m.seen(), e.seen()) << name;
        EXPECT_EQ(m.is_fallback(), e.is_fallback()) << name;
        EXPECT_EQ(m.mean_sum(), e.mean_sum()) << name;
        Mat<float> difference(m.width(), m.width());
        for (int64_t i = 0; i < m.width() * m.width(); ++i) {
          difference.data()[i] = m.square_sum().data[i] - e.square_sum().data[i];
        }
        EXPECT_EQ(Largest(difference), 0) << name;
      }
    }
  }
}

// The fallback by its definition, in double: E[p x x^T] / E[p] over all tokens, p the router's softmax.
TEST(ExpertMoments, RareOnesAreThoseOfAllTokensByScore) {
  const auto model = LoadModel(ModelFolder("tiny/mixtral"));
  ASSERT_TRUE(model.ok());
  const auto set = RandomSet(*model, 1, 9);
  const auto moments = BlockMoments(*model, set, 1 << 30, true);
  // The block by hand up to the router.
  const TestContext run;
  Executor executor(*model);
  DenseCache cache(model->program.cache_layers, 1, 9);
  const Batch batch = Batch::Of(set.windows[0]);
  const Block& block = model->program.blocks[1];
  Mat<float> hidden;
  ASSERT_TRUE(executor.RunBlock(run.context, model->program.blocks[0], batch, cache, hidden).ok());
  Values values(block.values.size());
  values[static_cast<size_t>(block.input)] = std::move(hidden);
  int op = 0;
  while (!std::holds_alternative<RouteOp>(block.ops[static_cast<size_t>(op)].body)) ++op;
  ASSERT_TRUE(executor.RunOps(run.context, block, 0, op, batch, cache, values).ok());
  const auto value = [&](ValueId id) -> const Mat<float>& { return values[static_cast<size_t>(id)]; };
  const Mat<float>& logits = value(block.ops[static_cast<size_t>(op)].inputs[0]);
  const Mat<float>& h = value(block.Maker(block.ops[static_cast<size_t>(op)].inputs[0])->inputs[0]);
  const auto weight = [&](const std::string& name) -> Mat<float> {
    for (const auto& linear : model->linears) {
      if (linear.name == name) return Reconstruct(linear.w);
    }
    ADD_FAILURE() << name;
    return {};
  };
  for (int64_t e = 0; e < 4; ++e) {
    const std::string prefix = fmt::format("model.layers.0.block_sparse_moe.experts.{}.", e);
    const Mat<float> w1 = weight(prefix + "w1.weight"), w3 = weight(prefix + "w3.weight");
    const auto inter = static_cast<size_t>(w1.rows());
    std::vector<double> in_sum(64 * 64), mid_sum(inter * inter);
    double total = 0;
    for (int64_t t = 0; t < 9; ++t) {
      double sum = 0;
      for (int64_t j = 0; j < 4; ++j) sum += std::exp(double{logits(t, j)});
      const double p = std::exp(double{logits(t, e)}) / sum;
      total += p;
      std::vector<double> middle;
      for (int64_t i = 0; i < w1.rows(); ++i) {
        double gate = 0, up = 0;
        for (int64_t j = 0; j < 64; ++j) {
          gate += double{w1(i, j)} * double{h(t, j)};
          up += double{w3(i, j)} * double{h(t, j)};
        }
        middle.push_back(gate / (1 + std::exp(-gate)) * up);
      }
      for (int64_t i = 0; i < 64; ++i) {
        for (int64_t j = 0; j < 64; ++j) {
          in_sum[static_cast<size_t>(i * 64 + j)] += p * double{h(t, i)} * double{h(t, j)};
        }
      }
      for (size_t i = 0; i < inter; ++i) {
        for (size_t j = 0; j < inter; ++j) mid_sum[i * inter + j] += p * middle[i] * middle[j];
      }
    }
    const auto check = [&](const std::string& site, const std::vector<double>& sum) {
      const Moments& m = moments.at(prefix + site);
      ASSERT_TRUE(m.is_fallback()) << site;
      EXPECT_LT(m.seen(), 8);
      EXPECT_EQ(m.count(), 9);
      const Mat<float> got = m.MeanSquare();
      const double scale = Largest(got);
      for (size_t i = 0; i < sum.size(); ++i)
        EXPECT_NEAR(got.data()[i], sum[i] / total, 1e-5 * scale) << site;
    };
    // A token more and the expert is not rare.
    if (!moments.at(prefix + "w1.weight").is_fallback()) continue;
    check("w1.weight", in_sum);
    check("w2.weight", mid_sum);
  }
  EXPECT_GT(std::ranges::count_if(moments, [](const auto& m) { return m.second.is_fallback(); }), 0);
}

}  // namespace
}  // namespace planish

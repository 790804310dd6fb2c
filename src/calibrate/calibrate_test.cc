// Windows of the calibration text, moments and their file, and the sites they belong to.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <limits>
#include <numeric>

#include "base/random.h"
#include "calibrate/moments.h"
#include "calibrate/sites.h"
#include "calibrate/token_windows.h"
#include "formats/safetensors.h"
#include "model/model.h"

namespace planish {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::vector<int32_t> Ascending(int64_t count) {
  std::vector<int32_t> tokens(static_cast<size_t>(count));
  std::iota(tokens.begin(), tokens.end(), 0);
  return tokens;
}

TEST(ChooseWindowsTest, OneWindowInEachStratum) {
  const auto tokens = Ascending(1003);  // a token is its own position
  for (const uint64_t seed : {0, 1, 77}) {
    const auto windows = ChooseWindows(tokens, 7, 20, seed);
    ASSERT_TRUE(windows.ok()) << windows.error().message;
    ASSERT_EQ(windows->size(), 7u);
    for (int64_t i = 0; i < 7; ++i) {
      const auto& window = (*windows)[static_cast<size_t>(i)];
      ASSERT_EQ(window.size(), 20u);
      EXPECT_GE(window.front(), i * 1003 / 7);
      EXPECT_LT(window.back(), (i + 1) * 1003 / 7);
      for (size_t k = 1; k < 20; ++k) EXPECT_EQ(window[k], window[k - 1] + 1);
    }
  }
}

TEST(ChooseWindowsTest, TheSeedDecides) {
  const auto tokens = Ascending(100'000);
  const auto a = ChooseWindows(tokens, 16, 64, 5), b = ChooseWindows(tokens, 16, 64, 5),
             c = ChooseWindows(tokens, 16, 64, 6);
  ASSERT_TRUE(a.ok() && b.ok() && c.ok());
  EXPECT_EQ(*a, *b);
  EXPECT_NE(*a, *c);
}

TEST(ChooseWindowsTest, EveryPlaceOfAStratumIsReached) {
  const auto tokens = Ascending(12);  // one stratum of 12: windows of 10 begin at 0, 1 or 2
  std::vector<int> hits(3);
  for (uint64_t seed = 0; seed < 60; ++seed) {
    const auto windows = ChooseWindows(tokens, 1, 10, seed);
    ASSERT_TRUE(windows.ok());
    ++hits.at(static_cast<size_t>(windows->front().front()));
  }
  for (const int h : hits) EXPECT_GT(h, 0);
}

TEST(ChooseWindowsTest, ATextThatJustFitsIsUsedWhole) {
  const auto tokens = Ascending(15);
  const auto windows = ChooseWindows(tokens, 3, 5, 9);
  ASSERT_TRUE(windows.ok());
  std::vector<int32_t> joined;
  for (const auto& w : *windows) joined.insert(joined.end(), w.begin(), w.end());
  EXPECT_EQ(joined, tokens);
}

TEST(ChooseWindowsTest, Errors) {
  const auto tokens = Ascending(14);
  constexpr int64_t kHuge = std::numeric_limits<int64_t>::max();
  const auto message = [&](std::span<const int32_t> text, int64_t windows, int64_t length) {
    const auto chosen = ChooseWindows(text, windows, length, 0);
    EXPECT_FALSE(chosen.ok());
    return chosen.ok() ? "" : chosen.error().message;
  };
  EXPECT_THAT(message(tokens, 3, 5), HasSubstr("14 tokens, too few for 3 windows of 5"));
  EXPECT_THAT(message(tokens, 3, 5), HasSubstr("at most 2 windows"));
  EXPECT_THAT(message({}, 1, 2), HasSubstr("the text is empty"));
  EXPECT_THAT(message(tokens, 0, 5), HasSubstr("expected at least 1 window of 2 tokens, found 0 of 5"));
  EXPECT_THAT(message(tokens, -1, 5), HasSubstr("found -1 of 5"));
  EXPECT_THAT(message(tokens, 1, 1), HasSubstr("found 1 of 1"));
  EXPECT_THAT(message(tokens, kHuge, kHuge), HasSubstr("too few"));
}

Mat<float> RandomInput(int64_t tokens, int64_t width, uint64_t seed) {
  const Random random(seed);
  Mat<float> x(tokens, width);
  for (int64_t i = 0; i < tokens * width; ++i) {
    x.data()[i] = static_cast<float>(2 * random.Uniform(static_cast<uint64_t>(i)) - 0.75);
  }
  return x;
}

Moments Sum(const Context& context, const Mat<float>& x, const std::vector<int64_t>& chunks) {
  Moments moments(x.cols());
  int64_t row = 0;
  for (const int64_t rows : chunks) {
    const Status added = moments.Add(context, x.view().Rows(row, rows));
    EXPECT_TRUE(added.ok()) << added.error().message;
    row += rows;
  }
  EXPECT_EQ(row, x.rows());
  return moments;
}

bool SameBytes(const Moments& a, const Moments& b) {
  const auto width = static_cast<size_t>(a.width());
  return a.count() == b.count() && a.width() == b.width() &&
         std::memcmp(a.square_sum().data, b.square_sum().data, width * width * 4) == 0 &&
         std::memcmp(a.mean_sum().data(), b.mean_sum().data(), width * 8) == 0 && a.absmax() == b.absmax();
}

// A sum of n products in fp32, in any order and fused or not, is within (n + 2) 2^-24 of the sum of
// their absolute values; the division and its rounding add two more roundings.
TEST(MomentsTest, EqualsDirectSumsForAnyChunks) {
  constexpr int64_t kTokens = 150, kWidth = 67;
  const Mat<float> x = RandomInput(kTokens, kWidth, 3);
  ThreadPool pool(2);
  for (const Isa isa : {Isa::kScalar, BestIsa()}) {
    const Context context{.pool = &pool, .isa = isa};
    for (const auto& chunks : std::vector<std::vector<int64_t>>{{150}, {1, 149}, {64, 64, 22}}) {
      const Moments moments = Sum(context, x, chunks);
      EXPECT_EQ(moments.count(), kTokens);
      const Mat<float> h = moments.MeanSquare();
      const std::vector<float> mean = moments.Mean();
      for (int64_t i = 0; i < kWidth; ++i) {
        double sum = 0;
        float absmax = 0;
        for (int64_t t = 0; t < kTokens; ++t) {
          sum += x(t, i);
          absmax = std::max(absmax, std::abs(x(t, i)));
        }
        EXPECT_EQ(mean[static_cast<size_t>(i)], static_cast<float>(sum / kTokens));
        EXPECT_EQ(moments.absmax()[static_cast<size_t>(i)], absmax);
        for (int64_t j = 0; j < kWidth; ++j) {
          double product = 0, size = 0;
          for (int64_t t = 0; t < kTokens; ++t) {
            const double p = static_cast<double>(x(t, i)) * x(t, j);
            product += p;
            size += std::abs(p);
          }
          ASSERT_NEAR(h(i, j), product / kTokens, (kTokens + 4) * 0x1p-24 * size / kTokens) << i << " " << j;
          ASSERT_EQ(h(i, j), h(j, i));
        }
      }
    }
  }
}

TEST(MomentsTest, SameBytesForAnyNumberOfThreads) {
  const Mat<float> x = RandomInput(130, 301, 8);
  ThreadPool one(1);
  const Moments expected = Sum({.pool = &one, .isa = BestIsa()}, x, {100, 30});
  for (const int threads : {2, 3, 5}) {
    ThreadPool pool(threads);
    EXPECT_TRUE(SameBytes(Sum({.pool = &pool, .isa = BestIsa()}, x, {100, 30}), expected)) << threads;
  }
}

TEST(MomentsTest, ZerosMakeDeadChannels) {
  ThreadPool pool(1);
  Mat<float> x = RandomInput(9, 5, 1);
  for (int64_t t = 0; t < 9; ++t) {
    x(t, 1) = 0;
    x(t, 4) = -0.0f;
    x(t, 2) = t == 7 ? 1e-30f : 0;  // alive once, though its square is below fp32
  }
  const Moments moments = Sum({.pool = &pool}, x, {4, 5});
  EXPECT_THAT(moments.DeadChannels(), ElementsAre(1, 4));
}

TEST(MomentsTest, NamesTokenAndChannelOfWhatIsNotFiniteAndKeepsItsSums) {
  ThreadPool pool(1);
  const Context context{.pool = &pool};
  const Mat<float> good = RandomInput(10, 6, 2);
  for (const auto& [value, text] :
       std::vector<std::pair<float, std::string>>{{NAN, "nan"}, {-INFINITY, "-inf"}}) {
    Moments moments = Sum(context, good, {10});
    Mat<float> bad = RandomInput(4, 6, 5);
    bad(2, 3) = value;
    const Status added = moments.Add(context, bad);
    ASSERT_FALSE(added.ok());
    EXPECT_EQ(added.error().code, Code::kFailure);
    EXPECT_THAT(added.error().message, HasSubstr(text + " at token 12, channel 3"));
    EXPECT_TRUE(SameBytes(moments, Sum(context, good, {10})));
  }
}

class StatisticsFileTest : public ::testing::Test {
 protected:
  void SetUp() override {
    path_ =
        (std::filesystem::temp_directory_path() / fmt::format("planish_statistics_{}", getpid())).string();
  }
  void TearDown() override { std::filesystem::remove(path_); }

  struct Tensor {
    std::string name;
    DType type;
    std::vector<int64_t> shape;
    std::vector<double> values;
  };
  using Metadata = std::map<std::string, std::string>;

  Status Write(const std::vector<Tensor>& tensors, const Metadata& metadata) {
    std::vector<TensorSpec> specs;
    std::map<std::string, std::string> data;
    for (const auto& t : tensors) {
      specs.push_back({t.name, t.type, t.shape});
      for (const double v : t.values) {
        const auto f = static_cast<float>(v);
        if (t.type == DType::kF64) data[t.name].append(reinterpret_cast<const char*>(&v), 8);
        if (t.type == DType::kF32) data[t.name].append(reinterpret_cast<const char*>(&f), 4);
      }
    }
    PLANISH_TRY(auto writer, SafetensorsWriter::Create(path_, specs, metadata));
    const auto order = writer.order();
    for (const auto& s : order)
      PLANISH_RETURN_IF_ERROR(writer.Append(s.name, std::as_bytes(std::span(data[s.name]))));
    return writer.Commit();
  }

  std::string path_;
};

TEST_F(StatisticsFileTest, RoundTrip) {
  ThreadPool pool(2);
  const Context context{.pool = &pool, .isa = BestIsa()};
  StatisticsFile statistics{"model print", "text print", {}};
  statistics.sites["a.weight"] = Sum(context, RandomInput(20, 7, 1), {20});
  statistics.sites["b.weight"] = Sum(context, RandomInput(33, 12, 2), {33});
  statistics.sites["unseen"] = Moments(3);
  const Status saved = SaveStatistics(path_, statistics);
  ASSERT_TRUE(saved.ok()) << saved.error().message;
  const auto loaded = LoadStatistics(path_);
  ASSERT_TRUE(loaded.ok()) << loaded.error().message;
  EXPECT_EQ(loaded->model_fingerprint, "model print");
  EXPECT_EQ(loaded->text_fingerprint, "text print");
  ASSERT_EQ(loaded->sites.size(), 3u);
  for (const auto& [name, moments] : statistics.sites)
    EXPECT_TRUE(SameBytes(loaded->sites.at(name), moments)) << name;
}

TEST_F(StatisticsFileTest, MalformedFilesAreNamed) {
  const Metadata kMetadata = {{"planish_statistics", "1"}, {"model", "m"}, {"text", "t"}, {"count:a", "3"}};
  const Tensor kSquare{"a.square_sum", DType::kF32, {2, 2}, {5, 1, 1, 4}},
      kMean{"a.mean_sum", DType::kF64, {2}, {1, 2}}, kAbsmax{"a.absmax", DType::kF32, {2}, {2, 2}};
  ASSERT_TRUE(Write({kSquare, kMean, kAbsmax}, kMetadata).ok());
  const auto loaded = LoadStatistics(path_);
  ASSERT_TRUE(loaded.ok()) << loaded.error().message;
  EXPECT_EQ(loaded->sites.at("a").MeanSquare()(1, 1), static_cast<float>(4.0 / 3));

  const auto with = [&](const std::string& key, const std::string& value) {
    Metadata m = kMetadata;
    m[key] = value;
    return m;
  };
  struct Case {
    std::vector<Tensor> tensors;
    Metadata metadata;
    std::string message;
  };
  const std::vector<Case> cases = {
      {{}, {}, "not a statistics file of version 1"},
      {{kSquare, kMean, kAbsmax}, with("planish_statistics", "2"), "not a statistics file of version 1"},
      {{kSquare, kMean, kAbsmax}, with("count:a", ""), "count of 'a': expected a number, found ''"},
      {{kSquare, kMean, kAbsmax}, with("count:a", "3.5"), "found '3.5'"},
      {{kSquare, kMean, kAbsmax}, with("count:a", "-1"), "found '-1'"},
      {{kSquare, kMean, kAbsmax}, with("count:a", "9223372036854775808"), "found '9223372036854775808'"},
      {{kSquare, kMean, kAbsmax}, with("seen:a", "x"), "count of 'a': expected a number, found 'x'"},
      {{kSquare, kMean, kAbsmax}, with("count:b", "1"), "tensor 'b.square_sum' [n, n] is missing"},
      {{kMean, kAbsmax}, kMetadata, "tensor 'a.square_sum' [n, n] is missing"},
      {{kSquare, kAbsmax}, kMetadata, "tensor 'a.mean_sum' is missing"},
      {{kSquare, kMean}, kMetadata, "tensor 'a.absmax' is missing"},
      {{{"a.square_sum", DType::kF32, {4}, {5, 1, 1, 4}}, kMean, kAbsmax}, kMetadata, "[n, n] is missing"},
      {{{"a.square_sum", DType::kF32, {2, 1}, {5, 1}}, kMean, kAbsmax},
       kMetadata,
       "tensor 'a.square_sum': expected F32 [2, 2], found F32 [2, 1]"},
      {{kSquare, {"a.mean_sum", DType::kF32, {2}, {1, 2}}, kAbsmax},
       kMetadata,
       "expected F64 [2], found F32 [2]"},
      {{kSquare, kMean, {"a.absmax", DType::kF32, {3}, {2, 2, 2}}},
       kMetadata,
       "expected F32 [2], found F32 [3]"},
      {{{"a.square_sum", DType::kF32, {2, 2}, {5, 1, NAN, 4}}, kMean, kAbsmax},
       kMetadata,
       "tensor 'a.square_sum': element 2 is not finite"},
      {{kSquare, {"a.mean_sum", DType::kF64, {2}, {1, INFINITY}}, kAbsmax},
       kMetadata,
       "element 1 is not finite"},
  };
  for (const auto& c : cases) {
    SCOPED_TRACE(c.message);
    const Status written = Write(c.tensors, c.metadata);
    ASSERT_TRUE(written.ok()) << written.error().message;
    const auto file = LoadStatistics(path_);
    ASSERT_FALSE(file.ok());
    EXPECT_EQ(file.error().code, Code::kInput);
    EXPECT_TRUE(file.error().message.starts_with(path_ + ": ")) << file.error().message;
    EXPECT_THAT(file.error().message, HasSubstr(c.message));
  }
  EXPECT_FALSE(LoadStatistics(path_ + ".none").ok());
}

TEST(SitesTest, OfTheDemoModel) {
  const auto model = LoadModel(PLANISH_SOURCE_DIR "/models/demo");
  ASSERT_TRUE(model.ok()) << model.error().message;
  const Program& program = model->program;
  const auto names = [&](const Site& site) {
    std::vector<std::string> list;
    for (const LinearId id : site.linears) list.push_back(program.linears[static_cast<size_t>(id)].weight);
    return list;
  };
  ASSERT_EQ(program.blocks.size(), 8u);  // embedding, six layers, head
  EXPECT_TRUE(BlockSites(program, 0).empty());
  EXPECT_TRUE(BlockSites(program, 7).empty());
  const auto sites = BlockSites(program, 3);
  ASSERT_EQ(sites.size(), 4u);
  const std::string p = "model.layers.2.";
  EXPECT_THAT(names(sites[0]), ElementsAre(p + "self_attn.q_proj.weight", p + "self_attn.k_proj.weight",
                                           p + "self_attn.v_proj.weight"));
  EXPECT_THAT(names(sites[1]), ElementsAre(p + "self_attn.o_proj.weight"));
  EXPECT_THAT(names(sites[2]), ElementsAre(p + "mlp.gate_proj.weight", p + "mlp.up_proj.weight"));
  EXPECT_THAT(names(sites[3]), ElementsAre(p + "mlp.down_proj.weight"));
  const Block& block = program.blocks[3];
  constexpr int64_t kWidths[] = {256, 256, 256, 704};
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(sites[i].block, 3);
    EXPECT_EQ(sites[i].name, names(sites[i]).front());
    EXPECT_EQ(block.values[static_cast<size_t>(sites[i].value)].width, kWidths[i]);
    const Op& first = block.ops[static_cast<size_t>(sites[i].first_op)];
    ASSERT_TRUE(std::holds_alternative<LinearOp>(first.body));
    EXPECT_EQ(std::get<LinearOp>(first.body).linear, sites[i].linears.front());
    EXPECT_EQ(first.inputs.front(), sites[i].value);
    for (int op = sites[i].first_op; op < static_cast<int>(block.ops.size()); ++op) {
      EXPECT_NE(block.ops[static_cast<size_t>(op)].output, sites[i].value);  // complete before it is read
    }
  }
  EXPECT_EQ(AllSites(program).size(), 24u);
}

}  // namespace
}  // namespace planish

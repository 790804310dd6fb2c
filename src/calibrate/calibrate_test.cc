// Calibration: which tokens are read, the moments of inputs, their file, and where they are taken.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <numeric>

#include "base/file.h"
#include "base/random.h"
#include "calibrate/moments.h"
#include "calibrate/sites.h"
#include "calibrate/token_windows.h"
#include "formats/safetensors.h"
#include "model/model.h"

namespace planish {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

std::vector<int32_t> Counting(int64_t count) {
  std::vector<int32_t> tokens(static_cast<size_t>(count));
  std::iota(tokens.begin(), tokens.end(), 0);
  return tokens;
}

TEST(ChooseWindowsTest, OneInEachStratumNeverOverlapping) {
  const auto tokens = Counting(1003);
  for (const uint64_t seed : {0, 1, 2, 3}) {
    const auto windows = ChooseWindows(tokens, 7, 100, seed);
    ASSERT_TRUE(windows.ok()) << windows.error().message;
    ASSERT_EQ(windows->size(), 7u);
    int64_t previous_end = 0;
    for (int64_t i = 0; i < 7; ++i) {
      const auto& window = (*windows)[static_cast<size_t>(i)];
      ASSERT_EQ(window.size(), 100u);
      // Tokens count upward, so the first one is the place.
      const int64_t first = window.front();
      EXPECT_TRUE(std::equal(window.begin(), window.end(), tokens.begin() + first));
      EXPECT_GE(first, previous_end);
      EXPECT_GE(first, i * 1003 / 7);
      EXPECT_LE(first + 100, (i + 1) * 1003 / 7);
      previous_end = first + 100;
    }
  }
}

TEST(ChooseWindowsTest, TheSeedChoosesThePlaces) {
  const auto tokens = Counting(10000);
  const auto a = ChooseWindows(tokens, 10, 50, 1), again = ChooseWindows(tokens, 10, 50, 1);
  const auto b = ChooseWindows(tokens, 10, 50, 2);
  EXPECT_EQ(*a, *again);
  EXPECT_NE(*a, *b);
}

TEST(ChooseWindowsTest, AllOfATextThatIsJustLongEnough) {
  const auto windows = ChooseWindows(Counting(12), 3, 4, 9);
  ASSERT_TRUE(windows.ok());
  EXPECT_THAT(*windows,
              ElementsAre(ElementsAre(0, 1, 2, 3), ElementsAre(4, 5, 6, 7), ElementsAre(8, 9, 10, 11)));
}

TEST(ChooseWindowsTest, Refuses) {
  const auto message = [](int64_t tokens, int64_t windows, int64_t length) {
    const auto chosen = ChooseWindows(Counting(tokens), windows, length, 0);
    EXPECT_FALSE(chosen.ok());
    EXPECT_EQ(chosen.error().code, Code::kInput);
    return chosen.error().message;
  };
  EXPECT_THAT(message(11, 3, 4), HasSubstr("the text has 11 tokens, 3 windows of 4 need 12"));
  EXPECT_THAT(message(11, 3, 4), HasSubstr("at most 2 windows"));
  EXPECT_THAT(message(0, 1, 2), HasSubstr("the text has 0 tokens"));
  EXPECT_THAT(message(10, 0, 2), HasSubstr("expected at least 1 window of 2 tokens, found 0 of 2"));
  EXPECT_THAT(message(10, 1, 1), HasSubstr("found 1 of 1"));
  EXPECT_THAT(message(10, -1, -5), HasSubstr("found -1 of -5"));
}

Mat<float> RandomInput(int64_t tokens, int64_t width, uint64_t stream) {
  Mat<float> x(tokens, width);
  const Random random(3, stream);
  for (int64_t i = 0; i < tokens * width; ++i) {
    x.data()[i] = static_cast<float>(4 * random.Uniform(static_cast<uint64_t>(i)) - 1);
  }
  return x;
}

class MomentsTest : public testing::Test {
 protected:
  static Context With(ThreadPool& pool) { return {.pool = &pool, .isa = BestIsa()}; }
  Moments Of(const Mat<float>& x, const std::vector<int64_t>& chunks) {
    Moments moments(x.cols());
    int64_t row = 0;
    for (const int64_t rows : chunks) {
      const Status added = moments.Add(With(pool_), x.view().Rows(row, rows));
      EXPECT_TRUE(added.ok()) << added.error().message;
      row += rows;
    }
    EXPECT_EQ(row, x.rows());
    return moments;
  }
  ThreadPool pool_{2};
};

TEST_F(MomentsTest, AgreeWithSumsInDouble) {
  constexpr int64_t kTokens = 300, kWidth = 37;
  const Mat<float> x = RandomInput(kTokens, kWidth, 1);
  const Moments moments = Of(x, {1, 99, 200});
  EXPECT_EQ(moments.count(), kTokens);
  EXPECT_EQ(moments.width(), kWidth);
  const Mat<float> h = moments.MeanSquare();
  const std::vector<float> mean = moments.Mean();
  for (int64_t i = 0; i < kWidth; ++i) {
    double sum = 0, largest = 0;
    for (int64_t t = 0; t < kTokens; ++t) {
      sum += x(t, i);
      largest = std::max(largest, std::abs(static_cast<double>(x(t, i))));
    }
    EXPECT_FLOAT_EQ(mean[static_cast<size_t>(i)], static_cast<float>(sum / kTokens));
    EXPECT_EQ(moments.absmax()[static_cast<size_t>(i)], static_cast<float>(largest));
    for (int64_t j = 0; j < kWidth; ++j) {
      double square = 0, absolute = 0;
      for (int64_t t = 0; t < kTokens; ++t) {
        square += static_cast<double>(x(t, i)) * x(t, j);
        absolute += std::abs(static_cast<double>(x(t, i)) * x(t, j));
      }
      // 300 roundings in a row at most, each of a sum below the absolute one.
      EXPECT_NEAR(h(i, j), square / kTokens, 302 * 0x1p-24 * absolute / kTokens) << i << ", " << j;
      EXPECT_EQ(h(i, j), h(j, i));
    }
  }
}

TEST_F(MomentsTest, TheSameBytesForAnyNumberOfThreads) {
  const Mat<float> x = RandomInput(200, 300, 2);
  const Moments expected = Of(x, {128, 72});
  for (const int threads : {1, 3}) {
    ThreadPool pool(threads);
    Moments moments(300);
    ASSERT_TRUE(moments.Add(With(pool), x.view().Rows(0, 128)).ok());
    ASSERT_TRUE(moments.Add(With(pool), x.view().Rows(128, 72)).ok());
    EXPECT_EQ(std::memcmp(moments.square_sum().data, expected.square_sum().data, 300 * 300 * sizeof(float)),
              0);
    EXPECT_EQ(moments.mean_sum(), expected.mean_sum());
    EXPECT_EQ(moments.absmax(), expected.absmax());
  }
}

TEST_F(MomentsTest, OrderOfChunksMovesSumsByRoundingOnly) {
  const Mat<float> x = RandomInput(256, 20, 4);
  Mat<float> swapped(256, 20);
  std::copy(x.row(0), x.row(128), swapped.row(128));
  std::copy(x.row(128), x.row(128) + 128 * 20, swapped.row(0));
  const Mat<float> a = Of(x, {128, 128}).MeanSquare(), b = Of(swapped, {128, 128}).MeanSquare();
  // Two sums in the other order: the same two numbers, whose sum rounds alike.
  for (int64_t i = 0; i < 400; ++i) EXPECT_EQ(a.data()[i], b.data()[i]) << i;
  const Mat<float> whole = Of(x, {256}).MeanSquare();
  for (int64_t i = 0; i < 400; ++i) EXPECT_NEAR(whole.data()[i], a.data()[i], 9 * 256 * 0x1p-23) << i;
}

TEST_F(MomentsTest, NamesTheTokenAndChannelOfANaN) {
  for (const float bad : {NAN, INFINITY}) {
    Mat<float> x = RandomInput(10, 5, 5);
    Moments moments(5);
    ASSERT_TRUE(moments.Add(With(pool_), x).ok());
    x(7, 3) = bad;
    x(8, 1) = bad;
    const Status added = moments.Add(With(pool_), x);
    ASSERT_FALSE(added.ok());
    EXPECT_THAT(added.error().message, HasSubstr(fmt::format("{} at token 17, channel 3", bad)));
    EXPECT_EQ(moments.count(), 10);  // nothing of the chunk was added
  }
}

TEST_F(MomentsTest, FindsDeadChannels) {
  Mat<float> x = RandomInput(40, 6, 6);
  for (int64_t t = 0; t < 40; ++t) x(t, 2) = x(t, 5) = 0;
  x(39, 5) = -1e-30f;
  EXPECT_THAT(Of(x, {20, 20}).DeadChannels(), ElementsAre(2));
}

class StatisticsFileTest : public MomentsTest {
 protected:
  void SetUp() override {
    path_ =
        (std::filesystem::temp_directory_path() / fmt::format("planish_statistics_{}", getpid())).string();
  }
  void TearDown() override { std::filesystem::remove(path_); }

  // A file of one site "s" of width 2 with this metadata and these tensors.
  std::string Load(std::map<std::string, std::string> metadata, const std::vector<TensorSpec>& specs,
                   float value = 1) {
    auto writer = SafetensorsWriter::Create(path_, specs, std::move(metadata));
    EXPECT_TRUE(writer.ok()) << writer.error().message;
    const auto order = writer->order();
    for (const auto& spec : order) {
      std::string bytes;
      int64_t count = 1;
      for (const int64_t d : spec.shape) count *= d;
      const double wide = value;
      for (int64_t i = 0; i < count; ++i) {
        if (spec.type == DType::kF64) bytes.append(reinterpret_cast<const char*>(&wide), 8);
        if (spec.type == DType::kF32) bytes.append(reinterpret_cast<const char*>(&value), 4);
        if (spec.type == DType::kF16) bytes.append(2, '\0');
      }
      EXPECT_TRUE(writer->Append(spec.name, std::as_bytes(std::span(bytes))).ok());
    }
    EXPECT_TRUE(writer->Commit().ok());
    const auto loaded = LoadStatistics(path_);
    if (loaded.ok()) return "(loads)";
    EXPECT_EQ(loaded.error().code, Code::kInput);
    return loaded.error().message;
  }
  static std::vector<TensorSpec> Specs() {
    return {{"s.square_sum", DType::kF32, {2, 2}},
            {"s.mean_sum", DType::kF64, {2}},
            {"s.absmax", DType::kF32, {2}}};
  }
  std::string path_;
};

TEST_F(StatisticsFileTest, RoundTrip) {
  StatisticsFile file{"model of sha", "text of sha", {}};
  file.sites["model.layers.0.q"] = Of(RandomInput(50, 9, 7), {50});
  file.sites["model.layers.0.down"] = Of(RandomInput(20, 4, 8), {20});
  ASSERT_TRUE(SaveStatistics(path_, file).ok());
  const auto loaded = LoadStatistics(path_);
  ASSERT_TRUE(loaded.ok()) << loaded.error().message;
  EXPECT_EQ(loaded->model_fingerprint, file.model_fingerprint);
  EXPECT_EQ(loaded->text_fingerprint, file.text_fingerprint);
  ASSERT_EQ(loaded->sites.size(), 2u);
  for (const auto& [name, moments] : file.sites) {
    const Moments& back = loaded->sites.at(name);
    ASSERT_EQ(back.width(), moments.width());
    EXPECT_EQ(back.count(), moments.count());
    EXPECT_EQ(back.mean_sum(), moments.mean_sum());
    EXPECT_EQ(back.absmax(), moments.absmax());
    const auto bytes = static_cast<size_t>(moments.width() * moments.width()) * sizeof(float);
    EXPECT_EQ(std::memcmp(back.square_sum().data, moments.square_sum().data, bytes), 0);
  }
  const auto text = ReadTextFile(path_);
  ASSERT_TRUE(text.ok());
  for (size_t size = 0; size < text->size(); size += 7) {
    EXPECT_FALSE(ParseStatistics(std::as_bytes(std::span(*text).first(size)), "cut").ok()) << size;
  }
}

TEST_F(StatisticsFileTest, RefusesWhatDoesNotFit) {
  const std::map<std::string, std::string> good = {{"planish_statistics", "1"}, {"count:s", "3"}};
  ASSERT_EQ(Load(good, Specs()), "(loads)");
  EXPECT_THAT(Load({}, Specs()), HasSubstr("not a statistics file of version 1"));
  EXPECT_THAT(Load({{"planish_statistics", "2"}}, Specs()), HasSubstr("not a statistics file of version 1"));
  for (const char* count : {"", "x", "-1", "0", "3x", "1e3", "99999999999999999999", "9223372036854775807"}) {
    EXPECT_THAT(
        Load({{"planish_statistics", "1"}, {"count:s", count}}, Specs()),
        HasSubstr(fmt::format("count of 's': expected a number of tokens, at least 1, found '{}'", count)));
  }
  EXPECT_THAT(Load({{"planish_statistics", "1"}, {"count:t", "3"}}, Specs()),
              HasSubstr("tensor 't.square_sum' [n, n] is missing"));
  const auto changed = [](size_t i, DType type, std::vector<int64_t> shape) {
    auto specs = Specs();
    specs[i].type = type;
    specs[i].shape = std::move(shape);
    return specs;
  };
  EXPECT_THAT(Load(good, changed(0, DType::kF32, {2, 3})),
              HasSubstr("'s.square_sum': expected F32 [2, 2], found F32 [2, 3]"));
  EXPECT_THAT(Load(good, changed(0, DType::kF32, {4})), HasSubstr("[n, n] is missing"));
  EXPECT_THAT(Load(good, changed(0, DType::kF16, {2, 2})),
              HasSubstr("expected F32 [2, 2], found F16 [2, 2]"));
  EXPECT_THAT(Load(good, changed(1, DType::kF64, {3})),
              HasSubstr("'s.mean_sum': expected F64 [2], found F64 [3]"));
  EXPECT_THAT(Load(good, changed(2, DType::kF64, {2})),
              HasSubstr("'s.absmax': expected F32 [2], found F64 [2]"));
  auto two = Specs();
  two.pop_back();
  EXPECT_THAT(Load(good, two), HasSubstr("tensor 's.absmax' is missing"));
  EXPECT_THAT(Load(good, Specs(), NAN),
              AllOf(HasSubstr("'s.square_sum'"), HasSubstr("element 0 is not finite")));
}

TEST(SitesTest, OfDemo) {
  const auto model = LoadModel(PLANISH_SOURCE_DIR "/models/demo");
  ASSERT_TRUE(model.ok()) << model.error().message;
  const Program& program = model->program;
  const auto sites = AllSites(program);
  ASSERT_EQ(sites.size(), 6u * 4);  // six layers: what feeds q, k, v; o; gate, up; down
  const auto names = [&](const Site& site) {
    std::vector<std::string> list;
    for (const LinearId id : site.linears) list.push_back(program.linears[static_cast<size_t>(id)].weight);
    return list;
  };
  const std::string layer = "model.layers.2.";
  EXPECT_THAT(names(sites[8]),
              ElementsAre(layer + "self_attn.q_proj.weight", layer + "self_attn.k_proj.weight",
                          layer + "self_attn.v_proj.weight"));
  EXPECT_THAT(names(sites[9]), ElementsAre(layer + "self_attn.o_proj.weight"));
  EXPECT_THAT(names(sites[10]), ElementsAre(layer + "mlp.gate_proj.weight", layer + "mlp.up_proj.weight"));
  EXPECT_THAT(names(sites[11]), ElementsAre(layer + "mlp.down_proj.weight"));
  size_t linears = 0;
  for (const Site& site : sites) {
    EXPECT_EQ(site.name, names(site).front());
    const Block& block = program.blocks[static_cast<size_t>(site.block)];
    for (const LinearId id : site.linears) {
      EXPECT_EQ(program.linears[static_cast<size_t>(id)].in,
                block.values[static_cast<size_t>(site.value)].width);
    }
    // The value is made before the first linear reads it.
    for (int i = site.first_op; i < static_cast<int>(block.ops.size()); ++i) {
      EXPECT_NE(block.ops[static_cast<size_t>(i)].output, site.value);
    }
    linears += site.linears.size();
  }
  EXPECT_EQ(linears, 6u * 7);
  EXPECT_TRUE(BlockSites(program, 0).empty());
  EXPECT_TRUE(BlockSites(program, 7).empty());  // the head belongs to no layer
  EXPECT_EQ(BlockSites(program, 1).size(), 4u);
}

}  // namespace
}  // namespace planish

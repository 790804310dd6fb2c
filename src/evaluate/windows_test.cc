#include "evaluate/windows.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>

#include "base/json.h"

namespace planish {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

std::vector<Window> Make(int64_t num_tokens, int64_t context, int64_t stride, EvalSet set = EvalSet::kFull) {
  auto windows = MakeWindows(num_tokens, context, stride, set);
  EXPECT_TRUE(windows.ok());
  return windows.ok() ? *windows : std::vector<Window>{};
}

TEST(MakeWindows, NotOverlapping) {
  EXPECT_THAT(Make(10, 4, 0), ElementsAre(Window{0, 4, 1}, Window{4, 4, 5}, Window{8, 2, 9}));
  EXPECT_EQ(Make(10, 4, 4), Make(10, 4, 0));
  EXPECT_THAT(Make(8, 4, 0), ElementsAre(Window{0, 4, 1}, Window{4, 4, 5}));
  // One token alone has nothing before it.
  EXPECT_THAT(Make(9, 4, 0), ElementsAre(Window{0, 4, 1}, Window{4, 4, 5}));
  EXPECT_THAT(Make(3, 1024, 0), ElementsAre(Window{0, 3, 1}));
  EXPECT_THAT(Make(2, 2, 0), ElementsAre(Window{0, 2, 1}));
}

TEST(MakeWindows, Overlapping) {
  EXPECT_THAT(Make(10, 4, 2),
              ElementsAre(Window{0, 4, 1}, Window{2, 4, 4}, Window{4, 4, 6}, Window{6, 4, 8}));
  EXPECT_THAT(Make(9, 4, 3), ElementsAre(Window{0, 4, 1}, Window{3, 4, 4}, Window{6, 3, 7}));
  EXPECT_THAT(Make(4, 4, 1), ElementsAre(Window{0, 4, 1}));
  EXPECT_THAT(Make(5, 4, 1), ElementsAre(Window{0, 4, 1}, Window{1, 4, 4}));
}

TEST(MakeWindows, OverlappingScoresEveryTokenOnceButTheFirst) {
  for (int64_t n : {2, 3, 7, 8, 9, 30, 31}) {
    for (int64_t context : {2, 3, 8}) {
      for (int64_t stride = 1; stride < context; ++stride) {
        int64_t next = 1;
        for (const Window& w : Make(n, context, stride)) {
          EXPECT_EQ(w.first_scored, next) << n << " " << context << " " << stride;
          EXPECT_GT(w.first_scored, w.start);
          EXPECT_GT(w.num_scored(), 0);
          next = w.end();
        }
        EXPECT_EQ(next, n);
      }
    }
  }
}

TEST(MakeWindows, LongTextsWithStride) {
  const auto windows = Make(6101, 512, 256);
  ASSERT_EQ(windows.size(), 23u);
  EXPECT_EQ(windows.back(), (Window{5632, 469, 6101 - 213}));
  int64_t scored = 0;
  for (const Window& w : windows) scored += w.num_scored();
  EXPECT_EQ(scored, 6100);
}

TEST(MakeWindows, ScreenIsSpreadEvenly) {
  EXPECT_EQ(Make(32 * 10, 10, 0, EvalSet::kScreen), Make(32 * 10, 10, 0));
  // 33 windows: floor((j + 1/2) 33 / 32) = j as long as j + 1/2 < 16, then j + 1.
  const auto windows = Make(33 * 10, 10, 0, EvalSet::kScreen);
  ASSERT_EQ(windows.size(), 32u);
  for (int64_t j = 0; j < 32; ++j) EXPECT_EQ(windows[j].start, 10 * (j < 16 ? j : j + 1)) << j;
}

TEST(MakeWindows, ScreenOfTheGoldenText) {
  const std::string path = PLANISH_SHARED_DIR "/models/eval-golden.json";
  if (!std::filesystem::exists(path)) GTEST_SKIP() << path << " is not on this machine";
  std::ifstream file(path);
  const std::string content{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  const auto golden = ParseJson(content);
  ASSERT_TRUE(golden.ok());
  const Json& text = (*golden)["text"];
  const auto num_tokens = text["tokens_total"].get<int64_t>();
  const auto all = Make(num_tokens, 1024, 0);
  EXPECT_EQ(all.size(), text["windows"].get<size_t>());
  EXPECT_EQ(all.back().length, text["last_window_tokens"].get<int64_t>());
  std::vector<int64_t> screen;
  for (const Window& w : Make(num_tokens, 1024, 0, EvalSet::kScreen)) screen.push_back(w.start / 1024);
  EXPECT_EQ(screen, text["screen_windows"].get<std::vector<int64_t>>());
}

TEST(MakeWindows, Refuses) {
  const auto message = [](int64_t n, int64_t context, int64_t stride) {
    const auto windows = MakeWindows(n, context, stride, EvalSet::kFull);
    EXPECT_FALSE(windows.ok());
    EXPECT_EQ(windows.error().code, Code::kInput);
    return windows.error().message;
  };
  EXPECT_THAT(message(10, 1, 0), HasSubstr("context of 1 tokens"));
  EXPECT_THAT(message(10, -5, 0), HasSubstr("context of -5 tokens"));
  EXPECT_THAT(message(10, 4, 5), HasSubstr("stride 5: expected 1 to 4"));
  EXPECT_THAT(message(10, 4, -1), HasSubstr("stride -1"));
  EXPECT_THAT(message(1, 4, 0), HasSubstr("text of 1 tokens"));
  EXPECT_THAT(message(0, 4, 0), HasSubstr("text of 0 tokens"));
}

TEST(EvalSet, Names) {
  for (EvalSet set : {EvalSet::kFull, EvalSet::kScreen}) EXPECT_EQ(ParseEvalSet(EvalSetName(set)), set);
  EXPECT_EQ(ParseEvalSet("half"), std::nullopt);
}

}  // namespace
}  // namespace planish

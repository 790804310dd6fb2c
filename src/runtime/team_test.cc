#include "runtime/team.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>

namespace planish {
namespace {

TEST(Team, EveryMemberRunsAndMeetsTheOthers) {
  for (const int size : {1, 2, 5}) {
    Team team(size);
    ASSERT_EQ(team.size(), size);
    std::vector<int64_t> values(static_cast<size_t>(size), 0);
    std::atomic<int64_t> wrong{0};
    for (int run = 0; run < 20; ++run) {
      team.Run([&](int member) {
        for (int round = 0; round < 50; ++round) {
          values[static_cast<size_t>(member)] += 1;
          team.Meet();
          // Nobody is a round ahead, nobody behind.
          for (const int64_t value : values) wrong += value != run * 50 + round + 1;
          team.Meet();
        }
      });
    }
    EXPECT_EQ(wrong.load(), 0);
  }
}

TEST(Team, WakesFromSleep) {
  Team team(2);
  for (int run = 0; run < 3; ++run) {
    std::atomic<int> ran{0};
    team.Run([&](int) { ran.fetch_add(1); });
    EXPECT_EQ(ran.load(), 2);
    std::this_thread::sleep_for(std::chrono::milliseconds(60));
  }
}

TEST(Team, PartsCoverEverythingOnce) {
  for (const int64_t count : {0, 1, 5, 64, 1001}) {
    for (const int size : {1, 2, 3, 7}) {
      int64_t next = 0;
      for (int member = 0; member < size; ++member) {
        const auto [begin, end] = Team::PartOf(count, member, size);
        EXPECT_EQ(begin, next);
        EXPECT_LE(end - begin, count / size + 1);
        next = end;
      }
      EXPECT_EQ(next, count);
    }
  }
}

}  // namespace
}  // namespace planish

// The foundations: errors, checked arithmetic, files, threads, random numbers, JSON, progress texts.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <limits>
#include <set>
#include <thread>

#include "base/atomic_folder.h"
#include "base/background.h"
#include "base/check.h"
#include "base/checked.h"
#include "base/context.h"
#include "base/cpu.h"
#include "base/file.h"
#include "base/json.h"
#include "base/progress.h"
#include "base/random.h"
#include "base/result.h"
#include "base/thread_pool.h"

namespace planish {
namespace {

using ::testing::HasSubstr;

class FileTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = ::testing::TempDir() + "planish_base_XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
  }
  void TearDown() override { EXPECT_TRUE(RemoveTree(folder_).ok()); }
  std::string Path(const std::string& name) const { return JoinPath(folder_, name); }
  int NumEntries() const {
    int count = 0;
    for (const auto& entry : std::filesystem::directory_iterator(folder_)) count += entry.exists();
    return count;
  }
  std::string folder_;
};

// --- Result -------------------------------------------------------------------------------------

Result<int> Half(int value) {
  if (value % 2 != 0) return InputError("odd");
  return value / 2;
}

Result<std::string> Quarter(int value) {
  PLANISH_TRY(const int half, Half(value));
  PLANISH_TRY(const int quarter, Half(half));
  return std::to_string(quarter);
}

Status Even(int value) {
  PLANISH_RETURN_IF_ERROR(Quarter(value * 2));
  return {};
}

TEST(ResultTest, ValuesAndErrorsPassThrough) {
  EXPECT_EQ(*Quarter(8), "2");
  const auto error = Quarter(6);
  ASSERT_FALSE(error.ok());
  EXPECT_EQ(error.error().message, "odd");
  EXPECT_EQ(error.error().code, Code::kInput);
  EXPECT_TRUE(Even(2).ok());
  EXPECT_EQ(Even(3).error().At("file").At("folder").message, "folder: file: odd");
}

TEST(ResultTest, HoldsValuesThatOnlyMove) {
  Result<std::unique_ptr<int>> result(std::make_unique<int>(7));
  ASSERT_TRUE(result.ok());
  const std::unique_ptr<int> taken = std::move(result).value();
  EXPECT_EQ(*taken, 7);
}

TEST(ResultDeathTest, ValueOfAnErrorAborts) {
  EXPECT_DEATH((void)*Half(1), "");
  EXPECT_DEATH(PLANISH_CHECK(1 == 2) << "values 1 2", "internal error.*1 == 2 values 1 2");
}

TEST(ResultTest, CheckEvaluatesNothingWhenItHolds) {
  int evaluated = 0;
  PLANISH_CHECK(true) << ++evaluated;
  EXPECT_EQ(evaluated, 0);
}

TEST(ContextTest, CancelIsSeen) {
  std::atomic<bool> flag{false};
  Context context;
  EXPECT_TRUE(context.CheckCancelled().ok());
  context.cancel = &flag;
  EXPECT_TRUE(context.CheckCancelled().ok());
  flag = true;
  EXPECT_EQ(context.CheckCancelled().error().code, Code::kInterrupted);
}

// --- Checked arithmetic ---------------------------------------------------------------------------

TEST(CheckedTest, LimitsOfEveryOperation) {
  constexpr int64_t kMax = std::numeric_limits<int64_t>::max(), kMin = std::numeric_limits<int64_t>::min();
  EXPECT_EQ(CheckedAdd<int64_t>(kMax - 1, 1), kMax);
  EXPECT_EQ(CheckedAdd<int64_t>(kMax, 1), std::nullopt);
  EXPECT_EQ(CheckedAdd<int64_t>(kMin, -1), std::nullopt);
  EXPECT_EQ(CheckedAdd<uint64_t>(UINT64_MAX, 1), std::nullopt);
  EXPECT_EQ(CheckedSub<int64_t>(kMin, 1), std::nullopt);
  EXPECT_EQ(CheckedSub<uint32_t>(3, 4), std::nullopt);
  EXPECT_EQ(CheckedSub<uint32_t>(4, 4), 0u);
  EXPECT_EQ(CheckedMul<int64_t>(int64_t{1} << 31, int64_t{1} << 31), int64_t{1} << 62);
  EXPECT_EQ(CheckedMul<int64_t>(int64_t{1} << 32, int64_t{1} << 31), std::nullopt);
  EXPECT_EQ(CheckedMul<int64_t>(kMin, -1), std::nullopt);
}

TEST(CheckedTest, NarrowKeepsValuesOnly) {
  EXPECT_EQ(CheckedNarrow<int8_t>(127), 127);
  EXPECT_EQ(CheckedNarrow<int8_t>(128), std::nullopt);
  EXPECT_EQ(CheckedNarrow<uint32_t>(-1), std::nullopt);
  EXPECT_EQ(CheckedNarrow<int64_t>(UINT64_MAX), std::nullopt);
}

TEST(CheckedTest, ProductOfDimensions) {
  EXPECT_EQ(CheckedProduct({}), 1);
  const int64_t plain[] = {2, 3, 4}, negative[] = {2, -1}, big[] = {int64_t{1} << 33, int64_t{1} << 33};
  const int64_t zero[] = {0, INT64_MAX, INT64_MAX};
  EXPECT_EQ(CheckedProduct(plain), 24);
  EXPECT_EQ(CheckedProduct(negative), std::nullopt);
  EXPECT_EQ(CheckedProduct(big), std::nullopt);
  EXPECT_EQ(CheckedProduct(zero), 0);
}

// --- Files ----------------------------------------------------------------------------------------

TEST_F(FileTest, AtomicFileAppearsOnlyAtCommit) {
  const std::string path = Path("out.bin");
  {
    auto file = AtomicFile::Create(path);
    ASSERT_TRUE(file.ok());
    ASSERT_TRUE(file->Append("part one, ").ok());
    EXPECT_FALSE(FileExists(path));
    AtomicFile moved = std::move(*file);
    ASSERT_TRUE(moved.Append("part two").ok());
    EXPECT_EQ(moved.size(), 18);
    ASSERT_TRUE(moved.Commit().ok());
  }
  EXPECT_EQ(*ReadTextFile(path), "part one, part two");
  EXPECT_EQ(NumEntries(), 1);
}

TEST_F(FileTest, AtomicFileTakesNoOtherThingsPlace) {
  const std::string pipe = Path("pipe");
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  for (const std::string& path : {pipe, Path("")}) {
    const auto file = AtomicFile::Create(path);
    ASSERT_FALSE(file.ok());
    EXPECT_EQ(file.error().code, Code::kInput);
    EXPECT_THAT(file.error().message, HasSubstr("is no ordinary file"));
  }
  EXPECT_TRUE(std::filesystem::is_fifo(pipe));
}

TEST_F(FileTest, AtomicFileDestroyedWithoutCommitLeavesTheOldFile) {
  const std::string path = Path("out.bin");
  ASSERT_TRUE(WriteFileAtomically(path, "old").ok());
  {
    auto file = AtomicFile::Create(path);
    ASSERT_TRUE(file.ok());
    ASSERT_TRUE(file->Append("new").ok());
    EXPECT_EQ(NumEntries(), 2);
  }
  EXPECT_EQ(*ReadTextFile(path), "old");
  EXPECT_EQ(NumEntries(), 1);
}

// A link stays a link, whatever it leads to.
TEST_F(FileTest, LinksAreWrittenThrough) {
  std::filesystem::create_directory(Path("there"));
  std::filesystem::create_symlink("there/new", Path("dangling"));
  std::filesystem::create_symlink(Path("dangling"), Path("far"));
  std::filesystem::create_symlink("nowhere/new", Path("lost"));
  std::filesystem::create_symlink("loop", Path("loop"));
  for (const char* name : {"dangling", "far"}) {
    ASSERT_TRUE(WriteFileAtomically(Path(name), name).ok());
    EXPECT_TRUE(std::filesystem::is_symlink(Path(name)));
    EXPECT_EQ(*ReadTextFile(Path("there/new")), name);
    EXPECT_FALSE(std::filesystem::is_symlink(Path("there/new")));
  }
  EXPECT_EQ(*FollowLinks(Path("far")), Path("there/new"));
  EXPECT_EQ(*FollowLinks(Path("there")), Path("there"));
  const Status lost = WriteFileAtomically(Path("lost"), "x"), loop = WriteFileAtomically(Path("loop"), "x");
  ASSERT_FALSE(lost.ok());
  EXPECT_EQ(lost.error().code, Code::kInput);
  EXPECT_THAT(lost.error().message, testing::HasSubstr("nowhere/new: cannot create"));
  ASSERT_FALSE(loop.ok());
  EXPECT_THAT(loop.error().message, testing::HasSubstr("loop: a symbolic link that leads nowhere"));
  EXPECT_TRUE(std::filesystem::is_symlink(Path("loop")));
  // A folder too.
  std::filesystem::create_symlink("there/folder", Path("folder"));
  {
    auto folder = AtomicFolder::Create(Path("folder") + "/");
    ASSERT_TRUE(folder.ok());
    EXPECT_TRUE(folder->Commit().ok());
  }
  EXPECT_TRUE(std::filesystem::is_symlink(Path("folder")));
  EXPECT_TRUE(std::filesystem::is_directory(Path("there/folder")));
}

TEST_F(FileTest, AClosedFileWaitsForItsCommit) {
  const std::string path = Path("out.bin");
  {
    auto dropped = AtomicFile::Create(path);
    ASSERT_TRUE(dropped.ok() && dropped->Append("lost").ok() && dropped->Close().ok());
    EXPECT_EQ(NumEntries(), 1);
    EXPECT_FALSE(FileExists(path));
  }
  EXPECT_EQ(NumEntries(), 0);
  auto file = AtomicFile::Create(path);
  ASSERT_TRUE(file.ok() && file->Append("kept").ok() && file->Close().ok());
  AtomicFile moved = std::move(*file);
  ASSERT_TRUE(moved.Commit().ok());
  EXPECT_EQ(*ReadTextFile(path), "kept");
  EXPECT_EQ(NumEntries(), 1);
}

TEST_F(FileTest, PathsThatCannotBeWrittenAreInputErrors) {
  for (const std::string& path : {Path("no/such/folder/out.bin"), std::string("/proc/out.bin")}) {
    const auto file = AtomicFile::Create(path);
    ASSERT_FALSE(file.ok()) << path;
    EXPECT_EQ(file.error().code, Code::kInput);
    EXPECT_THAT(file.error().message, HasSubstr(path + ": cannot create"));
  }
}

TEST_F(FileTest, CommitOntoAFolderFailsAndLeavesNothing) {
  auto file = AtomicFile::Create(Path("taken"));
  ASSERT_TRUE(file.ok());
  ASSERT_TRUE(MakeDirectories(Path("taken/inner")).ok());
  const Status status = file->Commit();
  ASSERT_FALSE(status.ok());
  EXPECT_THAT(status.error().message, HasSubstr("cannot finish writing"));
  EXPECT_EQ(NumEntries(), 1);
}

TEST_F(FileTest, FullDeviceIsAFailure) {
  if (!std::filesystem::exists("/dev/full")) GTEST_SKIP();
  std::filesystem::create_symlink("/dev/full", Path("out.bin.tmp"));
  auto file = AtomicFile::Create(Path("out.bin"));
  ASSERT_TRUE(file.ok());
  const Status status = file->Append("x");
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().code, Code::kFailure);
  EXPECT_THAT(status.error().message, HasSubstr("cannot write after 0 bytes"));
}

TEST_F(FileTest, MapsWholeFilesEvenEmptyOnes) {
  ASSERT_TRUE(WriteFileAtomically(Path("full"), std::string_view("a\0b", 3)).ok());
  ASSERT_TRUE(WriteFileAtomically(Path("empty"), "").ok());
  const auto full = MappedFile::Open(Path("full"));
  ASSERT_TRUE(full.ok());
  ASSERT_EQ((*full)->bytes().size(), 3u);
  EXPECT_EQ((*full)->bytes()[2], std::byte{'b'});
  (*full)->Release((*full)->bytes());
  EXPECT_EQ((*full)->bytes()[0], std::byte{'a'});  // released pages are read again
  const auto empty = MappedFile::Open(Path("empty"));
  ASSERT_TRUE(empty.ok());
  EXPECT_TRUE((*empty)->bytes().empty());
}

TEST_F(FileTest, ReleaseOfManyPagesKeepsTheContent) {
  std::string content(100'000, ' ');
  for (size_t i = 0; i < content.size(); ++i) content[i] = static_cast<char>(i * 7 + i / 256);
  ASSERT_TRUE(WriteFileAtomically(Path("big"), content).ok());
  const auto file = MappedFile::Open(Path("big"));
  ASSERT_TRUE(file.ok());
  (*file)->Release((*file)->bytes().subspan(1, 90'000));
  EXPECT_EQ(std::memcmp((*file)->bytes().data(), content.data(), content.size()), 0);
}

TEST_F(FileTest, ThingsThatAreNotFilesAreRefused) {
  EXPECT_THAT(MappedFile::Open(Path("missing")).error().message, HasSubstr("cannot open: No such file"));
  EXPECT_EQ(MappedFile::Open(Path("missing")).error().code, Code::kInput);
  EXPECT_THAT(MappedFile::Open(folder_).error().message, HasSubstr("not a regular file"));
  ASSERT_EQ(mkfifo(Path("pipe").c_str(), 0600), 0);
  EXPECT_THAT(MappedFile::Open(Path("pipe")).error().message, HasSubstr("not a regular file"));
}

TEST_F(FileTest, TextLimitIsInclusive) {
  ASSERT_TRUE(WriteFileAtomically(Path("text"), "12345").ok());
  EXPECT_EQ(*ReadTextFile(Path("text"), 5), "12345");
  EXPECT_THAT(ReadTextFile(Path("text"), 4).error().message, HasSubstr("5 bytes, at most 4"));
}

TEST_F(FileTest, FoldersAreMadeAndRemoved) {
  ASSERT_TRUE(MakeDirectories(Path("a/b/c")).ok());
  ASSERT_TRUE(MakeDirectories(Path("a/b/c")).ok());
  EXPECT_TRUE(DirectoryExists(Path("a/b/c")));
  EXPECT_FALSE(FileExists(Path("a/b/c")));
  EXPECT_TRUE(SyncDirectory(Path("a")).ok());
  ASSERT_TRUE(WriteFileAtomically(Path("plain"), "").ok());
  EXPECT_FALSE(MakeDirectories(Path("plain/x")).ok());
  EXPECT_FALSE(DirectoryExists(Path("plain")));
  ASSERT_TRUE(RemoveTree(Path("a")).ok());
  EXPECT_FALSE(DirectoryExists(Path("a")));
  EXPECT_TRUE(RemoveTree(Path("a")).ok());
}

TEST(EmbeddedTest, RegisteredDataOpensLikeAFile) {
  static constexpr std::string_view kText = "embedded text";
  RegisterEmbedded("base_test/model/config.json", std::as_bytes(std::span(kText)));
  EXPECT_EQ(*ReadTextFile(JoinPath("embedded:base_test/model", "config.json")), kText);
  EXPECT_TRUE(FileExists("embedded:base_test/model/config.json"));
  EXPECT_FALSE(FileExists("embedded:base_test/model"));
  EXPECT_TRUE(DirectoryExists("embedded:base_test/model"));
  EXPECT_TRUE(DirectoryExists("embedded:base_test"));
  EXPECT_FALSE(DirectoryExists("embedded:base_test/mod"));
  EXPECT_THAT(ReadTextFile("embedded:base_test/other").error().message, HasSubstr("no such embedded file"));
}

TEST(PathTest, JoinAddsOneSlash) {
  EXPECT_EQ(JoinPath("a", "b"), "a/b");
  EXPECT_EQ(JoinPath("a/", "b"), "a/b");
  EXPECT_EQ(JoinPath("", "b"), "b");
}

// --- Threads --------------------------------------------------------------------------------------

TEST(ThreadPoolTest, EveryIterationRunsOnceForAnyNumberOfThreads) {
  for (int threads = 1; threads <= 5; ++threads) {
    ThreadPool pool(threads);
    EXPECT_EQ(pool.NumThreads(), threads);
    for (int64_t n : {0, 1, 2, 3, 7, 1000}) {
      std::vector<std::atomic<int>> runs(static_cast<size_t>(n));
      std::vector<int64_t> values(static_cast<size_t>(n));
      pool.ParallelFor(n, [&](int64_t i) {
        runs[static_cast<size_t>(i)].fetch_add(1);
        values[static_cast<size_t>(i)] = i * i;
      });
      int64_t sum = 0;
      for (int64_t i = 0; i < n; ++i) {
        EXPECT_EQ(runs[static_cast<size_t>(i)].load(), 1);
        sum += values[static_cast<size_t>(i)];
      }
      EXPECT_EQ(sum, n > 0 ? (n - 1) * n * (2 * n - 1) / 6 : 0);
    }
  }
}

TEST(ThreadPoolTest, AWorkerNumberRunsOneIterationAtATime) {
  ThreadPool pool(4);
  std::vector<std::atomic<int>> busy(4);
  std::atomic<int> clashes{0};
  pool.ParallelFor(500, [&](int64_t, int worker) {
    if (busy.at(static_cast<size_t>(worker)).fetch_add(1) != 0) ++clashes;
    std::this_thread::yield();
    busy.at(static_cast<size_t>(worker)).fetch_sub(1);
  });
  EXPECT_EQ(clashes.load(), 0);
}

TEST(ThreadPoolTest, NestedLoopsRunOnTheCallingThread) {
  ThreadPool pool(3), other(2);
  std::atomic<int64_t> total{0};
  std::atomic<int> strays{0};
  pool.ParallelFor(20, [&](int64_t i) {
    const auto caller = std::this_thread::get_id();
    for (ThreadPool* inner : {&pool, &other}) {
      inner->ParallelFor(10, [&](int64_t j, int worker) {
        if (std::this_thread::get_id() != caller || worker != 0) ++strays;
        total += i * 10 + j;
      });
    }
  });
  EXPECT_EQ(total.load(), 2 * 199 * 200 / 2);
  EXPECT_EQ(strays.load(), 0);
}

TEST(ThreadPoolTest, ManyShortLoopsInARow) {
  ThreadPool pool(3);
  int64_t sum = 0;
  std::vector<int64_t> slots(3);
  for (int64_t loop = 0; loop < 3000; ++loop) {
    pool.ParallelFor(3, [&](int64_t i) { slots[static_cast<size_t>(i)] = loop + i; });
    sum += slots[0] + slots[1] + slots[2];
  }
  EXPECT_EQ(sum, 3 * (2999 * 3000 / 2) + 3 * 3000);
}

TEST(ThreadPoolTest, LoopsFromSeveralThreadsTakeTurns) {
  ThreadPool pool(2);
  std::atomic<int64_t> total{0};
  std::vector<std::thread> callers;
  for (int t = 0; t < 3; ++t) {
    callers.emplace_back([&] {
      for (int loop = 0; loop < 50; ++loop) pool.ParallelFor(10, [&](int64_t i) { total += i; });
    });
  }
  for (auto& caller : callers) caller.join();
  EXPECT_EQ(total.load(), 3 * 50 * 45);
}

TEST(ThreadPoolTest, SleepingWorkersWakeUp) {
  ThreadPool pool(2);
  for (int round = 0; round < 3; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));  // far beyond the spinning
    std::atomic<int> count{0};
    pool.ParallelFor(100, [&](int64_t) { ++count; });
    EXPECT_EQ(count.load(), 100);
  }
}

// --- Processor ------------------------------------------------------------------------------------

// --- Background -------------------------------------------------------------------------------------

TEST(BackgroundTest, JobsRunInOrderOneAtATime) {
  Background background;
  std::vector<int> done;  // unguarded: one job at a time, and Wait() orders what comes after
  for (int i = 0; i < 100; ++i) {
    ASSERT_TRUE(background
                    .Start([&done, i]() -> Status {
                      done.push_back(i);
                      return {};
                    })
                    .ok());
  }
  EXPECT_TRUE(background.Wait().ok());
  ASSERT_EQ(done.size(), 100u);
  for (int i = 0; i < 100; ++i) EXPECT_EQ(done[static_cast<size_t>(i)], i);
}

TEST(BackgroundTest, TheFirstErrorStays) {
  Background background;
  EXPECT_TRUE(background.Wait().ok());
  EXPECT_TRUE(background.Start([]() -> Status { return FailureError("full"); }).ok());
  bool ran = false;
  const Status refused = background.Start([&]() -> Status {
    ran = true;
    return {};
  });
  EXPECT_EQ(refused.error().message, "full");
  EXPECT_EQ(background.Wait().error().message, "full");
  EXPECT_FALSE(ran);
}

TEST(BackgroundTest, WaitsForTheLastJobWhenDestroyed) {
  std::atomic<bool> done{false};
  {
    Background background;
    ASSERT_TRUE(background
                    .Start([&]() -> Status {
                      std::this_thread::sleep_for(std::chrono::milliseconds(20));
                      done = true;
                      return {};
                    })
                    .ok());
  }
  EXPECT_TRUE(done);
}

TEST(CpuTest, NamesRoundTripAndSetsAreNested) {
  for (Isa isa : kAllIsas) EXPECT_EQ(ParseIsa(IsaName(isa)), isa);
  EXPECT_EQ(ParseIsa("AVX2"), std::nullopt);
  EXPECT_TRUE(IsaSupported(Isa::kScalar));
  EXPECT_TRUE(IsaSupported(BestIsa()));
  EXPECT_TRUE(!IsaSupported(Isa::kAvx512) || IsaSupported(Isa::kAvx2));
  EXPECT_THAT(SupportedIsas(), ::testing::EndsWith("scalar"));
  EXPECT_THAT(SupportedIsas(), ::testing::StartsWith(std::string(IsaName(BestIsa()))));
}

// --- Random numbers -------------------------------------------------------------------------------

// The known answers for philox4x32 with 10 rounds of the Random123 distribution (kat_vectors).
TEST(RandomTest, PhiloxKnownAnswers) {
  using Words = std::array<uint32_t, 4>;
  EXPECT_EQ(Philox4x32({0, 0, 0, 0}, {0, 0}), (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  constexpr uint32_t kOnes = 0xffffffff;
  EXPECT_EQ(Philox4x32({kOnes, kOnes, kOnes, kOnes}, {kOnes, kOnes}),
            (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(Philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(RandomTest, BitsAreTheCipherOfSeedStreamAndIndex) {
  EXPECT_EQ(Random(0).Bits(0), 0x6627e8d5e169c58du);
  EXPECT_EQ(Random(0x299f31d0a4093822u, 0x0370734413198a2eu).Bits(0x85a308d3243f6a88u), 0xd16cfe0994fdccebu);
  std::set<uint64_t> distinct;
  for (uint64_t seed : {0, 1}) {
    for (uint64_t stream : {0, 1}) {
      for (uint64_t index = 0; index < 100; ++index) distinct.insert(Random(seed, stream).Bits(index));
    }
  }
  EXPECT_EQ(distinct.size(), 400u);
}

TEST(RandomTest, UniformBelowAndNormalHaveTheirMoments) {
  const Random random(123, 4);
  constexpr int kCount = 40'000;
  double sum = 0, square = 0, normal = 0, normal_square = 0, normal_fourth = 0;
  std::array<int, 7> counts{};
  for (uint64_t i = 0; i < kCount; ++i) {
    const double u = random.Uniform(i), z = random.Normal(i);
    ASSERT_GE(u, 0.0);
    ASSERT_LT(u, 1.0);
    sum += u, square += u * u;
    normal += z, normal_square += z * z, normal_fourth += z * z * z * z;
    ++counts.at(random.Below(i, 7));
  }
  // Five standard errors: sqrt(1/12), sqrt(4/45), 1, sqrt(2), sqrt(96) over sqrt(count).
  const double unit = 5 / std::sqrt(static_cast<double>(kCount));
  EXPECT_NEAR(sum / kCount, 0.5, unit * std::sqrt(1.0 / 12));
  EXPECT_NEAR(square / kCount, 1.0 / 3, unit * std::sqrt(4.0 / 45));
  EXPECT_NEAR(normal / kCount, 0.0, unit);
  EXPECT_NEAR(normal_square / kCount, 1.0, unit * std::sqrt(2.0));
  EXPECT_NEAR(normal_fourth / kCount, 3.0, unit * std::sqrt(96.0));
  for (int count : counts)
    EXPECT_NEAR(count / static_cast<double>(kCount), 1.0 / 7, unit * std::sqrt(6.0 / 49));
  EXPECT_EQ(random.Below(5, 1), 0u);
}

// --- JSON -----------------------------------------------------------------------------------------

TEST(JsonTest, WhatIsNotStrictJsonIsRefused) {
  const struct {
    std::string_view text;
    const char* expected;
  } cases[] = {
      {"", "not valid JSON at byte"},
      {"{", "not valid JSON at byte"},
      {"{} x", "not valid JSON at byte 4"},
      {"{}{}", "not valid JSON"},
      {"[1,]", "not valid JSON"},
      {"{'a':1}", "not valid JSON"},
      {"[NaN]", "not valid JSON"},
      {"[Infinity]", "not valid JSON"},
      {"[-Infinity]", "not valid JSON"},
      {"[1e999]", "not valid JSON"},
      {"[01]", "not valid JSON"},
      {"[1] // comment", "not valid JSON"},
      {"[\"\xff\"]", "not valid JSON"},
      {"[\"\xed\xa0\x80\"]", "not valid JSON"},
      {"[\"\\ud800\"]", "not valid JSON"},
      {"[\"a\nb\"]", "not valid JSON"},
      {R"({"a":1,"a":2})", "key 'a' appears twice"},
      {R"([{"b":{"a":1,"c":0,"a":2}}])", "key 'a' appears twice"},
      {R"({"a":1,"\u0061":2})", "key 'a' appears twice"},
      {std::string_view("{}\0{}", 5), "not valid JSON at byte 2: zero byte"},
      {std::string_view("{}\0", 3), "zero byte"},
  };
  for (const auto& c : cases) {
    const auto value = ParseJson(c.text);
    ASSERT_FALSE(value.ok()) << c.text;
    EXPECT_THAT(value.error().message, HasSubstr(c.expected)) << c.text;
    EXPECT_EQ(value.error().code, Code::kInput);
  }
}

TEST(JsonTest, KeysInTheOrderOfTheText) {
  using Keys = std::vector<std::string>;
  const std::string text = R"({"z":1,"b":{"y":{"x":0},"a":[{"b":{"q":1}}],"":2},"a":{"b":{"c":1}},"c":3})";
  EXPECT_EQ(JsonKeysInOrder(text, {}), (Keys{"z", "b", "a", "c"}));
  EXPECT_EQ(JsonKeysInOrder(text, {"b"}), (Keys{"y", "a", ""}));
  EXPECT_EQ(JsonKeysInOrder(text, {"a", "b"}), Keys{"c"});
  EXPECT_EQ(JsonKeysInOrder(text, {"z"}), Keys());
  EXPECT_EQ(JsonKeysInOrder(text, {"no"}), Keys());
  EXPECT_EQ(JsonKeysInOrder("[{\"a\":1}]", {}), Keys());
  EXPECT_EQ(JsonKeysInOrder("{\"a\":", {}), Keys());
}

TEST(JsonTest, EqualKeysOfDifferentObjectsAreFine) {
  const auto value = ParseJson(R"({"a":{"a":1},"b":[{"a":2},{"a":3}]})");
  ASSERT_TRUE(value.ok());
  EXPECT_EQ((*value)["b"][1]["a"], 3);
}

TEST(JsonTest, DepthLimitIsInclusive) {
  const auto nested = [](int depth) { return std::string(depth, '[') + std::string(depth, ']'); };
  EXPECT_TRUE(ParseJson(nested(5), {.depth = 5}).ok());
  EXPECT_THAT(ParseJson(nested(6), {.depth = 5}).error().message, HasSubstr("nested deeper than 5"));
  EXPECT_THAT(ParseJson(std::string(1'000'000, '[')).error().message, HasSubstr("nested deeper than 64"));
}

TEST(JsonTest, MembersAreTypedAndNamed) {
  const Json o =
      *ParseJson(R"({"i":-3,"big":18446744073709551615,"f":1.5,"whole":2.0,"b":true,"s":"text","n":null})");
  EXPECT_EQ(*JsonInt(o, "i"), -3);
  EXPECT_EQ(*JsonInt(o, "missing", 9), 9);
  EXPECT_EQ(*JsonInt(o, "n", 9), 9);
  EXPECT_EQ(*JsonNumber(o, "f"), 1.5);
  EXPECT_EQ(*JsonNumber(o, "i"), -3.0);
  EXPECT_EQ(*JsonNumber(o, "missing", 0.5), 0.5);
  EXPECT_TRUE(*JsonBool(o, "b", false));
  EXPECT_TRUE(*JsonBool(o, "n", true));
  EXPECT_EQ(*JsonString(o, "s"), "text");
  EXPECT_EQ(*JsonString(o, "missing", "x"), "x");
  EXPECT_EQ(JsonInt(o, "missing").error().message, "field 'missing' is missing");
  EXPECT_EQ(JsonInt(o, "n").error().message, "field 'n' is missing");
  EXPECT_EQ(JsonInt(o, "whole", 1).error().message, "field 'whole': expected an integer, found 2.0");
  EXPECT_FALSE(JsonInt(o, "big").ok());
  EXPECT_EQ(JsonBool(o, "i", true).error().message, "field 'i': expected true or false, found -3");
  EXPECT_EQ(JsonString(o, "b", "x").error().message, "field 'b': expected a string, found true");
  EXPECT_FALSE(JsonNumber(o, "s", 1.0).ok());
  EXPECT_FALSE(JsonString(Json::array(), "s").ok());
}

TEST(JsonTest, DumpReplacesWhatIsNotUtf8) {
  EXPECT_EQ(DumpJson(Json{{"a", "x\xff"}}), "{\"a\":\"x\xef\xbf\xbd\"}");
  EXPECT_EQ(DumpJson(OrderedJson{{"b", 1}, {"a", 2}}), R"({"b":1,"a":2})");
  EXPECT_EQ(DumpJson(Json{{"a", 1}}, 2), "{\n  \"a\": 1\n}");
}

// --- Progress -------------------------------------------------------------------------------------

TEST(ProgressTest, Durations) {
  EXPECT_EQ(FormatDuration(0), "0 s");
  EXPECT_EQ(FormatDuration(-5), "0 s");
  EXPECT_EQ(FormatDuration(59.4), "59 s");
  EXPECT_EQ(FormatDuration(59.6), "1:00");
  EXPECT_EQ(FormatDuration(245), "4:05");
  EXPECT_EQ(FormatDuration(3723), "1:02:03");
  EXPECT_EQ(FormatDuration(360'000), "100:00:00");
  EXPECT_EQ(FormatDuration(std::nan("")), "0 s");
  EXPECT_EQ(FormatDuration(INFINITY), FormatDuration(1e12));
}

TEST(ProgressTest, BytesAndCounts) {
  EXPECT_EQ(FormatBytes(0), "0 B");
  EXPECT_EQ(FormatBytes(789), "789 B");
  EXPECT_EQ(FormatBytes(999.6), "1.00 kB");
  EXPECT_EQ(FormatBytes(1234), "1.23 kB");
  EXPECT_EQ(FormatBytes(9'996), "10.0 kB");
  EXPECT_EQ(FormatBytes(99'960), "100 kB");
  EXPECT_EQ(FormatBytes(999'999), "1.00 MB");
  EXPECT_EQ(FormatBytes(45.6e6), "45.6 MB");
  EXPECT_EQ(FormatBytes(1.23e9), "1.23 GB");
  EXPECT_EQ(FormatBytes(5e18), "5000 PB");
  EXPECT_EQ(FormatCount(12), "12");
  EXPECT_EQ(FormatCount(12'345'678), "12.3 M");
}

std::string ReadAll(std::FILE* file) {
  std::rewind(file);
  std::string text;
  for (int c = std::fgetc(file); c != EOF; c = std::fgetc(file)) text += static_cast<char>(c);
  return text;
}

TEST(ProgressTest, NotesArePrintedAndQuietIsQuiet) {
  for (const auto style : {ConsoleProgress::Style::kLines, ConsoleProgress::Style::kQuiet}) {
    std::FILE* out = std::tmpfile();
    ASSERT_NE(out, nullptr);
    {
      ConsoleProgress progress(style, out);
      progress.Update("load", 1, 10, "layers");
      progress.Update("load", 10, 10, "layers");  // below two seconds: silent
      progress.Note("a note");
    }
    EXPECT_EQ(ReadAll(out), style == ConsoleProgress::Style::kQuiet ? "" : "a note\n");
    std::fclose(out);
  }
}

TEST(ProgressTest, SlowStagesPrintALine) {
  std::FILE* out = std::tmpfile();
  ASSERT_NE(out, nullptr);
  {
    ConsoleProgress progress(ConsoleProgress::Style::kLines, out);
    progress.Update("load", 0, 10, "layers");
    std::this_thread::sleep_for(std::chrono::milliseconds(2050));
    progress.Update("load", 5, 10, "layers");   // within ten seconds of the last line
    progress.Update("load", 10, 10, "layers");  // the end is always told
  }
  EXPECT_THAT(ReadAll(out),
              ::testing::MatchesRegex("load: 10/10 layers \\(100 %\\), [0-9.]+ layers/s, 0 s left\n"));
  std::fclose(out);
}

}  // namespace
}  // namespace planish

#include "formats/checkpoint_writer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <numeric>

#include "base/atomic_folder.h"
#include "base/file.h"

namespace planish {
namespace {

using ::testing::HasSubstr;

class CheckpointWriterTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = ::testing::TempDir() + "planish_writer_XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
  }
  void TearDown() override { EXPECT_TRUE(RemoveTree(folder_).ok()); }
  std::string folder_;
  ThreadPool pool_{2};
  Context context_{&pool_};
};

TEST_F(CheckpointWriterTest, PanelsAreRowsAndFillShards) {
  // 3 * 5 rows of 40 MB: a panel holds one.
  constexpr int64_t kRow = 40'000'000;
  std::vector<std::pair<int64_t, int64_t>> calls;
  const auto fill = [&](int64_t row, int64_t count, std::span<std::byte> out) -> Status {
    calls.emplace_back(row, count);
    EXPECT_EQ(static_cast<int64_t>(out.size()), count * kRow);
    std::fill(out.begin(), out.end(), static_cast<std::byte>(row + 1));
    return {};
  };
  const std::string small = "abcdef";
  const std::vector<TensorSource> sources = {
      {{"big", DType::kU8, {2, 1, kRow}}, fill, {}},
      {{"vector", DType::kBF16, {3}}, nullptr, std::as_bytes(std::span(small))},
      {{"none", DType::kF32, {0, 4}}, nullptr, {}}};
  const auto written = WriteTensors(context_, sources, folder_, 2 * kRow);
  ASSERT_TRUE(written.ok()) << written.error().message;
  EXPECT_EQ(written->files, 2);
  EXPECT_EQ(written->tensors, 3);
  EXPECT_EQ(written->bytes, 2 * kRow + 6);
  EXPECT_EQ(calls, (std::vector<std::pair<int64_t, int64_t>>{{0, 1}, {1, 1}}));
  const auto back = Checkpoint::Open(folder_);
  ASSERT_TRUE(back.ok()) << back.error().message;
  EXPECT_EQ(back->FileOf("big"), "model-00001-of-00002.safetensors");
  EXPECT_EQ(back->FileOf("vector"), "model-00002-of-00002.safetensors");
  const auto big = back->Get("big")->bytes();
  EXPECT_EQ(big[kRow - 1], std::byte{1});
  EXPECT_EQ(big[kRow], std::byte{2});
  const auto vector = back->Get("vector")->bytes();
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(vector.data()), vector.size()), small);
}

TEST_F(CheckpointWriterTest, ErrorsOfASourceLeaveNoFolder) {
  const std::string out = JoinPath(folder_, "model");
  {
    auto folder = AtomicFolder::Create(out + "/");
    ASSERT_TRUE(folder.ok()) << folder.error().message;
    const TensorSource source = {
        {"a", DType::kU8, {1}},
        [](int64_t, int64_t, std::span<std::byte>) -> Status { return InputError("tensor 'a' holds NaN"); },
        {}};
    const auto written = WriteTensors(context_, {&source, 1}, folder->path());
    ASSERT_FALSE(written.ok());
    EXPECT_THAT(written.error().message, HasSubstr("holds NaN"));
    EXPECT_TRUE(DirectoryExists(folder->path()));
  }
  EXPECT_FALSE(DirectoryExists(out));
  EXPECT_FALSE(DirectoryExists(out + ".unfinished"));
}

TEST_F(CheckpointWriterTest, NamesTakenTwiceAreRefused) {
  const std::string byte = "x";
  const TensorSource source = {{"a", DType::kU8, {1}}, nullptr, std::as_bytes(std::span(byte))};
  const std::vector<TensorSource> twice = {source, source};
  EXPECT_THAT(WriteTensors(context_, twice, folder_).error().message, HasSubstr("'a' is declared twice"));
}

TEST_F(CheckpointWriterTest, FoldersAppearWholeOrNotAtAll) {
  const std::string out = JoinPath(folder_, "out");
  {
    auto folder = AtomicFolder::Create(out);
    ASSERT_TRUE(folder.ok());
    ASSERT_TRUE(WriteFileAtomically(JoinPath(folder->path(), "config.json"), "{}").ok());
    EXPECT_FALSE(DirectoryExists(out));
    ASSERT_TRUE(folder->Commit().ok());
  }
  EXPECT_TRUE(FileExists(JoinPath(out, "config.json")));
  EXPECT_THAT(AtomicFolder::Create(out).error().message, HasSubstr("already exists"));
  // An empty folder is taken.
  const std::string empty = JoinPath(folder_, "empty");
  ASSERT_TRUE(MakeDirectories(empty).ok());
  auto folder = AtomicFolder::Create(empty);
  ASSERT_TRUE(folder.ok()) << folder.error().message;
  EXPECT_TRUE(folder->Commit().ok());
}

}  // namespace
}  // namespace planish

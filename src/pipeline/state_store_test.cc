#include "pipeline/state_store.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "base/file.h"
#include "base/random.h"

namespace planish {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kEntries = 5, kWide = 6, kNarrow = 3;

// Entry i holds two matrices: [4 + i, 6] and [2, 3].
int64_t EntryBytes(StateType type, int64_t i) {
  return ((4 + i) * kWide + 2 * kNarrow) * (type == StateType::kF32 ? 4 : 2);
}
int64_t SlotBytes(StateType type) { return EntryBytes(type, kEntries - 1); }

std::vector<int64_t> AllBytes(StateType type) {
  std::vector<int64_t> bytes;
  for (int64_t i = 0; i < kEntries; ++i) bytes.push_back(EntryBytes(type, i));
  return bytes;
}

struct Values {
  Mat<float> a, b;
  Values(int64_t entry, uint64_t seed) : a(4 + entry, kWide), b(2, kNarrow) {
    const Random random(seed, static_cast<uint64_t>(entry));
    uint64_t drawn = 0;
    for (int64_t i = 0; i < a.rows() * kWide; ++i) a.data()[i] = static_cast<float>(random.Normal(drawn++));
    for (int64_t i = 0; i < 2 * kNarrow; ++i) b.data()[i] = static_cast<float>(random.Normal(drawn++));
  }
};

class StateStoreTest : public ::testing::TestWithParam<StateType> {
 protected:
  void SetUp() override {
    folder_ = (std::filesystem::temp_directory_path() / fmt::format("planish_states_{}", getpid())).string();
    ASSERT_TRUE(MakeDirectories(folder_).ok());
  }
  void TearDown() override { EXPECT_TRUE(RemoveTree(folder_).ok()); }
  std::string Spill() const { return folder_ + "/spill.bin"; }
  std::string Saved() const { return folder_ + "/states.bin"; }

  void Put(StateStore& store, int64_t entry, uint64_t seed) {
    const Values v(entry, seed);
    const Status put = store.Put(entry, {v.a.view(), v.b.view()});
    ASSERT_TRUE(put.ok()) << put.error().message;
  }
  void PutAll(StateStore& store, uint64_t seed) {
    for (int64_t i = 0; i < kEntries; ++i) Put(store, i, seed);
  }
  // The entry is what was put, rounded to bf16 where that is the type.
  void Expect(const StateStore& store, int64_t entry, uint64_t seed) {
    const Values expected(entry, seed);
    Values found(entry, seed + 1);
    const Status got = store.Get(entry, {found.a.view(), found.b.view()});
    ASSERT_TRUE(got.ok()) << got.error().message;
    const auto stored = [](float f) { return GetParam() == StateType::kF32 ? f : ToFloat(ToBF16(f)); };
    for (int64_t i = 0; i < found.a.rows() * kWide; ++i)
      ASSERT_EQ(found.a.data()[i], stored(expected.a.data()[i]));
    for (int64_t i = 0; i < 2 * kNarrow; ++i) ASSERT_EQ(found.b.data()[i], stored(expected.b.data()[i]));
  }
  void ExpectAll(const StateStore& store, uint64_t seed) {
    for (int64_t i = 0; i < kEntries; ++i) Expect(store, i, seed);
  }
  // All in memory, the first two entries in memory, all spilled.
  std::vector<int64_t> Limits() const {
    return {int64_t{1} << 20, EntryBytes(GetParam(), 0) + EntryBytes(GetParam(), 1), 0};
  }

  std::string folder_;
};

TEST_P(StateStoreTest, GivesBackWhatWasPutWhereverItLies) {
  for (const int64_t limit : Limits()) {
    SCOPED_TRACE(limit);
    StateStore store(GetParam(), kEntries, SlotBytes(GetParam()), limit, Spill());
    PutAll(store, 1);
    ExpectAll(store, 1);
    ExpectAll(store, 1);  // reading takes nothing away
    for (const int64_t entry : {3, 0, 4, 2, 1}) Put(store, entry, 2);
    ExpectAll(store, 2);
    Put(store, 2, 3);
    Expect(store, 2, 3);
    Expect(store, 1, 2);
    Expect(store, 3, 2);
    EXPECT_FALSE(FileExists(Spill()));  // unlinked as soon as it was made
  }
}

TEST_P(StateStoreTest, ViewsWithStridesAreStoredByRows) {
  StateStore store(GetParam(), kEntries, SlotBytes(GetParam()), 0, Spill());
  const Values v(1, 4);
  ASSERT_TRUE(store.Put(0, {v.a.view().Cols(2, 3)}).ok());
  Mat<float> out(5, 4);
  out.Fill(-1);
  ASSERT_TRUE(store.Get(0, {out.view().Cols(1, 3)}).ok());
  for (int64_t i = 0; i < 5; ++i) {
    EXPECT_EQ(out(i, 0), -1);
    for (int64_t j = 0; j < 3; ++j) {
      const float f = v.a(i, 2 + j);
      EXPECT_EQ(out(i, 1 + j), GetParam() == StateType::kF32 ? f : ToFloat(ToBF16(f)));
    }
  }
}

TEST_P(StateStoreTest, SaveAndLoadAcrossLimits) {
  for (const int64_t from : Limits()) {
    StateStore store(GetParam(), kEntries, SlotBytes(GetParam()), from, Spill());
    PutAll(store, 5);
    ASSERT_TRUE(store.Save(Saved()).ok());
    for (const int64_t to : Limits()) {
      StateStore other(GetParam(), kEntries, SlotBytes(GetParam()), to, Spill());
      PutAll(other, 6);  // is replaced
      const Status loaded = other.Load(Saved(), AllBytes(GetParam()));
      ASSERT_TRUE(loaded.ok()) << loaded.error().message;
      ExpectAll(other, 5);
    }
  }
}

TEST_P(StateStoreTest, AFileOfAnotherSizeIsRefused) {
  StateStore store(GetParam(), kEntries, SlotBytes(GetParam()), 0, Spill());
  PutAll(store, 5);
  ASSERT_TRUE(store.Save(Saved()).ok());
  const auto size = static_cast<int64_t>(std::filesystem::file_size(Saved()));
  for (const int64_t wrong : {size - 1, size + 1, int64_t{0}}) {
    std::filesystem::resize_file(Saved(), static_cast<size_t>(wrong));
    StateStore other(GetParam(), kEntries, SlotBytes(GetParam()), 1 << 20, Spill());
    const Status loaded = other.Load(Saved(), AllBytes(GetParam()));
    ASSERT_FALSE(loaded.ok());
    EXPECT_EQ(loaded.error().code, Code::kInput);
    EXPECT_THAT(loaded.error().message, HasSubstr(Saved()));
    if (wrong == 0) continue;  // an empty file may be refused earlier
    EXPECT_THAT(loaded.error().message, HasSubstr(fmt::format("{} bytes, expected {}", wrong, size)));
  }
  EXPECT_FALSE(store.Load(folder_ + "/none", AllBytes(GetParam())).ok());
}

TEST_P(StateStoreTest, ASpillFileThatCannotBeMadeIsAnError) {
  const std::string spill = folder_ + "/none/spill.bin";
  StateStore store(GetParam(), kEntries, SlotBytes(GetParam()), EntryBytes(GetParam(), 0), spill);
  Put(store, 0, 1);
  const Values v(1, 1);
  const Status put = store.Put(1, {v.a.view(), v.b.view()});
  ASSERT_FALSE(put.ok());
  EXPECT_EQ(put.error().code, Code::kFailure);
  EXPECT_THAT(put.error().message, HasSubstr(spill + ": cannot create"));
  Expect(store, 0, 1);
}

INSTANTIATE_TEST_SUITE_P(Types, StateStoreTest, ::testing::Values(StateType::kBF16, StateType::kF32),
                         [](const auto& type) { return type.param == StateType::kF32 ? "F32" : "BF16"; });

}  // namespace
}  // namespace planish

#include "formats/npy.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include "base/file.h"

namespace planish {
namespace {

class NpyTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = ::testing::TempDir() + "planish_npy_XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
  }
  void TearDown() override { EXPECT_TRUE(RemoveTree(folder_).ok()); }
  std::string folder_;
};

// The bytes that numpy.save writes for [[1, 2, 3], [4, 5, 6]] as float32.
TEST_F(NpyTest, BytesAreThoseOfNumpy) {
  const std::string path = JoinPath(folder_, "m.npy");
  std::vector<float> values = {1, 2, 3, -1, 4, 5, 6, -1};
  const std::string header = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }";
  const std::string expected = std::string("\x93NUMPY\x01\x00\x76\x00", 10) + header +
                               std::string(128 - 10 - 1 - header.size(), ' ') + "\n" +
                               std::string(
                                   "\x00\x00\x80\x3f\x00\x00\x00\x40\x00\x00\x40\x40"
                                   "\x00\x00\x80\x40\x00\x00\xa0\x40\x00\x00\xc0\x40",
                                   24);
  ASSERT_TRUE(WriteNpy(path, MatView<const float>(values.data(), 2, 3, 4)).ok());
  EXPECT_EQ(*ReadTextFile(path), expected);
  const std::vector<float> dense = {1, 2, 3, 4, 5, 6};
  ASSERT_TRUE(WriteNpy(path, MatView<const float>(dense.data(), 2, 3)).ok());
  EXPECT_EQ(*ReadTextFile(path), expected);
}

TEST_F(NpyTest, DataStartsAtAMultipleOf64ForEverySize) {
  const std::string path = JoinPath(folder_, "m.npy");
  const std::vector<float> values(1);
  for (int64_t cols = 1, digits = 1; digits < 19; ++digits, cols *= 10) {
    ASSERT_TRUE(WriteNpy(path, MatView<const float>(values.data(), 0, cols)).ok());
    const std::string bytes = *ReadTextFile(path);
    EXPECT_EQ(bytes.size() % 64, 0u);
    EXPECT_EQ(bytes.back(), '\n');
    EXPECT_EQ(static_cast<size_t>(static_cast<unsigned char>(bytes[8])), bytes.size() - 10);
  }
}

TEST_F(NpyTest, UnwritablePathIsAnError) {
  EXPECT_FALSE(WriteNpy(JoinPath(folder_, "no/such/m.npy"), {}).ok());
}

}  // namespace
}  // namespace planish

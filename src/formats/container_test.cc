#include "formats/container.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "base/file.h"
#include "formats/checkpoint_writer.h"
#include "formats/gguf.h"
#include "formats/imatrix.h"
#include "formats/lora.h"

namespace planish {
namespace {

using testing::HasSubstr;

// printf '%s' abc | sha256sum, and of nothing.
constexpr const char* kAbc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
constexpr const char* kNothing = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

class ContainerTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = testing::TempDir() + "planish_container_" + std::to_string(getpid());
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  std::string Path(const std::string& name) const { return JoinPath(folder_, name); }
  // Tensors b: "abc", a: nothing.
  void WriteModel(const std::string& folder, int64_t shard_bytes) {
    const std::string abc = "abc";
    const std::vector<TensorSource> sources = {
        {{"b", DType::kU8, {3}}, nullptr, std::as_bytes(std::span(abc))},
        {{"a", DType::kF32, {0, 4}}, nullptr, {}}};
    std::filesystem::create_directories(folder);
    ASSERT_TRUE(WriteTensors(context_, sources, folder, shard_bytes).ok());
  }
  Container Open(const std::string& path) {
    auto container = OpenContainer(path);
    EXPECT_TRUE(container.ok()) << (container.ok() ? "" : container.error().message);
    return container.ok() ? std::move(container).value() : Container();
  }
  std::string folder_;
  ThreadPool pool_{2};
  Context context_{&pool_};
};

TEST_F(ContainerTest, ChecksumsOfFoldersAndFiles) {
  WriteModel(Path("one"), 1000);
  WriteModel(Path("two"), 1);
  ASSERT_TRUE(WriteFileAtomically(Path("one/config.json"), R"({"model_type": "llama", "x": [1, 2]})").ok());
  const Container one = Open(Path("one"));
  EXPECT_EQ(one.kind, "safetensors folder");
  EXPECT_THAT(one.metadata,
              testing::ElementsAre(testing::Pair("model_type", "\"llama\""), testing::Pair("x", "[1,2]")));
  const auto sums = ChecksumsOf(context_, one);
  ASSERT_TRUE(sums.ok());
  for (size_t i = 0; i < one.tensors.size(); ++i) {
    EXPECT_EQ(sums->tensors[i], one.tensors[i].name == "b" ? kAbc : kNothing);
  }
  // { echo "$kNothing  a"; echo "$kAbc  b"; } | sha256sum
  EXPECT_EQ(sums->all, "bf6e2103d6cbead28abb7d3fec372bc25d03a35b1647e83e090248eb08d0adae");
  // Shards and single files hold the same tensors.
  EXPECT_EQ(ChecksumsOf(context_, Open(Path("two")))->all, sums->all);
  const Container file = Open(Path("one/model.safetensors"));
  EXPECT_EQ(file.kind, "safetensors file");
  EXPECT_EQ(ChecksumsOf(context_, file)->all, sums->all);
}

TEST_F(ContainerTest, Kinds) {
  Imatrix imatrix;
  imatrix.entries["w"] = {1, {1, 2}, {1}};
  ASSERT_TRUE(WriteImatrix(Path("i.dat"), imatrix).ok());
  ASSERT_TRUE(WriteImatrix(Path("i.gguf"), imatrix).ok());
  EXPECT_EQ(Open(Path("i.dat")).kind, "importance matrix (.dat)");
  const Container gguf = Open(Path("i.gguf"));
  EXPECT_EQ(gguf.kind, "GGUF imatrix");
  ASSERT_EQ(gguf.tensors.size(), 2u);
  EXPECT_EQ(gguf.tensors[0].name, "w.in_sum2");
  EXPECT_EQ(gguf.tensors[0].shape, (std::vector<int64_t>{1, 2}));
  EXPECT_EQ(gguf.tensors[0].type, "F32");
  WriteModel(Path("peft"), 1000);
  std::filesystem::rename(Path("peft/model.safetensors"), Path("peft/adapter_model.safetensors"));
  ASSERT_TRUE(WriteFileAtomically(Path("peft/adapter_config.json"), R"({"r": 3})").ok());
  const Container peft = Open(Path("peft"));
  EXPECT_EQ(peft.kind, "PEFT adapter");
  EXPECT_EQ(peft.metadata[0], (std::pair<std::string, std::string>("r", "3")));
  ASSERT_TRUE(WriteFileAtomically(Path("text"), "nothing of the kind").ok());
  EXPECT_THAT(OpenContainer(Path("text")).error().message, HasSubstr("neither GGUF, nor safetensors"));
  EXPECT_FALSE(OpenContainer(Path("none")).ok());
}

}  // namespace
}  // namespace planish

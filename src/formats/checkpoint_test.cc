#include "formats/checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <set>

#include "base/file.h"
#include "base/json.h"

namespace planish {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string SharedModel(const std::string& name) {
  return std::string(PLANISH_SHARED_DIR) + "/models/" + name;
}

class CheckpointTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = ::testing::TempDir() + "planish_checkpoint_XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
  }
  void TearDown() override { EXPECT_TRUE(RemoveTree(folder_).ok()); }

  // A file with one-byte tensors of these names; each holds `value`.
  void WriteShard(const std::string& file, const std::vector<std::string>& names, char value) {
    std::vector<TensorSpec> specs;
    for (const auto& name : names) specs.push_back({name, DType::kU8, {1}});
    auto writer = SafetensorsWriter::Create(JoinPath(folder_, file), specs);
    ASSERT_TRUE(writer.ok()) << writer.error().message;
    for (const auto& spec : writer->order()) {
      ASSERT_TRUE(writer->Append(spec.name, std::as_bytes(std::span(&value, 1))).ok());
    }
    ASSERT_TRUE(writer->Commit().ok());
  }
  void WriteIndexText(const std::string& text) {
    ASSERT_TRUE(WriteFileAtomically(JoinPath(folder_, "model.safetensors.index.json"), text).ok());
  }
  char ValueOf(const Checkpoint& checkpoint, const std::string& name) {
    const auto view = checkpoint.Get(name);
    return view.ok() ? static_cast<char>(view->data[0]) : '?';
  }
  std::string folder_;
};

TEST_F(CheckpointTest, OneFileGoesBeforeAnIndex) {
  WriteShard("model.safetensors", {"a", "b"}, '1');
  WriteShard("other.safetensors", {"a"}, '2');
  WriteIndexText(R"({"weight_map":{"a":"other.safetensors"}})");
  const auto checkpoint = Checkpoint::Open(folder_);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.error().message;
  EXPECT_EQ(ValueOf(*checkpoint, "a"), '1');
  EXPECT_TRUE(checkpoint->Has("b"));
  EXPECT_EQ(checkpoint->FileOf("b"), "model.safetensors");
  EXPECT_EQ(checkpoint->total_bytes(), 2);
}

TEST_F(CheckpointTest, ShardsAreReadByTheIndexAlone) {
  WriteShard("model-00001-of-00002.safetensors", {"a", "shared"}, '1');
  WriteShard("model-00002-of-00002.safetensors", {"b", "shared", "unlisted"}, '2');
  WriteIndexText(R"({"metadata":{"total_size":3,"total_parameters":3},"weight_map":{
      "shared":"model-00002-of-00002.safetensors","b":"model-00002-of-00002.safetensors",
      "a":"model-00001-of-00002.safetensors"}})");
  Result<Checkpoint> opened = Checkpoint::Open(folder_);
  ASSERT_TRUE(opened.ok()) << opened.error().message;
  const Checkpoint copy = *opened;
  opened = InputError("gone");  // the copy keeps the files
  EXPECT_EQ(ValueOf(copy, "shared"), '2');
  EXPECT_EQ(ValueOf(copy, "a"), '1');
  EXPECT_FALSE(copy.Has("unlisted"));
  EXPECT_EQ(copy.FileOf("a"), "model-00001-of-00002.safetensors");
  EXPECT_EQ(copy.FileOf("unlisted"), "");
  std::vector<std::string> names;
  for (const TensorInfo* info : copy.tensors()) names.push_back(info->name);
  EXPECT_THAT(names, ElementsAre("a", "b", "shared"));
  EXPECT_EQ(copy.total_bytes(), 3);
  EXPECT_EQ(copy.folder(), folder_);
}

TEST_F(CheckpointTest, BadIndexesAreRefused) {
  WriteShard("s.safetensors", {"a"}, '1');
  const struct {
    const char* index;
    const char* expected;
  } cases[] = {
      {"{", "not valid JSON"},
      {"[]", "expected an object with an object 'weight_map'"},
      {"{}", "expected an object with an object 'weight_map'"},
      {R"({"weight_map":["a"]})", "expected an object with an object 'weight_map'"},
      {R"({"weight_map":{"a":1}})", "weight_map: 'a': expected a file name, found 1"},
      {R"({"weight_map":{"a":"s.safetensors","a":"s.safetensors"}})", "key 'a' appears twice"},
      {R"({"weight_map":{"a":"../s.safetensors"}})", "'../s.safetensors' is not a plain file name"},
      {R"({"weight_map":{"a":"/etc/passwd"}})", "is not a plain file name"},
      {R"({"weight_map":{"a":"x/s.safetensors"}})", "is not a plain file name"},
      {R"({"weight_map":{"a":"x\\s.safetensors"}})", "is not a plain file name"},
      {R"({"weight_map":{"a":".."}})", "is not a plain file name"},
      {R"({"weight_map":{"a":"."}})", "is not a plain file name"},
      {R"({"weight_map":{"a":""}})", "is not a plain file name"},
      {R"({"weight_map":{"a":"s.safetensors\u0000x"}})", "is not a plain file name"},
      {R"({"weight_map":{"b":"s.safetensors"}})", "tensor 'b' is not in s.safetensors"},
      {R"({"weight_map":{"a":"s.safetensors","b":"gone.safetensors"}})", "(one of 2 shards named by"},
  };
  for (const auto& c : cases) {
    WriteIndexText(c.index);
    const auto checkpoint = Checkpoint::Open(folder_);
    ASSERT_FALSE(checkpoint.ok()) << c.index;
    EXPECT_THAT(checkpoint.error().message, HasSubstr(c.expected));
    EXPECT_EQ(checkpoint.error().code, Code::kInput);
  }
}

TEST_F(CheckpointTest, MissingModelsAreExplained) {
  EXPECT_THAT(Checkpoint::Open(folder_).error().message, HasSubstr("neither model.safetensors nor"));
  EXPECT_THAT(Checkpoint::Open(folder_ + "/none").error().message, HasSubstr("no such folder"));
}

TEST_F(CheckpointTest, MissingTensorsNameTheNearest) {
  WriteShard("model.safetensors", {"model.layers.0.self_attn.q_proj.weight", "lm_head.weight"}, '1');
  const auto checkpoint = Checkpoint::Open(folder_);
  ASSERT_TRUE(checkpoint.ok());
  const std::string near = checkpoint->Get("model.layers.0.self_attn.q_prj.weight").error().message;
  EXPECT_THAT(near, HasSubstr("no tensor 'model.layers.0.self_attn.q_prj.weight'"));
  EXPECT_THAT(near, HasSubstr("did you mean 'model.layers.0.self_attn.q_proj.weight'?"));
  EXPECT_THAT(checkpoint->Get("xyz").error().message,
              HasSubstr("it has 2 tensors, the first is 'lm_head.weight'"));
}

TEST_F(CheckpointTest, EmbeddedFoldersOpen) {
  WriteShard("model.safetensors", {"a"}, '7');
  static const std::string bytes = *ReadTextFile(JoinPath(folder_, "model.safetensors"));
  RegisterEmbedded("checkpoint_test/model.safetensors", std::as_bytes(std::span(bytes)));
  const auto checkpoint = Checkpoint::Open("embedded:checkpoint_test");
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.error().message;
  EXPECT_EQ(ValueOf(*checkpoint, "a"), '7');
}

// Numbers of tensors counted from the files with Python's json module.
TEST(CheckpointModelsTest, ShardedModelsOpen) {
  const struct {
    const char* name;
    size_t num_files, num_tensors;
  } models[] = {{"ref", 7, 56}, {"mistral", 2, 57}};
  for (const auto& model : models) {
    const auto checkpoint = Checkpoint::Open(SharedModel(model.name));
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.error().message;
    EXPECT_EQ(checkpoint->tensors().size(), model.num_tensors);
    std::set<std::string> files;
    int64_t bytes = 0;
    for (const TensorInfo* info : checkpoint->tensors()) {
      files.insert(checkpoint->FileOf(info->name));
      const auto view = checkpoint->Get(info->name);
      ASSERT_TRUE(view.ok());
      bytes += view->NumBytes();
    }
    EXPECT_EQ(files.size(), model.num_files);
    EXPECT_EQ(bytes, checkpoint->total_bytes());
    const Json index =
        *ParseJson(*ReadTextFile(JoinPath(SharedModel(model.name), "model.safetensors.index.json")));
    EXPECT_EQ(checkpoint->total_bytes(), *JsonInt(index["metadata"], "total_size"));
  }
}

TEST(CheckpointModelsTest, OneFileModelOpens) {
  const auto checkpoint = Checkpoint::Open(std::string(PLANISH_SOURCE_DIR) + "/models/demo");
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.error().message;
  EXPECT_TRUE(checkpoint->Has("model.embed_tokens.weight"));
}

// --- Shards ---------------------------------------------------------------------------------------

std::vector<std::vector<std::string>> NamesByFile(const ShardPlan& plan) {
  std::vector<std::vector<std::string>> names;
  for (const auto& file : plan.files) {
    names.emplace_back();
    for (const auto& tensor : file.tensors) names.back().push_back(tensor.name);
  }
  return names;
}

const std::vector<TensorSpec> kModel = {{"z", DType::kU8, {4}},
                                        {"a", DType::kU8, {4}},
                                        {"big", DType::kU8, {20}},
                                        {"m", DType::kBF16, {3}},
                                        {"e", DType::kF32, {0}}};

TEST_F(CheckpointTest, ShardsKeepTheModelsOrderAndSplitNoTensor) {
  const ShardPlan plan = *PlanShards(kModel, 8);
  EXPECT_THAT(NamesByFile(plan),
              ElementsAre(ElementsAre("z", "a"), ElementsAre("big"), ElementsAre("m", "e")));
  EXPECT_EQ(plan.files[0].name, "model-00001-of-00003.safetensors");
  EXPECT_EQ(plan.files[2].name, "model-00003-of-00003.safetensors");
  EXPECT_EQ(plan.total_bytes, 34);
  EXPECT_EQ(ShardIndexText(plan), R"({
  "metadata": {
    "total_size": 34
  },
  "weight_map": {
    "a": "model-00001-of-00003.safetensors",
    "big": "model-00002-of-00003.safetensors",
    "e": "model-00003-of-00003.safetensors",
    "m": "model-00003-of-00003.safetensors",
    "z": "model-00001-of-00003.safetensors"
  }
}
)");
}

TEST_F(CheckpointTest, SmallModelsAreOneFileWithoutAnIndex) {
  const ShardPlan plan = *PlanShards(kModel);
  ASSERT_EQ(plan.files.size(), 1u);
  EXPECT_EQ(plan.files[0].name, "model.safetensors");
  ASSERT_TRUE(WriteIndex(folder_, plan).ok());
  EXPECT_FALSE(FileExists(JoinPath(folder_, "model.safetensors.index.json")));
  EXPECT_EQ(PlanShards({})->files.size(), 1u);
}

TEST_F(CheckpointTest, PlansOfImpossibleSizesAreErrors) {
  EXPECT_FALSE(PlanShards(kModel, 0).ok());
  EXPECT_THAT(PlanShards({{"a", DType::kU8, {-1}}}).error().message, HasSubstr("tensor 'a': shape [-1]"));
  std::vector<TensorSpec> huge;
  for (int i = 0; i < 9; ++i) huge.push_back({std::to_string(i), DType::kU8, {INT64_MAX / 8}});
  EXPECT_THAT(PlanShards(huge).error().message, HasSubstr("overflow"));
}

TEST_F(CheckpointTest, AShardedModelIsWrittenAndReadBack) {
  const ShardPlan plan = *PlanShards(kModel, 8);
  for (const auto& file : plan.files) {
    auto writer = SafetensorsWriter::Create(JoinPath(folder_, file.name), file.tensors);
    ASSERT_TRUE(writer.ok()) << writer.error().message;
    for (const auto& spec : writer->order()) {
      const std::string data(static_cast<size_t>(*TensorByteSize(spec.type, spec.shape)), spec.name[0]);
      ASSERT_TRUE(writer->Append(spec.name, std::as_bytes(std::span(data))).ok());
    }
    ASSERT_TRUE(writer->Commit().ok());
  }
  ASSERT_TRUE(WriteIndex(folder_, plan).ok());
  const auto checkpoint = Checkpoint::Open(folder_);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.error().message;
  EXPECT_EQ(checkpoint->tensors().size(), kModel.size());
  EXPECT_EQ(checkpoint->total_bytes(), plan.total_bytes);
  for (const char* name : {"z", "a", "big", "m"}) EXPECT_EQ(ValueOf(*checkpoint, name), name[0]);
  EXPECT_EQ(checkpoint->Get("big")->shape, std::vector<int64_t>{20});
}

}  // namespace
}  // namespace planish

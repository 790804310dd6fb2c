#include "evaluate/difference.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "model/model_test_util.h"

namespace planish {
namespace {

using test::TemporaryFolder;
using test::TestContext;
using test::TinyModel;
using testing::ElementsAre;

Model Load(const TinyModel& tiny, const TemporaryFolder& folder) {
  tiny.Write(folder.path());
  auto model = LoadModel(folder.path());
  EXPECT_TRUE(model.ok()) << (model.ok() ? "" : model.error().message);
  return std::move(model).value();
}

TEST(Difference, EqualModelsAreTheSame) {
  TemporaryFolder folder, other;
  TinyModel tiny;
  tiny.MakeTensors();
  TestContext context;
  const Model a = Load(tiny, folder), b = Load(tiny, other);
  const auto difference = CompareModels(context.context, a, b);
  ASSERT_TRUE(difference.ok());
  EXPECT_TRUE(difference->Same());
  EXPECT_EQ(difference->tensors.size(), 21u);  // 14 in layers, embedding, head, 5 norms
  for (const auto& tensor : difference->tensors) {
    EXPECT_EQ(tensor.relative, 0);
    EXPECT_NEAR(tensor.cosine, 1, 1e-12);
  }
}

TEST(Difference, ErrorsByHand) {
  TemporaryFolder folder, other;
  TinyModel tiny;
  tiny.MakeTensors();
  auto& norm = tiny.tensors["model.norm.weight"].values;
  auto& down = tiny.tensors["model.layers.1.mlp.down_proj.weight"].values;
  auto& gate = tiny.tensors["model.layers.0.mlp.gate_proj.weight"].values;
  norm = {3, 4, 0, 0, 0, 0, 0, 0};
  std::fill(gate.begin(), gate.end(), 0.0f);
  const Model a = Load(tiny, folder);
  norm = {3, 0, 0, 0, 0, 0, 0, 1};
  for (float& value : down) value *= -2;
  gate[5] = 0.5f;
  tiny.config["rms_norm_eps"] = 1e-6;
  tiny.config["sep_token_id"] = 7;
  tiny.config.erase("bos_token_id");
  const Model b = Load(tiny, other);
  for (int threads : {1, 3}) {
    TestContext context(BestIsa(), Profile::kFast, threads);
    const auto difference = CompareModels(context.context, a, b);
    ASSERT_TRUE(difference.ok());
    EXPECT_FALSE(difference->Same());
    for (const auto& tensor : difference->tensors) {
      if (tensor.name == "model.norm.weight") {
        EXPECT_DOUBLE_EQ(tensor.relative, std::sqrt(17.0) / 5);
        EXPECT_EQ(tensor.max_abs, 4);
        EXPECT_DOUBLE_EQ(tensor.cosine, 9 / (5 * std::sqrt(10.0)));
      } else if (tensor.name == "model.layers.1.mlp.down_proj.weight") {
        EXPECT_NEAR(tensor.relative, 3, 1e-12);
        EXPECT_NEAR(tensor.cosine, -1, 1e-12);
      } else if (tensor.name == "model.layers.0.mlp.gate_proj.weight") {
        EXPECT_EQ(tensor.relative, INFINITY);
        EXPECT_EQ(tensor.cosine, 0);
        EXPECT_EQ(tensor.max_abs, 0.5);
      } else {
        EXPECT_EQ(tensor.relative, 0) << tensor.name;
      }
    }
    ASSERT_EQ(difference->fields.size(), 3u);
    EXPECT_EQ(difference->fields[0].field, "bos_token_id");
    EXPECT_EQ(difference->fields[0].b, "");
    EXPECT_EQ(difference->fields[1].field, "rms_norm_eps");
    EXPECT_EQ(difference->fields[2].a, "");
  }
}

// Spellings, defaults and precisions that mean the same, and fields that no program computes by.
TEST(Difference, FieldsThatSayNothing) {
  TemporaryFolder folder, other;
  TinyModel tiny;
  tiny.config.update({{"rms_norm_eps", 1e-5}, {"rope_theta", 10000.0}, {"torch_dtype", "float32"}});
  tiny.MakeTensors();
  const Model a = Load(tiny, folder);
  tiny.config.erase("rope_theta");
  tiny.config.erase("torch_dtype");
  tiny.config.update({{"rms_norm_eps", static_cast<double>(1e-5f)},
                      {"rope_parameters", {{"rope_theta", 10000}, {"rope_type", "default"}}},
                      {"sliding_window", nullptr},
                      {"attention_bias", false},
                      {"dtype", "bfloat16"},
                      {"use_cache", true},
                      {"transformers_version", "5.0"}});
  const Model b = Load(tiny, other);
  TestContext context;
  const auto same = CompareModels(context.context, a, b);
  ASSERT_TRUE(same.ok());
  for (const auto& field : same->fields) ADD_FAILURE() << field.field << ": " << field.a << " / " << field.b;
  EXPECT_TRUE(same->Same());
}

TEST(Difference, TensorsThatOneHasAndShapes) {
  TemporaryFolder folder, other;
  TinyModel llama, qwen("qwen3");
  llama.MakeTensors();
  qwen.config["intermediate_size"] = 16;
  qwen.MakeTensors();
  TestContext context;
  const Model a = Load(llama, folder), b = Load(qwen, other);
  const auto difference = CompareModels(context.context, a, b);
  ASSERT_TRUE(difference.ok());
  EXPECT_THAT(difference->only_a, ElementsAre());
  EXPECT_THAT(
      difference->only_b,
      ElementsAre("model.layers.0.self_attn.q_norm.weight", "model.layers.0.self_attn.k_norm.weight",
                  "model.layers.1.self_attn.q_norm.weight", "model.layers.1.self_attn.k_norm.weight"));
  for (const auto& tensor : difference->tensors) {
    EXPECT_EQ(tensor.same_shape(), tensor.name.find("mlp") == std::string::npos) << tensor.name;
  }
}

}  // namespace
}  // namespace planish

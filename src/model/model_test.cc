// Checkpoints that are wrong, and the strict profile's promise: the same bytes on any CPU.
#include <gtest/gtest.h>

#include <cstdio>

#include "model/model_test_util.h"

namespace planish {
namespace {

using test::OnePass;
using test::TemporaryFolder;
using test::TestContext;
using test::TinyModel;

void ExpectLoadError(const TinyModel& model, const std::string& expected) {
  TemporaryFolder folder;
  model.Write(folder.path());
  const auto loaded = LoadModel(folder.path());
  ASSERT_FALSE(loaded.ok()) << expected;
  EXPECT_EQ(loaded.error().code, Code::kInput);
  EXPECT_NE(loaded.error().message.find(expected), std::string::npos) << loaded.error().message;
}

TEST(WrongCheckpoint, NamesTheTensor) {
  TinyModel model;
  model.MakeTensors();
  const std::string down = "model.layers.1.mlp.down_proj.weight", norm = "model.norm.weight";
  TinyModel broken = model;
  broken.tensors.erase(down);
  ExpectLoadError(broken, down);
  broken = model;
  std::swap(broken.tensors[down].shape[0], broken.tensors[down].shape[1]);
  ExpectLoadError(broken, "expected shape [8, 12] from the config, found [12, 8]");
  broken = model;
  broken.tensors[down].type = DType::kI32;
  ExpectLoadError(broken, "type I32 cannot be computed with");
  broken = model;
  broken.tensors[norm].values[3] = NAN;
  ExpectLoadError(broken, "tensor 'model.norm.weight': element 3 is");
}

TEST(WrongCheckpoint, CheckFiniteFindsTheElement) {
  TinyModel model;
  model.MakeTensors();
  model.tensors["model.layers.0.self_attn.k_proj.weight"].values[2 * 8 + 5] = INFINITY;
  TemporaryFolder folder;
  model.Write(folder.path());
  const auto loaded = LoadModel(folder.path());
  ASSERT_TRUE(loaded.ok()) << loaded.error().message;
  TestContext run;
  const Status finite = CheckFinite(run.context, *loaded);
  ASSERT_FALSE(finite.ok());
  EXPECT_NE(finite.error().message.find("k_proj.weight': element [2, 5] is inf"), std::string::npos)
      << finite.error().message;
}

TEST(WrongConfig, TableOfMistakes) {
  struct Case {
    const char* key;
    Json value;
    const char* expected;
  };
  for (const Case& c : std::vector<Case>{
           {"model_type", "mistrall", "the nearest is 'mistral'"},
           {"model_type", 3, "expected a string"},
           {"hidden_size", -4, "'hidden_size': expected 1 to"},
           {"hidden_size", "8", "'hidden_size': expected an integer"},
           {"num_hidden_layers", 1e9, "expected"},
           {"num_key_value_heads", 3, "no multiple"},
           {"head_dim", 5, "head_dim 5 is odd"},
           {"rms_norm_eps", 0.0, "rms_norm_eps"},
           {"hidden_act", "swiglu", "hidden_act 'swiglu' is not supported"},
           {"eos_token_id", 11, "eos_token_id"},
           {"bos_token_id", 99, "bos_token_id"},
           {"bos_token_id", INT64_MIN, "bos_token_id"},
           {"rms_norm_eps", 1e-60, "rms_norm_eps"},
           {"model_type", std::string(5000, 'm'), "mmm...' is not known"},
           {"quantization_config", Json{{"quant_method", "hqq"}}, "already compressed with 'hqq'"}}) {
    TinyModel model;
    model.config[c.key] = c.value;
    const auto program = BuildProgram(model.config);
    ASSERT_FALSE(program.ok()) << c.key;
    EXPECT_NE(program.error().message.find(c.expected), std::string::npos) << program.error().message;
  }
}

TEST(Forward, RefusesIdsOutsideTheVocabulary) {
  TinyModel tiny;
  tiny.MakeTensors();
  TemporaryFolder folder;
  tiny.Write(folder.path());
  const auto model = LoadModel(folder.path());
  ASSERT_TRUE(model.ok());
  TestContext run;
  DenseCache cache(2, 1, 4);
  Executor executor(*model);
  Mat<float> logits;
  const int64_t row = 0;
  for (int32_t id : {-1, 11}) {
    const Status done = Forward(run.context, *model, executor, Batch::Of({&id, 1}), {&row, 1}, cache, logits);
    ASSERT_FALSE(done.ok());
    EXPECT_NE(done.error().message.find("the vocabulary has 11"), std::string::npos);
  }
}

TEST(Program, CountsOfDemo) {
  const auto model = LoadModel(PLANISH_SOURCE_DIR "/models/demo");
  ASSERT_TRUE(model.ok()) << model.error().message;
  // Per layer: q, o 256x256, k, v 128x256, three of 704x256; six layers; tied embedding 8192x256.
  const int64_t layer = 2 * 256 * 256 + 2 * 128 * 256 + 3 * 704 * 256;
  EXPECT_EQ(model->program.LinearWeights(), 6 * layer);
  EXPECT_EQ(model->program.Parameters(), 6 * layer + 8192 * 256 + 13 * 256);
  EXPECT_EQ(model->program.LinearMacsPerToken(), 6 * layer + 8192 * 256);
}

uint64_t Fnv1a(const Mat<float>& m) {
  uint64_t hash = 0xcbf29ce484222325u;
  const auto* bytes = reinterpret_cast<const unsigned char*>(m.data());
  for (int64_t i = 0; i < m.rows() * m.cols() * 4; ++i) hash = (hash ^ bytes[i]) * 0x100000001b3u;
  return hash;
}

// Logits of demo for 32 ids. A change of this number is a change of every strict result: raise the
// program's version with it.
constexpr uint64_t kStrictLogits = 0x3e4e1eaa0160222au;

TEST(Strict, SameLogitsOnEveryKernelSetAndCpu) {
  const auto model = LoadModel(PLANISH_SOURCE_DIR "/models/demo");
  ASSERT_TRUE(model.ok()) << model.error().message;
  std::vector<int32_t> ids;
  for (int32_t i = 0; i < 32; ++i) ids.push_back((i * 257 + 31) % 8192);
  for (Isa isa : {Isa::kScalar, Isa::kAvx2, Isa::kAvx512}) {
    if (!IsaSupported(isa)) {
      std::printf("skipped: %s (this machine has: %s)\n", std::string(IsaName(isa)).c_str(),
                  SupportedIsas().c_str());
      continue;
    }
    for (int threads : {1, 3}) {
      TestContext run(isa, Profile::kStrict, threads);
      EXPECT_EQ(Fnv1a(OnePass(run.context, *model, ids)), kStrictLogits) << IsaName(isa) << ", " << threads;
    }
    std::printf("ran: %s\n", std::string(IsaName(isa)).c_str());
  }
}

}  // namespace
}  // namespace planish

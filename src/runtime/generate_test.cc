// Generation on the plain runner where a cache alone would not be enough.
#include "runtime/generate.h"

#include <gtest/gtest.h>

#include "model/model_test_util.h"

namespace planish {
namespace {

using test::ModelFolder;
using test::OnePass;
using test::ReadJson;
using test::TestContext;

// From 58 tokens across 64, where the long factors begin: what the whole prefix gives at each step.
TEST(Generate, LongropeRunsAgainWhereItsFrequenciesChange) {
  const std::string folder = ModelFolder("tiny/phi3_longrope");
  const auto model = LoadModel(folder);
  ASSERT_TRUE(model.ok()) << model.error().message;
  const Json golden = ReadJson(folder + "/golden.json");
  const TestContext run;
  for (size_t s = 0; s < 2; ++s) {
    auto ids = golden["input_ids"][s].get<std::vector<int32_t>>();
    ids.resize(58);
    PlainRunner runner(*model, 1, 80);
    const auto result =
        Generate(run.context, model->program, runner, ids,
                 {.max_tokens = 14, .context = 80, .sampling = {.temperature = 0}, .stop_at_eos = false},
                 [](int32_t) { return true; });
    ASSERT_TRUE(result.ok()) << result.error().message;
    ASSERT_EQ(result->ids.size(), 14u);
    for (const int32_t id : result->ids) {
      const Mat<float> logits = OnePass(run.context, *model, ids);
      EXPECT_EQ(ArgMax({logits.row(logits.rows() - 1), static_cast<size_t>(logits.cols())}), id)
          << ids.size();
      ids.push_back(id);
    }
  }
}

}  // namespace
}  // namespace planish

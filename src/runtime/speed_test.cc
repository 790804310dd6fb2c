#include "runtime/speed.h"

#include <gtest/gtest.h>

#include "model/model_test_util.h"
#include "runtime/packed_test_util.h"

namespace planish {
namespace {

// Rounds so long that the window leaves the pages behind from which the next one starts.
TEST(Speed, RepeatsRoundsOverASlidingWindow) {
  test::TestContext test;
  test::TinyModel tiny("mistral");
  tiny.config["sliding_window"] = 5;
  tiny.config["max_position_embeddings"] = 4096;
  tiny.MakeTensors();
  const test::TemporaryFolder folder;
  tiny.Write(folder.path());
  const Model model = test::Must(LoadModel(folder.path()));
  const SpeedOptions options{.prompt = 20, .generate = 1600, .depths = {0, 600}, .sequences = 2, .rounds = 2};
  const auto engine =
      test::Must(Engine::Create(test.context, model, test::Must(PackModel(test.context, model)),
                                {.slots = options.sequences, .capacity = CapacityFor(options)}));
  const Speed speed = test::Must(MeasureSpeed(test.context, model, *engine, options));
  ASSERT_EQ(speed.depths.size(), 2u);
  for (const DepthSpeed& depth : speed.depths) {
    EXPECT_GT(depth.decode_tok_s, 0);
    EXPECT_GT(depth.prefill_tok_s, 0);
    EXPECT_GT(depth.bytes_per_token, static_cast<double>(engine->packed().bytes) / 2);
    EXPECT_GT(depth.bandwidth_share, 0);
  }
  // All keys that it may see are in the window.
  EXPECT_NEAR(speed.depths[0].bytes_per_token, speed.depths[1].bytes_per_token, 1);
}

}  // namespace
}  // namespace planish

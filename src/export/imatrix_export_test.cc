#include "export/imatrix_export.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "calibrate/sites.h"
#include "export/importance.h"
#include "model/model_test_util.h"

namespace planish {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

TEST(ImatrixExport, SumsOfSquaresByWeight) {
  test::TemporaryFolder folder;
  test::TinyModel tiny;
  tiny.MakeTensors();
  tiny.Write(folder.path());
  const auto model = LoadModel(folder.path());
  ASSERT_TRUE(model.ok()) << model.error().message;
  test::TestContext context;
  StatisticsFile statistics;
  for (const Site& site : AllSites(model->program)) {
    const int64_t width = model->linears[static_cast<size_t>(site.linears[0])].w.cols;
    Mat<float> x(2, width);  // columns j: 1 and j
    for (int64_t j = 0; j < width; ++j) {
      x(0, j) = 1;
      x(1, j) = static_cast<float>(j);
    }
    Moments moments(width);
    ASSERT_TRUE(moments.Add(context.context, x).ok());
    statistics.sites[site.name] = std::move(moments);
  }
  const auto imatrix = ImatrixOf(*model, statistics);
  ASSERT_TRUE(imatrix.ok()) << imatrix.error().message;
  EXPECT_EQ(imatrix->entries.size(), 14u);
  for (const char* name : {"blk.0.attn_q.weight", "blk.1.attn_v.weight", "blk.1.ffn_up.weight"}) {
    const ImatrixEntry& entry = imatrix->entries.at(name);
    EXPECT_THAT(entry.sum2, ElementsAre(1, 2, 5, 10, 17, 26, 37, 50)) << name;
    EXPECT_THAT(entry.counts, ElementsAre(2));
  }
  // Both ways to the importance of columns agree.
  const auto direct = ImportanceOf(*model, statistics), through = ImportanceOf(*model, *imatrix);
  ASSERT_TRUE(direct.ok() && through.ok());
  EXPECT_EQ(*direct, *through);
  statistics.sites.erase(statistics.sites.begin());
  EXPECT_THAT(ImatrixOf(*model, statistics).error().message, HasSubstr("the statistics have no site"));
}

}  // namespace
}  // namespace planish

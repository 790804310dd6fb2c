#include "runtime/tile_division.h"

#include <gmock/gmock.h>

#include <numeric>

#include "runtime/packed_test_util.h"

namespace planish {
namespace {

using test::Must;

// Packed layers [rows, 64], in memory of their own; rows 0: null.
class Layers {
 public:
  explicit Layers(const std::vector<int64_t>& rows) {
    ThreadPool pool(1);
    for (const int64_t r : rows) {
      views_.push_back(nullptr);
      if (r == 0) continue;
      const Linear linear{"w", test::RandomCoded(r, 64, {4, 64, true}, 0.1, 1), {}};
      bytes_.push_back(test::Pack({&pool, Isa::kScalar}, Must(PlanPackedLinear(linear))));
      layers_.push_back(std::make_unique<PackedLinear>(Must(PackedLinear::FromBytes(bytes_.back().bytes()))));
      views_.back() = layers_.back().get();
    }
  }
  const std::vector<const PackedLinear*>& views() const { return views_; }

 private:
  std::vector<Buffer> bytes_;
  std::vector<std::unique_ptr<PackedLinear>> layers_;
  std::vector<const PackedLinear*> views_;
};

int64_t BytesOf(const std::vector<TileShare>& shares, const Layers& layers) {
  int64_t bytes = 0;
  for (const TileShare& s : shares) {
    bytes += (s.end - s.begin) * layers.views()[static_cast<size_t>(s.linear)]->layout().tile_bytes;
  }
  return bytes;
}

const std::vector<int64_t> kShapes[] = {{16},         {1},          {48, 16, 16},   {0, 300},
                                        {17 * 16, 0}, {80, 33, 33}, {5000, 31, 31}, {0, 0}};

TEST(TileDivision, GivesEveryTileOnceInTheOrderOfMemory) {
  for (const auto& rows : kShapes) {
    const Layers layers(rows);
    for (int members = 1; members <= 5; ++members) {
      for (const double tail_share : {0.0, 0.125, 0.9}) {
        const TileDivision division = Divide(layers.views(), members, tail_share);
        ASSERT_EQ(division.own.size(), static_cast<size_t>(members));
        // Member after member, then the tail: all tiles in order, without gaps.
        std::vector<TileShare> all;
        for (const auto& own : division.own) all.insert(all.end(), own.begin(), own.end());
        all.insert(all.end(), division.tail.begin(), division.tail.end());
        size_t next = 0;
        for (size_t k = 0; k < rows.size(); ++k) {
          const PackedLinear* layer = layers.views()[k];
          for (int64_t tile = 0; layer != nullptr && tile < layer->tiles(); ++next) {
            ASSERT_LT(next, all.size());
            EXPECT_EQ(all[next].linear, static_cast<int>(k));
            EXPECT_EQ(all[next].begin, tile);
            ASSERT_GT(all[next].end, tile);
            ASSERT_LE(all[next].end, layer->tiles());
            tile = all[next].end;
          }
        }
        EXPECT_EQ(next, all.size());
        EXPECT_TRUE(tail_share > 0 || division.tail.empty());
      }
    }
  }
}

// A part's ends lie within half a tile of where they should be.
TEST(TileDivision, SharesAreEqualToATileAndTheTailIsInSmallRuns) {
  for (const auto& rows : kShapes) {
    const Layers layers(rows);
    double total = 0, tile = 0;
    for (const PackedLinear* layer : layers.views()) {
      if (layer == nullptr) continue;
      tile = static_cast<double>(layer->layout().tile_bytes);
      total += tile * static_cast<double>(layer->tiles());
    }
    for (int members = 1; members <= 5; ++members) {
      for (const double tail_share : {0.0, 0.125, 0.9}) {
        const TileDivision division = Divide(layers.views(), members, tail_share);
        for (const auto& own : division.own) {
          EXPECT_NEAR(static_cast<double>(BytesOf(own, layers)), total * (1 - tail_share) / members,
                      tile + 1);
        }
        EXPECT_NEAR(static_cast<double>(BytesOf(division.tail, layers)), total * tail_share, tile);
        for (const TileShare& run : division.tail) {
          EXPECT_LE(BytesOf({run}, layers), (32 << 10) + static_cast<int64_t>(tile));
        }
      }
    }
  }
}

}  // namespace
}  // namespace planish

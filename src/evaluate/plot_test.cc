#include "evaluate/plot.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

namespace planish {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

// Corners by hand: 650 by 490 between the axes, 5 % of room around the points on every side.
TEST(Plot, PlacesPointsOnALogarithmicAxis) {
  const Plot plot{"a < b",
                  "x",
                  "y",
                  {{"one", {{2, 0.01, "low"}, {4, 1, "high"}}}, {"two & three", {{3, 0.1, "\"mid\""}}}}};
  const auto svg = PlotSvg(plot);
  ASSERT_TRUE(svg.ok()) << svg.error().message;
  // x: (2 - 1.9) / 2.2 * 650 + 80 = 109.5; y: 540 - 0.1 / 2.2 * 490 = 517.7.
  EXPECT_THAT(*svg, HasSubstr("<circle cx=\"109.5\" cy=\"517.7\" r=\"4\" fill=\"#1f77b4\"><title>low<"));
  EXPECT_THAT(*svg, HasSubstr("<circle cx=\"700.5\" cy=\"72.3\" r=\"4\" fill=\"#1f77b4\"><title>high<"));
  EXPECT_THAT(
      *svg, HasSubstr("<circle cx=\"405.0\" cy=\"295.0\" r=\"4\" fill=\"#d62728\"><title>&quot;mid&quot;<"));
  EXPECT_THAT(*svg, HasSubstr(">a &lt; b<"));
  EXPECT_THAT(*svg, HasSubstr(">two &amp; three<"));
  // Only the first point has none below and left of it.
  EXPECT_THAT(*svg, HasSubstr("<polyline points=\"109.5,517.7\""));
  EXPECT_THAT(*svg, Not(HasSubstr("nan")));
  const auto single = PlotSvg({"t", "x", "y", {{"one", {{3, 2, "p"}}}}});
  ASSERT_TRUE(single.ok());
  EXPECT_THAT(*single, Not(HasSubstr("nan")));
}

TEST(Plot, Mistakes) {
  EXPECT_THAT(PlotSvg({}).error().message, HasSubstr("no points"));
  EXPECT_THAT(PlotSvg({"", "", "", {{"", {{1, 0, "p"}}}}}).error().message, HasSubstr("point 'p' at (1, 0)"));
  EXPECT_THAT(PlotSvg({"", "", "", {{"", {{NAN, 1, "p"}}}}}).error().message, HasSubstr("expected finite"));
}

}  // namespace
}  // namespace planish

#include "pipeline/compare_grids.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace planish {
namespace {

using ::testing::HasSubstr;

TEST(CompareGrids, TextsOfGridsReadBack) {
  for (const GridChoice& choice : AllGridChoices()) {
    EXPECT_EQ(CheckGrid(choice.grid), "") << choice.name;
    const auto back = ParseGridChoice(choice.name + (choice.grid.group == 0 ? " g0" : ""));
    ASSERT_TRUE(back.ok()) << back.error().message;
    EXPECT_EQ(back->grid, choice.grid) << choice.name;
  }
  const auto fine = ParseGridChoice("int3 s6 g48 z7");
  ASSERT_TRUE(fine.ok());
  EXPECT_EQ(fine->name, "int3 g48 s6 z7");
}

TEST(CompareGrids, MistakesInTextsAreNamed) {
  const auto message = [](const char* text) { return ParseGridChoice(text).error().message; };
  EXPECT_THAT(message("itn4"), HasSubstr("grid 'itn4': no such number format; did you mean 'int"));
  EXPECT_THAT(message("int4 q3"), HasSubstr("'q3': expected gN (group)"));
  EXPECT_THAT(message("int4 g"), HasSubstr("'g': expected gN"));
  EXPECT_THAT(message("int4 g99999999999999999999"), HasSubstr("expected gN"));
  EXPECT_THAT(message("int4 s9"), HasSubstr("scale_bits: expected 4 to 8, found 9"));
  EXPECT_THAT(message("mxfp4 g64"), HasSubstr("mxfp4 fixes its groups and scales"));
  EXPECT_THAT(message("nf4 row"), HasSubstr("tables: only grids table2 to table4"));
  EXPECT_THAT(message(""), HasSubstr("no such number format"));
  EXPECT_THAT(message("nf4 z8"), HasSubstr("grid 'nf4 z8': zN says nothing here: the grid has no zeros"));
  EXPECT_THAT(message("nf4 sym"), HasSubstr("sym says nothing here: the grid has no zeros"));
  EXPECT_THAT(message("int1 sym"), HasSubstr("int1 is symmetric"));
  EXPECT_THAT(message("int4 sym z6"),
              HasSubstr("zN says nothing here: a symmetric grid has no stored zeros"));
  EXPECT_THAT(message("table3 row g0 s6"),
              HasSubstr("sN says nothing here: tables of their own have no scales"));
  EXPECT_THAT(message("table3 each s6 g64"), HasSubstr("sN says nothing here"));
}

TEST(CompareGrids, TableMarksWhatNothingBeats) {
  const std::string table = GridTable({{"a", 3, 2, 1}, {"b", 4, 1, 0.5}, {"c", 4.5, 1, 0.6}});
  EXPECT_EQ(table,
            "grid                         bits      nearest         loss   ratio\n"
            "c                          4.5000   1.0000e+00   6.0000e-01   0.600\n"
            "b                          4.0000   1.0000e+00   5.0000e-01   0.500 *\n"
            "a                          3.0000   2.0000e+00   1.0000e+00   0.500 *\n");
}

}  // namespace
}  // namespace planish

// The tables of families in docs/, which are made from the families' own files. With PLANISH_WRITE_PAGES set
// in the environment the test writes them; else it compares.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>

#include "base/file.h"
#include "model/family.h"

namespace planish {
namespace {

std::string TypesOf(const Family& family) {
  const std::string type = fmt::format("`{}`", family.model_type);
  return family.also == nullptr ? type : fmt::format("{}, `{}`", type, family.also);
}

std::string FamilyTable() {
  std::string table = "| model_type | what sets it apart |\n| --- | --- |\n";
  for (const Family* family : AllFamilies()) {
    table += fmt::format("| {} | {} |\n", TypesOf(*family), family->summary);
  }
  return table;
}

// How a family's GGUF files differ from its checkpoints, from the descriptions that do it.
std::string DifferencesOf(const GgufFamily& row) {
  using Rows = GgufFamily::Rows;
  std::vector<std::string> parts;
  if (row.rows == Rows::kPairs) parts.emplace_back("rows of q and k: the halves of each head interleaved");
  if (row.rows == Rows::kGroups)
    parts.emplace_back("rows of the fused q, k, v: all of q, all of k, all of v");
  if (row.norm_plus != 0) parts.push_back(fmt::format("norms with {} added", row.norm_plus));
  if (row.transposed) parts.emplace_back("matrices [out, in]");
  if (row.experts != nullptr) parts.emplace_back("experts in one tensor");
  if (row.differs != nullptr) parts.emplace_back(row.differs);
  if (row.window_unread) parts.emplace_back("windows are written, and not applied by llama.cpp");
  return fmt::format("{}", fmt::join(parts, "; "));
}

std::string GgufTable() {
  std::string table =
      "| model_type | architecture | what differs from the checkpoint |\n| --- | --- | --- |\n";
  for (const Family* family : AllFamilies()) {
    if (family->gguf.empty()) {
      table += fmt::format("| {} | none | not written |\n", TypesOf(*family));
      continue;
    }
    const GgufFamily& row = family->gguf.front();
    const std::string differences = DifferencesOf(row);
    table += fmt::format("| {} | `{}` |{} |\n", TypesOf(*family), row.arch,
                         differences.empty() ? "" : " " + differences);
  }
  return table;
}

// The page has the table between its first line and an empty one.
void CheckPage(const std::string& name, const std::string& table) {
  const std::string path = PLANISH_SOURCE_DIR "/docs/" + name;
  const auto page = ReadTextFile(path);
  ASSERT_TRUE(page.ok()) << page.error().message;
  const size_t begin = page->find(table.substr(0, table.find('\n') + 1));
  ASSERT_NE(begin, std::string::npos) << name << " has no table of families";
  const size_t end = page->find("\n\n", begin) + 1;
  if (std::getenv("PLANISH_WRITE_PAGES") != nullptr) {
    const std::string written = page->substr(0, begin) + table + page->substr(end);
    ASSERT_TRUE(written == *page || WriteFileAtomically(path, written).ok());
    return;
  }
  EXPECT_EQ(page->substr(begin, end - begin), table)
      << "docs/" << name
      << ": PLANISH_WRITE_PAGES=1 model_test --gtest_filter='Pages.*' writes its table anew";
}

TEST(Pages, HoldTheTablesOfFamilies) {
  CheckPage("families.md", FamilyTable());
  CheckPage("formats/gguf.md", GgufTable());
}

}  // namespace
}  // namespace planish

// Sparse parts, tables of rows and groups, and biases that compression made.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

#include "grids/grids_test_util.h"
#include "layer/artifact.h"

namespace planish {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// A checkpoint of the tensors, from memory.
Result<Checkpoint> Open(const std::vector<PartTensor>& tensors, std::string& bytes) {
  OrderedJson header;
  std::string data;
  for (const PartTensor& t : tensors) {
    const size_t begin = data.size();
    data.append(reinterpret_cast<const char*>(t.bytes.data()), t.bytes.size());
    header[t.name] = {
        {"dtype", DTypeName(t.type)}, {"shape", t.shape}, {"data_offsets", {begin, data.size()}}};
  }
  const std::string text = DumpJson(header);
  const uint64_t length = text.size();
  bytes.assign(reinterpret_cast<const char*>(&length), 8);
  bytes += text + data;
  return Checkpoint::Parse(std::as_bytes(std::span(bytes)), "parts");
}

Matrix SparseExample() {
  return SparseMatrix(3, 5, std::vector<SparseEntry>{{0, 1, 0.5f}, {0, 4, -2}, {2, 0, 3}});
}

TEST(Sparse, BytesValuesAndProducts) {
  const Matrix m = SparseExample();
  const auto& sparse = std::get<Sparse>(m.body);
  EXPECT_THAT(*sparse.begins, ElementsAre(0, 2, 2, 3));
  EXPECT_EQ(StoredBytes(m), 3 * 2 + 3 * 2 + 3 * 2);
  EXPECT_EQ(Describe(m), "sparse 20%");
  const Mat<float> w = Reconstruct(m);
  EXPECT_THAT(std::vector<float>(w.data(), w.data() + 15),
              ElementsAre(0, 0.5f, 0, 0, -2, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0));
  float part[2];
  ReadRows(m, 0, 1, 3, 2, part, 2);
  EXPECT_THAT(part, ElementsAre(0, -2));
  ThreadPool pool(2);
  Mat<float> x(2, 5), y(2, 3);
  for (int64_t i = 0; i < 10; ++i) x.data()[i] = static_cast<float>(i + 1);
  y.Fill(1);
  Apply({.pool = &pool}, m, x, y, Accumulate::kAdd);
  EXPECT_THAT(std::vector<float>(y.data(), y.data() + 6), ElementsAre(-8, 1, 4, -15.5f, 1, 19));
  Apply({.pool = &pool}, m, x, y, Accumulate::kSubtract);
  EXPECT_THAT(std::vector<float>(y.data(), y.data() + 6), ElementsAre(1, 1, 1, 1, 1, 1));
  Apply({.pool = &pool}, m, x, y, Accumulate::kSet);
  EXPECT_THAT(std::vector<float>(y.data(), y.data() + 6), ElementsAre(-9, 0, 3, -16.5f, 0, 18));
  // Wider than 16 bits count.
  const Matrix wide = SparseMatrix(2, 70000, std::vector<SparseEntry>{{1, 69999, 1}});
  EXPECT_EQ(StoredBytes(wide), 2 + 4 + 2 * 4);
  EXPECT_EQ(Reconstruct(wide)(1, 69999), 1.0f);
}

TEST(Sparse, SurvivesAFile) {
  const Matrix m{3, 5, SumPart{{DenseMatrix(RandomWeights(3, 5, 1).view(), DType::kF16), SparseExample()}}};
  std::vector<PartTensor> tensors;
  const OrderedJson description = DescribeParts(m, "w", tensors);
  std::string bytes;
  const auto checkpoint = Open(tensors, bytes);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.error().message;
  const auto back = ReadParts(*ParseJson(DumpJson(description)), "w", 3, 5, *checkpoint);
  ASSERT_TRUE(back.ok()) << back.error().message;
  EXPECT_EQ(StoredBytes(*back), StoredBytes(m));
  EXPECT_EQ(checkpoint->total_bytes(), StoredBytes(m));
  const Mat<float> a = Reconstruct(m), b = Reconstruct(*back);
  EXPECT_TRUE(std::equal(a.data(), a.data() + 15, b.data()));
}

TEST(Sparse, MalformedPartsAreNamed) {
  const uint16_t values[] = {0x3800, 0x4000, 0x4200}, infinite[] = {0x3800, 0x7c00, 0x4200};
  const uint16_t columns[] = {1, 4, 0}, beyond[] = {1, 5, 0}, twice[] = {1, 1, 0};
  const uint16_t counts[] = {2, 0, 1}, many[] = {2, 0, 2}, few[] = {2, 0, 0};
  struct Case {
    std::span<const uint16_t, 3> values, columns, counts;
    std::string count, message;
  };
  const std::vector<Case> cases = {
      {values, columns, counts, "3", ""},
      {infinite, columns, counts, "3", "tensor 's.values': element 1 is not finite"},
      {values, beyond, counts, "3",
       "tensor 's.columns: element 1 of row 0 is in column 5 after 1, of 5 columns"},
      {values, twice, counts, "3", "tensor 's.columns: element 1 of row 0 is in column 1 after 1"},
      {values, columns, many, "3", "tensor 's.counts: row 2 has 2 elements, 1 of 3 are left"},
      {values, columns, few, "3", "tensor 's.counts: the rows have 2 elements, 3 are stored"},
      {values, columns, counts, "2", "tensor 's.values': expected F16 [2], found F16 [3]"},
      {values, columns, counts, "0", "count: expected 1 to rows times columns, found 0"},
      {values, columns, counts, "16", "count: expected 1 to rows times columns, found 16"},
      {values, columns, counts, "null", "field 'count' is missing"},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.message);
    std::string bytes;
    const auto checkpoint = Open({{"s.values", DType::kF16, {3}, std::as_bytes(c.values)},
                                  {"s.columns", DType::kU16, {3}, std::as_bytes(c.columns)},
                                  {"s.counts", DType::kU16, {3}, std::as_bytes(c.counts)}},
                                 bytes);
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.error().message;
    const auto json =
        ParseJson(R"({"kind": "sparse", "tensor": "s", "rows": 3, "cols": 5, "count": )" + c.count + "}");
    ASSERT_TRUE(json.ok());
    const auto matrix = ReadParts(*json, "layer", 3, 5, *checkpoint);
    ASSERT_EQ(matrix.ok(), c.message.empty()) << (matrix.ok() ? "" : matrix.error().message);
    if (matrix.ok()) continue;
    EXPECT_THAT(matrix.error().message, HasSubstr(c.message));
  }
}

TEST(Tables, OfRowsAndGroupsSurviveAFile) {
  ThreadPool pool(2);
  const Context context = OnPool(pool);
  const Mat<float> w = RandomWeights(5, 70, 3);
  const GridSpec row{.bits = 3,
                     .group = 0,
                     .levels = LevelKind::kTable,
                     .scale = ScaleKind::kNone,
                     .tables = TableScope::kRow};
  GridSpec each = row, scaled = row;
  each.group = 32;
  each.tables = TableScope::kGroup;
  scaled.group = 32;
  scaled.scale = ScaleKind::kSteps;
  for (const GridSpec& grid : {row, each, scaled}) {
    SCOPED_TRACE(GridText(grid));
    GridMatrix m = FitGrid(context, w, {}, grid, ClipSearch::kWeighted);
    EncodeAll(context, w, m);
    const Matrix packed = PackCodes(m);
    EXPECT_EQ(StoredBytes(packed), m.StoredBytes());
    std::vector<PartTensor> tensors;
    const OrderedJson description = DescribeParts(packed, "w", tensors);
    std::string bytes;
    const auto checkpoint = Open(tensors, bytes);
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.error().message;
    const auto back = ReadParts(*ParseJson(DumpJson(description)), "w", 5, 70, *checkpoint);
    ASSERT_TRUE(back.ok()) << back.error().message;
    Mat<float> expected(5, 70);
    Decode(m, expected);
    const Mat<float> found = Reconstruct(*back);
    EXPECT_TRUE(std::equal(expected.data(), expected.data() + 5 * 70, found.data()));
    const GridMatrix again = UnpackCodes(*back);
    EXPECT_TRUE(std::equal(m.levels.data(), m.levels.data() + m.levels.rows() * 8, again.levels.data()));
    OrderedJson wrong = description;
    wrong["tables"] = "column";
    const auto refused = ReadParts(*ParseJson(DumpJson(wrong)), "w", 5, 70, *checkpoint);
    ASSERT_FALSE(refused.ok());
    EXPECT_THAT(refused.error().message, HasSubstr("tables: expected tensor, row or group, found 'column'"));
  }
}

TEST(Bias, IsAPartOfItsOwn) {
  Linear linear{"a.weight", SparseExample(), {0.5f, -1, 2}, true};
  EXPECT_EQ(StoredBytes(linear), 18 + 6);
  std::vector<PartTensor> tensors;
  OrderedJson description = DescribeParts(linear.w, linear.name, tensors);
  const Blob blob = DescribeBias(linear, description, tensors);
  EXPECT_EQ(description["bias"], "a.bias");
  std::string bytes;
  const auto checkpoint = Open(tensors, bytes);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.error().message;
  Linear back{"a.weight", SparseExample(), {}};
  Json json = *ParseJson(DumpJson(description));
  ASSERT_TRUE(ReadBias(json, *checkpoint, back).ok());
  EXPECT_TRUE(back.own_bias);
  EXPECT_EQ(back.bias, linear.bias);
  json["bias"] = "b.bias";
  EXPECT_THAT(ReadBias(json, *checkpoint, back).error().message, HasSubstr("a.weight: "));
  json["bias"] = 3;
  EXPECT_THAT(ReadBias(json, *checkpoint, back).error().message, HasSubstr("field 'bias': expected"));
  json["bias"] = "a.weight.values";
  back.w = DenseMatrix(RandomWeights(4, 2, 1).view(), DType::kF16);
  EXPECT_THAT(ReadBias(json, *checkpoint, back).error().message,
              HasSubstr("expected F16 [4], found F16 [3]"));
}

}  // namespace
}  // namespace planish

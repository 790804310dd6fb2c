#include "layer/matrix.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <map>

#include "base/random.h"
#include "layer/artifact.h"

namespace planish {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

IntegerMatrix RandomInteger(int64_t rows, int64_t cols, const IntegerGrid& grid, uint64_t seed) {
  const Random random(seed);
  uint64_t drawn = 0;
  const uint64_t levels = uint64_t{1} << grid.bits;
  IntegerMatrix m;
  m.grid = grid;
  m.codes.Resize(rows, cols);
  m.scales.Resize(rows, grid.NumGroups(cols));
  m.zeros.Resize(rows, grid.NumGroups(cols));
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < cols; ++j) m.codes(i, j) = static_cast<uint8_t>(random.Below(drawn++, levels));
    for (int64_t g = 0; g < m.scales.cols(); ++g) {
      // Multiples of 2^-10 below 1: exact in fp16.
      m.scales(i, g) = static_cast<float>(1 + random.Below(drawn++, 1023)) / 1024;
      m.zeros(i, g) = grid.symmetric ? static_cast<uint8_t>(levels / 2)
                                     : static_cast<uint8_t>(random.Below(drawn++, levels));
    }
  }
  return m;
}

Mat<float> RandomMat(int64_t rows, int64_t cols, uint64_t seed) {
  const Random random(seed);
  Mat<float> m(rows, cols);
  for (int64_t i = 0; i < rows * cols; ++i) {
    m.data()[i] = static_cast<float>(2 * random.Uniform(static_cast<uint64_t>(i)) - 1);
  }
  return m;
}

Matrix RandomProduct(int64_t rows, int64_t rank, int64_t cols, uint64_t seed) {
  return {rows, cols,
          ProductPart{{DenseMatrix(RandomMat(rows, rank, seed).view(), DType::kF16),
                       PackInteger(RandomInteger(rank, cols, {8, 0, true}, seed + 1))}}};
}

Matrix Sum(std::vector<Matrix> terms) {
  const int64_t rows = terms[0].rows, cols = terms[0].cols;
  return {rows, cols, SumPart{std::move(terms)}};
}

std::vector<uint8_t> Bytes(const Blob& blob) {
  std::vector<uint8_t> bytes;
  for (const std::byte b : blob.bytes) bytes.push_back(static_cast<uint8_t>(b));
  return bytes;
}

// Two rows of 3-bit codes in groups of 4 columns, the last one short.
IntegerMatrix Example() {
  IntegerMatrix m;
  m.grid = {3, 4, false};
  m.codes.Resize(2, 6);
  m.scales.Resize(2, 2);
  m.zeros.Resize(2, 2);
  constexpr uint8_t kCodes[] = {0, 1, 2, 3, 4, 5, 7, 6, 5, 4, 3, 2};
  constexpr float kScales[] = {0.5f, 0.25f, 1, 2};
  constexpr uint8_t kZeros[] = {4, 3, 0, 5};
  std::copy(std::begin(kCodes), std::end(kCodes), m.codes.data());
  std::copy(std::begin(kScales), std::end(kScales), m.scales.data());
  std::copy(std::begin(kZeros), std::end(kZeros), m.zeros.data());
  return m;
}

TEST(PackIntegerTest, ExampleOfTheFormatsPage) {
  IntegerMatrix m;
  m.grid = {3, 0, false};
  m.codes.Resize(1, 4);
  m.scales.Resize(1, 1);
  m.zeros.Resize(1, 1);
  for (int j = 0; j < 4; ++j) m.codes(0, j) = static_cast<uint8_t>(4 + j);
  m.scales(0, 0) = 0.5f;
  m.zeros(0, 0) = 5;
  const Matrix packed = PackInteger(m);
  const auto& coded = std::get<Coded>(packed.body);
  EXPECT_THAT(Bytes(coded.codes), ElementsAre(0xac, 0x0f));
  EXPECT_THAT(Bytes(coded.zeros), ElementsAre(0x05));
  const Mat<float> w = Reconstruct(packed);
  EXPECT_THAT(std::vector<float>(w.data(), w.data() + 4), ElementsAre(-0.5f, 0, 0.5f, 1));
}

TEST(PackIntegerTest, TwoRowsByteByByte) {
  const Matrix packed = PackInteger(Example());
  const auto& coded = std::get<Coded>(packed.body);
  // Row 0, low bits first: 0 1 2 3 4 5 is 0 + 1<<3 + 2<<6 + 3<<9 + 4<<12 + 5<<15 = 0x02c688.
  // Row 1: 7 + 6<<3 + 5<<6 + 4<<9 + 3<<12 + 2<<15 = 0x013977. Zeros: 4 + 3<<3 + 0<<6 + 5<<9 = 0x0a1c.
  EXPECT_THAT(Bytes(coded.codes), ElementsAre(0x88, 0xc6, 0x02, 0x77, 0x39, 0x01));
  EXPECT_THAT(Bytes(coded.scales), ElementsAre(0x00, 0x38, 0x00, 0x34, 0x00, 0x3c, 0x00, 0x40));
  EXPECT_THAT(Bytes(coded.zeros), ElementsAre(0x1c, 0x0a));
  const Mat<float> w = Reconstruct(packed);
  EXPECT_THAT(std::vector<float>(w.row(0), w.row(0) + 6), ElementsAre(-2, -1.5f, -1, -0.5f, 0.25f, 0.5f));
  EXPECT_THAT(std::vector<float>(w.row(1), w.row(1) + 6), ElementsAre(7, 6, 5, 4, -4, -6));
}

TEST(PackIntegerTest, RoundTripForAllWidthsAndOddSizes) {
  for (int bits = 2; bits <= 8; ++bits) {
    for (const int64_t cols : {1, 2, 7, 8, 9, 31, 64, 129, 300}) {
      for (const int64_t group : {0, 1, 5, 64, 1000}) {
        for (const bool symmetric : {false, true}) {
          SCOPED_TRACE(fmt::format("bits {} cols {} group {} symmetric {}", bits, cols, group, symmetric));
          const IntegerMatrix m = RandomInteger(3, cols, {bits, group, symmetric}, 7);
          const Matrix packed = PackInteger(m);
          const IntegerMatrix back = UnpackInteger(packed);
          const int64_t groups = m.scales.cols();
          ASSERT_EQ(back.scales.cols(), groups);
          EXPECT_TRUE(std::equal(m.codes.data(), m.codes.data() + 3 * cols, back.codes.data()));
          EXPECT_TRUE(std::equal(m.scales.data(), m.scales.data() + 3 * groups, back.scales.data()));
          EXPECT_TRUE(std::equal(m.zeros.data(), m.zeros.data() + 3 * groups, back.zeros.data()));
          const int64_t row_bytes = (cols * bits + 7) / 8;
          const int64_t zero_bytes = symmetric ? 0 : (3 * groups * bits + 7) / 8;
          EXPECT_EQ(StoredBytes(packed), 3 * row_bytes + 6 * groups + zero_bytes);
          EXPECT_EQ(StoredBytes(packed), m.StoredBytes());
        }
      }
    }
  }
}

TEST(ReadRowsTest, AnyStretchEqualsTheWholeAndTheDefinition) {
  for (int bits = 2; bits <= 8; ++bits) {
    const IntegerMatrix m = RandomInteger(4, 301, {bits, 37, false}, 11);
    const Matrix packed = PackInteger(m);
    for (const auto& [col, count] :
         std::vector<std::pair<int64_t, int64_t>>{{0, 301}, {3, 280}, {36, 2}, {300, 1}}) {
      Mat<float> out(2, count + 3);
      out.Fill(-99);
      ReadRows(packed, 1, 2, col, count, out.data(), count + 3);
      for (int64_t i = 0; i < 2; ++i) {
        for (int64_t j = 0; j < count; ++j) {
          const int64_t g = (col + j) / 37;
          const float expected =
              static_cast<float>(m.codes(1 + i, col + j) - m.zeros(1 + i, g)) * m.scales(1 + i, g);
          ASSERT_EQ(out(i, j), expected) << bits << " " << i << " " << col + j;
        }
        EXPECT_EQ(out(i, count), -99);  // nothing past the stretch
      }
    }
  }
}

TEST(ReconstructTest, DenseTypesRoundToNearestEven) {
  Mat<float> w(1, 3);
  w(0, 0) = 1;
  w(0, 1) = 1 + 0x1p-8f;   // bf16: a tie, to even, 1
  w(0, 2) = 1 + 0x3p-11f;  // fp16: a tie between 1 + 2^-10 and 1 + 2^-9, to the even one
  const auto values = [&](DType type) {
    const Mat<float> r = Reconstruct(DenseMatrix(w.view(), type));
    return std::vector<float>(r.data(), r.data() + 3);
  };
  EXPECT_THAT(values(DType::kF32), ElementsAre(1, 1 + 0x1p-8f, 1 + 0x3p-11f));
  EXPECT_THAT(values(DType::kBF16), ElementsAre(1, 1, 1));
  EXPECT_THAT(values(DType::kF16), ElementsAre(1, 1 + 0x1p-8f, 1 + 0x1p-9f));
}

TEST(ReconstructTest, SumOfCodesAndProductByHand) {
  Mat<float> b(2, 1), a(1, 6);
  b(0, 0) = 1;
  b(1, 0) = -2;
  for (int64_t j = 0; j < 6; ++j) a(0, j) = static_cast<float>(j);
  const Matrix product{
      2, 6, ProductPart{{DenseMatrix(b.view(), DType::kF16), DenseMatrix(a.view(), DType::kBF16)}}};
  const Matrix sum = Sum({PackInteger(Example()), product});
  const Mat<float> w = Reconstruct(sum);
  EXPECT_THAT(std::vector<float>(w.row(0), w.row(0) + 6), ElementsAre(-2, -0.5f, 1, 2.5f, 4.25f, 5.5f));
  EXPECT_THAT(std::vector<float>(w.row(1), w.row(1) + 6), ElementsAre(7, 4, 1, -2, -12, -16));
  EXPECT_EQ(StoredBytes(sum), (6 + 8 + 2) + (2 * 2) + (6 * 2));
  EXPECT_EQ(Describe(sum), "int3 g4 + path r1 (f16, bf16)");
}

// |y - x W^T|: each of the two ways sums at most n = 300 + 9 products in fp32 (the path's inner sum has 300
// and its outer 9 terms). With |x|, |factors| <= 1 the terms' absolute sum S is computed in double below, and
// each way is within (n + 3) 2^-24 S of the exact value of the same fp32 parts.
TEST(ApplyTest, EqualsReconstructionWithinRounding) {
  constexpr int64_t kOut = 33, kIn = 300, kRank = 9, kTokens = 5;
  ThreadPool pool(2);
  const Matrix coded = PackInteger(RandomInteger(kOut, kIn, {3, 64, false}, 1));
  const Matrix product = RandomProduct(kOut, kRank, kIn, 2);
  const Matrix dense = DenseMatrix(RandomMat(kOut, kIn, 5).view(), DType::kBF16);
  const Mat<float> x = RandomMat(kTokens, kIn, 4);
  const Mat<float> before = RandomMat(kTokens, kOut, 6);
  const Mat<float> left = Reconstruct(std::get<ProductPart>(product.body).factors[0]);
  const Mat<float> right = Reconstruct(std::get<ProductPart>(product.body).factors[1]);
  const std::vector<Matrix> cases = {dense, coded, product, Sum({coded, product}),
                                     Sum({Sum({coded, product}), dense})};
  for (const Isa isa : {Isa::kScalar, BestIsa()}) {
    const Context context{.pool = &pool, .isa = isa};
    for (const Matrix& m : cases) {
      const Mat<float> w = Reconstruct(m);
      for (const auto op : {Accumulate::kSet, Accumulate::kAdd, Accumulate::kSubtract}) {
        Mat<float> y(kTokens, kOut);
        std::copy(before.data(), before.data() + kTokens * kOut, y.data());
        Apply(context, m, x, y, op);
        const double start = op == Accumulate::kSet ? 0 : 1, sign = op == Accumulate::kSubtract ? -1 : 1;
        for (int64_t t = 0; t < kTokens; ++t) {
          for (int64_t o = 0; o < kOut; ++o) {
            double exact = start * before(t, o), size = std::abs(exact);
            for (int64_t j = 0; j < kIn; ++j) {
              double terms = std::abs(w(o, j));  // plus what cancels inside the parts
              for (int64_t r = 0; r < kRank; ++r) terms += 2 * std::abs(left(o, r) * right(r, j));
              exact += sign * x(t, j) * w(o, j);
              size += std::abs(x(t, j)) * terms;
            }
            ASSERT_NEAR(y(t, o), exact, 2 * (kIn + kRank + 3) * 0x1p-24 * size)
                << Describe(m) << " " << t << " " << o;
          }
        }
      }
    }
  }
}

class ArtifactTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ =
        (std::filesystem::temp_directory_path() / fmt::format("planish_artifact_test_{}", getpid())).string();
    ASSERT_TRUE(MakeDirectories(folder_).ok());
  }
  void TearDown() override { EXPECT_TRUE(RemoveTree(folder_).ok()); }

  // Writes the parts to a file and opens it.
  Result<Checkpoint> Write(const std::vector<PartTensor>& tensors) {
    std::vector<TensorSpec> specs;
    std::map<std::string, std::span<const std::byte>> data;
    for (const auto& t : tensors) {
      specs.push_back({t.name, t.type, t.shape});
      data[t.name] = t.bytes;
    }
    const std::string path = JoinPath(folder_, "parts.safetensors");
    PLANISH_TRY(auto writer, SafetensorsWriter::Create(path, specs));
    const auto order = writer.order();
    for (const auto& spec : order) PLANISH_RETURN_IF_ERROR(writer.Append(spec.name, data[spec.name]));
    PLANISH_RETURN_IF_ERROR(writer.Commit());
    return Checkpoint::OpenFile(path);
  }

  std::string folder_;
};

TEST_F(ArtifactTest, PartsSurviveAFile) {
  const Matrix coded = PackInteger(RandomInteger(5, 21, {3, 8, false}, 1));
  const Matrix even = PackInteger(RandomInteger(5, 21, {4, 0, true}, 3));
  const Matrix path = RandomProduct(5, 2, 21, 9), other = RandomProduct(5, 3, 21, 19);
  const Matrix dense = DenseMatrix(RandomMat(5, 21, 5).view(), DType::kBF16);
  for (const Matrix& m : {coded, even, path, dense, Sum({coded, path}), Sum({Sum({even, path}), other}),
                          Sum({coded, Sum({path, other}), dense})}) {
    SCOPED_TRACE(Describe(m));
    std::vector<PartTensor> tensors;
    const OrderedJson description = DescribeParts(m, "a.weight", tensors);
    const auto checkpoint = Write(tensors);
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.error().message;
    const auto json = ParseJson(DumpJson(description));
    ASSERT_TRUE(json.ok());
    const auto back = ReadParts(*json, "a.weight", 5, 21, *checkpoint);
    ASSERT_TRUE(back.ok()) << back.error().message;
    EXPECT_EQ(Describe(*back), Describe(m));
    EXPECT_EQ(StoredBytes(*back), StoredBytes(m));
    EXPECT_EQ(checkpoint->total_bytes(), StoredBytes(m));
    const Mat<float> a = Reconstruct(m), b = Reconstruct(*back);
    EXPECT_TRUE(std::equal(a.data(), a.data() + 5 * 21, b.data()));
  }
}

TEST_F(ArtifactTest, EveryGridSurvivesAFile) {
  ThreadPool pool(2);
  const Context context{.pool = &pool};
  const Mat<float> w = RandomMat(5, 70, 5);
  std::vector<GridSpec> grids;
  for (const NamedGrid& named : NamedGrids()) {
    if (named.grid.InBlocks()) continue;
    grids.push_back(named.grid);
    if (named.grid.scale != ScaleKind::kHalf) continue;
    grids.push_back(named.grid);
    grids.back().group = 16;
    grids.back().scale = ScaleKind::kSteps;
    grids.back().scale_bits = 5;
    if (grids.back().HasZeros()) grids.back().zero_bits = 8;
  }
  for (const GridSpec& grid : grids) {
    SCOPED_TRACE(GridText(grid));
    GridMatrix m = FitGrid(context, w, {}, grid, ClipSearch::kWeighted);
    EncodeAll(context, w, m);
    const Matrix packed = PackCodes(m);
    EXPECT_EQ(StoredBytes(packed), m.StoredBytes());
    std::vector<PartTensor> tensors;
    const OrderedJson description = DescribeParts(packed, "a.weight", tensors);
    const auto checkpoint = Write(tensors);
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.error().message;
    const auto json = ParseJson(DumpJson(description));
    ASSERT_TRUE(json.ok());
    const auto back = ReadParts(*json, "a.weight", 5, 70, *checkpoint);
    ASSERT_TRUE(back.ok()) << back.error().message;
    EXPECT_EQ(StoredBytes(*back), m.StoredBytes());
    Mat<float> expected(5, 70);
    Decode(m, expected);
    const Mat<float> found = Reconstruct(*back);
    EXPECT_TRUE(std::equal(expected.data(), expected.data() + 5 * 70, found.data()));
    const GridMatrix again = UnpackCodes(*back);
    EXPECT_TRUE(std::equal(m.codes.data(), m.codes.data() + 5 * 70, again.codes.data()));
  }
}

// Groups in an order of their own, by hand and through a file.
TEST_F(ArtifactTest, AnIndexOfGroupsSurvivesAFile) {
  const IntegerMatrix plain = RandomInteger(5, 21, {3, 8, false}, 1);
  Matrix m = PackInteger(plain);
  const std::vector<int32_t> index = {2, 0, 1, 1, 0, 2, 2, 1, 0, 0, 1, 2, 1, 0, 2, 0, 1, 0, 1, 0, 1};
  auto& coded = std::get<Coded>(m.body);
  coded.group_of = {std::as_bytes(std::span(index)), nullptr};
  const Mat<float> values = Reconstruct(m);
  for (int64_t i = 0; i < 5; ++i) {
    for (int64_t j = 0; j < 21; ++j) {
      const int32_t g = index[static_cast<size_t>(j)];
      EXPECT_EQ(values(i, j),
                (static_cast<float>(plain.codes(i, j)) - plain.zeros(i, g)) * plain.scales(i, g));
    }
  }
  EXPECT_EQ(Describe(m), "int3 g8 act-order");
  std::vector<PartTensor> tensors;
  const OrderedJson description = DescribeParts(m, "a.weight", tensors);
  EXPECT_EQ(description["group_index"], true);
  auto checkpoint = Write(tensors);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.error().message;
  const Json json = *ParseJson(DumpJson(description));
  const auto back = ReadParts(json, "a.weight", 5, 21, *checkpoint);
  ASSERT_TRUE(back.ok()) << back.error().message;
  EXPECT_EQ(StoredBytes(*back), StoredBytes(m));
  const Mat<float> again = Reconstruct(*back);
  EXPECT_TRUE(std::equal(values.data(), values.data() + 5 * 21, again.data()));

  const auto with = [&](const std::vector<int32_t>& changed) {
    coded.group_of = {std::as_bytes(std::span(changed)), nullptr};
    tensors.clear();
    DescribeParts(m, "a.weight", tensors);
    for (PartTensor& t : tensors) {
      if (t.name == "a.weight.group_index") t.shape = {static_cast<int64_t>(changed.size())};
    }
    return ReadParts(json, "a.weight", 5, 21, *Write(tensors));
  };
  std::vector<int32_t> changed = index;
  changed[4] = 3;
  EXPECT_THAT(with(changed).error().message,
              HasSubstr("tensor 'a.weight.group_index': element 4: expected a group below 3, found 3"));
  changed[4] = -1;
  EXPECT_THAT(with(changed).error().message, HasSubstr("element 4: expected a group below 3, found -1"));
  changed.resize(20);
  EXPECT_THAT(with(changed).error().message,
              HasSubstr("tensor 'a.weight.group_index': expected I32 [21], found I32 [20]"));
  // One that states runs of columns is none.
  changed.resize(21);
  for (int32_t j = 0; j < 21; ++j) changed[static_cast<size_t>(j)] = j / 8;
  const auto in_order = with(changed);
  ASSERT_TRUE(in_order.ok());
  EXPECT_FALSE(std::get<Coded>(in_order->body).Scattered());
}

// What docs/formats/artifact.md says, done again on the bytes of a file: one bit at a time.
TEST_F(ArtifactTest, DecodingByThePageGivesTheSameNumbers) {
  for (const int bits : {2, 3, 5, 8}) {
    const Matrix m = PackInteger(RandomInteger(4, 21, {bits, 8, false}, 77));
    std::vector<PartTensor> tensors;
    DescribeParts(m, "w", tensors);
    const auto checkpoint = Write(tensors);
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.error().message;
    const auto codes = checkpoint->Get("w.codes"), scales = checkpoint->Get("w.scales"),
               zeros = checkpoint->Get("w.zeros");
    ASSERT_TRUE(codes.ok() && scales.ok() && zeros.ok());
    const auto number = [&](const TensorView& v, int64_t first_bit) {
      int value = 0;
      for (int64_t k = 0; k < bits; ++k) {
        const int64_t bit = first_bit + k;
        value |= (static_cast<int>(v.data[bit / 8]) >> (bit % 8) & 1) << k;
      }
      return value;
    };
    const int64_t row_bytes = codes->shape[1], groups = 3;
    const Mat<float> expected = Reconstruct(m);
    for (int64_t i = 0; i < 4; ++i) {
      for (int64_t j = 0; j < 21; ++j) {
        const int64_t g = i * groups + j / 8;
        const int half = static_cast<int>(scales->data[2 * g]) | static_cast<int>(scales->data[2 * g + 1])
                                                                     << 8;
        const double scale = std::ldexp(1024 + (half & 1023), (half >> 10) - 25);  // normal and positive
        const int code = number(*codes, i * row_bytes * 8 + j * bits), zero = number(*zeros, g * bits);
        ASSERT_EQ(expected(i, j), static_cast<float>((code - zero) * scale)) << bits << " " << i << " " << j;
      }
    }
  }
}

TEST_F(ArtifactTest, MalformedDescriptionsAreNamed) {
  std::vector<PartTensor> tensors;
  const Matrix coded = PackInteger(Example());
  DescribeParts(coded, "w", tensors);
  Mat<float> b = RandomMat(2, 1, 1), a = RandomMat(1, 6, 2);
  const Matrix left = DenseMatrix(b.view(), DType::kF16), right = DenseMatrix(a.view(), DType::kF32);
  DescribeParts(left, "b", tensors);
  DescribeParts(right, "a", tensors);
  IntegerMatrix broken = Example();
  broken.scales(1, 0) = INFINITY;
  const Matrix infinite = PackInteger(broken);
  DescribeParts(infinite, "v", tensors);
  tensors.push_back({"i", DType::kI8, {2, 6}, std::as_bytes(std::span("0123456789a", 12))});
  const auto checkpoint = Write(tensors);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.error().message;
  const std::string kShape = R"("rows": 2, "cols": 6})",
                    kLeft = R"({"kind": "dense", "tensor": "b", "rows": 2, "cols": 1})",
                    kRight = R"({"kind": "dense", "tensor": "a", "rows": 1, "cols": 6})",
                    kW = R"({"kind": "integer", "tensor": "w", "bits": 3, "group": 4, )" + kShape;
  ASSERT_TRUE(ReadParts(*ParseJson(kW), "layer", 2, 6, *checkpoint).ok());
  std::string deep = kW, many;
  for (int i = 0; i < 5; ++i) deep = R"({"kind": "sum", "terms": [)" + deep + "], " + kShape;
  for (int i = 0; i < 65; ++i) many += (i ? ", " : "") + kW;
  const auto integer = [&](const std::string& fields) {
    return R"({"kind": "integer", )" + fields + ", " + kShape;
  };
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"[]", "expected a description of parts"},
      {"{}", "field 'kind' is missing"},
      {R"({"kind": 3, )" + kShape, "field 'kind': expected"},
      {R"({"kind": "float", )" + kShape,
       "expected dense, integer, levels, blocks, sparse, sum or product, found 'float'"},
      {R"({"kind": "dense", "tensor": "w", "cols": 6})", "field 'rows' is missing"},
      {R"({"kind": "dense", "tensor": "w", "rows": 0, "cols": 6})", "impossible shape [0, 6]"},
      {R"({"kind": "dense", "tensor": "w", "rows": 2, "cols": 4611686018427387904})", "impossible shape"},
      {R"({"kind": "dense", "tensor": "w", "rows": 2, "cols": 7.5})", "field 'cols': expected"},
      {R"({"kind": "dense", )" + kShape, "field 'tensor' is missing"},
      {R"({"kind": "dense", "tensor": "none", )" + kShape, "no tensor 'none'"},
      {R"({"kind": "dense", "tensor": "i", )" + kShape, "type I8 cannot be computed with"},
      {R"({"kind": "dense", "tensor": "a", )" + kShape, "expected shape [2, 6]"},
      {integer(R"("tensor": "w", "group": 4)"), "field 'bits' is missing"},
      {integer(R"("tensor": "w", "bits": 3)"), "field 'group' is missing"},
      {integer(R"("tensor": "w", "bits": 1, "group": 4)"), "bits: expected 2 to 8, found 1"},
      {integer(R"("tensor": "w", "bits": 9, "group": 4)"), "bits: expected 2 to 8, found 9"},
      {integer(R"("tensor": "w", "bits": 4294967299, "group": 4)"), "bits: expected 2 to 8"},
      {integer(R"("tensor": "w", "bits": 3, "group": -1)"),
       "group: expected 0 (whole row) or a positive size, found -1"},
      {integer(R"("tensor": "w", "bits": 3, "group": 16777217)"), "found 16777217"},
      {integer(R"("tensor": "w", "bits": 3, "group": 4, "symmetric": 1)"), "field 'symmetric': expected"},
      {integer(R"("tensor": "w", "bits": 5, "group": 4)"), "tensor 'w.codes': expected U8 [2, 4], found"},
      {integer(R"("tensor": "w", "bits": 3, "group": 2)"),
       "tensor 'w.scales': expected F16 [2, 3], found F16 [2, 2]"},
      {integer(R"("tensor": "v", "bits": 3, "group": 4)"), "tensor 'v.scales': element 2 is not finite"},
      {integer(R"("tensor": "none", "bits": 3, "group": 4)"), "no tensor 'none.codes'"},
      {integer(R"("tensor": "w", "bits": 3, "group": 4, "group_index": 1)"), "field 'group_index': expected"},
      {integer(R"("tensor": "w", "bits": 3, "group": 4, "group_index": true)"), "no tensor 'w.group_index'"},
      {R"({"kind": "sum", )" + kShape, "field 'terms': expected 1 to 64 parts"},
      {R"({"kind": "sum", "terms": [], )" + kShape, "field 'terms': expected 1 to 64 parts"},
      {R"({"kind": "sum", "terms": [)" + many + "], " + kShape, "field 'terms': expected 1 to 64 parts"},
      {R"({"kind": "sum", "terms": [)" + kW + ", " + kLeft + "], " + kShape,
       "a term is [2, 1], the sum [2, 6]"},
      {R"({"kind": "product", "factors": {}, )" + kShape, "field 'factors': expected"},
      {R"({"kind": "product", "factors": [)" + kRight + ", " + kLeft + "], " + kShape,
       "do not multiply to [2, 6]"},
      {R"({"kind": "product", "factors": [)" + kLeft + ", " + kLeft + "], " + kShape,
       "do not multiply to [2, 6]"},
      {deep, "at most 4 deep"},
      {kLeft, "the parts make [2, 1], the model needs [2, 6]"},
  };
  for (const auto& [text, message] : cases) {
    SCOPED_TRACE(text);
    const auto json = ParseJson(text);
    ASSERT_TRUE(json.ok()) << json.error().message;
    const auto matrix = ReadParts(*json, "layer", 2, 6, *checkpoint);
    ASSERT_FALSE(matrix.ok());
    EXPECT_EQ(matrix.error().code, Code::kInput);
    EXPECT_THAT(matrix.error().message, HasSubstr(message));
    EXPECT_TRUE(matrix.error().message.starts_with("layer: ")) << matrix.error().message;
  }
}

}  // namespace
}  // namespace planish

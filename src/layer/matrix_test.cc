// Matrices in parts: packing, what each part means, products straight from the parts, and the way to a file
// and back.
#include "layer/matrix.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>

#include "base/random.h"
#include "layer/artifact.h"

namespace planish {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

Mat<float> RandomMat(int64_t rows, int64_t cols, uint64_t stream) {
  Mat<float> m(rows, cols);
  const Random random(5, stream);
  for (int64_t i = 0; i < rows * cols; ++i) {
    m.data()[i] = static_cast<float>(2 * random.Uniform(static_cast<uint64_t>(i)) - 1);
  }
  return m;
}

// Any codes and zeros of the grid, scales that fp16 holds.
IntegerMatrix RandomCodes(int64_t rows, int64_t cols, const IntegerGrid& grid, uint64_t stream) {
  IntegerMatrix m{grid, {rows, cols}, {rows, grid.NumGroups(cols)}, {rows, grid.NumGroups(cols)}};
  const Random random(6, stream);
  const auto levels = uint64_t{1} << grid.bits;
  for (int64_t i = 0; i < rows * cols; ++i) {
    m.codes.data()[i] = static_cast<uint8_t>(random.Below(static_cast<uint64_t>(i), levels));
  }
  for (int64_t i = 0; i < rows * m.scales.cols(); ++i) {
    m.scales.data()[i] = static_cast<float>(1 + i % 7) / 64;
    m.zeros.data()[i] = static_cast<uint8_t>(
        grid.symmetric ? levels / 2 : random.Below(static_cast<uint64_t>(i) + 1000000, levels));
  }
  return m;
}

template <typename T>
void ExpectSame(const Mat<T>& a, const Mat<T>& b) {
  ASSERT_EQ(a.rows(), b.rows());
  ASSERT_EQ(a.cols(), b.cols());
  for (int64_t i = 0; i < a.rows() * a.cols(); ++i) ASSERT_EQ(a.data()[i], b.data()[i]) << i;
}

TEST(PackTest, RoundTripsOfEveryWidthAndOddSizes) {
  for (int bits = 2; bits <= 8; ++bits) {
    for (const int64_t cols : {1, 3, 7, 8, 9, 31, 64, 257}) {
      for (const int64_t group : {0, 1, 5, 64}) {
        for (const bool symmetric : {false, true}) {
          SCOPED_TRACE(
              fmt::format("{} bits, {} columns, group {}, symmetric {}", bits, cols, group, symmetric));
          const IntegerMatrix codes =
              RandomCodes(3, cols, {bits, group, symmetric}, static_cast<uint64_t>(bits));
          const Matrix packed = PackInteger(codes);
          const IntegerMatrix back = UnpackInteger(packed);
          ExpectSame(codes.codes, back.codes);
          ExpectSame(codes.scales, back.scales);
          ExpectSame(codes.zeros, back.zeros);
          EXPECT_EQ(StoredBytes(packed), codes.StoredBytes());
          Mat<float> decoded(3, cols);
          Decode(codes, decoded);
          ExpectSame(decoded, Reconstruct(packed));
        }
      }
    }
  }
}

TEST(PackTest, BitsLieAsTheFormatSays) {
  IntegerMatrix m{{3, 0, true}, {1, 5}, {1, 1}, {1, 1}};
  const uint8_t codes[] = {1, 2, 3, 4, 5};
  std::copy(std::begin(codes), std::end(codes), m.codes.data());
  m.scales(0, 0) = 0.5f;
  m.zeros(0, 0) = 4;
  const Matrix packed = PackInteger(m);
  const auto& coded = std::get<Coded>(packed.body);
  // 5 4 3 2 1 from the highest bit: 101 100 011 010 001.
  EXPECT_THAT(coded.codes.bytes, ElementsAre(std::byte{0b11010001}, std::byte{0b01011000}));
  EXPECT_THAT(coded.scales.bytes, ElementsAre(std::byte{0x00}, std::byte{0x38}));
  EXPECT_TRUE(coded.zeros.bytes.empty());
  const Mat<float> values = Reconstruct(packed);
  EXPECT_THAT(std::vector<float>(values.data(), values.data() + 5),
              ElementsAre(-1.5f, -1.0f, -0.5f, 0.0f, 0.5f));
}

Matrix DenseOf(std::vector<float> values, int64_t rows, DType type = DType::kF32) {
  const auto cols = static_cast<int64_t>(values.size()) / rows;
  return DenseMatrix(MatView<const float>(values.data(), rows, cols), type);
}

TEST(ReconstructTest, ByHand) {
  const Matrix a = DenseOf({1, 2, 3, 4}, 2), b = DenseOf({1, 0, 2, 0, 1, 1}, 2);
  const Matrix product{2, 3, ProductPart{{a, b}}};
  const auto values = [](const Matrix& m) {
    const Mat<float> r = Reconstruct(m);
    return std::vector<float>(r.data(), r.data() + r.rows() * r.cols());
  };
  EXPECT_THAT(values(product), ElementsAre(1, 2, 4, 3, 4, 10));
  const Matrix sum{2, 3, SumPart{{DenseOf({10, 20, 30, 40, 50, 60}, 2), product}}};
  EXPECT_THAT(values(sum), ElementsAre(11, 22, 34, 43, 54, 70));
  const Matrix chain{2, 2, ProductPart{{a, b, DenseOf({1, 1, 0, 1, 1, 0}, 3)}}};
  EXPECT_THAT(values(chain), ElementsAre(5, 3, 13, 7));
  // A window of it: the last row, columns 1 and 2.
  float part[2];
  ReadRows(sum, 1, 1, 1, 2, part, 2);
  EXPECT_THAT(part, ElementsAre(54, 70));
}

TEST(ReconstructTest, HalfTypesAreRoundedToNearestEven) {
  EXPECT_EQ(Reconstruct(DenseOf({1 + 1.0f / 256}, 1, DType::kBF16))(0, 0), 1.0f);
  EXPECT_EQ(Reconstruct(DenseOf({1 + 3.0f / 256}, 1, DType::kBF16))(0, 0), 1 + 4.0f / 256);
  EXPECT_EQ(Reconstruct(DenseOf({1 + 1.0f / 2048}, 1, DType::kF16))(0, 0), 1.0f);
  EXPECT_EQ(Reconstruct(DenseOf({0.1f}, 1))(0, 0), 0.1f);
}

Matrix Mixed(int64_t rows, int64_t cols) {
  const Matrix coded = PackInteger(RandomCodes(rows, cols, {3, 16, false}, 1));
  const Matrix left = DenseMatrix(RandomMat(rows, 5, 2), DType::kBF16);
  const Matrix right = PackInteger(RandomCodes(5, cols, {8, 0, true}, 3));
  return {rows, cols, SumPart{{coded, Matrix{rows, cols, ProductPart{{left, right}}}}}};
}

// |W| x, the scale of rounding errors of y = W x, where |W| takes absolute values in every part.
double AbsoluteSum(const Matrix& m, int64_t row, const float* x) {
  if (const auto* sum = std::get_if<SumPart>(&m.body)) {
    double total = 0;
    for (const auto& term : sum->terms) total += AbsoluteSum(term, row, x);
    return total;
  }
  if (const auto* product = std::get_if<ProductPart>(&m.body)) {
    std::vector<float> inner;
    const Matrix& right = product->factors.back();
    for (int64_t i = 0; i < right.rows; ++i) inner.push_back(static_cast<float>(AbsoluteSum(right, i, x)));
    return AbsoluteSum(product->factors.front(), row, inner.data());
  }
  std::vector<float> w(static_cast<size_t>(m.cols));
  ReadRows(m, row, 1, 0, m.cols, w.data(), m.cols);
  double total = 0;
  for (int64_t j = 0; j < m.cols; ++j)
    total += std::abs(static_cast<double>(w[static_cast<size_t>(j)]) * x[j]);
  return total;
}

TEST(ApplyTest, AgreesWithReconstruct) {
  ThreadPool pool(2);
  const Context context{.pool = &pool, .isa = BestIsa()};
  constexpr int64_t kRows = 37, kCols = 83;
  const Matrix matrices[] = {DenseMatrix(RandomMat(kRows, kCols, 7), DType::kF16),
                             PackInteger(RandomCodes(kRows, kCols, {5, 32, false}, 8)), Mixed(kRows, kCols)};
  for (const Matrix& m : matrices) {
    const Mat<float> w = Reconstruct(m);
    for (const int64_t tokens : {1, 3, 4, 5, 40}) {
      SCOPED_TRACE(fmt::format("{}, {} tokens", Describe(m), tokens));
      const Mat<float> x = RandomMat(tokens, kCols, 9);
      for (const Accumulate op : {Accumulate::kSet, Accumulate::kAdd, Accumulate::kSubtract}) {
        Mat<float> y(tokens, kRows);
        y.Fill(0.25f);
        Apply(context, m, x, y, op);
        for (int64_t t = 0; t < tokens; ++t) {
          for (int64_t i = 0; i < kRows; ++i) {
            double dot = 0;
            for (int64_t j = 0; j < kCols; ++j) dot += static_cast<double>(w(i, j)) * x(t, j);
            const double expected = op == Accumulate::kSet   ? dot
                                    : op == Accumulate::kAdd ? 0.25 + dot
                                                             : 0.25 - dot;
            // Each of at most 83 + 5 + 3 roundings in a row is of a partial sum below the absolute one; as
            // many again for the product that Reconstruct multiplies out.
            const double bound = 2 * 91 * 0x1p-24 * (AbsoluteSum(m, i, x.row(t)) + 0.25);
            ASSERT_NEAR(y(t, i), expected, bound) << t << ", " << i;
          }
        }
      }
    }
  }
}

TEST(ApplyTest, TheSameBytesForAnyNumberOfThreads) {
  const Matrix m = Mixed(150, 70);
  const Mat<float> x = RandomMat(33, 70, 4);
  std::vector<Mat<float>> results;
  for (const int threads : {1, 2, 3}) {
    ThreadPool pool(threads);
    const Context context{.pool = &pool, .isa = BestIsa()};
    results.emplace_back(33, 150);
    Apply(context, m, x, results.back());
  }
  ExpectSame(results[0], results[1]);
  ExpectSame(results[0], results[2]);
}

TEST(StoredBytesTest, CountsEveryPart) {
  // Codes: 37 rows of ceil(83 * 3 / 8) = 32 bytes; six groups: scales 37 * 12, zeros ceil(37 * 6 * 3 / 8).
  constexpr int64_t kCoded = 37 * 32 + 37 * 12 + 84;
  // Left: 37 * 5 bf16; right: 5 rows of 83 bytes and a scale.
  EXPECT_EQ(StoredBytes(Mixed(37, 83)), kCoded + 370 + 5 * 85);
  EXPECT_EQ(Describe(Mixed(37, 83)), "int3 g16 + path r5 (bf16, int8 sym)");
}

// A safetensors file of the matrix's parts under the name "w", and its description.
class ArtifactFile {
 public:
  explicit ArtifactFile(const Matrix& matrix) {
    path_ = (std::filesystem::temp_directory_path() / fmt::format("planish_parts_{}.safetensors", getpid()))
                .string();
    std::vector<PartTensor> parts;
    const OrderedJson ordered = DescribeParts(matrix, "w", parts);
    description = Json::parse(ordered.dump());
    std::vector<TensorSpec> specs;
    for (const auto& part : parts) specs.push_back({part.name, part.type, part.shape});
    auto writer = SafetensorsWriter::Create(path_, specs);
    EXPECT_TRUE(writer.ok()) << writer.error().message;
    const auto order = writer->order();
    for (const auto& spec : order) {
      for (const auto& part : parts) {
        if (part.name != spec.name) continue;
        EXPECT_TRUE(writer->Append(part.name, part.bytes).ok());
      }
    }
    EXPECT_TRUE(writer->Commit().ok());
    checkpoint = Checkpoint::OpenFile(path_).value();
  }
  ~ArtifactFile() { std::filesystem::remove(path_); }
  ArtifactFile(const ArtifactFile&) = delete;
  ArtifactFile& operator=(const ArtifactFile&) = delete;

  std::string Error(const Json& changed, int64_t rows = 37, int64_t cols = 83) const {
    const auto read = ReadParts(changed, "w", rows, cols, checkpoint);
    if (read.ok()) return "(reads)";
    EXPECT_EQ(read.error().code, Code::kInput);
    return read.error().message;
  }

  Json description;
  Checkpoint checkpoint;

 private:
  std::string path_;
};

TEST(ArtifactTest, RoundTripThroughAFile) {
  const Matrix mixed = Mixed(37, 83);
  const Matrix matrices[] = {mixed, PackInteger(RandomCodes(4, 9, {2, 4, false}, 5)),
                             PackInteger(RandomCodes(4, 9, {7, 0, true}, 6)),
                             DenseMatrix(RandomMat(3, 5, 4), DType::kF32)};
  for (const Matrix& m : matrices) {
    SCOPED_TRACE(Describe(m));
    const ArtifactFile file(m);
    const auto back = ReadParts(file.description, "w", m.rows, m.cols, file.checkpoint);
    ASSERT_TRUE(back.ok()) << back.error().message;
    EXPECT_EQ(Describe(*back), Describe(m));
    EXPECT_EQ(StoredBytes(*back), StoredBytes(m));
    EXPECT_EQ(StoredBytes(*back), file.checkpoint.total_bytes());
    ExpectSame(Reconstruct(*back), Reconstruct(m));
  }
  const ArtifactFile file(mixed);
  std::vector<std::string> names;
  for (const TensorInfo* info : file.checkpoint.tensors()) names.push_back(info->name);
  EXPECT_THAT(names, testing::UnorderedElementsAre("w.codes", "w.scales", "w.zeros", "w.term1.factor0",
                                                   "w.term1.factor1.codes", "w.term1.factor1.scales"));
}

TEST(ArtifactTest, RefusesDescriptionsThatDoNotFit) {
  const ArtifactFile file(Mixed(37, 83));
  ASSERT_EQ(file.Error(file.description), "(reads)");
  const std::tuple<const char*, Json, const char*> cases[] = {
      {"/kind", "tree", "kind: expected dense, integer, sum or product, found 'tree'"},
      {"/kind", 1, "field 'kind': expected a string"},
      {"/kind", "product", "field 'factors': expected 1 to 64 parts"},
      {"/rows", 0, "impossible shape [0, 83]"},
      {"/cols", int64_t{1} << 40, "impossible shape [37, 1099511627776]"},
      {"/rows", 1.5, "field 'rows': expected an integer"},
      {"/rows", 36, "a term is [37, 83], the sum [36, 83]"},
      {"/terms", Json::array(), "expected 1 to 64 parts"},
      {"/terms", "x", "expected 1 to 64 parts"},
      {"/terms/0", 3, "expected a description of parts"},
      {"/terms/0/tensor", "v", "no tensor 'v.codes'"},
      {"/terms/0/tensor", nullptr, "field 'tensor' is missing"},
      {"/terms/0/bits", 1, "bits: expected 2 to 8, found 1"},
      {"/terms/0/bits", 9, "bits: expected 2 to 8, found 9"},
      {"/terms/0/bits", 4, "tensor 'w.codes': expected U8 [37, 42], found U8 [37, 32]"},
      {"/terms/0/group", -1, "group: expected 0 (whole row) or a positive size, found -1"},
      {"/terms/0/group", 32, "tensor 'w.scales': expected F16 [37, 3], found F16 [37, 6]"},
      {"/terms/0/group", int64_t{1} << 25, "group: expected 0"},
      {"/terms/0/kind", "dense", "no tensor 'w'"},
      {"/terms/1/factors/0/rows", 36, "tensor 'w.term1.factor0': expected shape [36, 5]"},
      {"/terms/1/factors", Json::array({file.description["terms"][1]["factors"][0]}),
       "do not multiply to [37, 83]"},
      {"/terms/1/factors/1/symmetric", false, "no tensor 'w.term1.factor1.zeros'"},
  };
  for (const auto& [pointer, value, message] : cases) {
    Json changed = file.description;
    changed[Json::json_pointer(pointer)] = value;
    EXPECT_THAT(file.Error(changed), HasSubstr(message)) << pointer << " = " << value;
  }
  EXPECT_THAT(file.Error(file.description, 37, 84),
              HasSubstr("the parts make [37, 83], the model needs [37, 84]"));
  Json deep = file.description["terms"][0];
  for (int i = 0; i < 5; ++i) deep = {{"kind", "sum"}, {"rows", 37}, {"cols", 83}, {"terms", {deep}}};
  EXPECT_THAT(file.Error(deep), HasSubstr("at most 4 deep"));
}

TEST(ArtifactTest, RefusesScalesThatAreNotFinite) {
  for (const float bad : {NAN, INFINITY, -INFINITY}) {
    IntegerMatrix codes = RandomCodes(2, 8, {4, 4, true}, 1);
    codes.scales(1, 0) = bad;
    const ArtifactFile file(PackInteger(codes));
    EXPECT_THAT(file.Error(file.description, 2, 8), HasSubstr("'w.scales': element 2 is not finite"));
  }
}

}  // namespace
}  // namespace planish

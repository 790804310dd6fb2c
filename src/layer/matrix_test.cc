// Matrices in parts: packing, the definition, products from the parts, and the artifact's tensors.
#include "layer/matrix.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>

#include "base/random.h"
#include "formats/safetensors.h"
#include "layer/artifact.h"

namespace planish {
namespace {

struct Machine {
  Machine() {
    context.pool = &pool;
    context.isa = BestIsa();
  }
  ThreadPool pool{2};
  Context context;
};

Mat<float> RandomMat(int64_t rows, int64_t cols, uint64_t stream) {
  const Random random(5, stream);
  Mat<float> m(rows, cols);
  for (int64_t i = 0; i < rows * cols; ++i) {
    m.data()[i] = static_cast<float>(2 * random.Uniform(static_cast<uint64_t>(i)) - 1);
  }
  return m;
}

IntegerMatrix RandomCodes(int64_t rows, int64_t cols, const IntegerGrid& grid) {
  const Random random(7, static_cast<uint64_t>(grid.bits));
  IntegerMatrix m;
  m.grid = grid;
  m.codes.Resize(rows, cols);
  m.scales.Resize(rows, grid.NumGroups(cols));
  m.zeros.Resize(rows, grid.NumGroups(cols));
  const uint64_t levels = uint64_t{1} << grid.bits;
  uint64_t index = 0;
  for (int64_t i = 0; i < rows * cols; ++i)
    m.codes.data()[i] = static_cast<uint8_t>(random.Below(index++, levels));
  for (int64_t i = 0; i < rows * m.zeros.cols(); ++i) {
    m.scales.data()[i] = ToFloat(ToF16(static_cast<float>(0.01 + random.Uniform(index++))));
    m.zeros.data()[i] = grid.symmetric ? static_cast<uint8_t>(levels / 2)
                                       : static_cast<uint8_t>(random.Below(index++, levels));
  }
  return m;
}

double MaxDifference(const Mat<float>& a, const Mat<float>& b) {
  double max = 0;
  for (int64_t i = 0; i < a.rows() * a.cols(); ++i) {
    max = std::max(max, std::abs(static_cast<double>(a.data()[i]) - b.data()[i]));
  }
  return max;
}

TEST(PackedMatrix, EveryWidthComesBack) {
  for (int bits = 2; bits <= 8; ++bits) {
    for (const auto& [rows, cols, group] : {std::tuple{3, 37, 8}, {1, 1, 0}, {5, 64, 64}, {4, 300, 128}}) {
      for (bool symmetric : {false, true}) {
        const IntegerMatrix m = RandomCodes(rows, cols, {bits, group, symmetric});
        const Matrix packed = PackInteger(m);
        const IntegerMatrix back = UnpackInteger(packed);
        for (int64_t i = 0; i < m.rows() * m.cols(); ++i) ASSERT_EQ(back.codes.data()[i], m.codes.data()[i]);
        for (int64_t i = 0; i < m.scales.rows() * m.scales.cols(); ++i) {
          ASSERT_EQ(back.scales.data()[i], m.scales.data()[i]);
          ASSERT_EQ(back.zeros.data()[i], m.zeros.data()[i]);
        }
        Mat<float> decoded(rows, cols);
        Decode(m, decoded);
        EXPECT_EQ(MaxDifference(Reconstruct(packed), decoded), 0) << bits;
        EXPECT_EQ(StoredBytes(packed), m.StoredBytes());
      }
    }
  }
}

TEST(PackedMatrix, ThreeBitsByHand) {
  IntegerMatrix m;
  m.grid = {3, 0, false};
  m.codes.Resize(1, 4);
  m.scales.Resize(1, 1);
  m.zeros.Resize(1, 1);
  for (int i = 0; i < 4; ++i) m.codes(0, i) = static_cast<uint8_t>(i + 4);  // 4 5 6 7
  m.scales(0, 0) = 0.5f;
  m.zeros(0, 0) = 5;
  const Matrix packed = PackInteger(m);
  const auto& coded = std::get<Coded>(packed.body);
  // 100, 101, 110, 111 from the lowest bit up: 111'110'101'100 = 0xFAC.
  ASSERT_EQ(coded.codes.bytes.size(), 2u);
  EXPECT_EQ(coded.codes.bytes[0], std::byte{0xAC});
  EXPECT_EQ(coded.codes.bytes[1], std::byte{0x0F});
  const Mat<float> values = Reconstruct(packed);
  EXPECT_EQ(values(0, 0), -0.5f);
  EXPECT_EQ(values(0, 3), 1.0f);
}

// A sum of codes and a path, as a compressed layer has it.
Matrix CodesAndPath(int64_t rows, int64_t cols, int64_t rank) {
  Matrix base = PackInteger(RandomCodes(rows, cols, {4, 32, false}));
  Matrix b = DenseMatrix(RandomMat(rows, rank, 1).view(), DType::kF16);
  Matrix a = PackInteger(RandomCodes(rank, cols, {8, 0, true}));
  Matrix path{rows, cols, ProductPart{{std::move(b), std::move(a)}}};
  return {rows, cols, SumPart{{std::move(base), std::move(path)}}};
}

TEST(MatrixApply, PartsAgreeWithTheDefinition) {
  Machine run;
  for (int64_t tokens : {1, 3, 40}) {
    const Matrix m = CodesAndPath(50, 70, 6);
    const Mat<float> w = Reconstruct(m), x = RandomMat(tokens, 70, 9);
    Mat<float> y(tokens, 50);
    Apply(run.context, m, x, y);
    for (int64_t t = 0; t < tokens; ++t) {
      for (int64_t i = 0; i < 50; ++i) {
        double sum = 0, magnitude = 0;
        for (int64_t j = 0; j < 70; ++j) {
          sum += static_cast<double>(x(t, j)) * w(i, j);
          magnitude += std::abs(static_cast<double>(x(t, j)) * w(i, j));
        }
        // Sums of 70 products and of the path's 6 + 70, each within n half-ulps of its magnitude; the
        // path's own terms may be larger than their sum, hence the factor for them.
        EXPECT_NEAR(y(t, i), sum, 2e-7 * 80 * (magnitude + 400)) << t << " " << i;
      }
    }
  }
}

TEST(Artifact, PartsComeBackFromAFile) {
  const std::string path = testing::TempDir() + "planish_parts.safetensors";
  const Matrix m = CodesAndPath(20, 40, 3);
  std::vector<PartTensor> tensors;
  const OrderedJson description = DescribeParts(m, "layer.weight", tensors);
  std::vector<TensorSpec> specs;
  for (const auto& t : tensors) specs.push_back({t.name, t.type, t.shape});
  auto writer = SafetensorsWriter::Create(path, specs);
  ASSERT_TRUE(writer.ok()) << writer.error().message;
  const auto order = writer->order();
  for (const auto& spec : order) {
    for (const auto& t : tensors) {
      if (t.name == spec.name) {
        ASSERT_TRUE(writer->Append(t.name, t.bytes).ok());
      }
    }
  }
  ASSERT_TRUE(writer->Commit().ok());
  const auto checkpoint = Checkpoint::OpenFile(path);
  ASSERT_TRUE(checkpoint.ok());
  const Json json = *ParseJson(DumpJson(description));
  const auto back = ReadParts(json, "layer.weight", 20, 40, *checkpoint);
  ASSERT_TRUE(back.ok()) << back.error().message;
  EXPECT_EQ(MaxDifference(Reconstruct(*back), Reconstruct(m)), 0);
  EXPECT_EQ(StoredBytes(*back), StoredBytes(m));

  struct Case {
    const char* pointer;
    Json value;
    const char* expected;
  };
  for (const Case& c : std::vector<Case>{{"/kind", "lattice", "expected dense, integer, sum or product"},
                                         {"/rows", 21, "a term is [20, 40], the sum [21, 40]"},
                                         {"/terms", Json::array(), "expected 1 to 64 parts"},
                                         {"/terms/0/bits", 9, "bits: expected 2 to 8, found 9"},
                                         {"/terms/0/bits", 3, "expected U8 [20, 15], found U8 [20, 20]"},
                                         {"/terms/0/group", -1, "group"},
                                         {"/terms/0/group", 7, "expected F16 [20, 6]"},
                                         {"/terms/0/tensor", "other", "other.codes"},
                                         {"/terms/1/factors/0/cols", 4, "expected shape [20, 4]"},
                                         {"/terms/1/factors", 3, "expected 1 to 64 parts"}}) {
    Json broken = json;
    broken[Json::json_pointer(c.pointer)] = c.value;
    const auto result = ReadParts(broken, "layer.weight", 20, 40, *checkpoint);
    ASSERT_FALSE(result.ok()) << c.pointer;
    EXPECT_NE(result.error().message.find(c.expected), std::string::npos) << result.error().message;
  }
  EXPECT_FALSE(ReadParts(json, "layer.weight", 40, 20, *checkpoint).ok());
  std::filesystem::remove(path);
}

}  // namespace
}  // namespace planish

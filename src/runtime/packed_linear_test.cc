// Packed layers against their definition: what the parts reconstruct to times the inputs as they are
// quantized, in double; and every kernel set against the scalar one, bit by bit.
#include "runtime/packed_linear.h"

#include <fmt/format.h>
#include <gmock/gmock.h>

#include <set>

#include "runtime/packed_test_util.h"

namespace planish {
namespace {

using test::Must;
using test::Pack;
using test::RandomCoded;
using test::RandomMat;
using test::SameBits;

constexpr double kEps = 0x1p-24;  // of a rounding to fp32

// A matrix as it should compute: values, bounds of (code + zero) * scale, which a kernel's sums reach before
// the zeros are taken off, and how far packed weights may be from the values.
struct Weights {
  Mat<double> value, magnitude, slack;
  int64_t rows() const { return value.rows(); }
  int64_t cols() const { return value.cols(); }
};

Weights MakeWeights(const Matrix& matrix) {
  const Mat<float> values = Reconstruct(matrix);
  Weights w;
  for (auto* m : {&w.value, &w.magnitude, &w.slack}) {
    m->Resize(matrix.rows, matrix.cols);
    m->Fill(0);
  }
  for (int64_t i = 0; i < matrix.rows * matrix.cols; ++i) {
    w.value.data()[i] = values.data()[i];
    w.magnitude.data()[i] = std::fabs(values.data()[i]);
  }
  return w;
}

// Codes packed as they are; with scales8 a scale is off by half a 255th of the row's largest, which as fp16
// is off by 2^-11 itself.
Weights CodedWeights(const Matrix& matrix, bool scales8) {
  Weights w = MakeWeights(matrix);
  const IntegerMatrix m = UnpackInteger(matrix);
  for (int64_t i = 0; i < matrix.rows; ++i) {
    float largest = 0;
    for (int64_t g = 0; g < m.scales.cols(); ++g) largest = std::max(largest, m.scales(i, g));
    const double unit = largest / 255.0 * (1 + 0x1p-10);
    for (int64_t k = 0; k < matrix.cols; ++k) {
      const int64_t g = k / m.grid.GroupSize(matrix.cols);
      const double code = m.codes(i, k), zero = m.zeros(i, g);
      w.magnitude(i, k) = (code + zero) * (m.scales(i, g) + (scales8 ? unit : 0));
      if (scales8) w.slack(i, k) = std::fabs(code - zero) * unit * 0.63;  // half, and an eighth at the clamp
    }
  }
  return w;
}

// A factor rounded to int8, one scale for each row and `step` columns: off by half a step, and by an eighth
// at the clamp.
Weights RoundedWeights(const Matrix& matrix, int step) {
  Weights w = MakeWeights(matrix);
  for (int64_t i = 0; i < matrix.rows; ++i) {
    for (int64_t begin = 0; begin < matrix.cols; begin += step) {
      const int64_t end = std::min(matrix.cols, begin + step);
      double largest = 0;
      for (int64_t k = begin; k < end; ++k) largest = std::max(largest, std::fabs(w.value(i, k)));
      // Below fp16's normal numbers a scale is off by half of 2^-24.
      const double scale = largest / 127 * (1 + 0x1p-10) + 0x1p-24;
      for (int64_t k = begin; k < end; ++k) {
        w.magnitude(i, k) = 256 * scale;
        w.slack(i, k) = 0.63 * scale;
      }
    }
  }
  return w;
}

struct LinearCase {
  std::string name;
  PackPlan plan;
  Weights w, u, v;  // u, v: with a low-rank path
  std::vector<float> bias;
  std::vector<PackedOutlier> outliers;
};

// The inputs as they are multiplied, by the definition in packed_input.h. step 0: as they are.
Mat<double> Dequantize(MatView<const float> x, int step) {
  Mat<double> out(x.rows, x.cols);
  for (int64_t t = 0; t < x.rows; ++t) {
    for (int64_t begin = 0; begin < x.cols; begin += step == 0 ? x.cols : step) {
      const int64_t end = step == 0 ? x.cols : std::min(x.cols, begin + step);
      float largest = 0;
      for (int64_t k = begin; k < end; ++k) largest = std::max(largest, std::fabs(x(t, k)));
      for (int64_t k = begin; k < end; ++k) {
        out(t, k) = x(t, k);
        if (step == 0) continue;
        const double scale = largest / 127.0f;
        const bool zero = largest < 1e-30f;
        out(t, k) = zero ? 0 : double{std::nearbyint(x(t, k) * (127.0f / largest))} * scale;
      }
    }
  }
  return out;
}

struct Product {
  Mat<float> path, y;  // V x (empty without a path), y
};

// Tiles one by one from the last to the first, or all at once.
Product Multiply(const packed::KernelSet& kernels, const PackedLinear& layer, MatView<const float> x,
                 bool exact, bool one_by_one = false) {
  const MultiplyOptions options{exact};
  const auto multiply = [&](const PackedLinear& l, const QuantizedInput& in, const QuantizedInput* t) {
    Mat<float> y(x.rows, l.rows());
    y.Fill(NAN);
    if (!one_by_one) MultiplyTiles(kernels, l, in, t, 0, l.tiles(), y, options);
    for (int64_t tile = l.tiles() - 1; one_by_one && tile >= 0; --tile) {
      MultiplyTiles(kernels, l, in, t, tile, tile + 1, y, options, l.TileData(0));
    }
    return y;
  };
  QuantizedInput in, t;
  in.Set(kernels, x, layer.InputFormFor(options));
  Product product;
  if (layer.v() != nullptr) {
    product.path = multiply(*layer.v(), in, nullptr);
    t.Set(kernels, product.path, LowRankForm(options));
  }
  product.y = multiply(layer, in, layer.v() != nullptr ? &t : nullptr);
  return product;
}

// y [tokens, rows] += W x, bound += how far a kernel may be: each of its chains of fused multiply-adds, the
// joins and the folds over steps round once an operation, by kEps of what they have gathered.
void AddProduct(const Weights& w, const Mat<double>& x, int64_t roundings, Mat<double>& y,
                Mat<double>& bound) {
  for (int64_t t = 0; t < x.rows(); ++t) {
    for (int64_t i = 0; i < w.rows(); ++i) {
      double sum = 0, error = 0;
      for (int64_t k = 0; k < w.cols(); ++k) {
        sum += w.value(i, k) * x(t, k);
        error +=
            (w.magnitude(i, k) * kEps * static_cast<double>(roundings) + w.slack(i, k)) * std::fabs(x(t, k));
      }
      y(t, i) += sum;
      bound(t, i) += error + 1e-37;  // products below the normal numbers
    }
  }
}

int64_t Roundings(const PackedLinear& layer, bool exact) {
  if (!IsCoded(layer.shape().kind)) return layer.cols() / 4 + 8;
  // Products with scales, two folds a step; a step's chains and the sum of its inputs when these are floats.
  return layer.layout().padded_cols / packed::kInputStep + 2 * layer.layout().steps + 12 +
         (exact ? layer.shape().step / 4 + layer.shape().step / 16 : 0);
}

void ExpectNear(const Mat<float>& got, const Mat<double>& expected, const Mat<double>& bound,
                const std::string& what) {
  int shown = 0;
  for (int64_t t = 0; t < got.rows(); ++t) {
    for (int64_t i = 0; i < got.cols() && shown < 3; ++i) {
      const double off = std::fabs(got(t, i) - expected(t, i));
      if (off <= bound(t, i)) continue;
      ++shown;
      ADD_FAILURE() << fmt::format("{}: token {} row {}: {} instead of {}, off by {}, allowed {}", what, t, i,
                                   got(t, i), expected(t, i), off, bound(t, i));
    }
  }
}

// The scalar set's product against the definition.
void ExpectDefined(const LinearCase& c, const PackedLinear& layer, MatView<const float> x, bool exact,
                   const Product& product) {
  const bool int8 = IsCoded(layer.shape().kind) && !exact;
  const Mat<double> in = Dequantize(x, int8 ? packed::kInputStep : 0);
  const auto zeros = [&](int64_t cols) {
    Mat<double> m(x.rows, cols);
    m.Fill(0);
    return m;
  };
  Mat<double> y = zeros(layer.rows()), bound = zeros(layer.rows());
  AddProduct(c.w, in, Roundings(layer, exact) + 2 * layer.layout().u_steps + 4, y, bound);
  if (layer.v() != nullptr) {
    Mat<double> path = zeros(layer.v()->rows()), path_bound = zeros(layer.v()->rows());
    AddProduct(c.v, in, Roundings(*layer.v(), exact), path, path_bound);
    ExpectNear(product.path, path, path_bound, c.name + ": V x");
    // From the packed V x on, so that a code of it that falls the other way is no error.
    AddProduct(c.u, Dequantize(product.path, exact ? 0 : kLowRankStep),
               2 * layer.layout().u_steps + 2 * layer.layout().steps + 32, y, bound);
  }
  for (int64_t t = 0; t < x.rows; ++t) {
    for (const PackedOutlier& o : c.outliers) {
      const double add = double{o.value} * x(t, o.column);
      y(t, o.row) += add;
      bound(t, o.row) += 4 * kEps * (std::fabs(add) + std::fabs(y(t, o.row)));
    }
    for (int64_t i = 0; i < layer.rows() && !c.bias.empty(); ++i) {
      y(t, i) += c.bias[static_cast<size_t>(i)];
      bound(t, i) += 2 * kEps * std::fabs(y(t, i));
    }
  }
  ExpectNear(product.y, y, bound, c.name + (exact ? ": exact inputs" : ""));
}

bool SameInputs(const QuantizedInput& a, const QuantizedInput& b, const InputForm& form) {
  const int64_t unit = form.step == 0 ? 4 : form.step, steps = (a.cols() + unit - 1) / unit;
  bool same = a.finite() == b.finite();
  if (form.int8) {
    same = same && std::memcmp(a.codes(), b.codes(), static_cast<size_t>(steps * unit * a.tokens())) == 0 &&
           std::memcmp(a.neg_sums(), b.neg_sums(), static_cast<size_t>(steps * a.tokens() * 4)) == 0;
    const int64_t groups = steps * unit / packed::kInputStep;
    for (int64_t i = 0; i < groups * a.tokens(); ++i) same = same && SameBits(a.scales()[i], b.scales()[i]);
  }
  return same;
}

// Every set, tiles one by one, each token alone: the bits of the scalar set.
void ExpectSameBits(const LinearCase& c, const PackedLinear& layer, MatView<const float> x, bool exact,
                    const Product& scalar) {
  const InputForm form = layer.InputFormFor({exact});
  QuantizedInput expected, got;
  expected.Set(packed::kScalarKernels, x, form);
  for (const packed::KernelSet* set : SupportedPackedKernels()) {
    const std::string what = fmt::format("{}: {}, {} tokens, exact {}", c.name, set->name, x.rows, exact);
    got.Set(*set, x, form);
    EXPECT_TRUE(SameInputs(expected, got, form)) << what;
    const Product product = Multiply(*set, layer, x, exact);
    EXPECT_TRUE(SameBits(product.path, scalar.path)) << what;
    EXPECT_TRUE(SameBits(product.y, scalar.y)) << what;
  }
  const packed::KernelSet& best = *SupportedPackedKernels().back();
  EXPECT_TRUE(SameBits(Multiply(best, layer, x, exact, true).y, scalar.y)) << c.name << ": tiles one by one";
  for (int64_t t = 0; t < x.rows; ++t) {
    EXPECT_TRUE(SameBits(Multiply(best, layer, x.Rows(t, 1), exact).y, scalar.y.view().Rows(t, 1)))
        << c.name << ": token " << t << " alone";
  }
}

class PackedLinearTest : public testing::Test {
 protected:
  // Bytes that depend on neither threads nor instruction set, read back.
  PackedLinear PackAndRead(const LinearCase& c) {
    bytes_ = Pack(context_, c.plan);
    for (const Isa isa : kAllIsas) {
      if (!IsaSupported(isa)) continue;
      const Buffer other = Pack({&one_, isa}, c.plan);
      EXPECT_TRUE(std::ranges::equal(other.bytes(), bytes_.bytes())) << c.name << ": " << IsaName(isa);
    }
    return Must(PackedLinear::FromBytes(bytes_.bytes()));
  }
  void Check(const LinearCase& c, const std::vector<int64_t>& tokens) {
    const PackedLinear layer = PackAndRead(c);
    EXPECT_EQ(static_cast<int64_t>(layer.bytes().size()), c.plan.bytes());
    EXPECT_EQ(reinterpret_cast<uintptr_t>(layer.TileData(0)) % 64, 0u);
    for (const int64_t count : tokens) {
      Mat<float> x = RandomMat(count, layer.cols(), 1, static_cast<uint64_t>(count));
      for (int64_t t = 0; t < count; ++t) {
        for (int64_t k = 0; k < layer.cols(); ++k)
          x(t, k) *= std::ldexp(1.0f, static_cast<int>(2 * t - k % 5));
      }
      for (const bool exact : {false, true}) {
        const Product scalar = Multiply(packed::kScalarKernels, layer, x, exact);
        ExpectDefined(c, layer, x, exact, scalar);
        ExpectSameBits(c, layer, x, exact, scalar);
      }
    }
  }

  ThreadPool one_{1}, three_{3};
  Context context_{&three_, BestIsa()};
  Buffer bytes_;
};

LinearCase CodedCase(int64_t rows, int64_t cols, const IntegerGrid& grid, const PackOptions& options = {}) {
  const auto seed = static_cast<uint64_t>(rows * 1000 + cols * 10 + grid.bits);
  Linear linear{"w", RandomCoded(rows, cols, grid, 0.02, seed), {}};
  LinearCase c;
  c.name =
      fmt::format("[{}, {}] int{} group {}{}{} step {}", rows, cols, grid.bits, grid.group,
                  grid.symmetric ? " sym" : "", options.scales8 ? " scales8" : "", options.preferred_step);
  c.plan = Must(PlanPackedLinear(linear, options));
  c.w = CodedWeights(linear.w, options.scales8);
  return c;
}

TEST_F(PackedLinearTest, PrintsItsKernelSets) {
  std::set<std::string> names;
  for (const auto* set : SupportedPackedKernels()) names.insert(set->name);
  std::string run, lacking;
  for (const char* name : {"scalar", "avx2", "avx-vnni", "avx512", "avx512-vnni", "neon"}) {
    std::string& list = names.erase(name) > 0 ? run : lacking;
    list += std::string(" ") + name;
  }
  fmt::print("kernel sets tested:{}; not on this machine:{}\n", run, lacking);
  EXPECT_TRUE(names.empty());
  EXPECT_EQ(SupportedPackedKernels().front(), &packed::kScalarKernels);
}

// Each width with and without stored zeros, over all groups, and sizes that fill neither tiles nor steps.
TEST_F(PackedLinearTest, IntegerCodesOfEveryWidthGroupAndSize) {
  struct Size {
    int64_t rows, cols;
  };
  const Size sizes[] = {{16, 128}, {1, 1}, {37, 200}, {17, 31}, {5, 577}, {32, 1056}};
  size_t turn = 0;
  for (const int bits : {2, 3, 4, 5, 6, 7, 8}) {
    for (const bool symmetric : {false, true}) {
      for (const int64_t group : {0, 32, 64, 96, 128}) {
        const Size size = sizes[turn++ % std::size(sizes)];
        const LinearCase c = CodedCase(size.rows, size.cols, {bits, group, symmetric});
        EXPECT_EQ(c.plan.note, "") << c.name;
        EXPECT_EQ(PackedBits(c.plan.shape.kind), bits > 4 ? 8 : bits) << c.name;
        Check(c, {static_cast<int64_t>(turn % 8 + 1)});
      }
    }
  }
}

TEST_F(PackedLinearTest, EveryNumberOfTokens) {
  for (const int bits : {2, 3, 4, 8}) {
    for (const bool symmetric : {false, true}) {
      Check(CodedCase(19, 330, {bits, 64, symmetric}), {1, 2, 3, 4, 5, 6, 7, 8});
    }
  }
}

TEST_F(PackedLinearTest, PreferredStepsAndByteScales) {
  for (const int bits : {2, 3, 4, 8}) {
    for (const bool symmetric : {false, true}) {
      for (const int step : {32, 64, 128}) {
        const LinearCase c = CodedCase(20, 300, {bits, 128, symmetric}, {.preferred_step = step});
        EXPECT_EQ(c.plan.shape.step, step) << c.name;
        Check(c, {3});
      }
      const LinearCase c =
          CodedCase(20, 700, {bits, 32, symmetric}, {.preferred_step = 128, .scales8 = true});
      EXPECT_EQ(c.plan.shape.step, 32) << c.name;
      Check(c, {1, 5});
    }
  }
}

TEST_F(PackedLinearTest, DenseOfEveryTypeAndSize) {
  for (const DType type : {DType::kF32, DType::kF16, DType::kBF16}) {
    for (const int64_t cols : {1, 3, 4, 31, 130}) {
      const Linear linear{"w", DenseMatrix(RandomMat(cols + 6, cols, 0.1, 1), type), {}};
      LinearCase c;
      c.name = fmt::format("dense {} [{}, {}]", DTypeName(type), cols + 6, cols);
      c.plan = Must(PlanPackedLinear(linear));
      EXPECT_EQ(c.plan.note, "");
      c.w = MakeWeights(linear.w);
      Check(c, {1, 4, 7});
    }
  }
}

// Groups that no step divides, and sums that are not codes with two factors: bf16, which is off by 2^-9.
TEST_F(PackedLinearTest, FallsBackToBf16WithANote) {
  const Matrix v = DenseMatrix(RandomMat(3, 100, 0.1, 1), DType::kF32);
  const Matrix u = DenseMatrix(RandomMat(20, 3, 0.1, 2), DType::kF32);
  const Matrix dense = DenseMatrix(RandomMat(20, 100, 0.1, 3), DType::kBF16);
  const Matrix matrices[] = {RandomCoded(20, 100, {4, 24, false}, 0.02, 4),
                             RandomCoded(20, 100, {3, 20, true}, 0.02, 5), test::SumOf(dense, u, v),
                             test::SumOf(RandomCoded(20, 100, {4, 10, false}, 0.02, 6), u, v)};
  for (const Matrix& matrix : matrices) {
    LinearCase c;
    c.name = Describe(matrix);
    c.plan = Must(PlanPackedLinear({"w", matrix, {}}));
    EXPECT_EQ(c.plan.note, "packed as bf16 from decoded rows: no kernel for " + Describe(matrix));
    c.w = MakeWeights(matrix);
    for (int64_t i = 0; i < 20 * 100; ++i) c.w.slack.data()[i] = c.w.magnitude.data()[i] * 0x1p-8;
    Check(c, {2});
  }
}

// What an entry of the bytes of a row's and group's table stands for, times the group's scale.
double EntryUnit(const LinearCase& c, const GridMatrix& m, int64_t row, int64_t group) {
  if (m.grid.scale != ScaleKind::kNone) {
    return c.plan.shape.unit / (m.grid.scale == ScaleKind::kE4M3 ? m.units.front() : 1.0f);
  }
  const float* levels = m.LevelsOf(row, group);
  double largest = 0;
  for (int64_t i = 0; i < m.levels.cols(); ++i) largest = std::max(largest, std::fabs(double{levels[i]}));
  return 1.0005 * largest / 127;  // as an fp16 scale
}

// A matrix on any grid: levels become bytes of tables, of which a dot takes (entry + 128) and the fold 128
// off; levels that no power of two makes whole are off by half a byte's step.
LinearCase GridCase(const Context& context, int64_t rows, int64_t cols, const GridSpec& grid,
                    const PackOptions& options = {}) {
  const auto seed = static_cast<uint64_t>(rows * 1000 + cols * 10 + grid.bits);
  const Linear linear{"w", test::RoundedTo(context, grid, RandomMat(rows, cols, 0.1, seed)), {}};
  LinearCase c;
  c.name = fmt::format("[{}, {}] {} group {} step {}", rows, cols, GridText(grid), grid.group,
                       options.preferred_step);
  c.plan = Must(PlanPackedLinear(linear, options));
  c.w = MakeWeights(linear.w);
  const GridMatrix m = UnpackCodes(linear.w);
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t k = 0; k < cols; ++k) {
      const int64_t g = k / grid.GroupSize(cols);
      const double scale = m.scales(i, g), unit = grid.Uniform() ? 1 : EntryUnit(c, m, i, g);
      c.w.magnitude(i, k) = grid.Uniform() ? (m.codes(i, k) + m.zeros(i, g)) * scale : 384 * unit * scale;
      if (grid.levels == LevelKind::kNormal || grid.Learned()) c.w.slack(i, k) = 0.5001 * unit * scale;
    }
  }
  return c;
}

// Every named grid of at most 4 bits, and every form of scales and zeros on each.
TEST_F(PackedLinearTest, GridsOfLevelsStepsAndFineZeros) {
  struct Size {
    int64_t rows, cols;
  };
  const Size sizes[] = {{37, 200}, {17, 31}, {5, 577}, {1, 1}, {32, 288}, {16, 48}};
  size_t turn = 0;
  for (const NamedGrid& named : NamedGrids()) {
    if (named.grid.bits > 4 || named.grid.InBlocks()) continue;
    for (const ScaleKind scale : {ScaleKind::kHalf, ScaleKind::kSteps, ScaleKind::kE8M0, ScaleKind::kE4M3}) {
      for (const int64_t group : {16, 32, 48, 128, 0}) {
        GridSpec grid = named.grid;
        grid.scale = scale;
        grid.group = group;
        grid.scale_bits = 4 + static_cast<int>(turn % 5);
        if (grid.HasZeros()) grid.zero_bits = grid.bits + static_cast<int>(turn % 5);
        if (!CheckGrid(grid).empty()) continue;
        const Size size = sizes[turn++ % std::size(sizes)];
        const LinearCase c = GridCase(context_, size.rows, size.cols, grid);
        // Learned levels of one value are whole.
        if (!grid.Learned()) {
          EXPECT_EQ(c.plan.note.empty(), grid.levels != LevelKind::kNormal) << c.name << ": " << c.plan.note;
        }
        EXPECT_TRUE(IsCoded(c.plan.shape.kind)) << c.name << ": " << c.plan.note;
        EXPECT_EQ(PackedBits(c.plan.shape.kind), std::max(grid.bits, 2)) << c.name;
        Check(c, {static_cast<int64_t>(turn % 8 + 1)});
      }
    }
  }
}

// Steps of 16 columns are taken in pairs: every number of tokens, on every kind.
TEST_F(PackedLinearTest, GroupsOf16OfEveryKindAndNumberOfTokens) {
  for (const char* name : {"int2", "int3", "int4", "int8", "nf2", "nf3", "nf4", "bitmod3", "bitmod4"}) {
    const auto grid = FindGrid(name);
    ASSERT_TRUE(grid.has_value()) << name;
    GridSpec small = *grid;
    small.group = 16;
    Check(GridCase(context_, 19, 330, small), {1, 2, 3, 4, 5, 6, 7, 8});
  }
}

// Tables of rows under every form of scales, tables of values of rows and of groups: one for each step, or,
// where a group is the row or a step of its own, in front of all.
TEST_F(PackedLinearTest, TablesOfRowsAndGroups) {
  for (const char* name : {"table2", "table3", "table4"}) {
    for (const ScaleKind scale :
         {ScaleKind::kHalf, ScaleKind::kSteps, ScaleKind::kE8M0, ScaleKind::kE4M3, ScaleKind::kNone}) {
      GridSpec grid = *FindGrid(name);
      grid.scale = scale;
      grid.tables = TableScope::kRow;
      grid.group = 32;
      Check(GridCase(context_, 21, 330, grid), {1, 2, 3, 4, 5, 6, 7, 8});
    }
    for (const int64_t group : {16, 32, 48, 128, 256, 0}) {
      GridSpec grid = *FindGrid(name);
      grid.scale = ScaleKind::kNone;
      grid.tables = TableScope::kGroup;
      grid.group = group;
      const LinearCase c = GridCase(context_, 19, 330, grid);
      EXPECT_TRUE(HasRowTables(c.plan.shape.kind)) << c.name;
      EXPECT_EQ(PackedBits(c.plan.shape.kind), grid.bits) << c.name;
      EXPECT_EQ(c.plan.shape.num_tables, c.plan.layout.steps) << c.name;
      EXPECT_THAT(c.plan.note,
                  testing::EndsWith("rounded to 8 bits, off by up to 0.4 % of the largest of their table"));
      Check(c, {1, 4, 8});
    }
    // One row, one step; and groups that no step divides.
    GridSpec grid = *FindGrid(name);
    grid.scale = ScaleKind::kNone;
    grid.tables = TableScope::kGroup;
    Check(GridCase(context_, 1, 100, grid), {1, 3});
    grid.group = 24;
    EXPECT_EQ(GridCase(context_, 5, 100, grid).plan.shape.kind, PackedKind::kBF16);
  }
}

// Rows so small that the scale of their table is a small part of the tensor's, and rows of zeros.
TEST_F(PackedLinearTest, TablesOfRowsOfEverySize) {
  GridSpec grid = *FindGrid("table4");
  grid.scale = ScaleKind::kNone;
  grid.tables = TableScope::kRow;
  Mat<float> w = RandomMat(20, 96, 1, 7);
  for (int64_t i = 0; i < 20; ++i) {
    for (int64_t k = 0; k < 96; ++k) w(i, k) *= i == 3 ? 0 : std::ldexp(1.0f, -static_cast<int>(i) / 2);
  }
  const Linear linear{"w", test::RoundedTo(context_, grid, w), {}};
  const PackPlan plan = Must(PlanPackedLinear(linear));
  const Buffer bytes = Pack(context_, plan);
  const PackedLinear layer = Must(PackedLinear::FromBytes(bytes.bytes()));
  Mat<float> x(8, 96);
  x.Fill(0);
  for (int64_t t = 0; t < 8; ++t) x(t, 11 * t) = 1;
  const Product product = Multiply(packed::kScalarKernels, layer, x, true);
  const Mat<float> values = Reconstruct(linear.w);
  for (int64_t i = 0; i < 20; ++i) {
    float largest = 0;
    for (int64_t k = 0; k < 96; ++k) largest = std::max(largest, std::fabs(values(i, k)));
    for (int64_t t = 0; t < 8; ++t) {
      EXPECT_NEAR(product.y(t, i), values(i, 11 * t), 0.0041 * largest) << i;
    }
  }
}

TEST_F(PackedLinearTest, SetsOfLevelsOfEveryNumberOfTokensAndStep) {
  for (const char* name : {"bitmod3", "bitmod4"}) {
    for (const int step : {32, 64, 128}) {
      Check(GridCase(context_, 35, 330, *FindGrid(name), {.preferred_step = step}), {1, 2, 3, 4, 5, 6, 7, 8});
    }
  }
}

// Levels from a file need not be those of the name.
TEST_F(PackedLinearTest, FallsBackForLevelsWithoutATable) {
  GridSpec grid = *FindGrid("bitmod4");
  GridMatrix m = FitGrid(context_, RandomMat(20, 128, 0.1, 1), {}, grid, ClipSearch::kMinMax);
  EncodeAll(context_, RandomMat(20, 128, 0.1, 1), m);
  m.levels(1, 3) += 0.25f;
  const PackPlan plan = Must(PlanPackedLinear({"w", PackCodes(m), {}}));
  EXPECT_EQ(plan.shape.kind, PackedKind::kBF16);
  EXPECT_THAT(plan.note, testing::StartsWith("packed as bf16 from decoded rows: no kernel for bitmod4"));
}

// Blocks of random bytes but for their halves, decoded by grids/gguf_decode.cc, which takes its products in
// floats. `bits` a weight are those of the packed tile; the file's are beside it.
struct BlockCase {
  GgufType type;
  std::vector<size_t> halves;  // offsets of fp16 numbers in a block
  int64_t cols;
  double bits;
  double magnitude;  // bound of what a dot gathers, in the largest weights of a row
};
TEST_F(PackedLinearTest, BlocksOfGguf) {
  const BlockCase table[] = {
      {GgufType::kQ4_0, {0}, 96, 4.5, 8},          // 4.5
      {GgufType::kQ4_1, {0, 2}, 288, 5, 8},        // 5
      {GgufType::kQ5_0, {0}, 32, 8.5, 8},          // 5.5
      {GgufType::kQ5_1, {0, 2}, 96, 9, 8},         // 6
      {GgufType::kQ8_0, {0}, 160, 8.5, 8},         // 8.5
      {GgufType::kQ2_K, {80, 82}, 512, 2.625, 8},  // 2.625
      {GgufType::kQ3_K, {108}, 768, 3.625, 8},     // 3.4375
      {GgufType::kQ4_K, {0, 2}, 512, 4.625, 8},    // 4.5
      {GgufType::kQ5_K, {0, 2}, 256, 8.625, 8},    // 5.5
      {GgufType::kQ6_K, {208}, 256, 8.625, 8},     // 6.5625
      {GgufType::kIQ4_NL, {0}, 96, 4.5, 8},        // 4.5
      {GgufType::kIQ4_XS, {0}, 512, 4.375, 8},     // 4.25
      {GgufType::kMXFP4, {}, 160, 4.25, 40},       // 4.25
      {GgufType::kNVFP4, {}, 192, 4.5, 40},        // 4.5
      {GgufType::kQ1_0, {0}, 384, 2.125, 400},     // 1.125
      {GgufType::kQ2_0, {0}, 192, 2.25, 8},        // 2.25
      {GgufType::kTQ2_0, {64}, 256, 2.125, 8},     // 2.0625
  };
  const Random random(11);
  uint64_t next = 0;
  for (const BlockCase& b : table) {
    const GgufTypeInfo& info = InfoOf(b.type);
    const int64_t rows = 21, blocks = rows * b.cols / info.block;
    auto bytes = std::make_shared<std::vector<std::byte>>(static_cast<size_t>(blocks * info.bytes));
    for (auto& byte : *bytes) byte = static_cast<std::byte>(random.Below(next++, 256));
    for (int64_t i = 0; i < blocks; ++i) {
      std::byte* block = bytes->data() + i * info.bytes;
      if (b.type == GgufType::kMXFP4) block[0] = static_cast<std::byte>(118 + random.Below(next++, 8));
      for (const size_t at : b.halves) {
        const double sign = random.Below(next++, 4) == 0 ? -1 : 1;
        const F16 half = ToF16(static_cast<float>(sign * 0.01 * (0.2 + random.Uniform(next++))));
        std::memcpy(block + at, &half, 2);
      }
    }
    const Matrix w = {rows, b.cols, Blocks{b.type, {*bytes, bytes}}};
    LinearCase c;
    c.name = fmt::format("{} [{}, {}]", info.name, rows, b.cols);
    c.plan = Must(PlanPackedLinear({"w", w, {}}));
    EXPECT_EQ(c.plan.note, "") << c.name;
    c.w = MakeWeights(w);
    for (int64_t i = 0; i < rows; ++i) {
      double largest = 0;
      for (int64_t k = 0; k < b.cols; ++k) largest = std::max(largest, c.w.magnitude(i, k));
      for (int64_t k = 0; k < b.cols; ++k) c.w.magnitude(i, k) = b.magnitude * largest;
    }
    Check(c, {1, 3, 8});
    PackedShape wide = c.plan.shape;
    wide.cols = 4096;
    const double bits = static_cast<double>(Must(LayOutPacked(wide)).main_bytes) * 8 / (16 * 4096);
    EXPECT_EQ(bits, b.bits) << c.name;
  }
}

// Groups in an order of their own have no kernel; what they were rounded to stays as it is.
TEST_F(PackedLinearTest, ScatteredGroupsAreDecodedExactly) {
  Matrix w = RandomCoded(20, 96, {4, 32, false}, 0.02, 4);
  std::vector<int32_t> index;
  for (int32_t j = 0; j < 96; ++j) index.push_back(j * 7 % 3);
  std::get<Coded>(w.body).group_of = {std::as_bytes(std::span(index)), nullptr};
  LinearCase c;
  c.name = Describe(w);
  c.plan = Must(PlanPackedLinear({"w", w, {}}));
  EXPECT_EQ(c.plan.note, "packed as f32 from decoded rows: no kernel for int4 g32 act-order");
  c.w = MakeWeights(DenseMatrix(Reconstruct(w), DType::kF32));
  Check(c, {1, 5});
}

// Lattices are no codes under scales.
TEST_F(PackedLinearTest, DecodesOtherBlocksWithANote) {
  auto bytes =
      std::make_shared<std::vector<std::byte>>(static_cast<size_t>(GgufRowBytes(GgufType::kIQ3_S, 256)));
  const Matrix w = {1, 256, Blocks{GgufType::kIQ3_S, {*bytes, bytes}}};
  const PackPlan plan = Must(PlanPackedLinear({"w", w, {}}));
  EXPECT_EQ(plan.note, "packed as bf16 from decoded rows: no kernel for " + Describe(w));
}

// Factors on int8 grids keep their codes, others are rounded and the note says so; odd ranks leave a step of
// U unfilled.
TEST_F(PackedLinearTest, LowRankPaths) {
  struct Path {
    int64_t rank, group;
    bool integer, symmetric;
  };
  for (const Path& p : {Path{1, 0, true, true}, Path{5, 64, false, true}, Path{32, 64, true, true},
                        Path{33, 0, false, true}, Path{47, 32, true, true}, Path{64, 64, true, false}}) {
    for (const int bits : {2, 4, 8}) {
      const int64_t rows = 37, cols = 200;
      const IntegerGrid grid{8, 0, p.symmetric};
      const Matrix u = p.integer ? RandomCoded(rows, p.rank, grid, 0.003, 1)
                                 : DenseMatrix(RandomMat(rows, p.rank, 0.1, 1), DType::kF16);
      const Matrix v = p.integer ? RandomCoded(p.rank, cols, grid, 0.003, 2)
                                 : DenseMatrix(RandomMat(p.rank, cols, 0.1, 2), DType::kF16);
      const Matrix main = RandomCoded(rows, cols, {bits, p.group, false}, 0.02, 3);
      LinearCase c;
      c.name = fmt::format("int{} group {} + rank {}", bits, p.group, p.rank);
      c.bias = {0.5f, -2};
      c.bias.resize(static_cast<size_t>(rows), 1e-3f);
      PackOptions options;
      c.outliers = {{36, 199, -3}, {0, 7, 1.5f}, {36, 2, 0.25f}, {20, 100, 100}};
      options.outliers = c.outliers;
      c.plan = Must(PlanPackedLinear({"w", test::SumOf(main, u, v), c.bias}, options));
      EXPECT_EQ(c.plan.shape.rank, p.rank);
      // U's zeros have no room: an asymmetric U is rounded anew.
      const bool keeps_v = p.integer, keeps_u = p.integer && p.symmetric;
      EXPECT_EQ(c.plan.note.empty(), keeps_u && keeps_v) << c.plan.note;
      c.w = CodedWeights(main, false);
      c.v = keeps_v ? CodedWeights(v, false) : RoundedWeights(v, c.plan.shape.step);
      c.u = keeps_u ? CodedWeights(u, false) : RoundedWeights(u, kLowRankStep);
      Check(c, {1, 3, 8});
    }
  }
}

TEST_F(PackedLinearTest, OutliersAndBiasesBesideCodesAndDenseWeights) {
  for (const bool dense : {false, true}) {
    const Matrix w = dense ? DenseMatrix(RandomMat(35, 70, 0.1, 1), DType::kBF16)
                           : RandomCoded(35, 70, {4, 32, false}, 0.02, 2);
    LinearCase c;
    c.name = dense ? "dense with outliers" : "codes with outliers";
    c.outliers = {{34, 69, 7}, {15, 0, -1}, {16, 1, 2}, {16, 0, 0.5f}};
    c.bias.assign(35, -0.75f);
    c.plan = Must(PlanPackedLinear({"w", w, c.bias}, {.outliers = c.outliers}));
    c.w = dense ? MakeWeights(w) : CodedWeights(w, false);
    Check(c, {1, 6});
  }
  const auto outside =
      PlanPackedLinear({"w", RandomCoded(35, 70, {4, 32, false}, 0.02, 2), {}}, {.outliers = {{35, 0, 1}}});
  ASSERT_FALSE(outside.ok());
  EXPECT_EQ(outside.error().message, "outlier at (35, 0) of a matrix [35, 70]");
}

// Token 0 is ordinary; the others hold zeros, values around the limit below which steps count as zeros, the
// smallest and large numbers.
TEST_F(PackedLinearTest, InputsFromZeroToHuge) {
  for (const int bits : {2, 3, 4, 8, 16}) {
    LinearCase c;
    c.w.value.Resize(0, 0);
    if (bits == 16) {
      const Matrix w = DenseMatrix(RandomMat(20, 150, 0.1, 1), DType::kF32);
      c.plan = Must(PlanPackedLinear({"w", w, {}}));
      c.w = MakeWeights(w);
    } else {
      c = CodedCase(20, 150, {bits, 64, false});
    }
    c.name += " special inputs";
    const PackedLinear layer = PackAndRead(c);
    Mat<float> x = RandomMat(8, 150, 1, 5);
    const float scales[] = {1, 0, 1e-31f, 2e-30f, 1e-42f, 1e30f, -1e30f, 1};
    for (int64_t t = 0; t < 8; ++t) {
      for (int64_t k = 0; k < 150; ++k) x(t, k) *= scales[t];
    }
    for (int64_t k = 0; k < 150; ++k) x(7, k) = k % 2 == 0 ? 127.0f : -127.0f;
    for (const bool exact : {false, true}) {
      const Product scalar = Multiply(packed::kScalarKernels, layer, x, exact);
      ExpectDefined(c, layer, x, exact, scalar);
      ExpectSameBits(c, layer, x, exact, scalar);
    }
  }
}

// One bad value shows in all of its token's outputs and in finite(), and in no other token.
TEST_F(PackedLinearTest, NanAndInfinityShow) {
  const LinearCase cases[] = {CodedCase(20, 150, {4, 64, false}), CodedCase(20, 150, {3, 64, true}),
                              CodedCase(20, 150, {8, 32, false})};
  for (const LinearCase& c : cases) {
    const PackedLinear layer = PackAndRead(c);
    for (const float bad : {NAN, INFINITY, -INFINITY}) {
      for (const int64_t at : {0, 63, 149}) {
        for (const bool exact : {false, true}) {
          const Mat<float> clean = RandomMat(3, 150, 1, 5);
          Mat<float> x = RandomMat(3, 150, 1, 5);
          x(1, at) = bad;
          const Product scalar = Multiply(packed::kScalarKernels, layer, x, exact);
          const Product before = Multiply(packed::kScalarKernels, layer, clean, exact);
          for (const int64_t t : {0, 2}) {
            EXPECT_TRUE(SameBits(scalar.y.view().Rows(t, 1), before.y.view().Rows(t, 1)));
          }
          for (int64_t i = 0; i < 20; ++i) EXPECT_FALSE(std::isfinite(scalar.y(1, i))) << bad << " at " << at;
          ExpectSameBits(c, layer, x, exact, scalar);
          QuantizedInput in;
          in.Set(*SupportedPackedKernels().back(), x, layer.InputFormFor({exact}));
          EXPECT_FALSE(in.finite());
        }
      }
    }
  }
}

TEST_F(PackedLinearTest, InputFormsJoinOnlyWithEqualSteps) {
  InputForm form{0, false, true};
  EXPECT_TRUE(JoinInputForms({64, true, false}, form));
  EXPECT_EQ(form.step, 64);
  EXPECT_TRUE(form.int8 && form.floats);
  EXPECT_FALSE(JoinInputForms({32, true, false}, form));
  EXPECT_EQ(form.step, 64);
  EXPECT_TRUE(JoinInputForms({0, false, true}, form));
}

}  // namespace
}  // namespace planish

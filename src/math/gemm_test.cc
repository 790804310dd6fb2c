#include "math/gemm.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <cstring>
#include <vector>

#include "math/gemm_test_util.h"

namespace planish {
namespace {

using test::kGuard;
using test::MadeRows;
using test::Padded;
using test::SupportedSets;

enum class Form { kNT, kNN, kTN };

// The same elements in a storage type, `offset` bytes away from alignment.
struct Stored {
  std::vector<std::byte> bytes;
  WeightView view;
  Stored(MatView<const float> m, DType type, int64_t offset) {
    const int64_t size = DTypeBits(type) / 8;
    bytes.resize(static_cast<size_t>(offset + m.rows * m.stride * size));
    for (int64_t i = 0; i < m.rows; ++i) {
      for (int64_t j = 0; j < m.cols; ++j) {
        std::byte* to = bytes.data() + offset + (i * m.stride + j) * size;
        const uint16_t half = type == DType::kBF16 ? ToBF16(m(i, j)).bits : ToF16(m(i, j)).bits;
        if (type == DType::kF32) {
          std::memcpy(to, &m(i, j), 4);
        } else {
          std::memcpy(to, &half, 2);
        }
      }
    }
    view = {bytes.data() + offset, type, m.rows, m.cols, m.stride};
  }
};

struct Case {
  Form form;
  int64_t m, n, k;
  DType type = DType::kF32;
  int64_t offset = 0;  // bytes
  bool made = false;   // B as a RowSource
};

std::string Describe(const Case& c) {
  static const char* const kForms[] = {"NT", "NN", "TN"};
  return std::string(kForms[static_cast<int>(c.form)]) + " " + std::to_string(c.m) + "x" +
         std::to_string(c.n) + "x" + std::to_string(c.k) + " " + std::string(DTypeName(c.type)) + " offset " +
         std::to_string(c.offset) + (c.made ? " made" : "");
}

// A [m,k] and B [n,k] are seeded; the form decides how they lie in memory.
struct Problem {
  Case spec;
  Padded a, b, old_c;
  Stored weights;
  explicit Problem(const Case& s)
      : spec(s),
        a(s.form == Form::kTN ? s.k : s.m, s.form == Form::kTN ? s.m : s.k, 3, 1),
        b(s.form == Form::kNT ? s.n : s.k, s.form == Form::kNT ? s.k : s.n, 5, 2),
        old_c(s.m, s.n, 7, 3),
        weights(b.view(), s.type, s.offset) {}

  double A(int64_t i, int64_t p) { return spec.form == Form::kTN ? a.at(p, i) : a.at(i, p); }
  double B(int64_t j, int64_t p) {
    const int64_t index = spec.form == Form::kNT ? j * b.stride + p : p * b.stride + j;
    return LoadElement(weights.view.data, weights.view.type, index);
  }
  Padded Run(const Context& context, Accumulate op) {
    Padded c = old_c;
    if (spec.form == Form::kNT && spec.made) {
      MatMulNT(context, a.view(), MadeRows(weights.view), c.view(), op);
    } else if (spec.form == Form::kNT) {
      MatMulNT(context, a.view(), weights.view, c.view(), op);
    } else if (spec.form == Form::kNN) {
      MatMulNN(context, a.view(), b.view(), c.view(), op);
    } else {
      MatMulTN(context, a.view(), b.view(), c.view(), op);
    }
    return c;
  }
  // Every rounding of a chain of k steps adds at most u times the largest partial sum, itself at most
  // s = |old| + sum |a b|; two roundings a step (sse4) and the joins of the 64 sums stay below
  // 2 (k + 8) u s, u = 2^-24.
  void ExpectClose(Padded& c, Accumulate op) {
    for (int64_t i = 0; i < spec.m; ++i) {
      for (int64_t j = 0; j < spec.n; ++j) {
        const double sign = op == Accumulate::kSubtract ? -1 : 1;
        double want = op == Accumulate::kSet ? 0 : old_c.at(i, j);
        double size = std::fabs(want);
        for (int64_t p = 0; p < spec.k; ++p) {
          want += sign * A(i, p) * B(j, p);
          size += std::fabs(A(i, p) * B(j, p));
        }
        const double tolerance = 2 * static_cast<double>(spec.k + 8) * 0x1p-24 * size;
        ASSERT_NEAR(c.at(i, j), want, tolerance) << i << "," << j;
      }
    }
  }
  // Nothing between the rows of C was written.
  void ExpectGuards(Padded& c) {
    for (int64_t i = 0; i < spec.m; ++i) {
      for (int64_t j = spec.n; j < c.stride; ++j) ASSERT_EQ(c.at(i, j), kGuard) << i << "," << j;
    }
  }
};

bool SameBits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

constexpr Accumulate kOps[] = {Accumulate::kSet, Accumulate::kAdd, Accumulate::kSubtract};

void CheckAllSets(const Case& spec, ThreadPool& pool) {
  SCOPED_TRACE(Describe(spec));
  Problem problem(spec);
  for (Accumulate op : kOps) {
    SCOPED_TRACE("op " + std::to_string(static_cast<int>(op)));
    Context context{&pool, Isa::kScalar};
    const Padded definition = problem.Run(context, op);
    for (Isa isa : SupportedSets()) {
      SCOPED_TRACE(std::string(IsaName(isa)));
      context.isa = isa;
      Padded c = problem.Run(context, op);
      problem.ExpectClose(c, op);
      problem.ExpectGuards(c);
      if (isa != Isa::kSse4) {
        EXPECT_TRUE(SameBits(c.data, definition.data));
      }
    }
  }
}

TEST(Gemm, SetsThatRan) {
  for (Isa isa : kAllIsas) {
    std::printf("kernel set %s: %s\n", std::string(IsaName(isa)).c_str(),
                IsaSupported(isa) ? "tested" : "skipped, this processor lacks its instructions");
  }
  EXPECT_TRUE(IsaSupported(Isa::kScalar));
}

TEST(Gemm, EverySetMatchesDirectFormulaAndScalarBits) {
  ThreadPool pool(2);
  for (Form form : {Form::kNT, Form::kNN, Form::kTN}) {
    for (int64_t m : {1, 2, 3, 4, 5, 13, 14, 15, 29}) {
      for (int64_t n : {1, 7, 16, 31, 33, 65}) {
        for (int64_t k : {1, 2, 15, 17, 64, 97}) CheckAllSets({form, m, n, k}, pool);
      }
    }
  }
}

TEST(Gemm, TallMatricesTakeThePackedPath) {
  ThreadPool pool(2);
  for (Form form : {Form::kNT, Form::kNN, Form::kTN}) {
    CheckAllSets({form, 145, 37, 19}, pool);
    CheckAllSets({form, 151, 261, 21}, pool);
  }
  CheckAllSets({Form::kNT, 150, 40, 33, DType::kBF16, 1, true}, pool);
}

TEST(Gemm, ManyBlocksOfKKeepTheChain) {
  ThreadPool pool(2);
  for (Form form : {Form::kNT, Form::kNN, Form::kTN}) {
    CheckAllSets({form, 5, 9, 2500}, pool);
    CheckAllSets({form, 146, 3, 1031}, pool);
  }
  CheckAllSets({Form::kNT, 6, 35, 2100, DType::kF16, 1, true}, pool);
}

TEST(Gemm, StorageTypesUnalignedAndMadeRows) {
  ThreadPool pool(3);
  for (DType type : {DType::kF32, DType::kF16, DType::kBF16}) {
    for (int64_t offset : {0, 1, 2, 3}) {
      for (bool made : {false, true}) {
        for (int64_t m : {1, 3, 4, 6, 17}) {
          CheckAllSets({Form::kNT, m, 37, 70, type, offset, made}, pool);
          CheckAllSets({Form::kNT, m, 5, 129, type, offset, made}, pool);
        }
      }
    }
  }
}

TEST(Gemm, SmallMWithLongRows) {
  ThreadPool pool(2);
  for (DType type : {DType::kF32, DType::kBF16}) {
    for (int64_t k : {1024, 1025, 2111}) CheckAllSets({Form::kNT, 4, 6, k, type, 1}, pool);
  }
}

// Every finite half, subnormals included, passes through a product with one.
TEST(Gemm, EveryHalfWidensExactly) {
  ThreadPool pool(1);
  std::vector<uint16_t> halves;
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    if ((bits & 0x7c00) != 0x7c00) halves.push_back(static_cast<uint16_t>(bits));
  }
  const auto n = static_cast<int64_t>(halves.size());
  const WeightView w{reinterpret_cast<const std::byte*>(halves.data()), DType::kF16, n, 1, 1};
  Mat<float> ones(5, 1), c(5, n);
  ones.Fill(1.0f);
  for (Isa isa : SupportedSets()) {
    MatMulNT(Context{&pool, isa}, ones, w, c.view());
    for (int64_t j = 0; j < n; ++j) {
      ASSERT_EQ(c(4, j), ToFloat(F16{halves[static_cast<size_t>(j)]})) << IsaName(isa) << " " << j;
    }
  }
}

// The rule of the header, written out: one ascending chain; at few rows 64 sums joined by halving.
TEST(Gemm, ChainIsTheDocumentedOne) {
  ThreadPool pool(2);
  for (int64_t m : {2, 7}) {
    Problem problem({Form::kNT, m, 3, 150});
    for (Accumulate op : kOps) {
      Padded c = problem.Run(Context{&pool, BestIsa()}, op);
      for (int64_t i = 0; i < m; ++i) {
        for (int64_t j = 0; j < 3; ++j) {
          const float sign = op == Accumulate::kSubtract ? -1.0f : 1.0f;
          const float old = op == Accumulate::kSet ? 0.0f : problem.old_c.at(i, j);
          float chain = old, sums[64] = {};
          for (int64_t p = 0; p < 150; ++p) {
            const auto a = static_cast<float>(problem.A(i, p)), b = static_cast<float>(problem.B(j, p));
            chain = std::fma(sign * a, b, chain);
            sums[p % 64] = std::fma(a, b, sums[p % 64]);
          }
          for (int half = 32; half > 0; half /= 2) {
            for (int s = 0; s < half; ++s) sums[s] += sums[s + half];
          }
          const float joined = op == Accumulate::kSet ? sums[0] : old + sign * sums[0];
          if (IsaSupported(Isa::kAvx2)) {
            EXPECT_EQ(c.at(i, j), m <= kSmallM ? joined : chain) << m << " " << i << "," << j;
          }
        }
      }
    }
  }
}

TEST(Gemm, ThreadsDoNotChangeBits) {
  std::vector<Case> cases = {{Form::kNT, 301, 530, 800, DType::kBF16},
                             {Form::kNN, 33, 300, 450},
                             {Form::kTN, 290, 600, 130},
                             {Form::kNT, 3, 700, 500},
                             {Form::kNT, 160, 90, 700, DType::kF16, 1, true}};
  for (Isa isa : SupportedSets()) {
    if (isa == Isa::kScalar) continue;  // too slow at sizes that have several tiles
    for (const Case& spec : cases) {
      SCOPED_TRACE(Describe(spec) + " " + std::string(IsaName(isa)));
      Problem problem(spec);
      ThreadPool one(1);
      const Padded want = problem.Run(Context{&one, isa}, Accumulate::kAdd);
      for (int threads : {2, 3, 5}) {
        ThreadPool pool(threads);
        EXPECT_TRUE(SameBits(problem.Run(Context{&pool, isa}, Accumulate::kAdd).data, want.data)) << threads;
      }
    }
  }
}

// Larger than a packed chunk in rows and in columns.
TEST(Gemm, SeveralChunksAgreeAcrossSets) {
  ThreadPool pool(2);
  Problem problem({Form::kNT, 2100, 2080, 600, DType::kBF16});
  if (!IsaSupported(Isa::kAvx2)) GTEST_SKIP() << "needs avx2";
  Padded c = problem.Run(Context{&pool, Isa::kAvx2}, Accumulate::kSubtract);
  for (int64_t i : {0, 1023, 1050, 2099}) {
    for (int64_t j : {0, 1039, 1041, 2079}) {
      float chain = problem.old_c.at(i, j);
      for (int64_t p = 0; p < 600; ++p) {
        chain = std::fma(-static_cast<float>(problem.A(i, p)), static_cast<float>(problem.B(j, p)), chain);
      }
      EXPECT_EQ(c.at(i, j), chain) << i << "," << j;
    }
  }
  if (!IsaSupported(Isa::kAvx512)) return;
  EXPECT_TRUE(SameBits(problem.Run(Context{&pool, Isa::kAvx512}, Accumulate::kSubtract).data, c.data));
}

TEST(Gemm, GramIsTheSymmetricProduct) {
  for (int threads : {1, 3}) {
    ThreadPool pool(threads);
    for (int64_t n : {1, 5, 33, 150, 290}) {
      for (Isa isa : SupportedSets()) {
        if (isa == Isa::kScalar && n > 150) continue;
        for (Accumulate op : kOps) {
          Padded x(37, n, 2, 4), old(n, n, 3, 5);
          for (int64_t i = 0; i < n; ++i) {
            for (int64_t j = 0; j < i; ++j) old.at(i, j) = kGuard;  // never read
          }
          Padded h = old, product = old;
          const Context context{&pool, isa};
          Gram(context, x.view(), h.view(), op);
          MatMulTN(context, x.view(), x.view(), product.view(), op);
          for (int64_t i = 0; i < n; ++i) {
            for (int64_t j = i; j < n; ++j) {
              ASSERT_EQ(h.at(i, j), product.at(i, j)) << n << " " << i << "," << j;
              ASSERT_EQ(h.at(j, i), h.at(i, j)) << n << " " << i << "," << j;
            }
            ASSERT_EQ(h.at(i, n), kGuard);
          }
        }
      }
    }
  }
}

TEST(Gemm, EmptySizes) {
  ThreadPool pool(2);
  for (Isa isa : SupportedSets()) {
    const Context context{&pool, isa};
    for (int64_t m : {2, 9}) {
      Mat<float> a(m, 0), b(3, 0), c(m, 3);
      c.Fill(5.0f);
      MatMulNT(context, a, Weights(b.view()), c.view(), Accumulate::kAdd);
      EXPECT_EQ(c(m - 1, 2), 5.0f);
      MatMulNT(context, a, Weights(b.view()), c.view());
      EXPECT_EQ(c(m - 1, 2), 0.0f);
    }
    Mat<float> a(0, 4), b(3, 4), c(0, 3);
    MatMulNT(context, a, Weights(b.view()), c.view());
    Mat<float> none(0, 4), left(7, 4), out(7, 0);
    MatMulNT(context, left, Weights(none.view()), out.view());
  }
}

// A product inside a Read inside a product, all inside a loop's body.
class ProductRows : public RowSource {
 public:
  ProductRows(const Context& context, MatView<const float> left, MatView<const float> right)
      : context_(context), left_(left), right_(right) {}
  int64_t rows() const override { return left_.rows; }
  int64_t cols() const override { return right_.cols; }
  void Read(int64_t row, int64_t row_count, int64_t col, int64_t col_count, float* out,
            int64_t ld) const override {
    MatMulNN(context_, left_.Rows(row, row_count), right_.Cols(col, col_count),
             {out, row_count, col_count, ld});
  }

 private:
  const Context& context_;
  MatView<const float> left_, right_;
};

TEST(Gemm, ProductsNest) {
  ThreadPool pool(3);
  for (Isa isa : SupportedSets()) {
    const Context context{&pool, isa};
    Padded left(70, 4, 0, 1), right(4, 90, 0, 2), a(150, 90, 0, 3);
    Mat<float> b(70, 90);
    MatMulNN(context, left.view(), right.view(), b.view());
    for (int64_t m : {3, 20, 150}) {
      Mat<float> want(m, 70);
      MatMulNT(context, a.view().Rows(0, m), Weights(b.view()), want.view());
      std::vector<Mat<float>> got(5);
      pool.ParallelFor(5, [&](int64_t t) {
        auto& c = got[static_cast<size_t>(t)];
        c.Resize(m, 70);
        MatMulNT(context, a.view().Rows(0, m), ProductRows(context, left.view(), right.view()), c.view());
      });
      for (const auto& c : got) {
        EXPECT_EQ(std::memcmp(c.data(), want.data(), static_cast<size_t>(m * 70) * 4), 0)
            << IsaName(isa) << m;
      }
    }
  }
}

TEST(Gemm, StrictProfileNeverUsesRoundedProducts) {
  if (!IsaSupported(Isa::kSse4)) GTEST_SKIP() << "sse4 not supported";
  ThreadPool pool(1);
  Problem problem({Form::kNT, 9, 20, 97});
  Context context{&pool, Isa::kScalar, Profile::kStrict};
  const Padded scalar = problem.Run(context, Accumulate::kSet);
  context.isa = Isa::kSse4;
  EXPECT_TRUE(SameBits(problem.Run(context, Accumulate::kSet).data, scalar.data));
  context.profile = Profile::kFast;
  EXPECT_FALSE(SameBits(problem.Run(context, Accumulate::kSet).data, scalar.data));
}

TEST(GemmDeathTest, WrongShapes) {
  ThreadPool pool(1);
  const Context context{&pool, Isa::kScalar};
  Mat<float> a(6, 4), b(3, 5), c(6, 3);
  EXPECT_DEATH(MatMulNT(context, a, Weights(b.view()), c.view()), "\\[6,4\\] x \\[3,5\\]");
}

TEST(Gemm, MeasuredRatesArePlausible) {
  ThreadPool pool(1);
  const Context context{&pool, BestIsa()};
  EXPECT_GT(MeasureFmaPeak(context), 1e8);
  EXPECT_GT(MeasureGemmRate(context, 1), 1e7);
}

}  // namespace
}  // namespace planish

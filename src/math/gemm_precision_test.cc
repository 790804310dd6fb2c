// Products whose factors are taken as bf16 or as two bf16, against sums in double over the rounded factors.
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

constexpr Precision kReduced[] = {Precision::kBF16, Precision::kSplit};

// What a precision takes an element for.
double Taken(float x, Precision precision) {
  const float first = ToFloat(ToBF16(x));
  return precision == Precision::kBF16
             ? static_cast<double>(first)
             : static_cast<double>(first) + static_cast<double>(ToFloat(ToBF16(x - first)));
}

// Two roundings of sums a step at most; a rest is at most 2^-8 of its element, so that products of rests,
// which may be missing, are 2^-16 of the product.
double Tolerance(Precision precision, int64_t k, double size) {
  return (2 * static_cast<double>(k + 8) * 0x1p-24 + (precision == Precision::kSplit ? 0x1p-16 : 0)) * size;
}

enum class Weight { kF32, kBF16, kMade };

void CheckNT(int64_t m, int64_t n, int64_t k, Weight weight, Precision precision, Accumulate op) {
  SCOPED_TRACE(testing::Message() << m << "x" << n << "x" << k << " weight " << static_cast<int>(weight)
                                  << " " << PrecisionName(precision) << " op " << static_cast<int>(op));
  Padded a(m, k, 3, 1), b(n, k, 5, 2), old(m, n, 7, 3);
  std::vector<uint16_t> halves;
  if (weight == Weight::kBF16) {
    for (float& x : b.data) {
      halves.push_back(ToBF16(x).bits);
      x = ToFloat(ToBF16(x));
    }
  }
  ThreadPool pool(2);
  for (Isa isa : SupportedSets()) {
    SCOPED_TRACE(std::string(IsaName(isa)));
    const Context context{&pool, isa};
    Padded c = old;
    if (weight == Weight::kMade) {
      MatMulNT(context, a.view(), MadeRows(Weights(b.view())), c.view(), op, precision);
    } else if (weight == Weight::kBF16) {
      const WeightView view{reinterpret_cast<const std::byte*>(halves.data()), DType::kBF16, n, k, b.stride};
      MatMulNT(context, a.view(), view, c.view(), op, precision);
    } else {
      MatMulNT(context, a.view(), Weights(b.view()), c.view(), op, precision);
    }
    for (int64_t i = 0; i < m; ++i) {
      for (int64_t j = 0; j < n; ++j) {
        double want = op == Accumulate::kSet ? 0 : static_cast<double>(old.at(i, j)), size = std::fabs(want);
        for (int64_t p = 0; p < k; ++p) {
          const double product = Taken(a.at(i, p), precision) * Taken(b.at(j, p), precision);
          want += op == Accumulate::kSubtract ? -product : product;
          size += std::fabs(product);
        }
        ASSERT_NEAR(c.at(i, j), want, Tolerance(precision, k, size)) << i << "," << j;
      }
      for (int64_t j = n; j < c.stride; ++j) ASSERT_EQ(c.at(i, j), kGuard) << i << "," << j;
    }
  }
}

TEST(GemmPrecision, KernelsThatRan) {
  ThreadPool pool(1);
  const Context context{&pool, BestIsa()};
  for (Precision precision : {Precision::kF32, Precision::kBF16, Precision::kSplit}) {
    std::printf("%s: %s\n", std::string(PrecisionName(precision)).c_str(),
                GemmKernelsText(context, precision).c_str());
    EXPECT_EQ(ParsePrecision(PrecisionName(precision)), precision);
  }
  EXPECT_EQ(ParsePrecision("fp16"), std::nullopt);
}

TEST(GemmPrecision, MatchesSumsOverRoundedFactors) {
  for (Precision precision : kReduced) {
    for (Weight weight : {Weight::kF32, Weight::kBF16, Weight::kMade}) {
      for (int64_t k : {1, 2, 31, 33, 70}) {
        CheckNT(5, 3, k, weight, precision, Accumulate::kSet);
        CheckNT(17, 33, k, weight, precision, Accumulate::kAdd);
        CheckNT(33, 49, k, weight, precision, Accumulate::kSubtract);
      }
      CheckNT(151, 40, 45, weight, precision, Accumulate::kSet);
      CheckNT(150, 65, 64, weight, precision, Accumulate::kAdd);
    }
  }
}

TEST(GemmPrecision, ManyBlocksOfK) {
  for (Precision precision : kReduced) {
    CheckNT(6, 7, 4101, Weight::kF32, precision, Accumulate::kAdd);
    CheckNT(146, 5, 3333, Weight::kBF16, precision, Accumulate::kSet);
  }
}

// Columns are packed otherwise than rows: the rows of the result are known from products of rows.
TEST(GemmPrecision, GramIsTheProductOfColumns) {
  ThreadPool pool(2);
  for (Precision precision : kReduced) {
    for (const auto& [tokens, n] : {std::pair<int64_t, int64_t>{1, 3}, {30, 35}, {67, 150}, {200, 33}}) {
      SCOPED_TRACE(testing::Message() << tokens << "x" << n << " " << PrecisionName(precision));
      Padded x(tokens, n, 2, 5);
      for (Isa isa : SupportedSets()) {
        const Context context{&pool, isa};
        Mat<float> h(n, n);
        Gram(context, x.view(), h.view(), Accumulate::kSet, precision);
        for (int64_t i = 0; i < n; ++i) {
          for (int64_t j = 0; j < n; ++j) {
            double want = 0, size = 0;
            for (int64_t t = 0; t < tokens; ++t) {
              const double product = Taken(x.at(t, i), precision) * Taken(x.at(t, j), precision);
              want += product;
              size += std::fabs(product);
            }
            ASSERT_NEAR(h(i, j), want, Tolerance(precision, tokens, size)) << i << "," << j;
            ASSERT_EQ(h(i, j), h(j, i));
          }
        }
      }
    }
  }
}

TEST(GemmPrecision, SameBytesForAnyThreads) {
  for (Precision precision : kReduced) {
    Padded a(200, 300, 0, 1), b(150, 300, 0, 2);
    std::vector<float> first;
    for (int threads : {1, 2, 3}) {
      ThreadPool pool(threads);
      const Context context{&pool, BestIsa()};
      Mat<float> c(200, 150), h(300, 300);
      MatMulNT(context, a.view(), Weights(b.view()), c.view(), Accumulate::kSet, precision);
      Gram(context, a.view(), h.view(), Accumulate::kSet, precision);
      std::vector<float> all(c.data(), c.data() + 200 * 150);
      all.insert(all.end(), h.data(), h.data() + 300 * 300);
      if (first.empty()) first = all;
      EXPECT_EQ(std::memcmp(first.data(), all.data(), all.size() * sizeof(float)), 0) << threads;
    }
  }
}

// Ties go to the even neighbor, and what bf16 lacks of an element is its second part.
TEST(GemmPrecision, RoundsToEvenAndKeepsTheRest) {
  ThreadPool pool(1);
  for (Isa isa : SupportedSets()) {
    const Context context{&pool, isa};
    // Five rows, as fewer take the dot products of fp32.
    Mat<float> a(5, 1), b(1, 1), c(5, 1);
    const float values[5] = {1 + 0x1p-8f, 1 + 0x3p-8f, -(1 + 0x1.02p-8f), 1 + 0x1p-15f, 0x1p-130f};
    for (int i = 0; i < 5; ++i) a(i, 0) = values[i];
    b(0, 0) = 1;
    MatMulNT(context, a.view(), Weights(b.view()), c.view(), Accumulate::kSet, Precision::kBF16);
    EXPECT_EQ(c(0, 0), 1);
    EXPECT_EQ(c(1, 0), 1 + 0x1p-6f);
    EXPECT_EQ(c(2, 0), -(1 + 0x1p-7f));
    EXPECT_EQ(c(3, 0), 1);
    MatMulNT(context, a.view(), Weights(b.view()), c.view(), Accumulate::kSet, Precision::kSplit);
    for (int i = 0; i < 4; ++i) EXPECT_EQ(c(i, 0), values[i]) << i;
    EXPECT_LE(std::fabs(c(4, 0)), 0x1p-130f);  // subnormal numbers may count as zeros
  }
}

}  // namespace
}  // namespace planish
